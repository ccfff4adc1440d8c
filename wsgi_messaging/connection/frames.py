"""Frames to bytes and back (AMQP 0-9-1 section 4.2), for py-amqp's handshake and for the connection's thread.

The reader receives into one kept buffer and parses over it: no allocation for each read (a fresh 256 KiB costs mmap
and munmap), no copy of what is not kept. It is hardened: a frame beyond the negotiated size, a wrong end octet or
content out of order is a `FrameError`, which ends the connection; a body beyond `max_body` is skipped and delivered
without its body, so that its consumer can reject it. The writer knows no lock: one thread writes at a time.

`handshake_reader` and `handshake_writer` are the same two in the shape of py-amqp's public `frame_handler` and
`frame_writer` arguments.

Layer 1.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, NamedTuple

from . import codec

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = 0xCE
OVERHEAD = 8
"""Octets of a frame around its payload."""

BEAT = bytes((HEARTBEAT, 0, 0, 0, 0, 0, 0, END))

_HEAD = Struct(">BHI")
_METHOD_HEAD = Struct(">BHII")
_CONTENT_HEAD = Struct(">BHIHHQ")
_METHOD_ID = Struct(">I")
_BODY_SIZE = Struct(">HHQ")
_END_AND_CONTENT_HEAD = Struct(">BBHIHHQ")
_END_AND_HEAD = Struct(">BBHI")
_TUNE = Struct(">HIH")
_SETTLEMENT = Struct(">BHIIQ?B")
_END = bytes((END,))


def method_id(class_id: int, number: int) -> int:
    """A method's class and number in one integer, as they stand on the wire."""
    return class_id << 16 | number


CONNECTION_TUNE = method_id(10, 30)
CONNECTION_CLOSE = method_id(10, 50)
CONNECTION_CLOSE_OK = method_id(10, 51)
CONNECTION_BLOCKED = method_id(10, 60)
CONNECTION_UNBLOCKED = method_id(10, 61)
CHANNEL_OPEN = method_id(20, 10)
CHANNEL_OPEN_OK = method_id(20, 11)
CHANNEL_FLOW = method_id(20, 20)
CHANNEL_FLOW_OK = method_id(20, 21)
CHANNEL_CLOSE = method_id(20, 40)
CHANNEL_CLOSE_OK = method_id(20, 41)
BASIC_QOS = method_id(60, 10)
BASIC_QOS_OK = method_id(60, 11)
BASIC_CONSUME = method_id(60, 20)
BASIC_CONSUME_OK = method_id(60, 21)
BASIC_CANCEL = method_id(60, 30)
BASIC_CANCEL_OK = method_id(60, 31)
BASIC_PUBLISH = method_id(60, 40)
BASIC_RETURN = method_id(60, 50)
BASIC_DELIVER = method_id(60, 60)
BASIC_GET_OK = method_id(60, 71)
BASIC_ACK = method_id(60, 80)
BASIC_REJECT = method_id(60, 90)
BASIC_NACK = method_id(60, 120)
CONFIRM_SELECT = method_id(85, 10)
CONFIRM_SELECT_OK = method_id(85, 11)

_WITH_CONTENT = frozenset({BASIC_RETURN, BASIC_DELIVER, BASIC_GET_OK})


class FrameError(Exception):
    """The peer does not keep to the protocol; the connection cannot go on."""


class Inbound(NamedTuple):
    """One method from the broker, with its content if it carries any."""

    channel: int
    method: int
    arguments: bytes
    header: bytes = b""
    """The content header behind its body size: property flags and property list."""
    body: bytes | None = None
    """None where the method has no content, or where the body was larger than the reader accepts."""
    body_size: int = 0


