"""Declaring, deleting and binding: what a client may do to exchanges and queues, and what it is told otherwise.

The order of the checks is RabbitMQ's (seen on 3.10.8), for a client sees only the first that fails.

Layer 5, part of the embedded broker: pure.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from .arguments import COMPARED, check_alternate, check_equivalent, queue_policy
from .exchanges import TYPES, Binding, Exchange
from .queues import Queue
from .refusals import Refusal, default_exchange, locked, reserved
from .vhost import VirtualHost


def generated(prefix: str) -> str:
    """A name such as RabbitMQ makes up for queues and consumers."""
    return prefix + base64.urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")


class Topology:
    """What one connection (`owner`) may do to the topology of a virtual host."""

    def __init__(self, vhost: VirtualHost, owner: object) -> None:
        self._vhost = vhost
        self._owner = owner

    def declare_exchange(
        self,
        name: str,
        kind: str,
        *,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: Mapping[str, Any],
    ) -> None:
        """Raises: `Refusal` 403, 406 or 503 (an unknown type)."""
        if kind not in TYPES:
            raise Refusal(503, f"unknown exchange type '{kind}'")
        self._not_default(name)
        current = self._vhost.exchanges.get(name)
        if current is None:
            if name.startswith("amq."):
                raise reserved("exchange", name)
            check_alternate(name, self._vhost.name, arguments)
            self._vhost.exchanges[name] = Exchange(
                name, kind, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments
            )
            return
        asked = {"type": kind, "durable": durable, "auto_delete": auto_delete, "internal": internal}
        asked["alternate-exchange"] = arguments.get("alternate-exchange")
        check_equivalent(
            "exchange",
            name,
            self._vhost.name,
            ("type", "durable", "auto_delete", "internal", "alternate-exchange"),
            asked,
            {
                "type": current.kind,
                "durable": current.durable,
                "auto_delete": current.auto_delete,
                "internal": current.internal,
                "alternate-exchange": current.alternate,
            },
        )

    def check_exchange(self, name: str) -> None:
        """A passive declaration. Raises: `Refusal` 403 or 404."""
        self._not_default(name)
        self._vhost.exchange(name)

    def delete_exchange(self, name: str, *, if_unused: bool) -> None:
        """Deleting what does not exist is no error. Raises: `Refusal` 403 or 406."""
        self._not_default(name)
        if name.startswith("amq."):
            raise Refusal(403, f"deletion of system exchange '{name}' in vhost '{self._vhost.name}' not allowed")
        exchange = self._vhost.exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise Refusal(406, f"exchange '{name}' in vhost '{self._vhost.name}' in use")
        self._vhost.remove_exchange(exchange)

    def declare_queue(
        self,
        name: str,
        now: float,
        *,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any],
    ) -> Queue:
        """Raises: `Refusal` 403, 405 or 406."""
        current = self._vhost.queues.get(name) if name else None
        if current is not None:
            self._check_same(current, durable, exclusive, auto_delete, arguments)
            current.used_at = now
            return current
        if name.startswith("amq."):
            raise reserved("queue", name)
        name = name or generated("amq.gen-")
        policy = queue_policy(
            name, self._vhost.name, arguments, durable=durable, exclusive=exclusive, auto_delete=auto_delete
        )
        queue = Queue(
            name,
            policy,
            self._vhost.dead,
            now,
            durable=durable,
            auto_delete=auto_delete,
            owner=self._owner if exclusive else None,
            arguments=arguments,
        )
        self._vhost.queues[name] = queue
        self._vhost.watch(queue)
        return queue

    def _check_same(
        self, current: Queue, durable: bool, exclusive: bool, auto_delete: bool, arguments: Mapping[str, Any]
    ) -> None:
        if current.owner is not (self._owner if exclusive else None):
            raise locked(current.name, self._vhost.name)
        check_equivalent(
            "queue",
            current.name,
            self._vhost.name,
            ("durable", "auto_delete", *COMPARED),
            {**arguments, "durable": durable, "auto_delete": auto_delete},
            {**current.arguments, "durable": current.durable, "auto_delete": current.auto_delete},
        )

    def delete_queue(self, name: str, now: float, *, if_unused: bool, if_empty: bool) -> int:
        """The number of messages that were ready; 0 if there is no such queue. Raises: `Refusal` 405 or 406."""
        if name not in self._vhost.queues:
            return 0
        queue = self._vhost.queue(name, self._owner)
        if if_unused and queue.consumers:
            raise Refusal(406, f"queue '{name}' in vhost '{self._vhost.name}' in use")
        if if_empty and queue.ready:
            raise Refusal(406, f"queue '{name}' in vhost '{self._vhost.name}' not empty")
        count = queue.ready
        self._vhost.remove_queue(queue, now)
        return count

    def bind(
        self, source: str, destination: str, *, to_queue: bool, routing_key: str, arguments: Mapping[str, Any]
    ) -> None:
        """Raises: `Refusal` 403, 404, 405 or 406."""
        self._not_default(source)
        if not to_queue:
            self._not_default(destination)
        exchange = self._vhost.exchange(source)
        if to_queue:
            self._vhost.queue(destination, self._owner)
        else:
            self._vhost.exchange(destination)
        exchange.add(Binding.to(destination, to_queue=to_queue, routing_key=routing_key, arguments=arguments))

    def unbind(
        self, source: str, destination: str, *, to_queue: bool, routing_key: str, arguments: Mapping[str, Any]
    ) -> None:
        """Unbinding what is not bound, or does not exist, is no error. Raises: `Refusal` 403 or 405."""
        self._not_default(source)
        if to_queue and destination in self._vhost.queues:
            self._vhost.queue(destination, self._owner)
        exchange = self._vhost.exchanges.get(source)
        if exchange is not None:
            binding = Binding.to(destination, to_queue=to_queue, routing_key=routing_key, arguments=arguments)
            self._vhost.unbind(exchange, binding)

    def _not_default(self, exchange: str) -> None:
        if exchange == "":
            raise default_exchange()
