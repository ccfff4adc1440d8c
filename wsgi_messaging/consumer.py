"""Consumers: deliveries to a callback, on threads of the application and never on the connection's.

Rules: no message can end a consumer. What cannot be decoded is rejected, which dead-letters it where the queue has
a dead-letter exchange; a message on which the callback fails goes back to its queue, and the third time it is
rejected, too. A stream takes nothing back: whatever would be rejected or requeued is acknowledged there. A thread
that is ended from outside has another one take its place.

Layer 3.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any

from .callables import check_plain, check_takes
from .connection import codec, frames
from .connection.frames import Inbound
from .connection.loop import Loop
from .connection.outlet import Order
from .connection.position import MARK
from .connection.subscription import Delivered, Subscription
from .errors import ConfigurationError, InvalidMessage, Unavailable
from .runtime import native
from .runtime.mailbox import Mailbox
from .runtime.waiting import (
    ApplicationThread,
    Completion,
    can_run_greenlets,
    is_application_side,
    is_exit,
    start_application_thread,
)

logger = logging.getLogger("wsgi_messaging.consumer")

_IDLE = 3600.0
"""Seconds that a consumer's thread sleeps at a time when nothing comes."""
_ENDS_WITHIN = 0.5
"""Seconds for a thread to end after its work has: a live one in a dying sub-interpreter is a crash."""
_FAILURES_KEPT = 10000
"""Messages on which the callback has failed that a consumer remembers."""
_MANY = 1 << 30

_working_for: ContextVar[Consumer | None] = ContextVar("wsgi_messaging_working_for", default=None)
"""The consumer whose thread, or greenlet, this is."""


