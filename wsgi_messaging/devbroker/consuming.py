"""Deliveries on a channel: consumers, prefetch, acknowledgements, redelivery.

Layer 5, part of the embedded broker.
"""

from __future__ import annotations

from dataclasses import dataclass

from .arguments import consumer_priority
from .ports import Arguments, Handlers, Port
from .queues import Consumer, Queue, Stored
from .refusals import Refusal
from .topology import generated


@dataclass(slots=True)
class Unacked:
    """A delivery that waits for its acknowledgement; `consumer` is None for a `basic.get`."""

    queue: Queue
    stored: Stored
    consumer: Consumer | None


class Consuming:
    """Answers `basic.*` except `basic.publish`, and is the `Receiver` of the channel's consumers."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self.consumers: dict[str, Consumer] = {}
        self._unacked: dict[int, Unacked] = {}
        self._last_tag = 0
        self._prefetch = 0
        self._shared_prefetch = 0
        self._outstanding = 0
        """Unacknowledged deliveries to consumers, what `_shared_prefetch` limits."""
        self.handlers: Handlers = {
            "basic.qos": self._qos,
            "basic.consume": self._consume,
            "basic.cancel": self._cancel,
            "basic.get": self._get,
            "basic.ack": self._ack,
            "basic.reject": self._reject,
            "basic.nack": self._nack,
            "basic.recover": self._recover,
            "basic.recover_async": self._recover_async,
        }

    def has_room(self, consumer: Consumer) -> bool:
        """True when the prefetch windows and the connection take another delivery."""
        if self._port.carrier.is_congested:
            return False
        if consumer.no_ack:
            return True
        if self._shared_prefetch and self._outstanding >= self._shared_prefetch:
            return False
        return not consumer.prefetch or consumer.unacked < consumer.prefetch

    def deliver(self, consumer: Consumer, stored: Stored) -> None:
        self._last_tag += 1
        if not consumer.no_ack:
            self._unacked[self._last_tag] = Unacked(consumer.queue, stored, consumer)
            consumer.unacked += 1
            self._outstanding += 1
        message = stored.message
        self._port.send_content(
            "basic.deliver",
            (consumer.tag, self._last_tag, stored.redelivered, message.exchange, message.routing_key),
            header_of(consumer.queue, stored),
            message.body,
        )

    def cancelled(self, consumer: Consumer) -> None:
        """The queue was deleted: tell the client, if it announced that it understands."""
        self.consumers.pop(consumer.tag, None)
        if self._port.carrier.announced("consumer_cancel_notify"):
            self._port.send("basic.cancel", consumer.tag, True)

    def pump(self) -> None:
        """Deliver what the channel's consumers have room for."""
        for queue in {consumer.queue: None for consumer in self.consumers.values()}:
            self._pump(queue)

    def _pump(self, queue: Queue) -> None:
        queue.pump(self._port.now)
        self._port.vhost.watch(queue)

    def leave(self) -> None:
        """Nothing more is delivered here."""
        for consumer in self.consumers.values():
            consumer.queue.unsubscribe(consumer, self._port.now)

    def close(self) -> None:
        """The channel ends: its consumers go, what it has not acknowledged goes back."""
        self.leave()
        queues = [consumer.queue for consumer in self.consumers.values()]
        self.consumers.clear()
        self._give_back(self._take_all())
        for queue in queues:
            self._end_if_unused(queue)

    def _end_if_unused(self, queue: Queue) -> None:
        self._port.vhost.watch(queue)
        if queue.auto_delete and not queue.consumers and not queue.is_gone:
            self._port.vhost.remove_queue(queue, self._port.now)

    def _qos(self, arguments: Arguments) -> None:
        size, count, shared = arguments
        if size:
            raise Refusal(540, f"prefetch_size!=0 ({size})")
        if shared:
            self._shared_prefetch = count
        else:
            self._prefetch = count
        self._port.send("basic.qos_ok")
        self.pump()

    def _consume(self, arguments: Arguments) -> None:
        _, name, tag, _no_local, no_ack, exclusive, nowait, extra = arguments
        if tag in self.consumers:
            raise Refusal(530, f"attempt to reuse consumer tag '{tag}'")
        queue = self._port.queue(name)
        check_exclusive(queue, self._port.vhost.name, exclusive)
        if queue.policy.is_quorum and self._shared_prefetch:
            where = f"queue '{queue.name}' in vhost '{self._port.vhost.name}'"
            raise Refusal(540, f"{where} does not support global qos")
        consumer = Consumer(
            tag or generated("amq.ctag-"),
            queue,
            self,
            no_ack=no_ack,
            exclusive=exclusive,
            priority=consumer_priority(queue.name, self._port.vhost.name, extra),
            prefetch=self._prefetch,
        )
        self.consumers[consumer.tag] = consumer
        queue.subscribe(consumer, self._port.now)
        if not nowait:
            self._port.send("basic.consume_ok", consumer.tag)
        self._pump(queue)

    def _cancel(self, arguments: Arguments) -> None:
        tag, nowait = arguments
        consumer = self.consumers.pop(tag, None)
        if not nowait:
            self._port.send("basic.cancel_ok", tag)
        if consumer is not None:
            consumer.queue.unsubscribe(consumer, self._port.now)
            self._pump(consumer.queue)
            self._end_if_unused(consumer.queue)

    def _get(self, arguments: Arguments) -> None:
        _, name, no_ack = arguments
        queue = self._port.queue(name)
        stored = queue.get(self._port.now, no_ack=no_ack)
        self._port.vhost.watch(queue)
        if stored is None:
            self._port.send("basic.get_empty", "")
            return
        self._last_tag += 1
        if not no_ack:
            self._unacked[self._last_tag] = Unacked(queue, stored, None)
        message = stored.message
        self._port.send_content(
            "basic.get_ok",
            (self._last_tag, stored.redelivered, message.exchange, message.routing_key, queue.ready),
            header_of(queue, stored),
            message.body,
        )

    def _take(self, tag: int, multiple: bool) -> list[Unacked]:
        """The deliveries that an acknowledgement covers. Raises: `Refusal` 406 for an unknown tag."""
        if tag == 0 and multiple:
            return self._take_all()
        if tag not in self._unacked:
            raise Refusal(406, f"unknown delivery tag {tag}")
        tags = [tag]
        if multiple:
            tags = []
            for known in self._unacked:
                tags.append(known)
                if known == tag:
                    break
        taken = [self._unacked.pop(known) for known in tags]
        self._forget(taken)
        return taken

    def _take_all(self) -> list[Unacked]:
        taken = list(self._unacked.values())
        self._unacked.clear()
        self._forget(taken)
        return taken

    def _forget(self, taken: list[Unacked]) -> None:
        for unacked in taken:
            if unacked.consumer is not None:
                unacked.consumer.unacked -= 1
                self._outstanding -= 1

    def _ack(self, arguments: Arguments) -> None:
        tag, multiple = arguments
        taken = self._take(tag, multiple)
        for unacked in taken:
            unacked.queue.settle(unacked.stored, self._port.now)
        self._go_on(taken)

    def _go_on(self, taken: list[Unacked]) -> None:
        if self._shared_prefetch:
            self.pump()
        for queue in {unacked.queue: None for unacked in taken}:
            self._pump(queue)

    def _reject(self, arguments: Arguments) -> None:
        tag, requeue = arguments
        self._refuse(tag, False, requeue)

    def _nack(self, arguments: Arguments) -> None:
        self._refuse(*arguments)

    def _refuse(self, tag: int, multiple: bool, requeue: bool) -> None:
        taken = self._take(tag, multiple)
        if requeue:
            self._give_back(taken)
            return
        for unacked in taken:
            unacked.queue.settle(unacked.stored, self._port.now, rejected=True)
        self._go_on(taken)

    def _give_back(self, taken: list[Unacked]) -> None:
        by_queue: dict[Queue, list[Stored]] = {}
        for unacked in taken:
            by_queue.setdefault(unacked.queue, []).append(unacked.stored)
        for queue, returned in by_queue.items():
            queue.requeue(returned, self._port.now)
            self._port.vhost.watch(queue)
        if self._shared_prefetch:
            self.pump()

    def _recover(self, arguments: Arguments) -> None:
        self._recover_async(arguments)
        self._port.send("basic.recover_ok")

    def _recover_async(self, arguments: Arguments) -> None:
        if not arguments[0]:
            raise Refusal(540, "requeue=false")
        self._give_back(self._take_all())


def check_exclusive(queue: Queue, vhost: str, exclusive: bool) -> None:
    """Raises: `Refusal` 403 where a consumer is, or would be, the only one that a queue may have."""
    is_shared = queue.policy.single_active_consumer
    if any(other.exclusive or exclusive for other in queue.consumers) or (exclusive and is_shared):
        raise Refusal(403, f"queue '{queue.name}' in vhost '{vhost}' in exclusive use")


def header_of(queue: Queue, stored: Stored) -> bytes:
    """A message's header as the queue delivers it: a quorum queue counts the deliveries."""
    if queue.policy.is_quorum:
        return stored.message.with_headers({"x-delivery-count": stored.returns}).header
    return stored.message.header
