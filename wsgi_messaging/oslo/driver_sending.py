"""One message on its way: sent, sent again where that is allowed, confirmed, and for a call replied to.

`retry` of oslo.messaging: None or -1 keeps trying, 0 fails as soon as the broker proves unreachable, N tries for as
long as N retries take the rabbit driver. Whatever `retry` says, a call ends with its timeout.

Layer 5: imports oslo.messaging by way of driver_wire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..connection.frames import Inbound
from ..connection.pending import Outgoing
from ..connection.state import State
from ..connection.topology import Declaration
from ..connections import Connections
from ..errors import (
    Closed,
    ConfirmTimeout,
    ConnectFailed,
    ConnectTimeout,
    Expired,
    MessagingError,
    NotDelivered,
    Rejected,
    ReplyLost,
    ReplyTimeout,
    Unavailable,
    Unroutable,
)
from ..lifetime import CONSUME, PUBLISH
from ..oslo.envelope import Reply
from ..rpc import wire
from ..rpc.replies import Replies
from ..runtime import native
from ..runtime.mailbox import Mailbox
from ..runtime.waiting import Completion
from . import driver_wire
from .driver_topology import Entity, declared

FOREVER = 1e6
"""Seconds, eleven days: as good as no end, and still a number that poll(2) can take."""
AGAIN_EVERY = 0.5
"""Seconds until a message that nobody took, or that could not be handed over, is tried again."""
_LOOK_EVERY = 0.05
_NOT_FOUND = 404
_DECLARED_AT_MOST = 3
_OPEN = (State.READY, State.BLOCKED)

Item = Inbound | Reply | MessagingError | Outgoing


def is_final(error: MessagingError) -> bool:
    """True when trying again cannot help: the message is at fault, or every broker refuses us (login, virtual host)."""
    if isinstance(error, ConnectFailed):
        return error.is_permanent
    return isinstance(error, (NotDelivered, Closed, ReplyLost))


@dataclass(slots=True, kw_only=True)
class Sending:
    """One message. `ends_at` and `gives_up_at` are points in time: of the call, and of `retry`.

    `entities` are declared when the broker says that they are missing; `has_queue`: one that takes the message is among
    them. `waits_for_servers`: a message that no queue takes is tried again until `ends_at`, instead of being an error.
    Without `has_confirm` the reply is the proof that the broker has it.
    """

    connections: Connections
    route: tuple[str, str]
    body: bytes
    mandatory: bool
    ends_at: float
    gives_up_at: float
    may_repeat: bool
    is_compressed: bool
    expires: bool = False
    entities: Sequence[Entity] = ()
    has_queue: bool = False
    waits_for_servers: bool = False
    has_confirm: bool = True
    inbox: Mailbox[Any] = field(default_factory=Mailbox)
    _times_declared: int = 0

    def confirm(self) -> None:
        """Return when the broker has it. Blocks: up to `ends_at`. Raises: why it was not delivered."""
        entry = self.submitted()
        try:
            while True:
                item = self.next_item(entry, self.ends_at)
                if item is not entry:
                    continue
                if entry.error is None:
                    return
                self.recover(entry.error)
                entry = self.submitted()
        finally:
            entry.abandoned = True

    @property
    def is_patient(self) -> bool:
        """True when nothing but `ends_at` bounds the wait for a broker."""
        return self.gives_up_at >= self.ends_at

    @property
    def deadline(self) -> float:
        """No entry stays longer: with a `retry` that ends, the broker gets the usual time to answer on top."""
        return min(self.ends_at, self.gives_up_at + self.connections.settings.timeout)

    def submitted(self) -> Outgoing:
        """Handed over. Raises: when it cannot be, and need not be tried any more."""
        while True:
            left_ms = max(0, int((self.ends_at - native.monotonic()) * 1000)) if self.expires else None
            body = driver_wire.compressed(self.body) if self.is_compressed else self.body
            try:
                return wire.publish(
                    self.connections,
                    self.route,
                    driver_wire.header(left_ms, is_compressed=self.is_compressed),
                    body,
                    deadline=self.deadline,
                    on_done=self.inbox.put,
                    mandatory=self.mandatory,
                    may_repeat=self.may_repeat,
                    confirm=self.has_confirm,
                )
            except MessagingError as exc:
                self.recover(exc)

    def next_item(self, entry: Outgoing, until: float) -> Item:
        """What comes next: the settled entry, a reply, an error.

        Blocks: up to `until`. Raises: why nothing came by then, or by the end of patience with the broker.
        """
        until = min(until, self.deadline) if not entry.is_done else until
        is_patient = self.is_patient or entry.is_done
        while True:
            now = native.monotonic()
            item: Item | None = self.inbox.get(max(0.0, until - now) if is_patient else _LOOK_EVERY)
            if isinstance(item, MessagingError):
                raise item
            if item is not None:
                return item
            if native.monotonic() >= until:
                raise self._expiry(entry)
            problem = None if is_patient or entry.is_done else self.connections.failure(PUBLISH)
            if problem is not None and native.monotonic() >= self.gives_up_at:
                raise problem

    def _expiry(self, entry: Outgoing) -> MessagingError:
        if entry.is_done:
            return ReplyTimeout("the broker has the message, and no reply came", maybe_sent=True)
        return self.connections.expiry(entry)

    def recover(self, error: MessagingError) -> None:
        """Return when the message is to be sent again. Raises: the error, when it is not."""
        if isinstance(error, Unroutable) and self.waits_for_servers:
            self._await_servers(error)
        elif self._is_missing(error) and self._times_declared < _DECLARED_AT_MOST:
            self._times_declared += 1
            self.declare()
        elif is_final(error) or (error.maybe_sent and not self.may_repeat):
            raise error
        else:
            self._pause(error, min(self.ends_at, self.gives_up_at))

    def _await_servers(self, error: Unroutable) -> None:
        """Return when it is worth another attempt. Raises: `ReplyTimeout`, when there would be no time for one."""
        if self.ends_at - native.monotonic() > AGAIN_EVERY:
            self._pause(error, self.ends_at)
            return
        while (left := self.ends_at - native.monotonic()) > 0:
            Completion().wait(left)
        exchange, key = self.route
        where = f"exchange {exchange!r} has no queue for {key!r}"
        raise ReplyTimeout(f"no server took the request in time: {where}; start one, or check topic and exchange")

    def _is_missing(self, error: MessagingError) -> bool:
        """True when declaring can help: there is no such exchange, or no queue of ours is bound to it."""
        if isinstance(error, Unroutable):
            return self.has_queue
        return isinstance(error, Rejected) and error.reply_code == _NOT_FOUND

    def _pause(self, error: MessagingError, until: float) -> None:
        left = until - native.monotonic()
        if left <= 0:
            raise error
        Completion().wait(min(AGAIN_EVERY, left))

    def declare(self) -> None:
        """Have the broker make what is needed. Raises: `DeclarationRefused`, or why the broker cannot be had."""
        for entity in self.entities:
            declared(entity, self._requested)

    def _requested(self, declaration: Declaration) -> Inbound:
        connections = self.connections
        while True:
            try:
                role = CONSUME if connections.peek(CONSUME) else PUBLISH
                self._await_connection(role)
                within = min(self.deadline, native.monotonic() + connections.settings.timeout)
                return connections.request(declaration, within, role)
            except (Unavailable, Expired) as exc:
                self.recover(exc)

    def _await_connection(self, role: str) -> None:
        while (loop := self.connections.loop(role)).state not in _OPEN:
            now, problem = native.monotonic(), self.connections.failure(role)
            if problem is not None and (now >= self.gives_up_at or loop.attempts.is_hopeless):
                raise problem
            if now >= self.deadline:
                raise ConnectTimeout("no broker could be reached in time")
            Completion().wait(_LOOK_EVERY)

    def ready(self, replies: Replies) -> None:
        """Return when replies can come. Raises: why the broker cannot be had."""
        while True:
            try:
                if self.is_patient:
                    return replies.ready(self.ends_at, True)
                if native.monotonic() < self.gives_up_at:
                    with suppress(ConnectTimeout):
                        return replies.ready(min(self.ends_at, self.gives_up_at), True)
                return replies.ready(self.deadline, False)
            except (Unavailable, Expired) as exc:
                self.recover(exc)


@dataclass(slots=True, kw_only=True)
class Calling:
    """A call: the request and what is awaited for it."""

    sending: Sending
    replies: Replies
    msg_id: str
    monitor: float | None
    rebuilt: Callable[[str], Exception]

    def result(self) -> Any:
        """Blocks: up to the call's end. Raises: what the method raised, or why there is no reply."""
        sending = self.sending
        entry = sending.submitted()
        try:
            quiet_until = self._quiet_until()
            kept = None
            while True:
                item = self._next(entry, min(sending.ends_at, quiet_until))
                if isinstance(item, Outgoing):
                    if item is entry and entry.error is not None and not isinstance(entry.error, ConfirmTimeout):
                        sending.recover(entry.error)
                        entry = sending.submitted()
                    continue
                reply = self._read(item)
                if reply is None:
                    continue
                if reply.failure:
                    raise self.rebuilt(reply.failure)
                kept = kept if reply.result is None else reply.result
                if reply.is_last:
                    return kept
                quiet_until = self._quiet_until()
        finally:
            entry.abandoned = True  # a reply proves that it was sent: nothing is to be sent again

    def _quiet_until(self) -> float:
        return native.monotonic() + (self.monitor or FOREVER)

    def _next(self, entry: Outgoing, until: float) -> Item:
        try:
            return self.sending.next_item(entry, until)
        except ReplyTimeout:
            self.replies.probe()
            raise

    def _read(self, item: Item) -> Reply | None:
        return self.replies.decoded(self.msg_id, item) if isinstance(item, (Inbound, Reply)) else None
