"""The deliveries of one channel that are not settled, and how few acknowledgements do for those that are.

Each acknowledgement is a message to the queue's process in the broker, and one for many costs it as much as one for
one. Workers end in another order than they began, so only what is older than all that is unsettled can go together.

No I/O. The connection's thread alone uses it. Layer 1.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

from . import frames

_FEW = 64


class Unsettled:
    """Of one consumer's channel; as large as what the broker awaits settlements for."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._order: deque[int] = deque()  # those, and some that are settled, as they came
        self._acknowledged: list[int] = []

    def __len__(self) -> int:
        """How many the broker awaits a settlement for."""
        return len(self._open)

    def delivered(self, tag: int) -> None:
        """A message has come; tags only grow."""
        self._open.add(tag)
        self._order.append(tag)
        if len(self._order) > 2 * len(self._open) + _FEW:  # one that takes long keeps others that are settled
            self._order = deque(tag for tag in self._order if tag in self._open)

    def settled(self, tag: int) -> None:
        """The broker is told by another method."""
        self._open.discard(tag)

    def acknowledge(self, tag: int) -> int:
        """Have it acknowledged by the next `written`; gives how many wait for that."""
        self._acknowledged.append(tag)
        return len(self._acknowledged)

    def written(self, channel: int) -> bytes:
        """The frames that acknowledge what waits for it: one for all but those that unsettled ones are older than."""
        tags, self._acknowledged = sorted(self._acknowledged), []
        if not tags:
            return b""
        self._open.difference_update(tags)
        while self._order and self._order[0] not in self._open:
            self._order.popleft()
        together = bisect_left(tags, self._order[0]) if self._order else len(tags)
        last = [(tags[together - 1], together > 1)] if together else []
        settlements = [*last, *((tag, False) for tag in tags[together:])]
        return b"".join(frames.settlement_frame(channel, frames.BASIC_ACK, *each) for each in settlements)

    def clear(self) -> None:
        """The channel is gone: what was not acknowledged comes again."""
        self._open.clear()
        self._order.clear()
        self._acknowledged.clear()
