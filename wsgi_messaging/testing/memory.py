"""The embedded broker's model in the place of a connection: what the in-memory transport runs on.

Layer 5, part of the testing tools: imports connections, devbroker.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from ..connection import codec, frames, topology
from ..connection.control import Request
from ..connection.frames import Inbound
from ..connection.loop import Loop
from ..connection.pending import Outgoing
from ..connection.state import State
from ..connection.subscription import Delivered, Subscription
from ..connection.topology import Declaration
from ..connections import Connections
from ..devbroker.arguments import consumer_priority
from ..devbroker.consuming import check_exclusive, header_of
from ..devbroker.messages import Message
from ..devbroker.publishing import checked
from ..devbroker.queues import Consumer as BrokersConsumer
from ..devbroker.queues import Stored
from ..devbroker.refusals import Refusal
from ..devbroker.topology import Topology
from ..devbroker.vhost import VirtualHost
from ..errors import DeclarationRefused, MessagingError, Rejected, Unroutable
from ..runtime import native
from ..runtime.journal import Journal
from ..settings import Settings

logger = logging.getLogger("wsgi_messaging.connection")


@dataclass(frozen=True, slots=True)
class Published:
    """A message that the transport took."""

    exchange: str
    routing_key: str
    body: bytes
    properties: dict[str, Any]

    @property
    def headers(self) -> dict[str, Any]:
        """The message's headers; empty when it has none."""
        return self.properties.get("headers") or {}

    def json(self) -> Any:
        """The body, decoded. Raises: `ValueError` when it is not JSON."""
        return json.loads(self.body)


class MemoryConnections(Connections):
    """The connections of a process that has no broker but its own."""

    def __init__(self, settings: Settings, broker: MemoryBroker) -> None:
        super().__init__(settings)
        self._broker = broker

    def _make(self, role: str) -> Loop:
        return _MemoryLoop(role, self.settings, self._broker, self.topology)


class _MemoryLoop(Loop):
    """A connection's loop that has neither socket nor thread: what is handed to it is done when it returns."""

    def __init__(self, role: str, settings: Settings, broker: MemoryBroker, known: topology.Topology) -> None:
        name = f"{settings.app}:{role}"
        super().__init__(role, name, name, settings.brokers, settings.link_options, None, known, Journal(logger))
        self.state = State.READY
        self.consumers = cast("Any", _Subscriptions(broker, known))
        self.control = cast("Any", SimpleNamespace(add=self._request))
        self._broker = broker

    def publish(self, entry: Outgoing, *, is_alone: bool = False) -> None:
        self.order(lambda now: self._publish(entry, now))

    def order(self, order: Callable[[float], object], *, is_alone: bool = False) -> None:
        self._broker.order(order)

    def open(self) -> None:
        """Nothing is to be opened."""

    def is_own_thread(self) -> bool:
        return self._broker.is_own_thread()

    def _publish(self, entry: Outgoing, now: float) -> None:
        error = self._broker.take(entry, now)
        self.publisher.confirmed += error is None
        self.publisher.failed += error is not None
        self.publisher.returned += isinstance(error, Unroutable)
        entry.finish(error)

    def _request(self, request: Request, now: float) -> None:
        declaration = Declaration(request.method, request.arguments, request.what)
        try:
            request.finish(Inbound(1, 0, self._broker.declare(declaration, self._broker, now)))
        except Refusal as refusal:
            text = f"{request.what}: {refusal.code} {refusal.text}"
            request.finish(None, DeclarationRefused(text, reply_code=refusal.code))


