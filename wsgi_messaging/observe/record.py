"""A record that one process writes and any other reads, without a lock: two copies in one small mapped file.

The writer fills the copy that is not the latest and numbers it; a reader takes the one with the higher number whose
checksum is right. So a writer that is stopped, or killed, in the middle leaves the copy before untouched, and neither
side ever waits. The time in a record is CLOCK_MONOTONIC, which all processes of a host share.

Layer 1.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from dataclasses import dataclass

COPY_SIZE = 4096
SIZE = 2 * COPY_SIZE
_MAGIC = b"wsgm"
_VERSION = 1
_HEAD = struct.Struct("<4sHxxQdI")  # magic, version, number, written at, length of the payload
_SUM = struct.Struct("<I")
LARGEST = COPY_SIZE - _HEAD.size - _SUM.size
"""Octets of the largest payload."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The latest whole record."""

    number: int
    written_at: float
    payload: bytes


class Record:
    """The writing side. One thread writes."""

    def __init__(self, descriptor: int) -> None:
        """Map a file of `SIZE` octets; the descriptor may be closed afterwards."""
        self._map = mmap.mmap(descriptor, SIZE)
        self._number = 0

    def write(self, payload: bytes, now: float) -> None:
        """Replace the older copy. Raises: `ValueError` for a payload beyond `LARGEST`."""
        if len(payload) > LARGEST:
            raise ValueError(f"a record of {len(payload)} octets; {LARGEST} is the largest")
        self._number += 1
        head = _HEAD.pack(_MAGIC, _VERSION, self._number, now, len(payload))
        whole = b"".join((head, _SUM.pack(zlib.crc32(payload, zlib.crc32(head))), payload))
        offset = COPY_SIZE * (self._number & 1)
        self._map[offset : offset + len(whole)] = whole

    def close(self) -> None:
        """Let the mapping go; in a forked child, this process's copy of it."""
        self._map.close()


def read(content: bytes) -> Reading | None:
    """The latest whole record in what stands in a file; None when there is none (yet)."""
    found = [reading for offset in (0, COPY_SIZE) if (reading := _copy(content[offset : offset + COPY_SIZE]))]
    return max(found, key=lambda reading: reading.number, default=None)


def _copy(content: bytes) -> Reading | None:
    if len(content) != COPY_SIZE:
        return None
    head = content[: _HEAD.size]
    magic, version, number, written_at, length = _HEAD.unpack(head)
    if magic != _MAGIC or version != _VERSION or length > LARGEST:
        return None
    begin = _HEAD.size + _SUM.size
    payload = content[begin : begin + length]
    if _SUM.unpack_from(content, _HEAD.size)[0] != zlib.crc32(payload, zlib.crc32(head)):
        return None
    return Reading(number, written_at, payload)
