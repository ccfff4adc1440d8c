"""When to beat, when to give a peer up, when to try again: arithmetic only.

Time comes in as `now` (seconds, monotonic) and goes out as a point in time, so a test is instant and needs no
thread. Chance comes in as `jitter`, between 0 and 1.

Layer 0: imports `dataclasses`, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

BEATS_PER_INTERVAL = 3
"""We send something at least this often in each heartbeat interval. RabbitMQ closes after two silent intervals
(https://www.rabbitmq.com/docs/heartbeats), so six turns of the thread must fail before it does."""

SILENT_INTERVALS = 2
"""A peer that sent nothing for so many intervals is given up, as RabbitMQ does with us."""


@dataclass(slots=True)
class Heartbeat:
    """The beat of one open connection; `interval` is the one agreed with the broker, 0 for none.

    Everything that is sent counts as a beat (AMQP 0-9-1 section 4.2.7), so `sent_at` moves with every write.
    """

    interval: float
    sent_at: float
    received_at: float
    beats_sent: int = 0
    beats_received: int = 0
    lateness_last: float = 0.0
    lateness_worst: float = 0.0

    def due_at(self) -> float:
        """When the next beat must go out unless something else does."""
        return self.sent_at + self.interval / BEATS_PER_INTERVAL if self.interval else float("inf")

    def silent_at(self) -> float:
        """When the peer will have been silent for too long."""
        return self.received_at + self.interval * SILENT_INTERVALS if self.interval else float("inf")

    def beat(self, now: float) -> float:
        """Count a beat sent at `now`; gives how late it was (seconds after it was due, never negative)."""
        self.beats_sent += 1
        self.lateness_last = 0.0
        return self.sent(now)

    def sent(self, now: float) -> float:
        """Something was sent at `now`, which counts as a beat; gives how late it was."""
        late = max(0.0, now - self.due_at())
        self.sent_at = now
        if late:
            self.lateness_last = late
            self.lateness_worst = max(self.lateness_worst, late)
        return late

    def is_too_late(self, late: float) -> bool:
        """True for a beat that was late by more than half an interval: something held the interpreter."""
        return bool(self.interval) and late > self.interval / 2


@dataclass(slots=True)
class Backoff:
    """How long to wait before the next round over all hosts: from `shortest`, doubling up to `longest`, jittered.

    Chance decides three quarters of the delay, nearly the full jitter of "Exponential Backoff And Jitter" (AWS
    architecture blog, 2015): workers that lost the same broker in the same instant do not return together. With a
    `shortest` of 0.1 s they would meet in the first tenth of a second: `python -m benchmarks.storm`.
    """

    shortest: float = 0.25
    longest: float = 2.0
    failed_rounds: int = 0

    def failed(self, jitter: float) -> float:
        """Count a failed round; gives the seconds to wait before the next."""
        ceiling = min(self.longest, self.shortest * 2**self.failed_rounds)
        self.failed_rounds = min(self.failed_rounds + 1, 30)
        return float(ceiling * (0.25 + 0.75 * jitter))

    def succeeded(self) -> None:
        self.failed_rounds = 0


def remaining(deadline: float, now: float) -> float:
    """The seconds left until `deadline`, never negative."""
    return deadline - now if deadline > now else 0.0
