"""What the machine gave meanwhile: processors and disks that are shared give half an hour later half or twice as much.

A ratio within a round bears that; processor time for each operation does not, and how long an fsync takes, which a
queue waits for before it confirms, is in the ratios, too: the more callers wait for one, the less it costs each.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

ADDITIONS = 100_000
LOOPS = 9
SYNCS = 21
SYNCED = 65536
"""Octets that are written before each fsync."""
_STEAL = 7
"""Of the times of `cpu` in /proc/stat; those behind it are counted in others, too (proc_stat(5))."""


class Machine:
    """Looks at the machine each time it is asked."""

    def __init__(self, folder: Path) -> None:
        """`folder` is one that the broker writes to."""
        self._folder = folder
        self._ticks = _ticks()

    def look(self) -> dict[str, float]:
        """How long additions and an fsync take now, and what was stolen since the last look. Takes some 0.1 s."""
        before, self._ticks = self._ticks, _ticks()
        stolen, all_of_it = (now - then for now, then in zip(self._ticks, before, strict=True))
        return {
            "additions_ms": statistics.median(_additions() for _ in range(LOOPS)) * 1000,
            "fsync_ms": self._fsync() * 1000,
            "stolen_percent": 100 * stolen / max(1, all_of_it),
        }

    def _fsync(self) -> float:
        """Seconds, as a median."""
        took = []
        with tempfile.TemporaryFile(dir=self._folder) as file:
            for _ in range(SYNCS):
                file.write(bytes(SYNCED))
                file.flush()
                begun = time.perf_counter()
                os.fsync(file.fileno())
                took.append(time.perf_counter() - begun)
        return statistics.median(took)


def _additions() -> float:
    """Seconds."""
    begun = time.perf_counter()
    total = 0
    for number in range(ADDITIONS):
        total += number
    return time.perf_counter() - begun


def _ticks() -> tuple[int, int]:
    """What was stolen from all processors so far, and all of their time."""
    times = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1 : _STEAL + 2]]
    return times[_STEAL], sum(times)


def told(seen: dict[str, float]) -> str:
    """In one line."""
    return (
        f"{ADDITIONS:,} additions {seen['additions_ms']:.1f} ms, fsync {seen['fsync_ms']:.2f} ms, "
        f"{seen['stolen_percent']:.0f} % stolen"
    )
