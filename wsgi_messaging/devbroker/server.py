"""The sockets of the embedded broker: one native thread, one poll loop, every socket its own.

Rules: the thread alone touches sessions and virtual hosts, so nothing below has a lock; another thread has
its wishes run by it (`call`). The thread, its poll, its sockets and its clock are the operating system's
also in a process that is monkey patched, before or later. In a forked child the copies of the descriptors
are closed and the broker is not running.

Layer 5, part of the embedded broker.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import struct
import traceback
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from ..runtime import native
from ..runtime.native import POLLERR, POLLHUP, POLLIN, POLLOUT, Socket
from .handshake import State
from .node import Node
from .sessions import CONGESTED_BYTES, Session

T = TypeVar("T")

READ_BYTES = 256 * 1024
CALL_TIMEOUT = 10.0

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_NEVER = float("inf")


class Peer:
    """One accepted socket and its session."""

    def __init__(self, sock: Socket, session: Session) -> None:
        self.sock = sock
        self.session = session
        self.descriptor = sock.fileno()
        self.mask = -1
        self._was_congested = False

    def flush(self, now: float) -> bool:
        """Write what there is to write; False if the client is gone."""
        session = self.session
        self._was_congested = self._was_congested or session.is_congested
        try:
            while session.out:
                sent = self.sock.send(memoryview(session.out)[:READ_BYTES])
                session.sent_at = now
                del session.out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            return False
        if self._was_congested and len(session.out) < CONGESTED_BYTES // 2:
            self._was_congested = False
            session.relieved(now)
        return True


class Server:
    """Serves `node` on one listening socket; `start` and `stop` may be repeated."""

    def __init__(self, node: Node, host: str, port: int, name: str) -> None:
        self.node = node
        self.host = host
        self.port = port
        self.name = name
        self.is_paused = False
        self._peers: dict[int, Peer] = {}
        self._calls: deque[tuple[Callable[[], Any], list[Any], Any]] = deque()
        self._listener: Socket | None = None
        self._wake_up: native.WakeUp | None = None
        self._thread: native.NativeThread | None = None
        self._ident = 0
        self._is_stopping = False
        _servers.add(self)

    @property
    def is_running(self) -> bool:
        return self._thread is not None

    def start(self) -> None:
        """Listen, and serve from a thread of its own. Raises: OSError if the port cannot be had."""
        self.listen()
        self._is_stopping = self.is_paused = False
        self._wake_up = native.WakeUp()
        self._poller, self._asleep = native.poll(), native.poll()
        self._poller.register(self._wake_up.fileno(), POLLIN)
        self._asleep.register(self._wake_up.fileno(), POLLIN)
        if self._listener is not None:
            self._poller.register(self._listener.fileno(), POLLIN)
        self._thread = native.NativeThread(self.name, self._run)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Say goodbye to every client, close every descriptor, join the thread. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is None or self._wake_up is None:
            return
        self._is_stopping = True
        self._wake_up.send()
        thread.join(timeout)
        self._wake_up.close()
        self._wake_up = None

    def call(self, action: Callable[[], T]) -> T:
        """Run `action` on the broker's thread; its result or exception. Blocks: for one round of the loop."""
        if self._thread is None or self._wake_up is None or native.get_ident() == self._ident:
            return action()
        outcome: list[tuple[Any, Exception | None]] = []
        done = native.allocate_lock()
        done.acquire()
        self._calls.append((action, outcome, done))
        self._wake_up.send()
        if not done.acquire(True, CALL_TIMEOUT):
            raise RuntimeError(f"{self.name} did not answer within {CALL_TIMEOUT:g} s")
        result, error = outcome[0]
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def listen(self) -> None:
        """Open the listening socket, if it is not open."""
        if self._listener is not None:
            return
        listener = Socket(_socket.AF_INET6 if ":" in self.host else _socket.AF_INET, _socket.SOCK_STREAM)
        try:
            listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
            listener.listen(128)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        self._listener = listener
        if self._thread is not None:
            self._poller.register(listener.fileno(), POLLIN)

    def refuse(self) -> None:
        """Close the listening socket: who connects is refused."""
        if self._listener is not None:
            if self._thread is not None:
                self._poller.unregister(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def resume(self) -> None:
        """Listen again, read and write again; nobody is blamed for a silence that was ours."""
        self.is_paused = False
        self.listen()
        now = native.monotonic()
        for session in self.sessions():
            session.received_at = now

    def sessions(self) -> list[Session]:
        return [peer.session for peer in self._peers.values()]

    def drop(self, peer: Peer, *, reset: bool = False) -> None:
        """Close a client's socket, with a TCP reset if asked for."""
        del self._peers[peer.descriptor]
        self._poller.unregister(peer.descriptor)
        if reset:
            with contextlib.suppress(OSError):
                peer.sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _RESET_ON_CLOSE)
        peer.sock.close()
        peer.session.state = State.CLOSED
        peer.session.end(native.monotonic())

    def drop_all(self) -> int:
        """Reset every connection; their number."""
        peers = list(self._peers.values())
        for peer in peers:
            self.drop(peer, reset=True)
        return len(peers)

    def forget(self) -> None:
        """In a forked child: close this process's copies of the descriptors, not one byte sent."""
        self._thread = None
        for peer in self._peers.values():
            native.close_inherited(peer.sock)
        native.close_inherited(self._listener)
        self._peers, self._listener = {}, None
        if self._wake_up is not None:
            self._wake_up.close()
            self._wake_up = None

    def _run(self) -> None:
        self._ident = native.get_ident()
        try:
            while not self._is_stopping:
                self._round()
        finally:
            self._end()

    def _round(self) -> None:
        poller = self._asleep if self.is_paused else self._poller
        for descriptor, events in poller.poll(self._patience_ms()):
            peer = self._peers.get(descriptor)
            if peer is not None:
                self._guarded(peer, partial(self._serve, peer, events))
            elif self._listener is not None and descriptor == self._listener.fileno():
                self._accept()
            elif self._wake_up is not None:
                self._wake_up.drain()
        self._run_calls()
        self._tick(native.monotonic())

    def _patience_ms(self) -> int | None:
        due_at = self.node.due_at()
        if not self.is_paused:
            due_at = min([due_at, *(peer.session.due_at() for peer in self._peers.values())])
        if due_at == _NEVER:
            return None
        return max(0, min(60_000, int((due_at - native.monotonic()) * 1000) + 1))

    def _accept(self) -> None:
        listener: Any = self._listener  # the C class has _accept, its stub has not
        while True:
            try:
                descriptor, address = listener._accept()
            except OSError:
                return
            sock = Socket(fileno=descriptor)
            sock.setblocking(False)
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            session = Session(self.node, f"{address[0]}:{address[1]}", native.monotonic())
            self._peers[descriptor] = Peer(sock, session)
            self._poller.register(descriptor, POLLIN)

    def _guarded(self, peer: Peer, action: Callable[[], None]) -> None:
        """A mistake of the broker that one client meets ends that client's connection, not the broker."""
        try:
            action()
        except Exception:  # noqa: BLE001
            self.node.report(f"internal error, connection {peer.session.peer} dropped: {traceback.format_exc()}")
            if peer.descriptor in self._peers:
                self.drop(peer, reset=True)

    def _serve(self, peer: Peer, events: int) -> None:
        if events & POLLIN and not peer.session.is_blocked or events & (POLLHUP | POLLERR):
            try:
                data = peer.sock.recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._lost(peer)
                return
            peer.session.receive(data, native.monotonic())

    def _lost(self, peer: Peer) -> None:
        if peer.session.state not in (State.HEADER, State.CLOSED):
            self.node.abrupt_closes += 1
        self.drop(peer)

    def _run_calls(self) -> None:
        while self._calls:
            action, outcome, done = self._calls.popleft()
            try:
                outcome.append((action(), None))
            except Exception as exc:  # noqa: BLE001 (the caller gets it)
                outcome.append((None, exc))
            done.release()

    def _tick(self, now: float) -> None:
        self.node.tick(now)
        if self.is_paused:
            return
        for peer in list(self._peers.values()):
            self._guarded(peer, partial(self._keep, peer, now))

    def _keep(self, peer: Peer, now: float) -> None:
        """After a round: beat, write, close what is closed, and choose what to wait for."""
        session = peer.session
        if now >= session.due_at() and not session.tick(now):
            self.drop(peer)
        elif session.out and not peer.flush(now):
            self._lost(peer)
        elif session.state is State.CLOSED and not session.out:
            self.drop(peer)
        else:
            mask = (0 if session.is_blocked else POLLIN) | (POLLOUT if session.out else 0)
            if mask != peer.mask:
                peer.mask = mask
                self._poller.modify(peer.descriptor, mask)

    def _end(self) -> None:
        now = native.monotonic()
        self.refuse()
        for peer in list(self._peers.values()):
            self._guarded(peer, partial(self._dismiss, peer, now))
        for vhost in self.node.vhosts.values():
            vhost.restart()
        self._run_calls()

    def _dismiss(self, peer: Peer, now: float) -> None:
        if peer.session.state is State.RUNNING:
            peer.session.close(320, "broker forced connection closure with reason 'shutdown'")
        peer.flush(now)
        self.drop(peer)


_servers: weakref.WeakSet[Server] = weakref.WeakSet()


def _forget_all() -> None:
    for server in list(_servers):
        server.forget()


os.register_at_fork(after_in_child=_forget_all)