class _Subscriptions:
    """The consuming side of a memory loop; each subscription is a channel to the broker's queue."""

    def __init__(self, broker: MemoryBroker, known: topology.Topology) -> None:
        self._broker = broker
        self._known = known
        self._channels: dict[Subscription, _Channel] = {}
        self._generation = 0

    def __len__(self) -> int:
        return len(self._channels)

    def add(self, subscription: Subscription, now: float) -> None:
        try:
            if subscription.is_missing:
                for declaration in self._known.of_queue(subscription.queue):
                    self._broker.declare(declaration, self._broker, now)
            queue = self._broker.vhost.queue(subscription.queue, self._broker)
            *_, exclusive, _, arguments = codec.read_arguments("BssbbbbF", subscription.consume)
            check_exclusive(queue, self._broker.vhost.name, exclusive)
            priority = consumer_priority(queue.name, self._broker.vhost.name, arguments)
        except Refusal as refusal:
            subscription.error = DeclarationRefused(
                f"consumer of queue {subscription.queue!r}: {refusal.code} {refusal.text}", reply_code=refusal.code
            )
            subscription.notify()
            return
        self._generation += 1
        subscription.channel = subscription.generation = self._generation
        subscription.is_active = subscription.was_active = True
        channel = self._channels[subscription] = _Channel(subscription)
        _, prefetch, _ = codec.read_arguments("lBb", subscription.qos)
        channel.consumer = BrokersConsumer(
            subscription.tag, queue, channel, exclusive=exclusive, priority=priority, prefetch=prefetch
        )
        queue.subscribe(channel.consumer, now)
        subscription.notify()
        queue.pump(now)

    def stop(self, subscription: Subscription) -> bytes:
        subscription.is_cancelled = True
        channel = self._channels.get(subscription)
        if channel is not None:
            channel.consumer.queue.unsubscribe(channel.consumer, native.monotonic())
        return b""

    def remove(self, subscription: Subscription) -> bytes:
        self.stop(subscription)
        subscription.is_active = False
        channel = self._channels.pop(subscription, None)
        if channel is not None:
            subscription.generation = 0
            channel.consumer.queue.requeue(channel.unacked.values(), native.monotonic())
        return b""

    def acknowledge(self, delivered: Delivered, _now: float, _within: float = 0.0) -> None:
        self._broker.order(partial(self.settle, delivered, frames.BASIC_ACK, False))

    def settle(self, delivered: Delivered, method: int, requeue: bool, now: float) -> bytes:
        channel = self._channels.get(delivered.subscription)
        if channel is not None and delivered.generation == delivered.subscription.generation:
            channel.settle(delivered.tag, method, requeue, now)
        return b""


class _Channel:
    """From a queue of the broker's into a subscription's mailbox (a `Receiver` of the broker)."""

    def __init__(self, subscription: Subscription) -> None:
        self.unacked: dict[int, Stored] = {}
        self.consumer: BrokersConsumer
        self._subscription = subscription
        self._last_tag = 0

    def has_room(self, consumer: BrokersConsumer) -> bool:
        return not consumer.prefetch or len(self.unacked) < consumer.prefetch

    def deliver(self, consumer: BrokersConsumer, stored: Stored) -> None:
        self._last_tag += 1
        self.unacked[self._last_tag] = stored
        message = stored.message
        arguments = codec.arguments(
            "sLbss", consumer.tag, self._last_tag, stored.redelivered, message.exchange, message.routing_key
        )
        header = header_of(consumer.queue, stored)
        inbound = Inbound(1, frames.BASIC_DELIVER, arguments, header, message.body, len(message.body))
        subscription = self._subscription
        subscription.mailbox.put(Delivered(subscription, subscription.generation, inbound, self._last_tag))

    def cancelled(self, consumer: BrokersConsumer) -> None:
        self._subscription.is_active = False

    def settle(self, tag: int, method: int, requeue: bool, now: float) -> None:
        """Acknowledge, or reject, or give back to the queue."""
        is_ack = method == frames.BASIC_ACK
        queue = self.consumer.queue
        stored = self.unacked.pop(tag, None)
        if stored is not None:
            if is_ack or not requeue:
                queue.settle(stored, now, rejected=not is_ack)
            else:
                queue.requeue([stored], now)
        queue.pump(now)


