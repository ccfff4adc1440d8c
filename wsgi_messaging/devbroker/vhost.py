"""A virtual host: its exchanges and queues, the way of a message from one to the other, and what time does to them.

The whole broker below this module is pure: no sockets, and time is an argument.

Layer 5, part of the embedded broker.
"""

from __future__ import annotations

from .exchanges import Binding, Exchange
from .messages import Message, dead_letter, in_cycle
from .queues import Queue, Stored
from .refusals import locked, no_exchange, no_queue

PREDECLARED = {
    "": "direct",
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
    "amq.rabbitmq.trace": "topic",
}

_NEVER = float("inf")


class VirtualHost:
    """One name space of exchanges and queues.

    `clock_offset` is what turns `now` into seconds since 1970; only the times in `x-death` need it.
    """

    def __init__(self, name: str, clock_offset: float = 0.0) -> None:
        self.name = name
        self.clock_offset = clock_offset
        self.exchanges = {
            exchange: Exchange(exchange, kind, durable=True, internal=exchange == "amq.rabbitmq.trace")
            for exchange, kind in PREDECLARED.items()
        }
        self.queues: dict[str, Queue] = {}
        self.due_at = _NEVER
        """When `tick` has something to do: never later than that, sometimes earlier."""

    def exchange(self, name: str) -> Exchange:
        """Raises: `Refusal` 404."""
        exchange = self.exchanges.get(name)
        if exchange is None:
            raise no_exchange(name, self.name)
        return exchange

    def queue(self, name: str, owner: object) -> Queue:
        """The queue, as the connection `owner` may use it. Raises: `Refusal` 404, or 405 for another's exclusive."""
        queue = self.queues.get(name)
        if queue is None:
            raise no_queue(name, self.name)
        if queue.owner is not None and queue.owner is not owner:
            raise locked(name, self.name)
        return queue

    def route(self, message: Message) -> list[Queue]:
        """The queues that take a message, each once. Raises: `Refusal` 404 if its exchange does not exist."""
        if message.exchange == "":
            found = [self.queues[key] for key in message.routing_keys if key in self.queues]
            return found if len(found) < 2 else list(dict.fromkeys(found))
        queues: dict[Queue, None] = {}
        self._walk(self.exchange(message.exchange), message, queues, set())
        return list(queues)

    def _walk(self, exchange: Exchange, message: Message, queues: dict[Queue, None], seen: set[str]) -> bool:
        seen.add(exchange.name)
        matched = False
        for binding in exchange.matching(message):
            matched = True
            if binding.to_queue:
                queues[self.queues[binding.destination]] = None
            elif binding.destination not in seen:
                self._walk(self.exchanges[binding.destination], message, queues, seen)
        if not matched and exchange.alternate in self.exchanges and exchange.alternate not in seen:
            return self._walk(self.exchanges[exchange.alternate], message, queues, seen)
        return matched

    def publish(self, message: Message, queues: list[Queue], now: float) -> bool:
        """Put the message where `route` said; False if a queue was full and rejects."""
        accepted = True
        for queue in queues:
            accepted = queue.publish(message, now) and accepted
            self.watch(queue)
        return accepted

    def watch(self, queue: Queue) -> None:
        """Take note of when time will next change the queue."""
        self.due_at = min(self.due_at, queue.due_at())

    def tick(self, now: float) -> None:
        """Expire what is out of time: messages and unused queues."""
        if now < self.due_at:
            return
        for queue in list(self.queues.values()):
            if queue.is_unused(now):
                self.remove_queue(queue, now)
            else:
                queue.expire(now)
        self.due_at = min((queue.due_at() for queue in self.queues.values()), default=_NEVER)

    def dead(self, queue: Queue, stored: Stored, reason: str, now: float) -> None:
        """A queue is rid of a message: publish it to the queue's dead-letter exchange, if it has one."""
        name = queue.policy.dead_letter_exchange
        if name is None or name not in self.exchanges:
            return
        message = dead_letter(
            stored.message,
            queue.name,
            reason,
            name,
            queue.policy.dead_letter_routing_key,
            now + self.clock_offset,
        )
        targets = self.route(message)
        if reason != "rejected":
            targets = [target for target in targets if not in_cycle(message, target.name)]
        self.publish(message, targets, now)

    def remove_queue(self, queue: Queue, now: float) -> None:
        """Delete a queue: its messages are gone, its bindings too, its consumers are told."""
        del self.queues[queue.name]
        queue.is_gone = True
        queue.purge()
        consumers, queue.consumers = queue.consumers, []
        for consumer in consumers:
            consumer.receiver.cancelled(consumer)
        self._unbind_all(queue.name, to_queue=True)

    def remove_exchange(self, exchange: Exchange) -> None:
        """Delete an exchange, what is bound to it, and what it is bound to."""
        del self.exchanges[exchange.name]
        self._unbind_all(exchange.name, to_queue=False)

    def _unbind_all(self, destination: str, *, to_queue: bool) -> None:
        for exchange in list(self.exchanges.values()):
            for binding in exchange.bound_to(destination, to_queue=to_queue):
                self.unbind(exchange, binding)

    def unbind(self, exchange: Exchange, binding: Binding) -> None:
        """Take a binding away; an auto-delete exchange goes with its last one."""
        was_bound = exchange.remove(binding)
        if was_bound and exchange.auto_delete and not exchange.bindings and exchange.name in self.exchanges:
            self.remove_exchange(exchange)

    def release(self, owner: object, now: float) -> None:
        """A connection has ended: its exclusive queues go with it."""
        for queue in [queue for queue in self.queues.values() if queue.owner is owner]:
            self.remove_queue(queue, now)

    def restart(self) -> None:
        """What a broker's restart leaves: durable exchanges and queues, persistent messages in durable queues."""
        for queue in list(self.queues.values()):
            queue.restart()
            if not queue.durable:
                self.remove_queue(queue, 0.0)
        for exchange in [exchange for exchange in self.exchanges.values() if not exchange.durable]:
            if exchange.name in self.exchanges:
                self.remove_exchange(exchange)
