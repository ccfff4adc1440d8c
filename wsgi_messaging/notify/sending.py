"""From a body to the broker: what a notification's route needs is declared once, then it is published and confirmed.

A route is an exchange and, for each key, a queue of that name bound to it, so that what nobody listens to yet waits
for a listener, as with oslo.messaging. It is made once in each process, and again when the broker says that it is
gone, and behind a lost connection: the broker may have been restarted, and where somebody else gets copies it does not
say what is gone. Routes are independent: one that fails holds up no other, and one that takes all the time has the last
turn next.

Layer 4: imports runtime, errors, messages, transport, oslo.topology.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field

from ..callables import check_transport
from ..errors import (
    BrokerBlocked,
    ConfigurationError,
    ConnectFailed,
    DeclarationRefused,
    Expired,
    MessagingError,
    Rejected,
    Unroutable,
)
from ..messages import Message
from ..oslo import topology
from ..rpc.flags import QueueFlags, explained
from ..runtime import native
from ..runtime.process import PerProcess
from ..runtime.waiting import Completion
from ..transport import Transport

_LOOK_EVERY = 0.01
"""Seconds between two looks at a connection that is being made, for who does not want to wait for the second."""

Results = list[MessagingError | None]


@dataclass(frozen=True, slots=True)
class NotifierStatus:
    """What became of a notifier's messages in this process; one for each topic of a notification."""

    sent: int
    """Confirmed by the broker."""
    failed: int
    """Given up: refused, or not to be sent in time."""
    dropped: int
    """Never tried, because the buffer was full or closed."""
    waiting: int
    """In the buffer."""


@dataclass(slots=True)
class Parcel:
    """One message to one route; `retry` is how often it may be tried again, None for no limit."""

    routing_key: str
    body: str
    retry: int | None = None
    tries: int = 0

    @property
    def may_try_again(self) -> bool:
        return self.retry is None or self.retry < 0 or self.tries <= self.retry


@dataclass(slots=True)
class Tally:
    """Counters of one process; they only grow."""

    sent: int = 0
    failed: int = 0
    dropped: int = 0
    routes: set[str] = field(default_factory=set)
    """The keys whose queue was declared, since `losses` connections were lost."""
    losses: int = 0
    late: dict[str, None] = field(default_factory=dict)
    """The keys whose queue was last not declared in time, in the order in which that was tried."""


