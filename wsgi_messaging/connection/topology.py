"""What was declared through us, so that it can be declared again when the broker no longer has it.

It is not repeated at every reconnect: on a cluster with a half-dead node a binding can hang for a minute while
publishing works. It is repeated when the broker says that something is missing (404, or an unroutable message).

Threads: recorded by application threads, read by connections' threads; dictionaries are replaced, never changed in
place, so no lock is needed and none can be inherited over a fork.

Layer 2: imports frames and codec.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import codec, frames

EXCHANGE_DECLARE = frames.method_id(40, 10)
QUEUE_DECLARE = frames.method_id(50, 10)
QUEUE_BIND = frames.method_id(50, 20)
QUEUE_DELETE = frames.method_id(50, 40)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One method that makes something on the broker, and what it makes."""

    method: int
    arguments: bytes
    what: str
    """For people: "queue 'orders'"."""
    exchange: str = ""
    """The exchange that it declares."""
    queue: str = ""
    """The queue that it declares or binds."""
    source: str = ""
    """The exchange that it binds from."""


class Topology:
    """The declarations of one transport in one process, in the order they were made."""

    def __init__(self) -> None:
        self._made: dict[Declaration, None] = {}

    def record(self, declaration: Declaration) -> None:
        """Remember a declaration that the broker has accepted."""
        if declaration not in self._made:
            self._made = {**self._made, declaration: None}

    def forget(self, *, queue: str = "", exchange: str = "") -> None:
        """Drop what concerns a queue or an exchange that was deleted on purpose."""
        self._made = {
            made: None
            for made in self._made
            if not ((queue and made.queue == queue) or (exchange and exchange in (made.exchange, made.source)))
        }

    def of_queue(self, queue: str) -> list[Declaration]:
        """What makes a queue: itself, its bindings, and the exchanges that these come from."""
        sources = {made.source for made in self._made if made.queue == queue and made.source}
        return [made for made in self._made if made.queue == queue or made.exchange in sources]

    def of_route(self, exchange: str, routing_key: str) -> list[Declaration]:
        """What makes a route: the exchange with all that is bound to it, or the queue of that name."""
        if not exchange:
            return self.of_queue(routing_key)
        queues = {made.queue for made in self._made if made.source == exchange}
        found = {made for queue in queues for made in self.of_queue(queue)}
        return [made for made in self._made if made in found or made.exchange == exchange]


def declare_exchange(
    name: str,
    kind: str,
    *,
    passive: bool,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    arguments: dict[str, object],
) -> Declaration:
    raw = codec.arguments("BssbbbbbF", 0, name, kind, passive, durable, auto_delete, internal, False, arguments)
    return Declaration(EXCHANGE_DECLARE, raw, f"exchange {name!r}", exchange=name)


def declare_queue(
    name: str,
    *,
    passive: bool,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    arguments: dict[str, object],
) -> Declaration:
    raw = codec.arguments("BsbbbbbF", 0, name, passive, durable, exclusive, auto_delete, False, arguments)
    return Declaration(QUEUE_DECLARE, raw, f"queue {name!r}", queue=name)


def bind_queue(queue: str, exchange: str, routing_key: str, arguments: dict[str, object]) -> Declaration:
    raw = codec.arguments("BsssbF", 0, queue, exchange, routing_key, False, arguments)
    what = f"binding of queue {queue!r} to exchange {exchange!r} by {routing_key!r}"
    return Declaration(QUEUE_BIND, raw, what, queue=queue, source=exchange)
