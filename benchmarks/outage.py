"""How long a publisher is without service when its broker goes away: the gap between two confirmed messages."""

from __future__ import annotations

import time

from benchmarks.plan import Figures
from benchmarks.sessions import Operation

PAUSE = 0.002
"""Seconds between two messages, so that the queue stays small."""


class Outage:
    """Publishes all the time; the runner breaks something in the middle."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    def run(self, seconds: float) -> Figures:
        clock = time.perf_counter
        begun = confirmed_at = clock()
        gap, errors, operations = 0.0, 0, 0
        while clock() < begun + seconds:
            try:
                self._operation()
            except Exception:  # noqa: BLE001  (each one is what the application would have seen)
                errors += 1
                time.sleep(PAUSE)
                continue
            now = clock()
            gap, confirmed_at = max(gap, now - confirmed_at), now
            operations += 1
            time.sleep(PAUSE)
        gap = max(gap, clock() - confirmed_at)
        return {"operations": operations, "gap_s": gap, "errors": errors}
