"""The heartbeat of one connection as it runs: beats when they are due, gives a silent peer up, says who was late.

Layer 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..runtime import native
from . import frames
from .timing import Heartbeat


class Pulse:
    """Beats over one connection after the other; the counters and the worst lateness go on."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.beat = Heartbeat(0.0, 0.0, 0.0)
        self._warn = warn
        self._has_warned = False
        self.next_at = 0.0
        """When `keep_alive` has something to do, or must look again: early at the worst, for traffic moves it out."""

    def begin(self, interval: float, now: float) -> None:
        """A connection was opened, with this interval agreed."""
        before = self.beat
        self.beat = Heartbeat(
            interval,
            sent_at=now,
            received_at=now,
            beats_sent=before.beats_sent,
            beats_received=before.beats_received,
            lateness_worst=before.lateness_worst,
        )
        self.next_at = min(self.beat.due_at(), self.beat.silent_at())

    def told(self, now: float | None) -> dict[str, Any]:
        """Its part of a `ConnectionStatus`; `now` is None while there is no connection."""
        beat = self.beat
        return {
            "heartbeat": beat.interval,
            "beats_sent": beat.beats_sent,
            "beats_received": beat.beats_received,
            "sent_age": None if now is None else now - beat.sent_at,
            "received_age": None if now is None else now - beat.received_at,
            "lateness_last": beat.lateness_last,
            "lateness_worst": beat.lateness_worst,
        }

    def keep_alive(self, now: float) -> bytes:
        """The beat, if one is due. Raises: EOFError when the peer has been silent for too long.

        Call it after reading: what has arrived while the interpreter was held must count first.
        """
        if now < self.next_at:
            return b""
        beat = self.beat
        self.next_at = min(beat.due_at(), beat.silent_at())
        if now >= beat.silent_at():
            raise EOFError(f"nothing was heard of the broker for {now - beat.received_at:.1f} s")
        if now < beat.due_at():
            return b""
        self._look_at(beat.beat(now))
        self.next_at = min(beat.due_at(), beat.silent_at())
        return frames.BEAT

    def wrote(self, now: float) -> None:
        """Something else was written: it counts as a beat, and may have been late as well."""
        if now < self.next_at:  # nothing is late before that
            self.beat.sent_at = now
        else:
            self._look_at(self.beat.sent(now))

    def _look_at(self, late: float) -> None:
        beat = self.beat
        if beat.is_too_late(late) and not self._has_warned:
            self._has_warned = True
            self._warn(
                f"a heartbeat was {late:.1f} s late (interval {beat.interval:g} s): something held the interpreter, "
                f"most likely one call into C code that keeps its lock; threads now at: "
                f"{'; '.join(native.stacks_of_others())}"
            )