class Sender:
    """Sends to one exchange of one transport.

    Threads: any thread or greenlet. After fork: the child declares and counts for itself.
    """

    def __init__(
        self, transport: Transport, exchange: str, flags: QueueFlags, *, declare: bool, timeout: float | None
    ) -> None:
        check_transport(transport)
        self.transport = transport
        self.exchange = exchange
        self._timeout = timeout
        self._flags = flags
        self._is_declaring = declare
        self._process = PerProcess(Tally, _ignore)

    @property
    def tally(self) -> Tally:
        """This process's counters."""
        return self._process.get()

    @property
    def timeout(self) -> float:
        """Seconds for a `send`; the transport may be `current_transport`, which is none before the first request."""
        return self.transport.settings.timeout if self._timeout is None else self._timeout

    def warm(self) -> None:
        """Have the connection begin. Returns at once; what is wrong with it is told by `send`."""
        if not self.transport.is_one_shot:
            with suppress(MessagingError, RuntimeError):  # out of threads just now
                self.transport.warm()

    def send(self, parcels: Sequence[Parcel], timeout: float | None = None) -> Results:
        """Publish, pipelined; gives for each parcel, in order, None or why it was not confirmed. Counts nothing.

        Blocks: up to `timeout` seconds in all; not for a broker that is away, where no parcel may be tried again.
        """
        deadline = native.monotonic() + (self.timeout if timeout is None else timeout)
        results: Results = [None] * len(parcels)
        if all(parcel.retry == 0 for parcel in parcels) and (error := self._is_away(deadline)) is not None:
            return [error for _ in parcels]
        self._forget_routes_of_lost_connections()
        is_known = [not self._is_declaring or parcel.routing_key in self.tally.routes for parcel in parcels]
        known = [position for position, is_one in enumerate(is_known) if is_one]
        self._publish(parcels, known, results, deadline)
        lost = [position for position in known if self._is_route_lost(results[position])]
        self.tally.routes.difference_update(parcels[position].routing_key for position in lost)
        unknown = [position for position, is_one in enumerate(is_known) if not is_one]
        for positions in self._late_last(parcels, sorted(lost + unknown)):
            declared = self._declare(parcels, positions, results, deadline)
            self._publish(parcels, declared, results, deadline)
        return results

    def _forget_routes_of_lost_connections(self) -> None:
        losses = sum(loop.reconnects for loop in self.transport.connections().loops())
        if losses != self.tally.losses:
            self.tally.losses = losses
            self.tally.routes.clear()

    def _is_away(self, deadline: float) -> MessagingError | None:
        """Why no broker can be had without a second attempt; None when there is one."""
        self.transport.warm()
        while native.monotonic() < deadline:
            for connection in self.transport.status().connections:
                if connection.role != "publish":
                    continue
                if connection.blocked is not None:
                    return BrokerBlocked(f"the broker takes no messages now ({connection.blocked}), and retry is 0")
                if connection.last_failure is not None:
                    return ConnectFailed(f"no broker could be reached ({connection.last_failure}), and retry is 0")
                if connection.state != "connecting":
                    return None
            Completion().wait(_LOOK_EVERY)
        return None

    def _is_route_lost(self, error: MessagingError | None) -> bool:
        return self._is_declaring and isinstance(error, (Unroutable, Rejected)) and error.reply_code in (312, 404)

    def _late_last(self, parcels: Sequence[Parcel], positions: Sequence[int]) -> tuple[list[int], list[int]]:
        """Those whose route may take the whole time come after the others, and who had it last is the last of them."""
        turns = {key: turn for turn, key in enumerate(list(self.tally.late))}
        prompt = [position for position in positions if parcels[position].routing_key not in turns]
        late = [position for position in positions if parcels[position].routing_key in turns]
        return prompt, sorted(late, key=lambda position: turns[parcels[position].routing_key])

    def _declare(
        self, parcels: Sequence[Parcel], positions: Sequence[int], results: Results, deadline: float
    ) -> list[int]:
        """Make the routes of some parcels; gives the positions of those that have one now."""
        failures: dict[str, MessagingError] = {}
        declared = []
        for position in positions:
            key = parcels[position].routing_key
            if key not in failures and key not in self.tally.routes:
                try:
                    self._declare_one(key, deadline)
                except MessagingError as exc:
                    failures[key] = exc
            results[position] = failures.get(key)
            if results[position] is None:
                declared.append(position)
        return declared

    def _declare_one(self, key: str, deadline: float) -> None:
        exchange = topology.topic_exchange(self.exchange, self._flags)
        queue = topology.topic_queue(key, exchange, [key], self._flags)
        remaining = max(0.0, deadline - native.monotonic())
        try:
            self.transport.declare(queue, timeout=remaining)
        except DeclarationRefused as exc:
            raise explained(exc) from exc
        except Expired:
            if remaining:
                self.tally.late.pop(key, None)
                self.tally.late[key] = None
            raise
        self.tally.late.pop(key, None)
        self.tally.routes.add(key)

    def _publish(self, parcels: Sequence[Parcel], positions: Sequence[int], results: Results, deadline: float) -> None:
        if not positions:
            return
        messages = [self._message(parcels[position]) for position in positions]
        remaining = max(0.0, deadline - native.monotonic())
        outcome = untold(self.transport).publish_many(messages, timeout=remaining)
        for position, error in zip(positions, outcome, strict=True):
            results[position] = error

    def _message(self, parcel: Parcel) -> Message:
        """With every property as oslo.messaging sets it, and none that it does not set."""
        return Message(
            body=parcel.body,
            routing_key=parcel.routing_key,
            exchange=self.exchange,
            headers={},
            content_type="application/json",
            priority=0,
            message_id="",
            mandatory=self._is_declaring,
            retry=0 if parcel.retry == 0 else None,
        )


def untold(transport: Transport) -> Transport:
    """The same connections without the instrument, which is told of a notification and not of its messages as well."""
    if transport.instrument is None:
        return transport
    other = copy(transport)
    other.instrument = None
    return other


def _ignore(_tally: Tally) -> None:
    """A parent's counters: nothing to let go of."""


def checked_count(name: str, value: object, least: int) -> int:
    """A whole number from `least` up. Raises: `ConfigurationError`, naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name}: {value!r} is not a whole number from {least} up")
    return value


def checked_seconds(name: str, value: object) -> None:
    """A time, or None. Raises: `ConfigurationError`, naming the argument."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 <= value < 1e9):  # type: ignore[operator]
        raise ConfigurationError(f"{name}: {value!r} is not a number of seconds from 0 up")
