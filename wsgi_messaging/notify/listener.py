"""`NotificationListener`: hears what happened.

No message can end or stall it. What is no notification is rejected (dead-lettered where the queue says so), what
came before is acknowledged and not handled again, and what an endpoint does to itself stays with that message.
Acknowledgements go out at once.

Layer 4: imports errors, runtime, transport, oslo, rpc.serializer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from ..callables import check_transport
from ..consumer import Consumer, Delivery
from ..errors import ConfigurationError, DeclarationRefused
from ..observe.instrument import Heard
from ..oslo import topology
from ..oslo.envelope import MalformedMessage
from ..rpc.flags import QueueFlags, explained
from ..rpc.serializer import Serializer
from ..runtime import native, worker
from ..runtime.waiting import Completion, start_application_thread
from ..transport import Transport
from .batches import Batches, prefetch_for
from .dispatcher import Arguments, Around, Dispatcher, ListenerStatus, NotificationResult, Tally
from .notification import Notification, read
from .sending import checked_count, checked_seconds, untold

__all__ = ["ListenerStatus", "NotificationListener", "NotificationResult"]

logger = logging.getLogger("wsgi_messaging.notify")

_REMEMBERED = 1000
"""Ids of handled notifications that are kept to know a duplicate by."""
_DRAIN = 60.0
"""Seconds that `stop` leaves to what is being handled, before its messages go back to the queue."""


class Target(Protocol):
    """What to listen to: a topic of an exchange. `wsgi_messaging.rpc.Target` is one."""

    @property
    def topic(self) -> str | None: ...

    @property
    def exchange(self) -> str | None: ...


class _Received(NamedTuple):
    delivery: Delivery
    notification: Notification
    message: Arguments

    @property
    def heard(self) -> Heard:
        """What an instrument is told of it."""
        told = self.notification
        return Heard(self.delivery, told.context, told.event_type, told.metadata["message_id"])


class NotificationListener:
    """Listens to `targets` (topics as text, or Targets) and calls the methods of `endpoints` by priority.

    An endpoint has a method for each priority that it wants, `info(ctxt, publisher_id, event_type, payload,
    metadata)`, and may have a `NotificationFilter` as `filter_rule`. With `allow_requeue` a message goes back to the
    queue when a method returns `NotificationResult.REQUEUE` or raises; without, it is acknowledged. With `pool` the
    listener shares the queue of that name with others of the pool, and gets copies; then somebody has to listen
    without a pool, or the topics' own queues fill up.

    With `batch_size` a method gets a list of mappings with those five names: as many, or what came within
    `batch_timeout` seconds (None: wait for all).

    Each queue has `pool_size` threads and `prefetch` messages in hand, so that a flood on one holds up no other. A
    batch listener has `pool_size` threads for batches. `flags` are those of the exchange and the queues: see
    `Notifier`.

    Threads: every method from any thread. After fork: it stays with the process that started it; in another, `stop`,
    `wait` and `close` do nothing, at once.
    Raises: `ConfigurationError`, naming the argument.
    """

    def __init__(
        self,
        transport: Transport,
        targets: Sequence[str | Target],
        endpoints: Sequence[object],
        *,
        exchange: str = "openstack",
        pool: str | None = None,
        allow_requeue: bool = False,
        serializer: Serializer | None = None,
        executor: str = "threading",
        pool_size: int = 4,
        prefetch: int | None = None,
        batch_size: int | None = None,
        batch_timeout: float | None = None,
        flags: QueueFlags | None = None,
        timeout: float | None = None,
    ) -> None:
        check_transport(transport)
        _check(executor, pool_size, prefetch, batch_size, batch_timeout)
        self.transport = transport
        self._tally = Tally()
        self._dispatcher = Dispatcher(endpoints, serializer, self._tally)
        if not self._dispatcher.priorities:
            raise ConfigurationError("endpoints: none has a method named after a priority (info, error, ...)")
        self._routes = _routes(targets, exchange, self._dispatcher.priorities)
        self._pool = pool
        self._flags = flags or QueueFlags()
        self._allow_requeue = allow_requeue
        self._timeout = timeout
        self._threads, self._prefetch = pool_size, prefetch
        self._batches: Batches[_Received] | None = None
        self._make_batches: Callable[[], Batches[_Received]] | None = None
        if batch_size is not None:
            self._listen_in_batches(batch_size, batch_timeout)
        self._handled = _Memory(_REMEMBERED)
        self._consumers: list[Consumer] = []
        self._is_started = self._is_stopping = False
        self._pid = 0
        self._ended = Completion()

    def _listen_in_batches(self, size: int, timeout: float | None) -> None:
        threads, self._threads = self._threads, 1
        self._prefetch = self._prefetch or prefetch_for(size, threads)
        self._make_batches = partial(Batches, size, timeout, threads, self._handle_batch, _batch_key, self._drop)

    def __repr__(self) -> str:
        status = self.status()
        state = "ended" if self._ended.is_set else "stopping" if self._is_stopping else "listening"
        queues = ", ".join(status.queues) if self._is_started else "not started"
        return f"<NotificationListener {state} {queues} handled={status.handled} rejected={status.rejected}>"

    def __enter__(self) -> NotificationListener:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Declare the queues and listen; again, or after `stop`, it does nothing.

        Blocks: up to `timeout` to declare each queue, and again to consume it. Raises: `DeclarationRefused`,
        `ConnectFailed`, `ConnectTimeout`, `ConfirmTimeout`; nothing is listened to then.
        """
        if not (self._is_started or self._is_stopping):
            self._start()

    def _start(self) -> None:
        self._is_started = True
        self._pid = native.getpid()
        callback = self._on_delivery if self._make_batches is None else self._on_batched
        options: dict[str, Any] = {"threads": self._threads, "auto_ack": False, "timeout": self._timeout}
        try:
            if self._make_batches is not None:
                self._batches = self._make_batches()
                self._batches.start()
            for queue in self._declared():
                consumer = untold(self.transport).consume(queue, callback, self._prefetch, **options)
                self._consumers.append(consumer)
        except BaseException:  # a gevent.Timeout around the call, no thread to be had: it may be called again
            self._take_back()
            raise
        if self._is_stopping:  # meanwhile: `stop` saw only what was there by then
            self._take_back()
        else:
            worker.enlist(self)

    def _take_back(self) -> None:
        """Undo a start that failed."""
        for consumer in self._consumers:
            consumer.cancel(0.0)
        self._consumers.clear()
        if self._batches is not None:
            self._batches.stop(0.0)
        self._is_started = False

    @property
    def _is_inherited(self) -> bool:
        """Another process started it, this one's parent, and has its threads."""
        return self._pid not in (0, native.getpid())

    def _declared(self) -> list[str]:
        """Declare what is listened to; gives the names of the queues."""
        keys_of: dict[tuple[str, str], list[str]] = {}
        for exchange, key in self._routes:
            keys_of.setdefault((exchange, self._pool or key), []).append(key)
        names: dict[str, None] = {}
        for (exchange, name), keys in keys_of.items():
            queue = topology.topic_queue(name, topology.topic_exchange(exchange, self._flags), keys, self._flags)
            try:
                self.transport.declare(queue, timeout=self._timeout)
            except DeclarationRefused as exc:
                raise explained(exc) from exc
            names[name] = None
        return list(names)

    def stop(self, timeout: float = _DRAIN) -> None:
        """Take no more messages. What is being handled has `timeout` seconds until its messages go back.

        Blocks: never; `wait` does. An endpoint may call it.
        """
        if not self._is_stopping and not self._is_inherited:
            self._is_stopping = True
            ends_at = native.monotonic() + timeout
            _beside("wsgi-messaging-notify-stop", lambda: self._end(ends_at))

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks: until `stop` was called and nothing is being handled any more. False after `timeout` seconds."""
        return self._is_inherited or self._ended.wait(timeout)

    def warm(self) -> None:
        """Nothing: it is the transport that is warmed."""

    def close(self, timeout: float = _DRAIN) -> bool:
        """`stop` and `wait`. Blocks: up to `timeout`. False when something is still being handled."""
        self.stop(timeout)
        return self.wait(timeout)

    def _end(self, ends_at: float) -> None:
        def remaining() -> float:
            return max(0.0, ends_at - native.monotonic())

        try:
            if self._batches is not None and self._is_started:
                self._batches.stop(remaining())
            cancelled = [_cancelled(consumer, remaining) for consumer in self._consumers]
            for completion in cancelled:
                completion.wait(remaining())
        finally:
            self._ended.set()

    def status(self) -> ListenerStatus:
        """What became of the messages so far. Never blocks."""
        return self._tally.status(tuple(consumer.queue for consumer in self._consumers if consumer.is_active))

    # Deliveries, on the consumers' threads and those of the batches.

    def _on_delivery(self, delivery: Delivery) -> None:
        if (received := self._received(delivery)) is not None:
            with self._leaving_none([received]):
                around = self._told([received])
                is_done = self._dispatcher.dispatch(received.notification.priority, received.message, around)
                self._settle(received, is_done)

    def _on_batched(self, delivery: Delivery) -> None:
        if (received := self._received(delivery)) is not None and self._batches is not None:
            self._batches.put(received)

    def _handle_batch(self, batch: list[_Received]) -> None:
        messages = [(each.notification.priority, each.message) for each in batch]
        with self._leaving_none(batch):
            outcome = self._dispatcher.dispatch_batch(messages, self._told(batch))
            for received, is_done in zip(batch, outcome, strict=True):
                self._settle(received, is_done)

    @contextmanager
    def _leaving_none(self, batch: Sequence[_Received]) -> Iterator[None]:
        """Whatever comes out of it, all of them are settled, and as a listener settles them."""
        try:
            yield
        except BaseException:
            for received in batch:
                if not received.delivery.is_settled:
                    self._give_back(received)
            raise

    def _drop(self, received: _Received) -> None:
        """Of two that are the same in one batch, the earlier one."""
        self._tally.duplicates += 1
        received.delivery.ack()

    def _give_back(self, received: _Received) -> None:
        """Its thread was ended. Once more; what ends a thread each time is settled as what an endpoint failed on."""
        if received.delivery.redelivered:
            self._settle(received, is_done=False)
        else:
            received.delivery.requeue()

    def _told(self, batch: Sequence[_Received]) -> Around:
        """What the transport's instrument puts around each method of an endpoint."""

        def around(positions: Sequence[int]) -> AbstractContextManager[None]:
            instrument = self.transport.instrument
            if instrument is None:
                return nullcontext()
            return instrument.hearing([batch[position].heard for position in positions])

        return around

    def _received(self, delivery: Delivery) -> _Received | None:
        """What is to be handled; None for what is none and was settled here."""
        self._tally.received += 1
        try:
            notification = read(delivery.properties, delivery.body, self.transport.settings.max_message_bytes)
            if notification.unique_id in self._handled:
                self._tally.duplicates += 1
                delivery.ack()
                return None
            return _Received(delivery, notification, self._dispatcher.arguments(notification))
        except MalformedMessage as exc:
            logger.warning("%r is no notification and was rejected: %s", delivery, exc)
        except Exception:
            logger.exception("%r could not be deserialized and was rejected", delivery)
        self._tally.rejected += 1
        delivery.reject()
        return None

    def _settle(self, received: _Received, is_done: bool) -> None:
        if is_done or not self._allow_requeue:
            self._tally.handled += 1
            self._handled.add(received.notification.unique_id)
            received.delivery.ack()
        else:
            self._tally.requeued += 1
            received.delivery.requeue()


