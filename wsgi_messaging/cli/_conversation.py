"""One AMQP connection led step by step, as a person would with a terminal: each step blocks, has its time, and is told.

The transport connects as a whole and again and again; a diagnosis wants to see each step once, with what the broker
proposed and said. Rules: whatever the peer does, a step ends within its seconds; what goes wrong is a `Trouble`, with a
cause and a remedy, and a method that the broker refuses is a `Refused`, with its code.

Layer 5: imports connection, errors, runtime.native.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from ..connection import codec, frames, topology
from ..connection.channels import close_reason
from ..connection.frames import FrameError, FrameReader, Inbound
from ..errors import MessagingError
from ..runtime import native
from ..version import __version__

START, START_OK, TUNE_OK = (frames.method_id(10, number) for number in (10, 11, 31))
OPEN, OPEN_OK = frames.method_id(10, 40), frames.method_id(10, 41)
BASIC_GET, GET_EMPTY = frames.method_id(60, 70), frames.method_id(60, 72)

CLIENT = {
    "product": "wsgi_messaging",
    "version": __version__,
    "connection_name": "wsgi-messaging-cli",
    "capabilities": {
        "publisher_confirms": True,
        "basic.nack": True,
        "connection.blocked": True,
        "authentication_failure_close": True,
    },
}
REQUESTS, PUBLISHES, PROBES = 1, 2, 3
"""The channels: a refused request must not take confirms or fetched messages with it, nor the other way round."""


class Trouble(MessagingError):
    """What is wrong, and what to do about it."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}. {remedy}")
        self.cause = cause
        self.remedy = remedy


class Refused(Exception):
    """The broker closed the channel, or the connection, over what was asked."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


class HungUp(Exception):
    """The peer closed the connection without a reason; `first` is what it had said at the beginning."""

    def __init__(self, first: bytes) -> None:
        super().__init__("the peer hung up")
        self.first = first


class NotAmqp(Exception):
    """What came is not AMQP 0-9-1; `first` is how it began."""

    def __init__(self, text: str, first: bytes) -> None:
        super().__init__(text)
        self.first = first


class Blocked(Exception):
    """The broker takes no messages: a memory or disk alarm."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a broker says of itself before anybody has logged in."""

    mechanisms: tuple[str, ...]
    properties: dict[str, Any]

    @property
    def product(self) -> str:
        return str(self.properties.get("product", "an AMQP broker without a name"))

    @property
    def version(self) -> str:
        return str(self.properties.get("version", ""))


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the broker proposes in connection.tune; 0 is no limit, or no heartbeats."""

    channel_max: int
    frame_max: int
    heartbeat: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """A message that was fetched and not yet acknowledged."""

    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    left: int
    """Messages in the queue behind it."""
    properties: dict[str, Any]
    header: bytes
    """The properties as they came."""
    body: bytes
    malformed: str = ""
    """Why its properties, or its route, cannot be read; they are empty then."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message to publish, encoded."""

    exchange: str
    routing_key: str
    header: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Published:
    """What became of some parcels."""

    results: list[str | None]
    """For each in order "", or why it was not taken; None where nothing was heard of it."""
    fault: Exception | None
    """Why not. A `Refused` is about one of those of which nothing was heard; the broker has taken those before it."""


