"""The exchange and queue classes on a channel.

Layer 5, part of the embedded broker.
"""

from __future__ import annotations

from .ports import Arguments, Handlers, Port
from .topology import Topology


class Declaring:
    """Answers `exchange.*` and `queue.*`."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._topology = Topology(port.vhost, port.carrier)
        self.handlers: Handlers = {
            "exchange.declare": self._declare_exchange,
            "exchange.delete": self._delete_exchange,
            "exchange.bind": self._bind_exchange,
            "exchange.unbind": self._unbind_exchange,
            "queue.declare": self._declare_queue,
            "queue.bind": self._bind_queue,
            "queue.unbind": self._unbind_queue,
            "queue.purge": self._purge,
            "queue.delete": self._delete_queue,
        }

    def _answer(self, nowait: bool, method: str, *values: int | str) -> None:
        if not nowait:
            self._port.send(method, *values)

    def _declare_exchange(self, arguments: Arguments) -> None:
        _, name, kind, passive, durable, auto_delete, internal, nowait, extra = arguments
        if passive:
            self._topology.check_exchange(name)
        else:
            self._topology.declare_exchange(
                name, kind, durable=durable, auto_delete=auto_delete, internal=internal, arguments=extra
            )
        self._answer(nowait, "exchange.declare_ok")

    def _delete_exchange(self, arguments: Arguments) -> None:
        _, name, if_unused, nowait = arguments
        self._topology.delete_exchange(name, if_unused=if_unused)
        self._answer(nowait, "exchange.delete_ok")

    def _bind_exchange(self, arguments: Arguments) -> None:
        _, destination, source, routing_key, nowait, extra = arguments
        self._topology.bind(source, destination, to_queue=False, routing_key=routing_key, arguments=extra)
        self._answer(nowait, "exchange.bind_ok")

    def _unbind_exchange(self, arguments: Arguments) -> None:
        _, destination, source, routing_key, nowait, extra = arguments
        self._topology.unbind(source, destination, to_queue=False, routing_key=routing_key, arguments=extra)
        self._answer(nowait, "exchange.unbind_ok")

    def _declare_queue(self, arguments: Arguments) -> None:
        _, name, passive, durable, exclusive, auto_delete, nowait, extra = arguments
        if passive:
            queue = self._port.queue(name)
            queue.used_at = self._port.now
        else:
            queue = self._topology.declare_queue(
                name,
                self._port.now,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                arguments=extra,
            )
        self._port.last_queue = queue.name
        self._answer(nowait, "queue.declare_ok", queue.name, queue.ready, len(queue.consumers))

    def _bind_queue(self, arguments: Arguments) -> None:
        _, name, source, routing_key, nowait, extra = arguments
        queue = self._port.queue_name(name)
        if not name and not routing_key:
            routing_key = queue
        self._topology.bind(source, queue, to_queue=True, routing_key=routing_key, arguments=extra)
        self._answer(nowait, "queue.bind_ok")

    def _unbind_queue(self, arguments: Arguments) -> None:
        _, name, source, routing_key, extra = arguments
        queue = self._port.queue_name(name)
        if not name and not routing_key:
            routing_key = queue
        self._topology.unbind(source, queue, to_queue=True, routing_key=routing_key, arguments=extra)
        self._port.send("queue.unbind_ok")

    def _purge(self, arguments: Arguments) -> None:
        _, name, nowait = arguments
        self._answer(nowait, "queue.purge_ok", self._port.queue(name).purge())

    def _delete_queue(self, arguments: Arguments) -> None:
        _, name, if_unused, if_empty, nowait = arguments
        count = self._topology.delete_queue(
            self._port.queue_name(name), self._port.now, if_unused=if_unused, if_empty=if_empty
        )
        self._answer(nowait, "queue.delete_ok", count)
