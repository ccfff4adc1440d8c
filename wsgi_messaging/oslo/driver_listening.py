"""Listeners: what comes for an RPC server or a notification listener of oslo.messaging's, until it is polled.

Deliveries wait here unacknowledged and bounded. A request is acknowledged when its execution begins, a notification
when it was handled, both at once and from the thread that says so. After a lost connection what waited comes again,
to whomever; the copy that is still here is then not begun.

Layer 5: imports oslo.messaging.
"""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from oslo_messaging._drivers import base

from ..connection.subscription import Delivered
from ..errors import DeclarationRefused, Expired, MessagingError, Unavailable
from ..oslo.envelope import MalformedMessage, Request
from ..rpc import wire
from ..rpc.bindings import Bindings
from ..rpc.duplicates import SeenIds
from ..rpc.replying import WITHIN, Replier
from ..rpc.timer import Timer
from ..runtime import native
from ..runtime.mailbox import Mailbox
from ..runtime.waiting import Completion
from ..transport import Transport
from . import driver_wire
from .driver_sending import is_final
from .driver_topology import Entity, declared
from .driver_wire import Incoming

logger = logging.getLogger("wsgi_messaging.oslo")

T = TypeVar("T")

_FOREVER = 1e9
_IDLE = 3600.0
_TRY_FOR = 30.0
_TRY_EVERY = 1.0
_LOOK_EVERY = 0.05
_HANDLED_KEPT = 1000
REPLIES_WITHIN = 5.0
"""Seconds that the last replies get when a server ends."""
_TIMER_ENDS_WITHIN = 0.2


class NotBegun(Exception):
    """Tells oslo.messaging's server to leave a request alone: it was begun before, or comes again elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a listener declares and consumes. `own_queue` is deleted when it ends."""

    entities: Sequence[Entity]
    queues: Sequence[str]
    prefetch: int
    batch_limit: int
    """rabbit_qos_prefetch_count: no batch is larger; 0 for no limit."""
    own_queue: str = ""
    reply_patience: float = WITHIN


