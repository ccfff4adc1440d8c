"""Hostile bytes for everything that reads them: more than 10,000 streams, and no error but our own.

The reader and the decoders stand before the application; what escapes them as another exception ends a consumer.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.test_pending import outgoing
from wsgi_messaging.connection import codec, frames
from wsgi_messaging.connection.channels import Channels, close_reason
from wsgi_messaging.connection.codec import MalformedValue
from wsgi_messaging.connection.consuming import Consumers
from wsgi_messaging.connection.control import Control
from wsgi_messaging.connection.frames import FrameError, FrameReader, Inbound
from wsgi_messaging.connection.publishing import Publisher
from wsgi_messaging.connection.topology import Topology

FRAME_MAX, MAX_BODY = 4096, 5000
QUICK = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return bytes((kind,)) + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big") + payload + b"\xce"


METHODS = [
    number for name, number in vars(frames).items() if isinstance(number, int) and number > 0xFFFF and name.isupper()
]
kinds = st.sampled_from([frames.METHOD, frames.HEADER, frames.BODY, frames.HEARTBEAT, 0, 4, 255])
channels = st.integers(0, 3)
methods = st.builds(
    lambda channel, number, rest: frames.method_frame(channel, number, rest),
    channels,
    st.sampled_from(METHODS),
    st.binary(max_size=30),
)
contents = st.builds(
    lambda channel, size, rest, body: (
        frame(2, channel, b"\0\x3c\0\0" + size.to_bytes(8, "big") + rest)
        + (frame(3, channel, body[:size]) if size else b"")
    ),
    channels,
    st.one_of(st.integers(0, 40), st.sampled_from([MAX_BODY, MAX_BODY + 1, 2**63, 2**64 - 1])),
    st.binary(max_size=20),
    st.binary(max_size=40),
)
deliveries = st.builds(
    lambda channel, body: (
        frames.method_frame(channel, frames.BASIC_DELIVER, b"\0" * 12)
        + frame(2, channel, b"\0\x3c\0\0" + len(body).to_bytes(8, "big") + b"\0\0")
        + (frame(3, channel, body) if body else b"")
    ),
    channels,
    st.binary(max_size=40),
)
amid_content = st.builds(
    lambda channel, kind, payload: frames.method_frame(channel, frames.BASIC_DELIVER) + frame(kind, channel, payload),
    channels,
    kinds,
    st.binary(max_size=20),
)
hostile = st.one_of(
    amid_content,
    st.builds(frame, kinds, channels, st.binary(max_size=20)),
    methods,
    contents,
    st.binary(max_size=40),
    st.just(b"HTTP/1.1 400 Bad Request\r\n"),
)
streams = st.lists(hostile, max_size=6).map(b"".join)
good_streams = st.lists(st.one_of(deliveries, st.just(frames.BEAT)), max_size=6).map(b"".join)


def read(stream: bytes, cuts: list[int]) -> list[Inbound] | str:
    """What a reader makes of a stream in these pieces: its methods, or its complaint."""
    reader = FrameReader(frame_max=FRAME_MAX, max_body=MAX_BODY)
    size = len(reader.free())
    found: list[Inbound] = []
    points = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    try:
        for start, end in zip(points, points[1:], strict=False):
            reader.free()[: end - start] = stream[start:end]
            found += reader.methods(end - start)
            assert len(reader.free()) >= FRAME_MAX, "no room for the next read"
    except FrameError as exc:
        return f"{exc}" or "no reason given"
    assert len(reader.free()) <= size
    return found


@settings(max_examples=3500, **QUICK)
@given(stream=streams, cuts=st.lists(st.integers(0, 400), max_size=4))
def test_hostile_streams_are_methods_or_a_frame_error(stream: bytes, cuts: list[int]) -> None:
    """And the pieces that it comes in make no difference to which."""
    torn, whole = read(stream, cuts), read(stream, [])
    assert isinstance(torn, str) == isinstance(whole, str)
    if not isinstance(whole, str):
        assert torn == whole


@settings(max_examples=1500, **QUICK)
@given(stream=good_streams, cuts=st.lists(st.integers(0, 400), max_size=8))
def test_good_streams_are_read_the_same_however_they_are_torn(stream: bytes, cuts: list[int]) -> None:
    whole = read(stream, [])
    if isinstance(whole, list):
        assert read(stream, cuts) == whole


DECODERS: dict[str, Callable[[bytes], object]] = {
    "properties": codec.read_properties,
    "table": codec.read_table,
    "delivery": lambda raw: codec.read_arguments("sLbss", raw),
    "delivery tag": codec.read_delivery_tag,
    "return": lambda raw: codec.read_arguments("Bsss", raw),
    "ack": lambda raw: codec.read_arguments("Lb", raw),
}


tables = st.builds(
    lambda body, lie: (len(body) + lie).to_bytes(4, "big") + body,
    st.lists(
        st.builds(
            lambda name, kind, value: bytes((len(name),)) + name + kind + value,
            st.binary(max_size=4),
            st.sampled_from([b"t", b"b", b"s", b"I", b"l", b"f", b"d", b"D", b"S", b"x", b"A", b"F", b"T", b"V", b"?"]),
            st.binary(max_size=12),
        ),
        max_size=4,
    ).map(b"".join),
    st.integers(0, 2),
)


@settings(max_examples=3000, **QUICK)
@given(raw=st.one_of(st.binary(max_size=60), tables, tables.map(lambda table: b"\x20\x00" + table)))
def test_hostile_values_are_values_or_malformed(raw: bytes) -> None:
    for decode in DECODERS.values():
        try:
            decode(raw)
        except MalformedValue:
            continue
    close_reason(Inbound(0, frames.CONNECTION_CLOSE, raw))


@settings(max_examples=2500, **QUICK)
@given(
    script=st.lists(
        st.tuples(
            st.integers(1, 6),
            st.sampled_from(METHODS),
            st.one_of(
                st.binary(max_size=20),
                st.just(codec.arguments("Lb", 1, True)),
                st.just(codec.arguments("BsBB", 404, "no", 0, 0)),
            ),
        ),
        max_size=8,
    )
)
def test_hostile_methods_end_no_handler(script: list[tuple[int, int, bytes]]) -> None:
    """Answers that nobody asked for, in any order, to the publisher, the control channel and the consumers."""
    open_channels = Channels()
    publisher, control = Publisher(open_channels), Control(open_channels)
    consumers = Consumers(open_channels, control, Topology(), lambda text: None)
    publisher.frame_max = FRAME_MAX
    for exchange, confirm in (("", True), ("", False), ("unproven", True)):
        publisher.admit(outgoing("body", exchange=exchange, confirm=confirm), 1.0)
    for handler, number in ((control.on_method, 4), (consumers.on_method, 5)):
        open_channels.take(handler, number)
    for channel, method, arguments in script:
        try:
            written = open_channels.dispatch(Inbound(channel, method, arguments, b"", b"", 0), 1.0)
        except MalformedValue:
            return  # ends the connection, as the connection's thread does it
        assert isinstance(written, bytes)


@pytest.mark.parametrize("levels", [33, 2000, 100_000])
def test_depth_costs_no_stack(levels: int) -> None:
    raw = b"\0\0\0\0"
    for _ in range(min(levels, 3000)):
        raw = b"\x01xF" + raw
        raw = len(raw).to_bytes(4, "big") + raw
    if levels > 3000:  # lengths that lie, without the quadratic cost of true ones
        raw = (b"\x7f\xff\xff\xff" + b"\x01xF") * levels
    with pytest.raises(MalformedValue):
        codec.read_table(raw)