def check_consumer(callback: object, threads: object, prefetch: object, tries: object) -> None:
    """Raises: `ConfigurationError`, naming what no consumer can be made of."""
    if not callable(callback):
        raise ConfigurationError(f"callback: {callback!r:.60} cannot be called")
    check_plain("callback", callback)
    check_takes("callback", callback, "delivery")
    for name, value, least in (("threads", threads, 1), ("prefetch", prefetch, 0), ("tries", tries, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 65535:
            raise ConfigurationError(f"{name}: {value!r} is not a number from {least} to 65535")


def _is_of_stream(inbound: Inbound) -> bool:
    """Told from the bytes, because what is to be rejected may have headers that cannot be decoded."""
    return MARK in inbound.header


def _refusal(delivered: Delivered, loop: Loop, *, requeue: bool) -> Order:
    """The order that refuses a delivery.

    A stream's is acknowledged: RabbitMQ answers basic.reject and basic.nack with 540 and ends the connection, and the
    consumer would meet the message again at its offset, for ever.
    """
    settle = loop.consumers.settle
    if _is_of_stream(delivered.inbound):
        return partial(settle, delivered, frames.BASIC_ACK, False)
    return partial(settle, delivered, frames.BASIC_REJECT, requeue)


class Delivery:
    """One message that came for a consumer.

    It is acknowledged when the callback returns, unless the callback settled it: `ack`, `reject` or `requeue`, each
    at most once, from any thread. What came from a stream stays there, and `reject` and `requeue` acknowledge it.
    """

    def __init__(self, delivered: Delivered, loop: Loop) -> None:
        inbound = delivered.inbound
        if inbound.body is None:
            raise codec.MalformedValue(f"a body of {inbound.body_size} bytes is beyond max_message_bytes")
        self._delivered = delivered
        self._loop = loop
        self._is_settled = False
        arguments = codec.read_arguments("sLbss", inbound.arguments)
        self.redelivered: bool = arguments[2]
        self.exchange: str = arguments[3]
        self.routing_key: str = arguments[4]
        self.properties: dict[str, Any] = codec.read_properties(inbound.header)
        self.body: bytes = inbound.body

    def __repr__(self) -> str:
        route = f"{self.exchange}/{self.routing_key}"
        return f"<Delivery {route} {len(self.body)} bytes{' redelivered' if self.redelivered else ''}>"

    @property
    def headers(self) -> Mapping[str, Any]:
        """The message's headers; empty when it has none."""
        return self.properties.get("headers") or {}

    @property
    def message_id(self) -> str | None:
        return self.properties.get("message_id")

    @property
    def is_settled(self) -> bool:
        return self._is_settled

    def json(self) -> Any:
        """The body, decoded. Raises: `InvalidMessage` when it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            raise InvalidMessage(f"the body is not JSON: {exc}") from exc

    def ack(self) -> None:
        """Done: the broker may forget it."""
        self._settle(partial(self._loop.consumers.acknowledge, self._delivered))

    def reject(self) -> None:
        """Not usable: dead-lettered where the queue has a dead-letter exchange, dropped otherwise."""
        self._settle(_refusal(self._delivered, self._loop, requeue=False))

    def requeue(self) -> None:
        """Not now: back to the queue, to be delivered again, here or elsewhere."""
        self._settle(_refusal(self._delivered, self._loop, requeue=True))

    def _settle(self, order: Order) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._loop.order(order)


Callback = Callable[[Delivery], object]


class _Failures:
    """How often the callback has failed on a message.

    A quorum queue counts deliveries itself (`x-delivery-count`); elsewhere the message's id is remembered, in this
    process; a message without an id has been tried before when it is redelivered, and then counts as tried enough.
    """

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self._lock = native.allocate_lock()  # guards _times

    def add(self, delivery: Delivery) -> int:
        """Count a failure; gives the number of those on this message so far."""
        message_id = delivery.message_id
        counted = delivery.headers.get("x-delivery-count", 0)
        by_queue = 1 + counted if delivery.redelivered and type(counted) is int else 1
        if message_id is None:
            return max(by_queue, _MANY if delivery.redelivered and not counted else 1)
        # Critical section: several threads of one consumer may fail on messages with the same id.
        with self._lock:
            if len(self._times) >= _FAILURES_KEPT:
                self._times.clear()
            times = self._times[message_id] = self._times.get(message_id, 0) + 1
        return max(by_queue, times)

    def forget(self, delivery: Delivery) -> None:
        """It is handled, or given up: what comes with its id from now on, a replay of it for one, begins anew."""
        if delivery.message_id in self._times:
            with self._lock:  # Critical section: as above.
                self._times.pop(delivery.message_id, None)


class Consumer:
    """A running consumer of one queue. `cancel` ends it; closing the transport does, too.

    The counters only grow: `handled`, `failed`, and `rejected` (never given to the callback, or given up).
    """

    def __init__(
        self,
        subscription: Subscription,
        mailbox: Mailbox[Delivered],
        callback: Callback,
        threads: int,
        *,
        auto_ack: bool,
        tries: int,
        on_end: Callable[[Consumer], None],
    ) -> None:
        self._auto_ack = auto_ack
        self._tries = tries
        self._failures = _Failures()
        self._on_end = on_end
        self.handled = 0
        self.failed = 0
        self.rejected = 0
        self._lock = native.allocate_lock()  # guards the three counters
        self._subscription = subscription
        self._mailbox = mailbox
        self._callback = callback
        self._threads = threads
        self._running = [None] * threads
        self._workers: dict[int, ApplicationThread] = {}
        self._is_stopping = False
        self._stopped = Completion()
        self._loop: Loop | None = None
        self._pid = native.getpid()

    def __repr__(self) -> str:
        state = "stopped" if self._is_stopping else "active" if self._subscription.is_active else "waiting"
        return f"<Consumer {self.queue} {state} handled={self.handled} failed={self.failed}>"

    @property
    def queue(self) -> str:
        """The name of its queue; one that the broker chose is another one after a reconnect."""
        return self._subscription.queue

    @property
    def is_active(self) -> bool:
        """True while the broker delivers to it; False between a loss and the reconnect."""
        return self._subscription.is_active and not self._is_stopping

    def start(self, loop: Loop) -> None:
        """Begin to take deliveries; the transport calls it. Raises: `Unavailable` when no thread can be started."""
        self._loop = loop
        try:
            if native.is_patched() and not is_application_side():
                raise RuntimeError("a greenlet that is started here would never run; call it from one")
            for number in range(self._threads):
                self._start_one(number)
        except RuntimeError as exc:
            self.cancel(0.0)
            raise Unavailable(f"no thread can be started: {exc}") from exc

    def cancel(self, timeout: float = 5.0) -> bool:
        """End it: what is being handled is finished, what was only prefetched goes back to the queue.

        Blocks: up to `timeout`; False when a callback is still running then, and its message goes back, too. In a
        callback of its own it waits for none, and gives back none that is being handled. After fork: in another process
        than the one that started it there is nothing to end.
        """
        if self._pid != native.getpid():
            return True
        loop, subscription = self._loop, self._subscription
        is_own = _working_for.get() is self
        if is_own or not can_run_greenlets():
            timeout = 0.0
        if loop is None or self._is_stopping:
            return self._stopped.wait(timeout)
        self._is_stopping = True
        loop.order(lambda now: loop.consumers.stop(subscription))
        self._mailbox.close()
        is_over = self._stopped.wait(timeout)
        if is_over:
            for each in list(self._workers.values()):
                each.join(_ENDS_WITHIN)
        elif not is_own:
            self._remove(loop)
        return is_over

    def _remove(self, loop: Loop) -> None:
        """Give back what is not settled."""
        subscription = self._subscription
        loop.order(lambda now: loop.consumers.remove(subscription))
        self._on_end(self)

    def _start_one(self, number: int) -> None:
        name = f"wsgi-messaging-consumer-{self.queue}-{number}"
        self._workers[number] = start_application_thread(name, partial(self._work, number))

    def _work(self, number: int) -> None:
        _working_for.set(self)
        try:
            while not self._is_stopping:
                delivered = self._mailbox.get(_IDLE)
                if delivered is not None and delivered.generation == self._subscription.generation:
                    self._take(delivered)
        except BaseException:
            self._hand_on(number)
            raise
        self._leave()

    def _hand_on(self, number: int) -> None:
        """Have another thread take the place of this one, which is ended from outside."""
        if not self._is_stopping and can_run_greenlets():
            try:
                self._start_one(number)
                return
            except RuntimeError as exc:
                logger.error("%r: a thread ended, and none could be started in its place: %s", self, exc)
        self._leave()

    def _leave(self) -> None:
        """The last thread gives back what was only prefetched: by then each has acknowledged what it handled."""
        self._running.pop()
        loop, subscription = self._loop, self._subscription
        if self._running or loop is None:
            return
        if not self._is_stopping:  # none could be started in its place: what comes is for others
            self._is_stopping = True
            loop.order(lambda now: loop.consumers.stop(subscription))
        self._remove(loop)
        self._stopped.set()

    def _take(self, delivered: Delivered) -> None:
        loop = self._loop
        if loop is None:
            raise RuntimeError("a consumer's thread runs before its start")
        try:
            delivery = Delivery(delivered, loop)
        except codec.MalformedValue as exc:
            self._refuse(delivered, loop, exc)
            return
        mark = object()
        self._subscription.begun_at[mark] = native.monotonic()
        try:
            self._callback(delivery)
        except BaseException as exc:
            self._on_failure(delivery, delivered.inbound)
            if is_exit(exc):
                raise
        else:
            self._count(handled=1)
            if delivery.redelivered:  # another message, with an id that is not its own alone, ends no count
                self._failures.forget(delivery)
            if self._auto_ack:
                delivery.ack()
        finally:
            self._subscription.begun_at.pop(mark, None)

    def _count(self, *, handled: int = 0, failed: int = 0, rejected: int = 0) -> None:
        # Critical section: three additions, which several threads would otherwise lose.
        with self._lock:
            self.handled += handled
            self.failed += failed
            self.rejected += rejected

    def _on_failure(self, delivery: Delivery, inbound: Inbound) -> None:
        times = self._failures.add(delivery)
        is_last = times >= self._tries or _is_of_stream(inbound)
        self._count(failed=1, rejected=int(is_last and not delivery.is_settled))
        fate = "it had settled that" if delivery.is_settled else "rejected" if is_last else "it goes back to the queue"
        which = f"time {times} of {self._tries}" if times < _MANY else "delivered before, and without a message_id"
        if is_last:
            self._failures.forget(delivery)
            delivery.reject()
        else:
            delivery.requeue()
        # Behind that: the application's handlers of logging may raise.
        logger.exception("%r: the callback failed on %r (%s): %s", self, delivery, which, fate)

    def _refuse(self, delivered: Delivered, loop: Loop, cause: Exception) -> None:
        self._count(rejected=1)
        loop.order(_refusal(delivered, loop, requeue=False))
        logger.warning("%r: a message was rejected: %s", self, cause)