class _Content:
    """A method whose content is still coming in."""

    __slots__ = ("arguments", "chunks", "header", "is_too_large", "method", "missing", "size")

    def __init__(self, method: int, arguments: bytes) -> None:
        self.method = method
        self.arguments = arguments
        self.header: bytes | None = None
        self.size = 0
        self.missing = 0
        self.is_too_large = False
        self.chunks: list[bytes] = []

    def took(self, kind: int, payload: bytes, max_body: int) -> bool:
        """Take a frame; True when the content is whole. Raises: `FrameError`."""
        if kind == HEADER:
            if len(payload) < 12:
                raise FrameError("content header too short")
            _class, _weight, self.size = _BODY_SIZE.unpack_from(payload)
            self.missing = self.size
            self.header = payload[12:]
            self.is_too_large = self.size > max_body
        else:
            self.missing -= len(payload)
            if self.missing < 0:
                raise FrameError("more body than announced")
            if not self.is_too_large:
                self.chunks.append(payload)
        return not self.missing

    def finished(self, channel: int) -> Inbound:
        chunks = self.chunks
        body = None if self.is_too_large else chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return Inbound(channel, self.method, self.arguments, self.header or b"", body, self.size)


class FrameReader:
    """Turns what a socket gives into methods. Not thread-safe: the connection's thread alone uses it."""

    def __init__(self, *, frame_max: int, max_body: int) -> None:
        self.frame_max = frame_max
        self.beats = 0
        self._max_body = max_body
        self._buffer = bytearray(max(2 * frame_max, 65536))
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._open: dict[int, _Content] = {}
        self._early: list[tuple[int, int, bytes]] = []

    def free(self) -> memoryview:
        """Where the next read is to go."""
        return self._view[self._filled :]

    def frames(self, received: int) -> list[tuple[int, int, bytes]]:
        """The whole frames (type, channel, payload), after `received` more octets came. Raises: `FrameError`."""
        buffer, filled, offset = self._buffer, self._filled + received, 0
        found = []
        while filled - offset >= OVERHEAD:
            kind, channel, size = _HEAD.unpack_from(buffer, offset)
            if size > self.frame_max - OVERHEAD:
                raise FrameError(self._oversize(buffer, offset, size))
            end = offset + 7 + size
            if end >= filled:
                break
            if buffer[end] != END:
                raise FrameError(f"frame ends with {buffer[end]:#04x} instead of 0xce")
            found.append((kind, channel, bytes(self._view[offset + 7 : end])))
            offset = end + 1
        self._filled = rest = filled - offset
        if offset and rest:
            buffer[:rest] = buffer[offset:filled]
        return found

    def _oversize(self, buffer: bytearray, offset: int, size: int) -> str:
        start = bytes(buffer[offset : offset + 8])
        if start[:4] == b"HTTP":
            return "the peer answers in HTTP: this is a web server's port, not AMQP's"
        if start[:4] == b"AMQP":
            return f"the peer speaks another protocol version: AMQP {tuple(start[4:8])}"
        return f"frame of {size} octets; {self.frame_max} were agreed"

    def keep_for_later(self, frames: list[tuple[int, int, bytes]]) -> None:
        """Frames that came with the last ones of the handshake: `methods` gives them first."""
        self._early = frames

    def methods(self, received: int) -> list[Inbound]:
        """The whole methods, after `received` more octets came. Raises: `FrameError`."""
        complete: list[Inbound] = []
        early, self._early = self._early, []
        contents = self._open
        found = early + self.frames(received)
        position = 0
        while position < len(found):
            kind, channel, payload = found[position]
            position += 1
            if kind == METHOD:
                if len(payload) < 4:
                    raise FrameError("method frame without a method")
                (method,) = _METHOD_ID.unpack_from(payload)
                if channel in contents:
                    self._cut_short(channel, method)
                if method in _WITH_CONTENT:
                    whole = self._whole(channel, method, payload, found[position : position + 2])
                    if whole is None:
                        contents[channel] = _Content(method, payload[4:])
                    else:
                        complete.append(whole)
                        position += 2
                else:
                    complete.append(Inbound(channel, method, payload[4:]))
            elif kind == HEARTBEAT:
                self.beats += 1
            elif kind not in (HEADER, BODY):
                raise FrameError(f"unknown frame type {kind}")
            else:
                content = contents.get(channel)
                if content is None or (kind == HEADER) != (content.header is None):
                    raise FrameError("content frame out of order")
                if content.took(kind, payload, self._max_body):
                    del contents[channel]
                    complete.append(content.finished(channel))
        return complete

    def _whole(
        self, channel: int, method: int, payload: bytes, following: list[tuple[int, int, bytes]]
    ) -> Inbound | None:
        """The method, where the next two frames are its whole content, as most of the time; None otherwise."""
        if len(following) < 2:
            return None
        (kind, header_channel, header), (body_kind, body_channel, body) = following
        if kind != HEADER or body_kind != BODY or not header_channel == body_channel == channel or len(header) < 12:
            return None
        _class, _weight, size = _BODY_SIZE.unpack_from(header)
        if size != len(body) or size > self._max_body:
            return None
        return Inbound(channel, method, payload[4:], header[12:], body, size)

    def _cut_short(self, channel: int, method: int) -> None:
        """A method came before the content was whole."""
        if method != CHANNEL_CLOSE:
            raise FrameError("method frame in the middle of content")
        del self._open[channel]


