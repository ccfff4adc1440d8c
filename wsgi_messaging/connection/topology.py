"""What was declared through us, so that it can be declared again when the broker no longer has it.

It is not repeated at every reconnect: on a cluster with a half-dead node a binding can hang for a minute while
publishing works. It is repeated when the broker says that something is missing (404, or an unroutable message). An
exchange that goes with a restart, from under a queue that stays, is missed by nobody: the queue is consumed and nothing
comes. That one is repeated when the consumer is back.

A queue that the broker named cannot come back under its name, only be replaced: its consumer declares another one, with
the same bindings, in one write. An empty name is that of the queue declared last on the channel (AMQP 0-9-1, queue.bind
and basic.consume), so nothing waits for the new one.

Threads: recorded by application threads, read and renamed by connections' threads. Each change is one step on the
dictionary, and it is looked at through copies, so no lock is needed and none can be inherited over a fork.

Layer 2: imports frames and codec.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from . import codec, frames

EXCHANGE_DECLARE = frames.method_id(40, 10)
QUEUE_DECLARE = frames.method_id(50, 10)
QUEUE_DECLARE_OK = frames.method_id(50, 11)
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
    is_transient: bool = False
    """The exchange or queue that it declares goes with a restart of the broker, and its bindings with it."""
    is_named_by_broker: bool = False
    """The broker chose the queue's name."""
    goes_with_consumer: bool = False
    """The queue is this connection's own, and deleted when nobody consumes it any more."""


RESTING_KEPT = 100
"""How many queues that went with their consumers are remembered, for who consumes one of them again."""


class Topology:
    """The declarations of one transport in one process, in the order they were made."""

    def __init__(self) -> None:
        self._made: dict[Declaration, None] = {}
        self._resting: dict[str, None] = {}

    def record(self, declaration: Declaration) -> None:
        """Remember a declaration that the broker has accepted."""
        self._made.setdefault(declaration)
        self.wake(declaration.queue)

    def rest(self, queue: str) -> None:
        """Nobody consumes a queue any more: one that went with its consumer is not to be made for a publisher.

        The last ones are remembered, the others forgotten: a process may have one for each of its requests.
        """
        if any(made.goes_with_consumer and made.queue == queue for made in list(self._made)):
            self._resting[queue] = None
            for oldest in list(self._resting)[:-RESTING_KEPT]:
                self.wake(oldest)
                self.forget(queue=oldest)

    def wake(self, queue: str) -> None:
        """It is there again."""
        self._resting.pop(queue, None)

    def forget(self, *, queue: str = "", exchange: str = "") -> None:
        """Drop what concerns a queue or an exchange that was deleted on purpose."""
        for made in list(self._made):
            if (queue and made.queue == queue) or (exchange and exchange in (made.exchange, made.source)):
                self._made.pop(made, None)

    def rename(self, queue: str, name: str) -> None:
        """Another queue has taken the place of one that is gone."""
        for made in [made for made in list(self._made) if made.queue == queue]:
            self._made.pop(made, None)
            self.record(renamed(made, name))

    def of_queue(self, queue: str) -> list[Declaration]:
        """What makes a queue: itself, its bindings, and the exchanges that these come from."""
        known = list(self._made)
        sources = {made.source for made in known if made.queue == queue and made.source}
        return [made for made in known if made.queue == queue or made.exchange in sources]

    def not_outlasting(self, queue: str) -> list[Declaration]:
        """What a queue that outlasts a restart of the broker may have lost by it: transient exchanges, bindings."""
        made = self.of_queue(queue)
        if any(each.is_transient and each.method == QUEUE_DECLARE for each in made):
            return []
        gone = {each.exchange for each in made if each.is_transient}
        return [each for each in made if each.exchange in gone or each.source in gone]

    def once_more(self, queue: str) -> tuple[list[tuple[int, bytes]], str]:
        """The methods that make a queue, for one channel, and the name by which it can then be consumed there."""
        name = "" if self.is_named_by_broker(queue) else queue
        made = self.of_queue(queue)
        return [
            (each.method, with_queue(each.arguments, name) if each.source else each.arguments) for each in made
        ], name

    def is_named_by_broker(self, queue: str) -> bool:
        """True for a queue that has another name when it is made once more."""
        return any(made.is_named_by_broker for made in self.of_queue(queue))

    def of_route(self, exchange: str, routing_key: str) -> list[Declaration]:
        """What makes a route: the exchange with all that is bound to it, or the queue of that name.

        A queue that the broker named is its consumer's to replace; what binds it is given, where it is still there.
        """
        known = list(self._made)
        queues = {made.queue for made in known if made.source == exchange} if exchange else {routing_key}
        found = {made for queue in queues.difference(list(self._resting)) for made in self.of_queue(queue)}
        return [
            made
            for made in known
            if (made in found or (exchange and made.exchange == exchange))
            and not (made.is_named_by_broker and (made.method == QUEUE_DECLARE or not exchange))
        ]


def with_queue(arguments: bytes, name: str) -> bytes:
    """The arguments of queue.declare, queue.bind or basic.consume, for another queue.

    "" is the one declared last on the channel, where it is not to be declared.
    """
    rest = arguments[3 + arguments[2] :]  # all begin with two reserved octets and the queue as a short string
    return codec.arguments("Bs", 0, name) + rest


def renamed(made: Declaration, name: str) -> Declaration:
    """The same for a queue of another name. One that the broker names is declared without."""
    asked = "" if made.is_named_by_broker and made.method == QUEUE_DECLARE else name
    what = made.what.replace(repr(made.queue), repr(name))
    return replace(made, queue=name, arguments=with_queue(made.arguments, asked), what=what)


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
    return Declaration(EXCHANGE_DECLARE, raw, f"exchange {name!r}", exchange=name, is_transient=not durable)


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
    is_fleeting = exclusive and auto_delete
    what = f"queue {name!r}"
    return Declaration(QUEUE_DECLARE, raw, what, queue=name, is_transient=not durable, goes_with_consumer=is_fleeting)


def bind_queue(queue: str, exchange: str, routing_key: str, arguments: dict[str, object]) -> Declaration:
    raw = codec.arguments("BsssbF", 0, queue, exchange, routing_key, False, arguments)
    what = f"binding of queue {queue!r} to exchange {exchange!r} by {routing_key!r}"
    return Declaration(QUEUE_BIND, raw, what, queue=queue, source=exchange)


def deletion(queue: str) -> tuple[int, bytes]:
    """The method that deletes a queue, whoever uses it and whatever is in it, without an answer."""
    return QUEUE_DELETE, codec.arguments("Bsbbb", 0, queue, False, False, True)
