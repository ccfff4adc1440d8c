"""One thread that does small things at their time: signs of life, another try for a reply, a look at the bindings.

Layer 4: imports runtime.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Callable

from ..runtime import native
from ..runtime.mailbox import Mailbox
from ..runtime.waiting import Completion, start_application_thread

logger = logging.getLogger("wsgi_messaging.rpc")

_IDLE = 3600.0
_FEW = 64


class Alarm:
    """Something to do at a time, once. `cancel` may come from any thread."""

    __slots__ = ("_timer", "due_at", "action")

    def __init__(self, due_at: float, action: Callable[[], None], timer: Timer) -> None:
        self.due_at = due_at
        self.action: Callable[[], None] | None = action
        self._timer = timer

    def cancel(self) -> None:
        """Not any more."""
        if self.action is not None:
            self.action = None
            self._timer.cancelled += 1


class Timer:
    """Threads: `at` from any, a connection's own thread included; what it does must not block."""

    def __init__(self, name: str) -> None:
        self.cancelled = 0
        self._name = name
        self._new: Mailbox[Alarm] = Mailbox()
        self._is_stopping = False
        self._stopped = Completion()
        self._numbers = itertools.count()
        self._heap: list[tuple[float, int, Alarm]] = []  # the thread's own

    def start(self) -> None:
        start_application_thread(self._name, self._run)

    def at(self, due_at: float, action: Callable[[], None]) -> Alarm:
        """Have `action()` called when the monotonic clock has come to `due_at`."""
        alarm = Alarm(due_at, action, self)
        self._new.put(alarm)
        return alarm

    def stop(self, timeout: float) -> bool:
        """End; what was not due yet is not done. Blocks: up to `timeout`, for what is being done."""
        self._is_stopping = True
        self._new.close()
        return self._stopped.wait(timeout)

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                wait = self._heap[0][0] - native.monotonic() if self._heap else _IDLE
                alarm = self._new.get(max(0.0, wait))
                if alarm is not None:
                    heapq.heappush(self._heap, (alarm.due_at, next(self._numbers), alarm))
                self._ring(native.monotonic())
                self._tidy()
        finally:
            self._stopped.set()

    def _ring(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now and not self._is_stopping:
            alarm = heapq.heappop(self._heap)[2]
            action, alarm.action = alarm.action, None
            if action is None:
                self.cancelled -= 1
                continue
            try:
                action()
            except Exception:
                logger.exception("%s: something that was due failed", self._name)

    def _tidy(self) -> None:
        """Most signs of life are cancelled long before they are due: throw them out when they are the most."""
        if self.cancelled > max(_FEW, len(self._heap) // 2):
            self._heap = [entry for entry in self._heap if entry[2].action is not None]
            heapq.heapify(self._heap)
            self.cancelled = 0