def method_frame(channel: int, method: int, arguments: bytes = b"") -> bytes:
    """One method without content."""
    return _METHOD_HEAD.pack(METHOD, channel, 4 + len(arguments), method) + arguments + _END


def settlement_frame(channel: int, method: int, delivery_tag: int, flag: bool) -> bytes:
    """basic.ack, basic.nack or basic.reject of a delivery; `flag` is `multiple` or `requeue`."""
    return _SETTLEMENT.pack(METHOD, channel, 13, method, delivery_tag, flag, END)


def encoded_route(exchange: str, routing_key: str, mandatory: bool) -> bytes:
    """The arguments of basic.publish; cache them for a route. Raises: `codec.UnencodableValue`."""
    return codec.arguments("Bssbb", 0, exchange, routing_key, mandatory, False)


def message_frames(channel: int, arguments: bytes, header: bytes, body: bytes, frame_max: int) -> bytes:
    """basic.publish with its content, split so that no frame is larger than `frame_max`."""
    parts = [
        _METHOD_HEAD.pack(METHOD, channel, 4 + len(arguments), BASIC_PUBLISH),
        arguments,
        _END,
        _CONTENT_HEAD.pack(HEADER, channel, 12 + len(header), 60, 0, len(body)),
        header,
        _END,
    ]
    chunk = frame_max - OVERHEAD
    for start in range(0, len(body), chunk):
        piece = body[start : start + chunk]
        parts += (_HEAD.pack(BODY, channel, len(piece)), piece, _END)
    return b"".join(parts)


def small_message(channel: int, arguments: bytes, header: bytes, body: bytes) -> bytes:
    """`message_frames` for a body that is not empty and fits into one frame of any broker."""
    return b"".join(
        (
            _METHOD_HEAD.pack(METHOD, channel, 4 + len(arguments), BASIC_PUBLISH),
            arguments,
            _END_AND_CONTENT_HEAD.pack(END, HEADER, channel, 12 + len(header), 60, 0, len(body)),
            header,
            _END_AND_HEAD.pack(END, BODY, channel, len(body)),
            body,
            _END,
        )
    )


def _with_frame_max_below(most: int, tune: bytes) -> bytes:
    """connection.tune, with a frame size that our buffer holds: py-amqp takes whatever the broker offers."""
    channel_max, frame_max, heartbeat = _TUNE.unpack_from(tune, 4)
    return tune[:4] + _TUNE.pack(channel_max, min(frame_max or most, most), heartbeat)


def handshake_reader(connection: Any, callback: Callable[..., Any]) -> Callable[[Any], bool]:
    """A `frame_handler` for py-amqp: only methods without content pass during the handshake."""

    def on_frame(frame: tuple[int, int, bytes]) -> bool:
        kind, channel, payload = frame
        if kind == HEARTBEAT:
            return False
        if kind != METHOD or len(payload) < 4:
            raise FrameError(f"frame of type {kind} during the handshake")
        (method,) = _METHOD_ID.unpack_from(payload)
        if method == CONNECTION_TUNE:
            payload = _with_frame_max_below(connection.frame_max, payload)
        callback(channel, (method >> 16, method & 0xFFFF), payload, None)
        return True

    return on_frame


def handshake_writer(_connection: Any, transport: Any) -> Callable[..., None]:
    """A `frame_writer` for py-amqp: methods without content, each written at once."""

    def write_frame(kind: int, channel: int, signature: tuple[int, int], arguments: Any, _content: Any) -> None:
        raw = arguments.encode() if isinstance(arguments, str) else bytes(arguments or b"")
        transport.write(BEAT if kind == HEARTBEAT else method_frame(channel, method_id(*signature), raw))

    return write_frame
