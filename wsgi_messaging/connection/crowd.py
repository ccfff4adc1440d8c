"""Callers whose messages were answered together, and who come back with their next ones together.

Where many publish at once, the connection's thread waits for the interpreter behind all whom it has just woken. Would
it write for them, the broker had nothing to do until the last of them waits again, and they nothing while the broker
works. So it leaves that to them. Behind an answer it goes on sleeping for a moment, and their messages gather; who
completes the half of those who publish, or of those who were answered, writes what there is in the thread's place
(shortcut.py). Then the broker works on one half while the other one is made. Where they do not come back it is tried
ever more rarely: a message that waits for others in vain is late.

Layer 2.
"""

from __future__ import annotations

from .inlet import Inlet
from .link import Link
from .outlet import Outlet
from .pending import Outgoing
from .publishing import Publisher
from .shortcut import Shortcut

GATHERS_FOR = 0.002
"""Seconds that messages wait at most for others that may not come."""
RESTS_AT_MOST = 63
"""Answers behind which nothing waits for others, where it has waited in vain again and again."""


class Crowd:
    """One connection's. `hand_over` is for any thread, the rest for the connection's."""

    def __init__(self, outlet: Outlet, publisher: Publisher, inlet: Inlet, shortcut: Shortcut) -> None:
        self.is_gathering = False
        self._pile = 0
        self._is_complete = False
        self._has_waited = False
        self._rest = self._rests_for = 0
        self._outlet = outlet
        self._publisher = publisher
        self._inlet = inlet
        self._shortcut = shortcut

    def hand_over(self, entry: Outgoing, *, is_alone: bool) -> bool:
        """Leave a message to be written, or write it. False when the thread is to be woken."""
        self._outlet.outbox.append(entry)
        if not self.is_gathering:
            return is_alone and self._shortcut.write(entry)
        if self.is_awaited:
            return True
        self._is_complete = True
        return self._shortcut.write_all()

    @property
    def is_awaited(self) -> bool:
        """True while messages wait for others."""
        return self.is_gathering and len(self._outlet.outbox) < self._pile

    def read(self, link: Link) -> None:
        """As `Inlet.read`; then gather, if several publish and some of them were answered."""
        confirms = self._publisher.confirms
        answered_before = confirms.answered_count
        self._inlet.read(link)
        answered = confirms.answered_count - answered_before
        all_of_them = answered + len(confirms) + len(self._outlet.outbox)
        has_waited, self._has_waited = self._has_waited, False
        if not answered or all_of_them == 1 or has_waited:
            return
        self._pile = answered if 2 * answered <= all_of_them else (answered + 1) // 2
        if self._pile > 1 and self._rests_for:
            self._rests_for -= 1
        else:
            self._is_complete = False
            self.is_gathering = True

    def disperse(self, *, is_answered: bool) -> None:
        """Behind a sleep: gather no more. `is_answered` when it has ended because there is something to read."""
        self.is_gathering = False
        if self._is_complete:
            self._rest = 0
        elif is_answered:  # what waits now does not wait for those, too
            self._has_waited = bool(self._outlet.outbox)
        else:
            self._rest = self._rests_for = min(2 * self._rest + 1, RESTS_AT_MOST)