class Conversation:
    """A connected socket, plain or TLS, on which AMQP is spoken; every method blocks for `seconds` at most.

    Raises: `TimeoutError`, `HungUp`, `NotAmqp`, `Refused`, `Blocked`, `OSError` (ssl.SSLError among them).
    """

    def __init__(self, sock: socket.socket, seconds: float, *, max_body: int = 512 * 1024 * 1024) -> None:
        self._sock = sock
        self._seconds = seconds
        self._ends_at = 0.0
        self._reader = FrameReader(frame_max=131072, max_body=max_body)
        self._inbox: deque[Inbound] = deque()
        self._open_channels: set[int] = set()
        self._published = 0
        self._first = b""
        self._is_open = False
        self.frame_max = 131072

    def __enter__(self) -> Conversation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # The handshake.

    def greet(self) -> Greeting:
        """Say the protocol's name, hear who is there."""
        self._begin()
        self._sock.sendall(b"AMQP\0\0\x09\x01")
        inbound = self._await(0, START)
        _major, _minor, properties, mechanisms, _locales = codec.read_arguments("ooFSS", inbound.arguments)
        return Greeting(tuple(mechanisms.decode("ascii", "replace").split()), properties)

    def log_in(self, mechanism: str, response: bytes) -> Proposal:
        """Give the credentials, hear what the broker proposes."""
        self._begin()
        self._write(0, START_OK, codec.arguments("FsSs", CLIENT, mechanism, response, "en_US"))
        tune = codec.read_arguments("BlB", self._await(0, frames.CONNECTION_TUNE).arguments)
        return Proposal(*tune)

    def open(self, proposal: Proposal, frame_max: int, virtual_host: str) -> None:
        """Agree on a frame size, on no heartbeat (each step is short), and enter a virtual host."""
        self._begin()
        self.frame_max = self._reader.frame_max = frame_max
        self._write(0, TUNE_OK, codec.arguments("BlB", proposal.channel_max, frame_max, 0))
        self._write(0, OPEN, codec.arguments("ssb", virtual_host, "", False))
        self._await(0, OPEN_OK)
        self._is_open = True

    def close(self) -> None:
        """Say good-bye where there is somebody to say it to, and close the socket."""
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(OSError, HungUp, NotAmqp, Refused, Blocked, codec.MalformedValue):
                self._begin(min(1.0, self._seconds))
                self._write(0, frames.CONNECTION_CLOSE, codec.arguments("BsBB", 200, "done", 0, 0))
                self._await(0, frames.CONNECTION_CLOSE_OK)
        self._sock.close()

    @property
    def is_open(self) -> bool:
        """False before there is a virtual host, and when the broker has closed the connection."""
        return self._is_open

    # With a virtual host open.

    def ask(self, method: int, arguments: bytes, channel: int = REQUESTS) -> Inbound:
        """One method that has an answer, on a channel that is opened for it when there is none."""
        self._begin()
        self._open_channel(channel)
        self._write(channel, method, arguments)
        return self._await(channel)

    def declare(self, declaration: topology.Declaration, channel: int = REQUESTS) -> Inbound:
        return self.ask(declaration.method, declaration.arguments, channel)

    def depth(self, queue: str) -> tuple[int, int]:
        """Ready messages and consumers of a queue, by a passive declare. Raises: `Refused` 404, 403, 405."""
        passive = topology.declare_queue(
            queue, passive=True, durable=False, exclusive=False, auto_delete=False, arguments={}
        )
        _name, messages, consumers = codec.read_arguments("sll", self.declare(passive).arguments)
        return messages, consumers

    def fetch(self, queue: str, count: int) -> list[Fetched]:
        """Up to `count` messages, fewer when the queue has no more; they stay the queue's until `acknowledge`."""
        self._begin()
        self._open_channel(REQUESTS)
        request = frames.method_frame(REQUESTS, BASIC_GET, codec.arguments("Bsb", 0, queue, False))
        self._sock.sendall(request * count)
        found = [self._await(REQUESTS) for _number in range(count)]
        return [_fetched(inbound) for inbound in found if inbound.method == frames.BASIC_GET_OK]

    def acknowledge(self, tags: Sequence[int]) -> None:
        """Have the broker forget these messages. It answers nothing; `close` hears whether it came through."""
        acks = [frames.method_frame(REQUESTS, frames.BASIC_ACK, codec.arguments("Lb", tag, False)) for tag in tags]
        self._begin()
        self._sock.sendall(b"".join(acks))

    def publish(self, parcels: Sequence[Parcel]) -> Published:
        """Publish, and wait for every confirm. Raises: nothing that the connection brings; see `Published.fault`."""
        results: list[str | None] = [None] * len(parcels)
        returned: list[Inbound] = []
        fault: Exception | None = None
        try:
            self._send_all(parcels)
            self._hear_all(results, returned)
        except Exception as exc:  # noqa: BLE001  (told with what was heard before it)
            fault = exc
        for inbound in returned:
            _blame(inbound, parcels, results)
        return Published(results, fault)

    def _send_all(self, parcels: Sequence[Parcel]) -> None:
        self._begin()
        if PUBLISHES not in self._open_channels:
            self._open_channel(PUBLISHES)
            self._published = 0
            self._write(PUBLISHES, frames.CONFIRM_SELECT, codec.arguments("b", False))
            self._await(PUBLISHES, frames.CONFIRM_SELECT_OK)
        for parcel in parcels:
            route = frames.encoded_route(parcel.exchange, parcel.routing_key, True)
            self._sock.sendall(frames.message_frames(PUBLISHES, route, parcel.header, parcel.body, self.frame_max))

    def _hear_all(self, results: list[str | None], returned: list[Inbound]) -> None:
        """Fill in what became of each, and what came back: before its confirm, but whose it is nothing says."""
        first, self._published = self._published + 1, self._published + len(results)
        open_tags = dict.fromkeys(range(first, first + len(results)))
        while open_tags:
            inbound = self._await(PUBLISHES)
            if inbound.method == frames.BASIC_RETURN:
                returned.append(inbound)
                continue
            tag, is_multiple = codec.read_arguments("Lb", inbound.arguments)
            is_refused = inbound.method == frames.BASIC_NACK
            for each in [each for each in open_tags if each == tag or (is_multiple and each <= tag)]:
                del open_tags[each]
                results[each - first] = "the broker refused it (basic.nack)" if is_refused else ""

    # Frames.

    def _begin(self, seconds: float | None = None) -> None:
        self._ends_at = native.monotonic() + (self._seconds if seconds is None else seconds)
        self._sock.settimeout(self._left())

    def _left(self) -> float:
        left = self._ends_at - native.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        return left

    def _write(self, channel: int, method: int, arguments: bytes) -> None:
        self._sock.sendall(frames.method_frame(channel, method, arguments))

    def _open_channel(self, channel: int) -> None:
        if channel not in self._open_channels:
            self._write(channel, frames.CHANNEL_OPEN, b"\0")
            self._await(channel, frames.CHANNEL_OPEN_OK)
            self._open_channels.add(channel)

    def _await(self, channel: int, expected: int | None = None) -> Inbound:
        """The next method on a channel; what comes on another one is kept for later."""
        while True:
            inbound = self._take(channel)
            if inbound is None:
                self._receive()
            elif inbound.method == frames.CHANNEL_CLOSE:
                self._open_channels.discard(channel)
                self._write(channel, frames.CHANNEL_CLOSE_OK, b"")
                raise Refused(*close_reason(inbound))
            elif expected is None or inbound.method == expected:
                return inbound
            elif channel == 0 and inbound.method != frames.CONNECTION_UNBLOCKED:
                raise NotAmqp(f"method {inbound.method:#x} where {expected:#x} was due", self._first)

    def _take(self, channel: int) -> Inbound | None:
        for inbound in self._inbox:
            if inbound.method == frames.CONNECTION_CLOSE:
                self._is_open = False
                raise Refused(*close_reason(inbound))
            if inbound.method == frames.CONNECTION_BLOCKED:
                raise Blocked(inbound.arguments[1:].decode("utf-8", "replace"))
            if inbound.channel == channel:
                self._inbox.remove(inbound)
                return inbound
        return None

    def _receive(self) -> None:
        self._sock.settimeout(self._left())
        try:
            received = self._sock.recv_into(self._reader.free())
        except ssl.SSLWantReadError:
            return
        except ConnectionResetError as exc:
            raise HungUp(self._first) from exc
        if not received:
            raise HungUp(self._first)
        if len(self._first) < 64:
            self._first += bytes(self._reader.free()[:received][:64])
        try:
            self._inbox.extend(self._reader.methods(received))
        except FrameError as exc:
            raise NotAmqp(str(exc), self._first) from exc


