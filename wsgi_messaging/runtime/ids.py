"""Ids that no other process and no other message has, 32 hexadecimal digits as those of a uuid4.

`uuid.uuid4()` asks the system for random bytes each time, a call that lets go of the interpreter: with threads about
it costs 50 us and more. Here the random part is drawn once per process, and a counter makes each id another.

Layer 1.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

from . import native

_known: tuple[int, str, Iterator[int]] = (0, "", iter(()))


def new_id() -> str:
    """A new one. Threads: any. After fork: the child draws a random part of its own."""
    pid, prefix, numbers = _known
    if pid != native.getpid():
        prefix, numbers = _begin()
    return f"{prefix}{next(numbers):012x}"


def _begin() -> tuple[str, Iterator[int]]:
    global _known
    _known = native.getpid(), os.urandom(10).hex(), itertools.count(1)
    return _known[1:]
