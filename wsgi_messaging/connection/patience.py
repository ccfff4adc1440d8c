"""How long a broker that is alive may leave messages unanswered before another one is asked.

A node can beat and not answer: RabbitMQ's channels wait for a hung node of their cluster, for as long as its
`net_ticktime` (60 s) says, and one that has lost a message to a partition never confirms another
(https://github.com/rabbitmq/rabbitmq-server/pull/14589). A new connection's channel does not share their fate.

No I/O: time comes in, as does whether the broker is to be excused. Layer 1.
"""

from __future__ import annotations

from collections.abc import Iterable

from .pending import Confirms

SILENT_AFTER = 15.0
"""Seconds without an answer to a message that the broker's kernel has. An election of a quorum queue takes ten."""
IN_A_ROW = 5
"""So many brokers are given up one after the other, while a cluster makes up its mind about a node: 75 s."""
SILENT_AT_MOST = 480.0
"""Then the time is doubled with each, up to this: it is the queue, not the broker."""
LATE_AFTER = 5.0
FORGOTTEN_AFTER = 60.0
"""Seconds in which no message was unanswered for `LATE_AFTER`: then all that begins anew."""
LOOK_EVERY = 3.0
_NEVER = float("inf")


class Patience:
    """The looks at what is in flight, over one connection after the other."""

    def __init__(self) -> None:
        self.look_at = _NEVER
        """When the next look is due; never while nothing is in flight."""
        self._given_up = 0
        self._late_at = 0.0

    def watch(self, now: float) -> None:
        """Something is being sent."""
        if self.look_at == _NEVER:
            self.look_at = now + LOOK_EVERY

    def look(self, in_flight: Iterable[Confirms], now: float, *, is_excused: bool) -> None:
        """See to it that messages are answered, unless the broker is excused. Raises: EOFError when one was not."""
        if now - self._late_at > FORGOTTEN_AFTER:
            self._given_up = 0
        limit = min(SILENT_AFTER * 2 ** max(0, self._given_up - IN_A_ROW + 1), SILENT_AT_MOST)
        self.look_at = _NEVER
        for confirms in in_flight:
            if confirms:
                self.look_at = now + LOOK_EVERY
            waited = confirms.waited(now, anew=is_excused)
            if waited >= LATE_AFTER:
                self._late_at = now
            if waited >= limit:
                self._given_up += 1
                raise EOFError(f"a message was not answered for {waited:.0f} s")
