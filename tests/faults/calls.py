"""Every public call that meets the broker, made under a fault: how long it took and how it ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from kombu import Queue

from wsgi_messaging import Message, MessagingError, Transport

TIMEOUT = 0.6
GRACE = 0.5
"""A call may end this much after its timeout, and no later."""
SLACK = 2.5
"""What a busy test machine gets on top. What does not end a call that should is a timeout of 5 s and more."""
PATIENT = 10.0
"""The timeout of calls that are to end at once: by half of it."""

Call = Callable[[Transport, str, float], None]


def _publish_many(transport: Transport, queue: str, timeout: float) -> None:
    messages = [Message(body=f"publish_many {number}", routing_key=queue) for number in range(3)]
    errors = [error for error in transport.publish_many(messages, timeout=timeout) if error is not None]
    assert len(errors) in (0, 3), f"some of a batch of three: {errors}"
    if errors:
        raise errors[0]


CALLS: dict[str, Call] = {
    "publish": lambda transport, queue, timeout: transport.publish("publish", queue, timeout=timeout),
    "publish_soon": lambda transport, queue, timeout: transport.publish_soon(
        "publish_soon", queue, timeout=timeout
    ).wait(),
    "publish_many": _publish_many,
    "declare": lambda transport, queue, timeout: _drop(transport.declare(Queue(queue), timeout=timeout)),
    "consume": lambda transport, queue, timeout: _drop(transport.consume(idle(queue), _drop, timeout=timeout)),
}
PUBLISHING = ("publish", "publish_soon", "publish_many")


def idle(queue: str) -> str:
    """The queue that is consumed: another one, so that what is published stays to be counted."""
    return f"{queue}-idle"


def _drop(_value: object) -> None:
    return None


@dataclass(frozen=True)
class Outcome:
    """How one call ended."""

    call: str
    seconds: float
    error: BaseException | None
    close_seconds: float
    timeout: float

    @property
    def is_in_time(self) -> bool:
        return max(self.seconds, self.close_seconds) <= self.timeout + GRACE + SLACK

    @property
    def maybe_sent(self) -> bool:
        return isinstance(self.error, MessagingError) and self.error.maybe_sent

    def __str__(self) -> str:
        return f"{self.call}: {self.seconds:.2f} s, close {self.close_seconds:.2f} s, {self.error!r}"


class Callers:
    """One transport for each call, so that no call profits from what another has found out."""

    def __init__(self, make: Callable[[], Transport]) -> None:
        self.transports = {name: make() for name in CALLS}

    def connect(self, queue: str) -> None:
        """Open what each call uses before the fault begins."""
        for name, transport in self.transports.items():
            if name == "consume":
                transport.declare(Queue(idle(queue), expires=60))
                transport.consume(idle(queue), _drop).cancel()
            else:
                transport.publish("before", queue)

    def run(self, queue: str, timeout: float = TIMEOUT) -> dict[str, Outcome]:
        """Make all calls at the same time, close each transport behind its call."""
        outcomes: dict[str, Outcome] = {}

        def run_one(name: str) -> None:
            transport = self.transports[name]
            began_at, error = time.monotonic(), None
            try:
                CALLS[name](transport, queue, timeout)
            except BaseException as exc:  # noqa: BLE001  (what it is, is what the test asks)
                error = exc
            ended_at = time.monotonic()
            transport.close(timeout)
            outcomes[name] = Outcome(name, ended_at - began_at, error, time.monotonic() - ended_at, timeout)

        threads = [threading.Thread(target=run_one, args=(name,), daemon=True) for name in CALLS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(4 * (timeout + GRACE + SLACK))
        hanging = [name for name in CALLS if name not in outcomes]
        assert not hanging, f"these calls did not end: {hanging}"
        late = [str(outcome) for outcome in outcomes.values() if not outcome.is_in_time]
        assert not late, f"these calls ended too late: {late}"
        return outcomes


def errors_of(outcomes: dict[str, Outcome], *kinds: type[BaseException]) -> dict[str, BaseException]:
    """The errors, all of which must be of one of `kinds`."""
    others = [str(outcome) for outcome in outcomes.values() if not isinstance(outcome.error, kinds)]
    assert not others, f"expected {[kind.__name__ for kind in kinds]}: {others}"
    return {name: outcome.error for name, outcome in outcomes.items() if outcome.error is not None}