class Subscriber(base.PollStyleListener):  # type: ignore[misc]
    """Consumes some queues. Threads: any. After fork: it stays with the process that started it."""

    def __init__(self, transport: Transport, plan: Plan) -> None:
        super().__init__(plan.batch_limit)
        self.connections = transport.connections()
        self.pid = os.getpid()
        self._transport = transport
        self._max_bytes = transport.settings.max_message_bytes
        self._plan = plan
        self._own_queue = plan.own_queue
        self._mailbox: Mailbox[Delivered] = Mailbox()
        self._feeds: dict[str, wire.Feed] = {}
        self._timer = Timer(f"wsgi-messaging-oslo-{self.pid}")
        self._bindings: Bindings | None = None
        self._changed = Completion()
        self._is_stopped = False
        self._is_clean = False

    def __repr__(self) -> str:
        state = "stopped" if self._is_stopped else "listening"
        return f"<{type(self).__name__} {', '.join(self._plan.queues)} {state} waiting={len(self._mailbox)}>"

    # Its life.

    def start(self) -> None:
        """Declare and consume. Blocks: until the broker can be had, as the rabbit driver does.

        Raises: `DeclarationRefused`; `ConnectFailed` when the broker refuses the login or the virtual host; `Closed`
        when the driver is cleaned up meanwhile.
        """
        self.connections.enlist(self)
        try:
            made = [self._patiently(partial(self._declare, entity)) for entity in self._plan.entities]
            self._bindings = Bindings(self.connections, made)
            self._timer.start()
            for queue in self._plan.queues:
                self._patiently(partial(self._consume, queue))
            self._bindings.watch(self._timer)
        except BaseException:
            self.cleanup()
            raise

    def _declare(self, entity: Entity, deadline: float) -> Any:
        return declared(entity, lambda declaration: wire.declare(self.connections, declaration, deadline))

    def _consume(self, queue: str, deadline: float) -> None:
        """Raises: `DeclarationRefused`, `Unavailable`."""
        changed = self._changed
        is_own = queue == self._plan.own_queue
        feed = wire.Feed(
            self.connections,
            self._own_queue if is_own else queue,
            self._mailbox,
            prefetch=self._plan.prefetch,
            on_change=self._on_change,
            on_replaced=self._on_replaced if is_own else None,
        )
        self._feeds[queue] = feed
        feed.start()
        while not feed.is_active:
            if feed.error is not None:
                raise feed.error
            if native.monotonic() >= deadline:
                feed.stop()
                feed.remove()
                raise Unavailable(f"queue {queue!r} could not be consumed yet")
            changed.wait(_LOOK_EVERY)

    def _patiently(self, act: Callable[[float], T]) -> T:
        """The broker may be away for as long as it likes; one that refuses us is not waited for."""
        is_first = True
        while True:
            try:
                return act(native.monotonic() + _TRY_FOR)
            except DeclarationRefused:
                raise
            except (Unavailable, Expired) as exc:
                if is_final(exc):
                    raise
                if is_first:
                    logger.error("the listener waits for the broker: %s", exc)
                is_first = False
                Completion().wait(_TRY_EVERY)

    def _on_change(self) -> None:
        """A consumer was accepted: the first time, or again, and then what it was bound to may be gone."""
        self._changed.set()
        if self._bindings is not None:
            self._bindings.check_soon()

    def _on_replaced(self, queue: str, name: str) -> None:
        """The queue that is this listener's own cannot be had: its node is down, or hangs."""
        self._own_queue = name
        if self._bindings is not None:
            self._bindings.rename(queue, name)

    def stop(self) -> None:
        """Have no more delivered. What was, is still polled."""
        self._is_stopped = True
        if self._bindings is not None:
            self._bindings.stop()
        for feed in self._feeds.values():
            feed.stop()
        self._mailbox.close()

    def cancel(self, timeout: float) -> None:
        """The transport ends. Blocks: up to `timeout`."""
        self.stop()
        self._end(timeout)

    def cleanup(self) -> None:
        """End; what is not acknowledged goes back to its queue. Blocks: up to 5 s, for the last replies."""
        self.stop()
        self._end(REPLIES_WITHIN)

    def _end(self, timeout: float) -> None:
        if self._is_clean or self.pid != os.getpid():
            return
        self._is_clean = True
        ends_at = native.monotonic() + timeout
        self._finish(timeout)
        for feed in self._feeds.values():
            feed.remove()
        if self._own_queue:
            wire.forget_queue(self.connections, self._own_queue, max(0.1, ends_at - native.monotonic()))
        self._timer.stop(_TIMER_ENDS_WITHIN)
        self.connections.discharge(self)

    def _finish(self, timeout: float) -> None:
        """What is to be seen through before the end."""

    # Polling.

    def poll(
        self, timeout: float | None = None, batch_size: int = 1, batch_timeout: float | None = None
    ) -> list[base.IncomingMessage]:
        """Up to `batch_size` messages: as many, or what came within `batch_timeout` of the first; none once stopped.

        Blocks: for the first one up to `timeout`, for ever when that is None.
        """
        first = self._next(timeout)
        if first is None:
            return []
        batch = [first]
        ends_at = native.monotonic() + (_FOREVER if batch_timeout is None else batch_timeout)
        while len(batch) < batch_size:
            message = self._next(ends_at - native.monotonic())
            if message is None:
                break
            batch.append(message)
        return batch

    def _next(self, timeout: float | None) -> Any:
        ends_at = native.monotonic() + (_FOREVER if timeout is None else timeout)
        while True:
            left = ends_at - native.monotonic()
            delivered = self._mailbox.get(min(max(0.0, left), _IDLE))
            if delivered is not None:
                message = self._opened(delivered)
                if message is not None:
                    return message
            elif left <= 0 or self._is_stopped:
                return None

    def _opened(self, delivered: Delivered) -> Any:
        if not wire.is_current(delivered):
            return None
        try:
            incoming = driver_wire.decoded(delivered.inbound, self._max_bytes)
        except MalformedMessage as exc:
            logger.warning("%r: a message was rejected: %s", self, exc)
            wire.reject(self.connections, delivered)
            return None
        return self._message(delivered, incoming)

    @abstractmethod
    def _message(self, delivered: Delivered, incoming: Incoming) -> Any:
        """What oslo.messaging is given for a delivery; None when it is not for it."""


def _context(incoming: Incoming) -> dict[str, Any]:
    """With the key that endpoints have always seen beside the caller's (OSLO_WIRE, section 2)."""
    return {**incoming.context, "client_timeout": incoming.client_timeout}


# Requests.


