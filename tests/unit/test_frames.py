"""Bytes to methods and methods to bytes: however the stream is torn, whatever is wrong with it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest

from tests.unit.wire import Frame, split
from wsgi_messaging.connection import codec, frames
from wsgi_messaging.connection.frames import FrameError, FrameReader, Inbound

FRAME_MAX = 4096


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return bytes((kind,)) + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big") + payload + b"\xce"


def method(channel: int, number: int, arguments: bytes = b"") -> bytes:
    return frames.method_frame(channel, number, arguments)


def header(channel: int, size: int, properties: bytes = b"\0\0") -> bytes:
    return frame(frames.HEADER, channel, b"\0\x3c\0\0" + size.to_bytes(8, "big") + properties)


def body(channel: int, payload: bytes) -> bytes:
    return frame(frames.BODY, channel, payload)


DELIVERY = codec.arguments("sLbss", "tag", 1, False, "exchange", "key")
STREAM = b"".join(
    [
        method(0, frames.CONNECTION_BLOCKED, b"\x03why"),
        method(1, frames.BASIC_ACK, codec.arguments("Lb", 7, True)),
        frames.BEAT,
        method(2, frames.BASIC_DELIVER, DELIVERY),
        header(2, 5, b"\x80\0\x04text"),
        body(2, b"he"),
        method(1, frames.BASIC_ACK, codec.arguments("Lb", 8, False)),  # another channel, amid the content
        body(2, b"llo"),
        method(3, frames.BASIC_RETURN, codec.arguments("Bsss", 312, "NO_ROUTE", "", "key")),
        header(3, 0),
        frames.BEAT,
        method(4, frames.BASIC_DELIVER, DELIVERY),
        header(4, 3, b"\x80\0\x04text"),
        body(4, b"all"),
        method(2, frames.CHANNEL_CLOSE, codec.arguments("BsBB", 404, "gone", 60, 40)),
    ]
)
METHODS = [
    Inbound(0, frames.CONNECTION_BLOCKED, b"\x03why"),
    Inbound(1, frames.BASIC_ACK, codec.arguments("Lb", 7, True)),
    Inbound(1, frames.BASIC_ACK, codec.arguments("Lb", 8, False)),
    Inbound(2, frames.BASIC_DELIVER, DELIVERY, b"\x80\0\x04text", b"hello", 5),
    Inbound(3, frames.BASIC_RETURN, codec.arguments("Bsss", 312, "NO_ROUTE", "", "key"), b"\0\0", b"", 0),
    Inbound(4, frames.BASIC_DELIVER, DELIVERY, b"\x80\0\x04text", b"all", 3),
    Inbound(2, frames.CHANNEL_CLOSE, codec.arguments("BsBB", 404, "gone", 60, 40)),
]


def reader(frame_max: int = FRAME_MAX, max_body: int = 1000) -> FrameReader:
    return FrameReader(frame_max=frame_max, max_body=max_body)


def feed(to: FrameReader, chunks: Iterable[bytes]) -> list[Inbound]:
    """What the reader makes of a stream that comes in these pieces."""
    found: list[Inbound] = []
    for chunk in chunks:
        to.free()[: len(chunk)] = chunk
        found += to.methods(len(chunk))
    return found


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    points = [0, *cuts, len(data)]
    return [data[start:end] for start, end in itertools.pairwise(points)]


def test_whole() -> None:
    under_test = reader()
    assert feed(under_test, [STREAM]) == METHODS
    assert under_test.beats == 2


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 50])
def test_in_pieces_of_one_size(size: int) -> None:
    under_test = reader()
    chunks = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert feed(under_test, chunks) == METHODS
    assert under_test.beats == 2


def test_torn_in_two_anywhere() -> None:
    for cut in range(len(STREAM) + 1):
        assert feed(reader(), pieces(STREAM, [cut])) == METHODS


def test_torn_at_random() -> None:
    chance = random.Random(11)
    for _ in range(200):
        cuts = sorted(chance.choices(range(len(STREAM)), k=chance.randrange(1, 20)))
        assert feed(reader(), pieces(STREAM, cuts)) == METHODS


def test_the_buffer_never_fills_up() -> None:
    """Always room for at least one whole frame: a read into no room would look like the end of the stream."""
    under_test = reader()
    stream = method(2, frames.BASIC_DELIVER, DELIVERY) + header(2, 500_000)
    for start in range(0, 500_000, FRAME_MAX - 8):
        stream += body(2, b"x" * min(FRAME_MAX - 8, 500_000 - start))
    while stream:
        room = len(under_test.free())
        assert room >= FRAME_MAX
        chunk, stream = stream[:room], stream[room:]
        feed(under_test, [chunk])


def test_large_frames_of_every_rest() -> None:
    """The last piece of a body is moved to the buffer's front, wherever it began."""
    data = bytes(range(256)) * 200
    for chunk_size in (997, 4095, 4097, 65536):
        stream = method(2, frames.BASIC_DELIVER, DELIVERY) + header(2, len(data))
        for start in range(0, len(data), 4000):
            stream += body(2, data[start : start + 4000])
        chunks = [stream[start : start + chunk_size] for start in range(0, len(stream), chunk_size)]
        [inbound] = feed(reader(max_body=len(data)), chunks)
        assert inbound.body == data


