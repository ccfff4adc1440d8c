"""The deliveries of one channel that are not settled, and how few acknowledgements do for those that are.

Each acknowledgement is a message to the queue's process in the broker, and one for many costs it as much as one for
one. Workers end in another order than they began, so only what is older than all that is unsettled can go together.

No I/O. The connection's thread alone uses it. Layer 1.
"""

from __future__ import annotations

from bisect import bisect_left

from . import frames


class Unsettled:
    """Of one consumer's channel; as large as what the broker awaits settlements for."""

    def __init__(self) -> None:
        self._tags: dict[int, None] = {}
        self._acknowledged: list[int] = []

    def __len__(self) -> int:
        """How many the broker awaits a settlement for."""
        return len(self._tags)

    def delivered(self, tag: int) -> None:
        """A message has come; tags only grow."""
        self._tags[tag] = None

    def settled(self, tag: int) -> None:
        """The broker is told by another method."""
        self._tags.pop(tag, None)

    def acknowledge(self, tag: int) -> int:
        """Have it acknowledged by the next `written`; gives how many wait for that."""
        self._acknowledged.append(tag)
        return len(self._acknowledged)

    def written(self, channel: int) -> bytes:
        """The frames that acknowledge what waits for it: one for all but those that unsettled ones are older than."""
        tags, self._acknowledged = sorted(self._acknowledged), []
        if not tags:
            return b""
        for tag in tags:
            self._tags.pop(tag, None)
        together = bisect_left(tags, next(iter(self._tags), tags[-1] + 1))
        last = [(tags[together - 1], together > 1)] if together else []
        settlements = [*last, *((tag, False) for tag in tags[together:])]
        return b"".join(frames.settlement_frame(channel, frames.BASIC_ACK, *each) for each in settlements)

    def clear(self) -> None:
        """The channel is gone: what was not acknowledged comes again."""
        self._tags.clear()
        self._acknowledged.clear()
