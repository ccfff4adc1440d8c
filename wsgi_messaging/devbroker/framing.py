"""Bytes from a client to frames.

Layer 5, part of the embedded broker: pure.
"""

from __future__ import annotations

from collections.abc import Generator

from .methods import EMPTY_FRAME_SIZE, FRAME, FRAME_END, FRAME_MIN_SIZE
from .refusals import Refusal

_HEAD = FRAME.size


class FrameReader:
    """Keeps what is not yet a whole frame. `frame_max` grows with the tuning."""

    def __init__(self) -> None:
        self.frame_max = FRAME_MIN_SIZE
        self._rest = b""

    def take_protocol_header(self, data: bytes) -> bytes | None:
        """The client's first eight octets, once they are there; what follows is kept for `frames`."""
        self._rest += data
        if len(self._rest) < 8:
            return None
        header, self._rest = self._rest[:8], self._rest[8:]
        return header

    def frames(self, data: bytes) -> Generator[tuple[int, int, bytes], None, None]:
        """Type, channel and payload of each whole frame. Raises: `Refusal` 501.

        Closed early, it keeps what it has not given for the next call; what follows a broken frame is dropped.
        """
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        try:
            while end - at >= _HEAD:
                kind, channel, size = FRAME.unpack_from(data, at)
                if size > self.frame_max - EMPTY_FRAME_SIZE:
                    at = end
                    raise _too_large(kind, size, self.frame_max)
                stop = at + _HEAD + size
                if stop >= end:
                    break
                payload = data[at + _HEAD : stop]
                if data[stop] != FRAME_END:
                    at, marker = end, f"{{invalid_frame_end_marker,{data[stop]}}}"
                    raise Refusal(501, f"type {kind}, {_octets(payload)}: {marker}")
                at = stop + 1
                yield kind, channel, payload
        finally:
            self._rest = data[at:]


def _too_large(kind: int, size: int, frame_max: int) -> Refusal:
    limit = frame_max - EMPTY_FRAME_SIZE
    return Refusal(501, f"type {kind}, all octets = <<>>: {{frame_too_large,{size},{limit}}}")


def _octets(payload: bytes) -> str:
    """The beginning of a payload as Erlang prints binaries."""
    first = payload[:16]
    many = "first 16" if len(payload) > 16 else "all"
    if first and all(32 <= octet < 127 for octet in first):
        return f'{many} octets = <<"{first.decode()}">>'
    return f"{many} octets = <<{','.join(map(str, first))}>>"


def unknown_frame(kind: int, payload: bytes) -> Refusal:
    return Refusal(501, f"type {kind}, {_octets(payload)}: unknown_frame")
