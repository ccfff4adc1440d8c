"""A TCP proxy that goes wrong on command, and keeps count of the AMQP frames that pass.

One thread serves all connections with non-blocking sockets. Faults are plain methods and take effect at once for
the connections that are open and for those to come; `heal()` returns to forwarding.

Directions are seen from the client: UP is client to broker, DOWN is broker to client.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from tests.harness.secret import PASSWORD, USER

Direction = Literal["up", "down"]
UP: Direction = "up"
DOWN: Direction = "down"
BOTH: tuple[Direction, Direction] = (UP, DOWN)
_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)


@dataclass
class Traffic:
    """What went through in one direction of one connection. AMQP frames are counted, the protocol header is not."""

    record: bool = False
    octets: int = 0
    frames: int = 0
    heartbeats: int = 0
    frame_at: list[float] = field(default_factory=list)
    recorded: bytearray = field(default_factory=bytearray)
    _pending: bytearray = field(default_factory=bytearray)
    _skip: int = 0

    def passed(self, data: bytes, now: float) -> None:
        """Counts `data`. Blocks: no."""
        self.octets += len(data)
        if self.record:
            self.recorded += data
        self._pending += data
        while self._take_frame(now):
            pass

    def _take_frame(self, now: float) -> bool:
        if self._skip:
            used = min(self._skip, len(self._pending))
            del self._pending[:used]
            self._skip -= used
            return bool(used)
        if len(self._pending) < 8:
            return False
        if self._pending[:4] == b"AMQP":
            del self._pending[:8]
            return True
        kind, _channel, size = struct.unpack_from(">BHI", self._pending)
        self.frames += 1
        self.heartbeats += kind == 8
        self.frame_at.append(now)
        # 7 bytes of header, the payload, the end mark. The frame counts from its first bytes on.
        self._skip = size + 8
        return True

    def largest_gap(self, until: float | None = None) -> float:
        """Seconds of the longest silence between two frames (and from the last one to `until`)."""
        times = [*self.frame_at, *([until] if until is not None else [])]
        return max((after - before for before, after in zip(times, times[1:], strict=False)), default=0.0)


class Pair:
    """One client's connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket, record: bool) -> None:
        self.opened_at = time.monotonic()
        self.closed_at: float | None = None
        self.traffic: dict[Direction, Traffic] = {UP: Traffic(record), DOWN: Traffic(record)}
        self.sockets: dict[Direction, socket.socket] = {UP: client, DOWN: server}
        self.client_port: int = client.getpeername()[1]
        self.buffers: dict[Direction, bytearray] = {UP: bytearray(), DOWN: bytearray()}
        self.ended: set[Direction] = set()
        self.half_closed: set[Direction] = set()
        self.allowance: dict[Direction, float] = {UP: 0.0, DOWN: 0.0}

    @property
    def is_open(self) -> bool:
        """Whether the proxy still holds both ends."""
        return self.closed_at is None


