"""Both ends of the wire for tests without one: what a broker would send, and what was written to it, taken apart."""

from __future__ import annotations

from typing import Any, NamedTuple

from wsgi_messaging.connection import codec, frames
from wsgi_messaging.connection.frames import Inbound

CHANNEL_OPEN, CHANNEL_CLOSE, CHANNEL_CLOSE_OK = "channel.open", "channel.close", "channel.close-ok"
NAMES = {
    frames.CHANNEL_OPEN: CHANNEL_OPEN,
    frames.CHANNEL_CLOSE: CHANNEL_CLOSE,
    frames.CHANNEL_CLOSE_OK: CHANNEL_CLOSE_OK,
    frames.CHANNEL_FLOW_OK: "channel.flow-ok",
    frames.CONFIRM_SELECT: "confirm.select",
    frames.BASIC_PUBLISH: "basic.publish",
    frames.BASIC_QOS: "basic.qos",
    frames.BASIC_CONSUME: "basic.consume",
    frames.BASIC_CANCEL: "basic.cancel",
    frames.BASIC_ACK: "basic.ack",
    frames.BASIC_REJECT: "basic.reject",
    frames.method_id(50, 10): "queue.declare",
    frames.method_id(50, 20): "queue.bind",
    frames.method_id(50, 40): "queue.delete",
    frames.method_id(40, 10): "exchange.declare",
}


class Frame(NamedTuple):
    kind: int
    channel: int
    payload: bytes


def split(data: bytes) -> list[Frame]:
    """The frames in some bytes, which must be whole ones."""
    found = []
    while data:
        kind, channel, size = data[0], int.from_bytes(data[1:3], "big"), int.from_bytes(data[3:7], "big")
        assert data[7 + size] == frames.END, "no end mark where the frame ends"
        found.append(Frame(kind, channel, data[7 : 7 + size]))
        data = data[8 + size :]
    return found


def methods(data: bytes) -> list[tuple[int, str]]:
    """(channel, method) of what was written, without the content of messages."""
    return [
        (frame.channel, NAMES[int.from_bytes(frame.payload[:4], "big")])
        for frame in split(data)
        if frame.kind == frames.METHOD
    ]


def published(data: bytes) -> list[tuple[int, bytes]]:
    """(channel, body) of each message that was written."""
    found: list[tuple[int, bytes]] = []
    for frame in split(data):
        if frame.kind == frames.HEADER:
            found.append((frame.channel, b""))
        elif frame.kind == frames.BODY:
            channel, body = found[-1]
            assert channel == frame.channel
            found[-1] = (channel, body + frame.payload)
    return found


def inbound(channel: int, method: int, kinds: str = "", *values: Any, body: bytes | None = None) -> Inbound:
    return Inbound(channel, method, codec.arguments(kinds, *values), b"\0\0", body, len(body or b""))


def ack(channel: int, tag: int, multiple: bool = False) -> Inbound:
    return inbound(channel, frames.BASIC_ACK, "Lb", tag, multiple)


def nack(channel: int, tag: int, multiple: bool = False) -> Inbound:
    return inbound(channel, frames.BASIC_NACK, "Lbb", tag, multiple, False)


def returned(channel: int, exchange: str, routing_key: str, body: bytes) -> Inbound:
    return inbound(channel, frames.BASIC_RETURN, "Bsss", 312, "NO_ROUTE", exchange, routing_key, body=body)


def closed(channel: int, code: int, text: str = "NO") -> Inbound:
    return inbound(channel, frames.CHANNEL_CLOSE, "BsBB", code, text, 0, 0)