class RpcSubscriber(Subscriber):
    """The listener of an RPC server."""

    def __init__(self, transport: Transport, plan: Plan) -> None:
        super().__init__(transport, plan)
        self.seen = SeenIds()
        self.replier = Replier(transport, self.connections, self._timer)

    def _message(self, delivered: Delivered, incoming: Incoming) -> RpcMessage:
        return RpcMessage(self, delivered, incoming)

    def _finish(self, timeout: float) -> None:
        self.replier.wait(timeout)

    def reply_until(self) -> float:
        """When a reply whose caller is away is given up."""
        return native.monotonic() + self._plan.reply_patience


class RpcMessage(base.RpcIncomingMessage):  # type: ignore[misc]
    """A request. `acknowledge` comes right before its execution, on the thread that executes it."""

    def __init__(self, listener: RpcSubscriber, delivered: Delivered, incoming: Incoming) -> None:
        super().__init__(_context(incoming), incoming.message)
        self.msg_id = incoming.msg_id or driver_wire.new_id()
        self.listener = listener
        self.unique_id = incoming.unique_id
        self.reply_q = incoming.reply_to
        self.client_timeout = incoming.client_timeout
        self._delivered = delivered
        self._request = Request(
            method=incoming.message.get("method"), args=None, msg_id=incoming.msg_id, reply_to=incoming.reply_to
        )

    def acknowledge(self) -> None:
        """The broker may forget it. Raises: `NotBegun`, and then it is not to be executed."""
        listener = self.listener
        if not wire.is_current(self._delivered):
            raise NotBegun("the connection broke before the request was begun; the broker delivers it again")
        wire.acknowledge(listener.connections, self._delivered)
        if not listener.seen.is_new(self.unique_id, native.monotonic()):
            raise NotBegun(f"the request {self.unique_id} was begun before")

    def requeue(self) -> None:
        """Nothing: requests are acknowledged before they are executed."""

    def reply(self, reply: Any = None, failure: Any = None) -> None:
        """Send the result, or the exception of an exc_info triple; returns at once."""
        if not self._request.is_call:
            return
        try:
            if failure:
                error = failure[1] if isinstance(failure, tuple) else failure
                self.listener.replier.fail(self._request, error, self.listener.reply_until(), _nothing)
            else:
                self.listener.replier.reply(self._request, reply, self.listener.reply_until())
        except MessagingError as exc:
            logger.error("the reply to message %s could not be sent: %s", self.msg_id, exc)

    def heartbeat(self) -> None:
        """Send a sign of life; returns at once."""
        if self._request.is_call and self.client_timeout:
            self.listener.replier.beat(self._request)


def _nothing() -> None:
    """What is to be done behind a reply."""


# Notifications.


class NotificationSubscriber(Subscriber):
    """The listener of a notification listener."""

    def __init__(self, transport: Transport, plan: Plan) -> None:
        super().__init__(transport, plan)
        self._handled: OrderedDict[str, None] = OrderedDict()
        self._lock = native.allocate_lock()  # guards _handled

    def _message(self, delivered: Delivered, incoming: Incoming) -> NotificationMessage | None:
        if incoming.unique_id in self._handled:
            wire.acknowledge(self.connections, delivered)
            return None
        return NotificationMessage(self, delivered, incoming)

    def remember(self, unique_id: str | None) -> None:
        """It was handled: when it comes again, it is acknowledged and nothing else."""
        if unique_id is None:
            return
        with self._lock:  # Critical section: one id comes, the oldest goes.
            self._handled[unique_id] = None
            if len(self._handled) > _HANDLED_KEPT:
                self._handled.popitem(last=False)


class NotificationMessage(base.IncomingMessage):  # type: ignore[misc]
    """A notification. It is settled when it was handled."""

    def __init__(self, listener: NotificationSubscriber, delivered: Delivered, incoming: Incoming) -> None:
        super().__init__(_context(incoming), incoming.message)
        self.msg_id = incoming.msg_id or driver_wire.new_id()
        self.listener = listener
        self.unique_id = incoming.unique_id
        self._delivered = delivered

    def acknowledge(self) -> None:
        """Done: the broker may forget it."""
        self.listener.remember(self.unique_id)
        wire.acknowledge(self.listener.connections, self._delivered)

    def requeue(self) -> None:
        """Back to its queue, to be delivered again, here or elsewhere."""
        wire.requeue(self.listener.connections, self._delivered)