def _fetched(inbound: Inbound) -> Fetched:
    """A message that nobody can read must not keep us from those behind it."""
    body = inbound.body or b""
    try:
        tag, redelivered, exchange, routing_key, left = codec.read_arguments("Lbssl", inbound.arguments)
        properties = codec.read_properties(inbound.header)
    except codec.MalformedValue as exc:
        tag, redelivered = codec.read_arguments("Lb", inbound.arguments)
        return Fetched(tag, redelivered, "", "", 0, {}, inbound.header, body, str(exc))
    return Fetched(tag, redelivered, exchange, routing_key, left, properties, inbound.header, body)


def _blame(inbound: Inbound, parcels: Sequence[Parcel], results: list[str | None]) -> None:
    """Note with a parcel that it came back. Of those that are the same in all it is the first; where none is, for the
    broker has changed its properties, all that it may be are not taken for delivered."""
    _code, text, exchange, routing_key = codec.read_arguments("Bsss", inbound.arguments)
    came_back = Parcel(exchange, routing_key, inbound.header, inbound.body or b"")
    alike = [
        number
        for number, parcel in enumerate(parcels)
        if replace(parcel, header=came_back.header) == came_back and not results[number]
    ]
    same = [number for number in alike if parcels[number].header == came_back.header]
    for number in same[:1] or alike:
        results[number] = f"no queue takes it ({text})"
