"""Signs of life for a caller that asked for them, while its call is executed.

Layer 4.
"""

from __future__ import annotations

from ..oslo.envelope import Request
from ..runtime import native
from .replying import Replier
from .timer import Alarm, Timer


def begin_to_beat(timer: Timer, replier: Replier, request: Request) -> Beating | None:
    """Until `Beating.end` the caller hears of us as often as it asked; None where nobody asked, for what is sent
    unasked would crash it."""
    if request.beat_every is None or not request.is_call:
        return None
    return Beating(timer, replier, request, request.beat_every)


class Beating:
    """The signs of life of one request, from its making to `end`."""

    __slots__ = ("_alarm", "_every", "_is_over", "_replier", "_request", "_timer")

    def __init__(self, timer: Timer, replier: Replier, request: Request, every: float) -> None:
        self._timer = timer
        self._replier = replier
        self._request = request
        self._every = every
        self._is_over = False
        self._alarm: Alarm = self._later()

    def end(self) -> None:
        """The request was executed."""
        self._is_over = True
        self._alarm.cancel()

    def _later(self) -> Alarm:
        return self._timer.at(native.monotonic() + self._every, self._beat)

    def _beat(self) -> None:
        """On the timer's thread."""
        if not self._is_over:
            self._replier.beat(self._request)
            self._alarm = self._later()