# What is wrong with a stream.


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (frames.BEAT[:-1] + b"\xcd", "frame ends with 0xcd instead of 0xce"),
        (frame(1, 0, b"\0" * FRAME_MAX), f"frame of {FRAME_MAX} octets; {FRAME_MAX} were agreed"),
        (frame(1, 0, b"\0" * (FRAME_MAX - 7)), "were agreed"),
        (b"HTTP/1.1 400 Bad Request\r\n", "answers in HTTP: this is a web server's port"),
        (b"AMQP\x00\x00\x09\x01", r"another protocol version: AMQP \(0, 0, 9, 1\)"),
        (b"AMQP\x03\x01\x00\x00", "another protocol version"),
        (frame(4, 0, b"\0\0\0\0"), "unknown frame type 4"),
        (frame(1, 1, b"abc"), "method frame without a method"),
        (header(2, 3), "content frame out of order"),
        (body(2, b"abc"), "content frame out of order"),
        (method(2, frames.BASIC_DELIVER) + body(2, b"abc"), "content frame out of order"),
        (method(2, frames.BASIC_DELIVER) + header(3, 1), "content frame out of order"),
        (method(2, frames.BASIC_DELIVER) + header(3, 1) + body(3, b"a"), "content frame out of order"),
        (method(2, frames.BASIC_DELIVER) + header(2, 3) + header(2, 3), "content frame out of order"),
        (method(2, frames.BASIC_ACK) + header(2, 3), "content frame out of order"),
        (method(2, frames.BASIC_DELIVER) + frame(2, 2, b"\0" * 11), "content header too short"),
        (method(2, frames.BASIC_DELIVER) + frame(2, 2, b"\0" * 11) + body(2, b"a"), "content header too short"),
        (method(2, frames.BASIC_DELIVER) + header(2, 3) + body(2, b"abcd"), "more body than announced"),
        (method(2, frames.BASIC_DELIVER) + header(2, 0) + body(2, b"a"), "content frame out of order"),
        (method(2, frames.BASIC_DELIVER) * 2, "method frame in the middle of content"),
        (method(2, frames.BASIC_DELIVER) + header(2, 3) + method(2, frames.BASIC_ACK), "in the middle of content"),
    ],
)
def test_what_breaks_the_protocol_is_a_frame_error(stream: bytes, problem: str) -> None:
    for chunks in ([stream], [stream[index : index + 1] for index in range(len(stream))]):
        with pytest.raises(FrameError, match=problem):
            feed(reader(), chunks)


def test_the_largest_frame_passes() -> None:
    payload = b"\0\x3c\0\x50" + b"x" * (FRAME_MAX - 8 - 4)
    [inbound] = feed(reader(), [frame(frames.METHOD, 1, payload)])
    assert len(inbound.arguments) == FRAME_MAX - 12


def test_a_body_that_is_too_large_is_passed_over() -> None:
    """Its method comes without a body, so that it can be rejected; what follows is intact."""
    stream = (
        method(2, frames.BASIC_DELIVER, DELIVERY)
        + header(2, 1001)
        + body(2, b"x" * 600)
        + body(2, b"x" * 401)
        + method(2, frames.BASIC_DELIVER, DELIVERY)
        + header(2, 1002)
        + body(2, b"x" * 1002)
        + method(2, frames.BASIC_DELIVER, DELIVERY)
        + header(2, 1000)
        + body(2, b"y" * 1000)
    )
    large, larger, good = feed(reader(max_body=1000), [stream])
    assert (large.body, large.body_size) == (None, 1001)
    assert (larger.body, larger.body_size) == (None, 1002)
    assert (good.body, good.body_size) == (b"y" * 1000, 1000)


def test_an_announced_giant_costs_no_memory() -> None:
    under_test = reader(max_body=1000)
    feed(under_test, [method(2, frames.BASIC_DELIVER, DELIVERY) + header(2, 2**63)])
    for _ in range(1000):
        assert feed(under_test, [body(2, b"x" * 4000)]) == []
    assert not under_test._open[2].chunks