class _Memory:
    """The last ids that were handled."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ids: dict[str, None] = {}
        self._lock = native.allocate_lock()  # guards _ids

    def __contains__(self, unique_id: str | None) -> bool:
        return unique_id in self._ids

    def add(self, unique_id: str | None) -> None:
        if unique_id is None:
            return
        with self._lock:  # Critical section: one id comes, the oldest goes.
            self._ids[unique_id] = None
            if len(self._ids) > self._size:
                del self._ids[next(iter(self._ids))]


def _batch_key(received: _Received) -> object:
    return received.notification.unique_id or id(received.delivery)


def _routes(targets: Sequence[str | Target], exchange: str, priorities: Sequence[str]) -> list[tuple[str, str]]:
    """Exchange and key of everything that is listened to."""
    if isinstance(targets, str) or not targets:
        raise ConfigurationError(f"targets: {targets!r} is not a list of topics or Targets")
    routes: dict[tuple[str, str], None] = {}
    for target in targets:
        topic = target if isinstance(target, str) else target.topic
        where = exchange if isinstance(target, str) else target.exchange or exchange
        if not topic:
            raise ConfigurationError(f"targets: {target!r} has no topic")
        routes.update({(where, f"{topic}.{priority}"): None for priority in priorities})
    return list(routes)


def _check(
    executor: str, pool_size: int, prefetch: int | None, batch_size: int | None, batch_timeout: float | None
) -> None:
    if executor != "threading":
        raise ConfigurationError(f"executor: there is 'threading' only (greenlets where patched), not {executor!r}")
    checked_count("pool_size", pool_size, 1)
    if batch_size is not None:
        checked_count("batch_size", batch_size, 1)
        if prefetch is not None and 0 < prefetch < batch_size:
            raise ConfigurationError(f"prefetch: with {prefetch} a batch of {batch_size} never becomes complete")
    checked_seconds("batch_timeout", batch_timeout)
    if batch_timeout is not None and batch_size is None:
        raise ConfigurationError(f"batch_timeout: {batch_timeout!r} needs a batch_size")


def _beside(name: str, run: Callable[[], Any]) -> None:
    """Run on a thread of its own; here, where the interpreter is ending and starts none any more."""
    try:
        start_application_thread(name, run)
    except RuntimeError:
        run()


def _cancelled(consumer: Consumer, remaining: Callable[[], float]) -> Completion:
    """Cancel beside the others, so that a busy queue leaves no idle one listening."""
    done = Completion()

    def cancel() -> None:
        try:
            consumer.cancel(remaining())
        finally:
            done.set()

    _beside(f"wsgi-messaging-notify-stop-{consumer.queue}", cancel)
    return done
