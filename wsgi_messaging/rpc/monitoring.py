"""Signs of life for a caller that asked for them, while its call is executed.

Layer 4.
"""

from __future__ import annotations

from ..oslo.envelope import Request
from ..runtime import native
from .replying import Replier
from .timer import Alarm, Timer


class Beating:
    """Within `with`, the caller hears of us as often as it asked; nothing is sent unasked, which would crash it."""

    __slots__ = ("_alarm", "_every", "_is_over", "_replier", "_request", "_timer")

    def __init__(self, timer: Timer, replier: Replier, request: Request) -> None:
        self._timer = timer
        self._replier = replier
        self._request = request
        self._every = request.beat_every if request.is_call else None
        self._is_over = False
        self._alarm: Alarm | None = None

    def __enter__(self) -> None:
        if self._every is not None:
            self._alarm = self._timer.at(native.monotonic() + self._every, self._beat)

    def __exit__(self, *_error: object) -> None:
        self._is_over = True
        if self._alarm is not None:
            self._alarm.cancel()

    def _beat(self) -> None:
        """On the timer's thread."""
        if not self._is_over and self._every is not None:
            self._replier.beat(self._request)
            self._alarm = self._timer.at(native.monotonic() + self._every, self._beat)
