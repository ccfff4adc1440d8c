"""What is asked of the connections of one transport in one process: to send, to declare, to subscribe.

Every wait for the broker is here, with its one deadline and the error that says what happened by then.

Layer 3.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from operator import attrgetter

from .connection import frames
from .connection.control import Request, unattended
from .connection.frames import Inbound
from .connection.loop import Loop
from .connection.pending import Outgoing
from .connection.publishing import MAIN, PLAIN
from .connection.state import State
from .connection.subscription import Subscription
from .connection.topology import Declaration
from .errors import (
    BrokerBlocked,
    Closed,
    ConfirmTimeout,
    ConnectFailed,
    ConnectTimeout,
    InvalidMessage,
    MessagingError,
    Unavailable,
)
from .lifetime import CONSUME, PUBLISH, Lifetime
from .messages import UNENCODABLE
from .runtime import native
from .runtime.waiting import Completion
from .settings import Settings

_ROUTES_KEPT = 1024
_SMALL = 4096 - 3 * frames.OVERHEAD
"""Bodies up to here are encoded by their caller: no broker's largest frame is smaller (AMQP 0-9-1 section 4.2.3)."""
_PATIENCE = 0.8
"""The part of the broker's consumer timeout after which a callback that still runs is warned about."""
_FEW = 16
"""A backlog up to here is not added up: one large message must always get through."""


_body = attrgetter("body")


