"""The messages that a recording proxy saw being published, taken apart."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

from tests.harness.proxy import UP, FaultProxy
from wsgi_messaging.connection import codec, frames


@dataclass(frozen=True)
class Published:
    """One basic.publish with its content."""

    exchange: str
    routing_key: str
    mandatory: bool
    properties: dict[str, Any]
    outer: dict[str, Any]
    inner: dict[str, Any]

    @property
    def keys(self) -> list[str]:
        """The inner message's keys, in their order, without ours."""
        return [key for key in self.inner if not key.startswith("_wsgi_messaging_")]


def published(proxy: FaultProxy) -> list[Published]:
    """All that clients have published through the proxy, connection by connection."""
    return [message for pair in proxy.pairs for message in _messages(bytes(pair.traffic[UP].recorded))]


def _messages(raw: bytes) -> list[Published]:
    found: list[Published] = []
    open_: dict[int, list[bytes]] = {}
    offset = 8  # the protocol header
    while offset + 8 <= len(raw):
        kind, channel, size = struct.unpack_from(">BHI", raw, offset)
        payload = raw[offset + 7 : offset + 7 + size]
        offset += size + 8
        if kind == frames.METHOD:
            (method,) = struct.unpack_from(">I", payload)
            if method == frames.BASIC_PUBLISH:
                open_[channel] = [payload[4:]]
        elif kind in (frames.HEADER, frames.BODY):
            open_[channel].append(payload)
            parts = open_[channel]
            (length,) = struct.unpack_from(">Q", parts[1], 4)
            if sum(map(len, parts[2:])) == length:
                found.append(_message(parts))
    return found


def _message(parts: list[bytes]) -> Published:
    _ticket, exchange, routing_key, mandatory, _immediate = codec.read_arguments("Bssbb", parts[0])
    outer = json.loads(b"".join(parts[2:]))
    return Published(
        exchange,
        routing_key,
        mandatory,
        codec.read_properties(parts[1], 12),
        outer,
        json.loads(outer["oslo.message"]),
    )