class FaultProxy:
    """`with FaultProxy(("127.0.0.1", 5672)) as proxy:` listens on `proxy.port`."""

    host = "127.0.0.1"

    def __init__(self, target: tuple[str, int], *, record: bool = False, port: int = 0) -> None:
        self._target = target
        self._record = record
        self._listener = self._listen(port)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()  # guards everything below
        self._pairs: list[Pair] = []
        self._frozen: set[Direction] = set()
        self._rate: float | None = None
        self._refusing = False
        self._silent = False
        self._held: list[socket.socket] = []
        self._running = True
        self._last_at = time.monotonic()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._thread.start()

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server((self.host, port), backlog=128)
        listener.setblocking(False)
        return listener

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def url(self, user: str = USER, password: str = PASSWORD, vhost: str = "/") -> str:
        """An AMQP URL through the proxy."""
        return f"amqp://{user}:{password}@{self.host}:{self.port}/{vhost}"

    @property
    def pairs(self) -> list[Pair]:
        """Every connection so far, in order, closed ones too."""
        with self._lock:
            return list(self._pairs)

    @property
    def open_pairs(self) -> list[Pair]:
        """Connections that are open now."""
        return [pair for pair in self.pairs if pair.is_open]

    def freeze(self, *directions: Direction) -> None:
        """Reads and forwards nothing more (in `directions`, or both); every connection stays open. A black hole."""
        with self._lock:
            self._frozen = set(directions or BOTH)
        self._wake()

    def slow(self, bytes_per_second: float) -> None:
        """Forwards no faster than that, in each direction of each connection."""
        with self._lock:
            self._rate = bytes_per_second
        self._wake()

    def refuse(self) -> None:
        """New connections are refused by the kernel (nothing listens); open ones go on."""
        with self._lock:
            if self._refusing:
                return
            self._refusing = True
            # The thread's poll holds the socket open beyond close(); shutdown ends the listening at once.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self._wake()

    def silent(self) -> None:
        """New connections are accepted and never answered; open ones go on."""
        with self._lock:
            self._silent = True

    def heal(self) -> None:
        """Ends every fault. What was frozen is delivered now."""
        with self._lock:
            self._frozen = set()
            self._rate = None
            self._silent = False
            for held in self._held:
                held.close()
            self._held = []
            if self._refusing:
                self._listener = self._listen(self.port)
                self._refusing = False
        self._wake()

    def cut(self) -> int:
        """Resets (RST) both ends of every open connection; how many."""
        with self._lock:
            doomed = [pair for pair in self._pairs if pair.is_open]
            for pair in doomed:
                self._close_locked(pair, reset=True)
        self._wake()
        return len(doomed)

    def half_close(self, direction: Direction = DOWN) -> None:
        """Sends FIN: DOWN tells clients that the broker is done, UP tells the broker; the other way stays open."""
        other = UP if direction == DOWN else DOWN
        with self._lock:
            for pair in self._pairs:
                if pair.is_open:
                    pair.half_closed.add(direction)
                    with contextlib.suppress(OSError):
                        pair.sockets[other].shutdown(socket.SHUT_WR)
        self._wake()

    def close(self) -> None:
        """Ends the proxy and what goes through it. Idempotent. Blocks: a moment."""
        with self._lock:
            if not self._running:
                return
            self._running = False
        self._wake()
        self._thread.join(5.0)
        with self._lock:
            for pair in self._pairs:
                self._close_locked(pair, reset=True)
            for held in self._held:
                held.close()
        for each in (self._listener, self._wake_read, self._wake_write):
            each.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_write.send(b"x")

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._running:
                    return
                selector, timeout = self._interests_locked()
            with selector:
                events = selector.select(timeout)
            with contextlib.suppress(BlockingIOError):
                self._wake_read.recv(4096)
            self._step([key.data for key, _mask in events])

    def _interests_locked(self) -> tuple[selectors.BaseSelector, float | None]:
        """What to wait for, built anew each round: a few sockets, and a fault may have changed all of them."""
        selector = selectors.PollSelector()
        selector.register(self._wake_read, selectors.EVENT_READ, None)
        if not self._refusing:
            selector.register(self._listener, selectors.EVENT_READ, "accept")
        for pair in self._pairs:
            if not pair.is_open:
                continue
            for direction in BOTH:
                mask = self._mask_locked(pair, direction)
                if mask:
                    selector.register(pair.sockets[direction], mask, None)
        return selector, 0.01 if self._rate is not None else 1.0

    def _mask_locked(self, pair: Pair, direction: Direction) -> int:
        """What to await of the socket that `direction` comes from."""
        other = UP if direction == DOWN else DOWN
        mask = 0
        if self._rate is None:
            can_read = direction not in self._frozen and direction not in pair.ended
            if can_read and len(pair.buffers[direction]) < _CHUNK:
                mask |= selectors.EVENT_READ
            if pair.buffers[other] and other not in self._frozen and other not in pair.half_closed:
                mask |= selectors.EVENT_WRITE
        return mask

    def _step(self, ready: list[object]) -> None:
        with self._lock:
            now = time.monotonic()
            elapsed, self._last_at = now - self._last_at, now
            if "accept" in ready and not self._refusing:
                self._accept_locked()
            for pair in [pair for pair in self._pairs if pair.is_open]:
                for direction in BOTH:
                    if direction not in self._frozen and pair.is_open:
                        self._move_locked(pair, direction, now, elapsed)
                if pair.is_open and pair.ended == {UP, DOWN} and not self._frozen:
                    self._close_locked(pair, reset=False)

    def _accept_locked(self) -> None:
        try:
            client, _address = self._listener.accept()
        except OSError:
            return
        if self._silent:
            self._held.append(client)
            return
        try:
            server = socket.create_connection(self._target, timeout=2.0)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            return
        for each in (client, server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs.append(Pair(client, server, self._record))

    def _move_locked(self, pair: Pair, direction: Direction, now: float, elapsed: float) -> None:
        """Read what came from one side, write what the other takes."""
        other = UP if direction == DOWN else DOWN
        buffer = pair.buffers[direction]
        try:
            if direction not in pair.ended and len(buffer) < _CHUNK:
                self._read_locked(pair, direction)
            limit = len(buffer)
            if self._rate is not None:
                pair.allowance[direction] = min(pair.allowance[direction] + self._rate * elapsed, self._rate + 1)
                limit = min(limit, int(pair.allowance[direction]))
            if limit and direction not in pair.half_closed:
                self._write_locked(pair, direction, limit, now)
            if direction in pair.ended and not buffer and direction not in pair.half_closed:
                pair.half_closed.add(direction)
                pair.sockets[other].shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._close_locked(pair, reset=True)

    def _read_locked(self, pair: Pair, direction: Direction) -> None:
        with contextlib.suppress(BlockingIOError):
            data = pair.sockets[direction].recv(_CHUNK)
            if data:
                pair.buffers[direction] += data
            else:
                pair.ended.add(direction)

    def _write_locked(self, pair: Pair, direction: Direction, limit: int, now: float) -> None:
        other = UP if direction == DOWN else DOWN
        buffer = pair.buffers[direction]
        sent = pair.sockets[other].send(buffer[:limit])
        pair.traffic[direction].passed(bytes(buffer[:sent]), now)
        pair.allowance[direction] -= sent if self._rate is not None else 0
        del buffer[:sent]

    def _close_locked(self, pair: Pair, *, reset: bool) -> None:
        if pair.closed_at is not None:
            return
        pair.closed_at = time.monotonic()
        for each in pair.sockets.values():
            if reset:
                with contextlib.suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            each.close()