class Connections(Lifetime):
    """What is asked of the connections of one process. Making it opens and starts nothing."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._routes: dict[tuple[str, str, bool], bytes] = {}
        self._next_look = min(_FEW, settings.max_queued)

    def outgoing(
        self,
        route: tuple[str, str],
        header: bytes,
        body: bytes,
        *,
        deadline: float,
        on_done: Callable[[Outgoing], None],
        mandatory: bool,
        may_repeat: bool,
        confirm: bool = True,
    ) -> Outgoing:
        """A message ready to submit, for (exchange, routing key). Raises: `InvalidMessage`.

        Without `confirm` it is settled by a question a moment later, not by a confirm of its own: for messages that
        another one answers.
        """
        if len(body) > self.settings.max_message_bytes:
            raise InvalidMessage(f"body of {len(body)} bytes; max_message_bytes is {self.settings.max_message_bytes}")
        method = self._encoded_route(*route, mandatory)
        return Outgoing(
            *route,
            method,
            header,
            body,
            deadline=deadline,
            on_done=on_done,
            mandatory=mandatory,
            may_repeat=may_repeat,
            confirm=confirm,
            wire=frames.small_message(MAIN if confirm else PLAIN, method, header, body)
            if 0 < len(body) <= _SMALL
            else None,
        )

    def _encoded_route(self, exchange: str, routing_key: str, mandatory: bool) -> bytes:
        key = (exchange, routing_key, mandatory)
        try:
            encoded = self._routes.get(key)
            if encoded is None:
                encoded = frames.encoded_route(exchange, routing_key, mandatory)
                if len(self._routes) >= _ROUTES_KEPT:
                    self._routes.clear()
                self._routes[key] = encoded
        except UNENCODABLE as exc:  # a body in the routing key's place may be what cannot even be looked up
            given: dict[str, object] = {"exchange": exchange, "routing_key": routing_key}
            for name, value in given.items():
                if not isinstance(value, str):
                    raise InvalidMessage(f"{name}: {value!r:.60} is not a text; give its name") from exc
            raise InvalidMessage(f"exchange {exchange!r:.60} or routing key {routing_key!r:.60}: {exc}") from exc
        return encoded

    def submit(self, entry: Outgoing, *, is_alone: bool = False) -> Loop:
        """Hand a message to the publishing connection. A caller that waits for its answer and knows of no other that
        does (`is_alone`) writes it itself where it can. Raises: `Unavailable` when too many wait already.
        """
        loop = self.loop(PUBLISH)
        is_idle = loop.publisher.is_idle
        backlog = len(loop.outbox) + (0 if is_idle else loop.publisher.waiting_count)
        if backlog >= self._next_look:
            self._check_backlog(loop)
        elif not backlog:
            self._next_look = _FEW
        if loop.state is not State.READY:
            self.check_patience(loop)
        loop.publish(entry, is_alone=is_alone and is_idle)
        return loop

    def check_patience(self, loop: Loop) -> None:
        """Raises: `ConnectFailed` when there was no broker for `fail_fast_after`: nobody is to wait for one then."""
        away_since, patience = loop.attempts.away_since, self.settings.fail_fast_after
        if away_since is not None and patience and native.monotonic() - away_since > patience:
            raise ConnectFailed(f"not sent: {self._why_not(loop)}, for more than {patience:g} s (fail_fast_after)")

    def _check_backlog(self, loop: Loop) -> None:
        """Add up what waits; next when an eighth more does, so that a growing backlog costs each message little."""
        waiting = [*list(loop.outbox), *loop.publisher.waiting()]
        if len(waiting) >= self.settings.max_queued:
            limit = f"{len(waiting)} messages (max_queued)"
        elif len(waiting) > _FEW and sum(map(len, map(_body, waiting))) > self.settings.max_queued_bytes:
            limit = f"{self.settings.max_queued_bytes} bytes (max_queued_bytes)"
        else:
            self._next_look = min(max(_FEW, len(waiting) + len(waiting) // 8), self.settings.max_queued)
            return
        raise Unavailable(f"{limit} wait to be sent, and {self._why_not(loop)}; try later")

    def await_confirm(self, entry: Outgoing, completion: Completion, *, is_alone: bool = True) -> None:
        """Blocks: until the broker has answered for the message, or its deadline. Raises: what became of it.

        Where the caller is the only one who may wait (`is_alone`), the message goes with it when it is interrupted.
        """
        try:
            is_done = completion.is_set or completion.wait_until(entry.deadline)
        except BaseException:
            entry.abandoned = entry.abandoned or is_alone
            raise
        if not is_done:
            entry.abandoned = True
        if entry.was_dropped or not entry.is_done:
            raise self.expiry(entry)
        if entry.error is not None:
            raise entry.error

    def expiry(self, entry: Outgoing) -> MessagingError:
        """Why a message was not confirmed by its deadline."""
        if self.is_inherited:
            who = f"process {self.pid} published it, and it alone hears what became of it"
            return Unavailable(f"not known here: {who}", maybe_sent=True)
        loop = self._loops[PUBLISH]
        why = self._why_not(loop)
        sent = "sent, but not confirmed in time" if entry.maybe_sent else "not sent in time"
        if loop.blocked is not None:
            return BrokerBlocked(f"{sent}: {why}", maybe_sent=entry.maybe_sent)
        if entry.maybe_sent:
            return ConfirmTimeout(f"{sent}: {why}", maybe_sent=True)
        if loop.state in (State.CONNECTING, State.WAITING):
            return ConnectTimeout(f"{sent}: {why}")
        if loop.publisher.is_idle:  # the broker owes nobody an answer
            why = "its time was over before its turn came; give it more (timeout, deadline)"
        return ConfirmTimeout(f"{sent}: {why}")

    def _why_not(self, loop: Loop) -> str:
        if loop.blocked is not None:
            return f"the broker takes no messages now ({loop.blocked}); free its memory or disk"
        if loop.state in (State.CONNECTING, State.WAITING):
            failure = loop.attempts.last_failure
            hosts = ", ".join(str(broker) for broker in self.settings.brokers)
            return f"no broker could be reached ({failure or f'still trying {hosts}'})"
        return f"the broker ({loop.status(0.0).broker}) did not answer; it may be overloaded or hung"

    def request(self, declaration: Declaration, deadline: float, role: str | None = None) -> Inbound:
        """Have the broker do one thing and answer.

        Blocks: until the answer or the deadline. Raises: `DeclarationRefused`, `ConfirmTimeout`, `ConnectTimeout`,
        `ConnectFailed`.
        """
        loop = self.loop(role or (CONSUME if CONSUME in self._loops else PUBLISH))
        self.check_patience(loop)
        completion = Completion()
        request = Request(
            declaration.method,
            declaration.arguments,
            what=declaration.what,
            deadline=deadline,
            notify=completion.set,
        )
        loop.order(partial(loop.control.add, request))
        try:
            completion.wait(deadline - native.monotonic())
        finally:
            request.abandoned = not request.is_done
            if request.abandoned:
                loop.watch.wake()  # the next one is not to wait for it
        if request.error is not None:
            raise request.error
        if request.answer is None:
            raise self._no_answer(loop, declaration.what, request.maybe_sent)
        return request.answer

    def _no_answer(self, loop: Loop, what: str, maybe_sent: bool) -> MessagingError:
        text = f"{what}: no answer in time: {self._why_not(loop)}"
        if loop.state is State.CLOSED:
            return Closed("the transport was closed", maybe_sent=maybe_sent)
        if loop.state in (State.CONNECTING, State.WAITING):
            return ConnectTimeout(text, maybe_sent=maybe_sent)
        return ConfirmTimeout(text, maybe_sent=maybe_sent)

    def request_soon(
        self, declaration: Declaration, deadline: float, on_error: Callable[[MessagingError], None]
    ) -> None:
        """As `request`, on the consuming connection, without waiting; `on_error` runs on its thread, which may not call
        this itself."""
        loop = self.loop(CONSUME)
        request = unattended(
            declaration.method, declaration.arguments, what=declaration.what, deadline=deadline, on_error=on_error
        )
        loop.order(partial(loop.control.add, request))

    def failure(self, role: str) -> MessagingError | None:
        """Why a connection cannot be had just now; None while it is open, or has not failed yet."""
        loop = self._loops.get(role)
        if loop is None or loop.state not in (State.CONNECTING, State.WAITING) or loop.attempts.last_failure is None:
            return None
        return copy(loop.attempts.last_failure)

    def subscribe(self, subscription: Subscription, completion: Completion, deadline: float) -> Loop:
        """Blocks: until the broker has accepted the consumer, or the deadline. Raises: `DeclarationRefused`, ..."""
        loop = self.loop(CONSUME)
        if self.settings.consumer_timeout:
            subscription.warn_after = _PATIENCE * self.settings.consumer_timeout
        loop.order(partial(loop.consumers.add, subscription))
        is_accepted = False
        try:
            completion.wait(deadline - native.monotonic())
            is_accepted = subscription.was_active and subscription.error is None  # asked once: it may be lost by now
        finally:
            if not is_accepted:
                loop.order(lambda now: loop.consumers.stop(subscription) + loop.consumers.remove(subscription))
        if subscription.error is not None:
            raise copy(subscription.error)
        if not is_accepted:
            raise self._no_answer(loop, f"consumer of queue {subscription.queue!r}", subscription.maybe_sent)
        return loop
