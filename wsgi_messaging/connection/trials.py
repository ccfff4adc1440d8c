"""The destinations whose messages may be at fault: each has a channel of its own, over which they go one at a time.

So many have a channel at once; the others stand in line for one.

No I/O. The connection's thread alone changes it. Layer 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from .lanes import Lane
from .pending import Outgoing

AT_ONCE = 32
_NEVER = float("inf")


class Trial(Lane):
    """A confirming channel for the messages of one destination."""

    def __init__(self, key: tuple[str, str]) -> None:
        """`key` is an exchange, and behind the default one a queue."""
        super().__init__()
        self.key = key
        self.waiting: deque[Outgoing] = deque()
        self.renew_at = 0.0

    def gives_way_at(self) -> float:
        """When nobody waits any more for the message in flight: other messages are not to wait for it either."""
        entry = next(iter(self.confirms.entries.values()), None)
        return _NEVER if entry is None else 0.0 if entry.abandoned else entry.deadline

    def sweep(self, now: float) -> list[Outgoing]:
        """Take off what nobody wants any more of those that wait."""
        unwanted = [entry for entry in self.waiting if not entry.is_wanted(now)]
        if unwanted:
            self.waiting = deque(entry for entry in self.waiting if entry.is_wanted(now))
        return unwanted


class Trials:
    """All of one connection."""

    def __init__(self) -> None:
        self.all: dict[tuple[str, str], Trial] = {}
        """By their destinations; to be looked at."""
        self._begun: dict[Trial, None] = {}
        self._lined_up: dict[Trial, None] = {}

    def __len__(self) -> int:
        return len(self.all)

    def __iter__(self) -> Iterator[Trial]:
        """As they are now: any thread may look at them."""
        return iter(tuple(self.all.values()))

    def of(self, entry: Outgoing) -> Trial:
        """The trial of a message's destination."""
        key = (entry.exchange, "" if entry.exchange else entry.routing_key)
        trial = self.all.get(key)
        return self._add(Trial(key)) if trial is None else trial

    def _add(self, trial: Trial) -> Trial:
        self.all[trial.key] = trial
        self._lined_up[trial] = None
        return trial

    def is_current(self, lane: Lane) -> bool:
        """False for what is no trial, or one that has ended or was passed by."""
        return isinstance(lane, Trial) and self.all.get(lane.key) is lane

    def may_go_on(self, trial: Trial, *, has_room: bool) -> bool:
        """True for one that has a channel, or may have one now: the first always may."""
        return trial in self._begun or not self._begun or (has_room and len(self._begun) < AT_ONCE)

    def begin(self, trial: Trial) -> None:
        """It has a channel."""
        self._lined_up.pop(trial, None)
        self._begun[trial] = None

    def line_up(self, lane: Lane) -> None:
        """Its channel is gone, if it is one of these."""
        if isinstance(lane, Trial) and lane in self._begun:
            del self._begun[lane]
            self._lined_up[lane] = None

    def end(self, trial: Trial) -> None:
        """It has nothing left."""
        del self.all[trial.key]
        self._begun.pop(trial, None)
        self._lined_up.pop(trial, None)

    def first_in_line(self) -> Trial | None:
        return next(iter(self._lined_up), None)

    def gives_way_at(self) -> float:
        """When the first of them gives way."""
        return min((trial.gives_way_at() for trial in self._begun), default=_NEVER)

    def that_give_way(self, now: float) -> list[Trial]:
        return [trial for trial in self._begun if trial.gives_way_at() <= now]

    def pass_by(self, trial: Trial) -> Trial:
        """Leave it to what is in flight; gives another one for those that wait."""
        self.end(trial)
        follower = self._add(Trial(trial.key))
        follower.waiting, trial.waiting = trial.waiting, follower.waiting
        return follower

    def sweep(self, now: float) -> list[Outgoing]:
        """Take off what nobody wants any more of all that waits."""
        unwanted = []
        for trial in self:
            unwanted += trial.sweep(now)
            if not (trial.waiting or trial.confirms):
                self.end(trial)
        return unwanted

    def clear(self) -> None:
        self.all.clear()
        self._begun.clear()
        self._lined_up.clear()