class MemoryBroker:
    """The model of the embedded broker, and what was published to it.

    What is ordered is done one after the other, by whoever orders while nobody else is at it, as one connection's
    thread would; no caller ever waits.
    """

    def __init__(self) -> None:
        self.vhost = VirtualHost("/", native.wall_clock() - native.monotonic())
        self.published: list[Published] = []
        self.failure: MessagingError | None = None
        self._orders: deque[Callable[[float], object]] = deque()
        self._busy = native.allocate_lock()
        self._own_ident = -1

    def order(self, order: Callable[[float], object], *, is_alone: bool = False) -> None:
        self._orders.append(order)
        while self._orders and self._busy.acquire(False):
            self._own_ident = native.get_ident()
            try:
                while self._orders:
                    self._orders.popleft()(native.monotonic())
            finally:
                self._own_ident = -1
                self._busy.release()

    def is_own_thread(self) -> bool:
        return self._own_ident == native.get_ident()

    def take(self, entry: Outgoing, now: float) -> MessagingError | None:
        """Route a message; gives why it was not taken."""
        if self.failure is not None:
            return copy(self.failure)
        self.vhost.tick(now)
        message = sent = Message(entry.exchange, entry.routing_key, entry.header, entry.body)
        try:  # nobody has logged in: any user is the right one
            message = checked(message, self.vhost, str(message.properties.get("user_id", "")))
            queues = self.vhost.route(message)
        except Refusal as refusal:
            return Rejected(f"exchange {entry.exchange!r}: {refusal.code} {refusal.text}", reply_code=refusal.code)
        if not queues and entry.mandatory:
            where = f"routing key {entry.routing_key!r} of exchange {entry.exchange!r}"
            return Unroutable(f"no queue takes {where} (312 NO_ROUTE)", reply_code=312)
        if not self.vhost.publish(message, queues, now):
            return Rejected("the broker refused the message (basic.nack): its queue is full")
        self.published.append(_published(sent))
        return None

    def declare(self, declaration: Declaration, owner: object, now: float) -> bytes:
        """Carry out one declaration; gives the arguments of the answer. Raises: `Refusal`."""
        made, raw = Topology(self.vhost, owner), declaration.arguments
        match declaration.method:
            case topology.EXCHANGE_DECLARE:
                _, name, kind, passive, durable, auto_delete, internal, _, extra = codec.read_arguments(
                    "BssbbbbbF", raw
                )
                flags = {"durable": durable, "auto_delete": auto_delete, "internal": internal}
                made.check_exchange(name) if passive else made.declare_exchange(name, kind, arguments=extra, **flags)
            case topology.QUEUE_DECLARE:
                _, name, passive, durable, exclusive, auto_delete, _, extra = codec.read_arguments("BsbbbbbF", raw)
                flags = {"durable": durable, "exclusive": exclusive, "auto_delete": auto_delete}
                queue = (
                    self.vhost.queue(name, owner)
                    if passive
                    else made.declare_queue(name, now, arguments=extra, **flags)
                )
                return codec.arguments("sll", queue.name, queue.ready, len(queue.consumers))
            case topology.QUEUE_BIND:
                _, queue_name, source, key, _, extra = codec.read_arguments("BsssbF", raw)
                made.bind(source, queue_name, to_queue=True, routing_key=key, arguments=extra)
            case topology.QUEUE_DELETE:
                _, name, if_unused, if_empty, _ = codec.read_arguments("Bsbbb", raw)
                count = made.delete_queue(name, now, if_unused=if_unused, if_empty=if_empty)
                return codec.arguments("l", count)
            case method:
                raise Refusal(540, f"method {method:#x} over a transport in memory")
        return b""

    def waiting(self, queue: str) -> list[Published]:
        self.order(self.vhost.tick)
        bands = self.vhost.queues[queue]._bands
        return [_published(stored.message) for band in reversed(bands) for stored in list(band)]

    def is_drained(self) -> bool:
        self.order(self.vhost.tick)
        served = [queue for queue in list(self.vhost.queues.values()) if queue.consumers]
        return not any(queue.ready or queue.unacked for queue in served)


def _published(message: Message) -> Published:
    return Published(message.exchange, message.routing_key, message.body, message.properties)