def test_close_amid_content_ends_it() -> None:
    stream = (
        method(2, frames.BASIC_DELIVER, DELIVERY)
        + header(2, 10)
        + body(2, b"half")
        + method(2, frames.CHANNEL_CLOSE, b"\0\xc8\0\0\0\0\0")
        + method(2, frames.BASIC_DELIVER, DELIVERY)
        + header(2, 1)
        + body(2, b"x")
    )
    found = feed(reader(), [stream])
    assert [inbound.method for inbound in found] == [frames.CHANNEL_CLOSE, frames.BASIC_DELIVER]
    assert found[1].body == b"x"


def test_body_frames_without_octets_change_nothing() -> None:
    stream = method(2, frames.BASIC_DELIVER, DELIVERY) + header(2, 2) + body(2, b"") + body(2, b"ab")
    [inbound] = feed(reader(), [stream])
    assert inbound.body == b"ab"


def test_what_came_early_is_given_first() -> None:
    under_test = reader()
    under_test.keep_for_later([(frames.METHOD, 0, STREAM[7:15])])
    early, late = feed(under_test, [method(1, frames.BASIC_ACK, b"\0" * 9)])
    assert early.method == frames.CONNECTION_BLOCKED
    assert late.method == frames.BASIC_ACK


# Writing.


@pytest.mark.parametrize("size", [0, 1, 4087, 4088, 4089, 8176, 8177, 20_000])
def test_a_body_is_split_at_frame_max(size: int) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    arguments = frames.encoded_route("exchange", "key", True)
    raw = frames.message_frames(9, arguments, b"\x80\0\x01x", data, FRAME_MAX)
    publish, content, *parts = split(raw)
    assert publish == Frame(frames.METHOD, 9, frames.BASIC_PUBLISH.to_bytes(4, "big") + arguments)
    assert content == Frame(frames.HEADER, 9, b"\0\x3c\0\0" + size.to_bytes(8, "big") + b"\x80\0\x01x")
    assert b"".join(part.payload for part in parts) == data
    assert all(part.kind == frames.BODY and part.channel == 9 for part in parts)
    assert all(len(part.payload) + 8 <= FRAME_MAX for part in parts)
    assert all(len(part.payload) + 8 == FRAME_MAX for part in parts[:-1])
    assert len(parts) == -(-size // (FRAME_MAX - 8))


@pytest.mark.parametrize("mandatory", [False, True])
def test_route(mandatory: bool) -> None:
    assert codec.read_arguments("Bssbb", frames.encoded_route("e", "ü", mandatory)) == [0, "e", "ü", mandatory, False]


def test_method_frame() -> None:
    assert method(258, frames.CHANNEL_OPEN, b"\0") == b"\x01\x01\x02\0\0\0\x05\0\x14\0\x0a\0\xce"


class Peer:
    """What py-amqp asks of a connection and a transport."""

    frame_max = 100_000

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.called: list[tuple[object, ...]] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def callback(self, *arguments: object) -> None:
        self.called.append(arguments)


def test_handshake_reader_passes_methods_only() -> None:
    peer = Peer()
    on_frame = frames.handshake_reader(peer, peer.callback)
    assert on_frame((frames.METHOD, 0, b"\0\x0a\0\x0b\x01"))
    assert not on_frame((frames.HEARTBEAT, 0, b""))
    assert peer.called == [(0, (10, 11), b"\0\x0a\0\x0b\x01", None)]
    for bad in ((frames.HEADER, 0, b"\0" * 20), (frames.METHOD, 0, b"\0\x0a\0")):
        with pytest.raises(FrameError, match="during the handshake"):
            on_frame(bad)


@pytest.mark.parametrize(("offered", "agreed"), [(131072, 100_000), (1 << 20, 100_000), (0, 100_000), (4096, 4096)])
def test_a_larger_frame_than_our_buffer_is_never_agreed(offered: int, agreed: int) -> None:
    peer = Peer()
    tune = frames.CONNECTION_TUNE.to_bytes(4, "big") + codec.arguments("BlB", 2047, offered, 60)
    frames.handshake_reader(peer, peer.callback)((frames.METHOD, 0, tune))
    [(_channel, _method, payload, _content)] = peer.called
    assert isinstance(payload, bytes)
    assert codec.read_arguments("BlB", payload, 4) == [2047, agreed, 60]


@pytest.mark.parametrize("arguments", [b"ab", "ab", bytearray(b"ab"), None])
def test_handshake_writer(arguments: object) -> None:
    peer = Peer()
    write = frames.handshake_writer(None, peer)
    write(frames.METHOD, 0, (10, 40), arguments, None)
    write(frames.HEARTBEAT, 0, None, None, None)
    assert peer.written == [method(0, 10 << 16 | 40, b"ab" if arguments else b""), frames.BEAT]
