"""What listeners consume and senders publish to, with the flags that the rabbit driver's configuration asks for.

Where a peer has declared an entity with the other durability, that one is taken, with a warning: an exchange or a
queue that is there serves as it is. (The rabbit driver does so in one direction, from durable to transient.)

Layer 5.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..connection import topology
from ..connection.topology import Declaration
from ..errors import DeclarationRefused
from ..rpc.flags import QueueFlags, explained

logger = logging.getLogger("wsgi_messaging.oslo")

_PRECONDITION_FAILED = 406


@dataclass(frozen=True, slots=True)
class Entity:
    """Something to declare: `make(is_durable)`, preferably with `is_durable`."""

    make: Callable[[bool], Declaration]
    is_durable: bool = False


def exchange(name: str, kind: str, *, is_durable: bool, auto_delete: bool) -> Entity:
    """An exchange."""
    return Entity(
        lambda durable: topology.declare_exchange(
            name, kind, passive=False, durable=durable, auto_delete=auto_delete, internal=False, arguments={}
        ),
        is_durable,
    )


def queue(name: str, *, is_durable: bool, auto_delete: bool, arguments: dict[str, object]) -> Entity:
    """A queue."""
    return Entity(
        lambda durable: topology.declare_queue(
            name, passive=False, durable=durable, exclusive=False, auto_delete=auto_delete, arguments=arguments
        ),
        is_durable,
    )


def binding(name: str, source: str, key: str) -> Entity:
    """A queue bound to an exchange."""
    return Entity(lambda _durable: topology.bind_queue(name, source, key, {}))


def topic_exchange(name: str, flags: QueueFlags) -> Entity:
    """The exchange that topics are keys of."""
    return exchange(name, "topic", is_durable=flags.durable or flags.quorum, auto_delete=flags.auto_delete)


def fanout_exchange(topic: str, flags: QueueFlags) -> Entity:
    """The exchange that reaches all servers of a topic; it has no prefix, as with the rabbit driver."""
    return exchange(fanout_name(topic), "fanout", is_durable=flags.transient_quorum, auto_delete=True)


def fanout_name(topic: str) -> str:
    """The name of a topic's fanout exchange."""
    return f"{topic}_fanout"


def topic_queue(name: str, flags: QueueFlags) -> Entity:
    """A queue that all who listen to a topic share."""
    arguments: dict[str, object] = {"x-queue-type": "quorum"} if flags.quorum else {}
    if flags.delivery_limit:
        arguments["x-delivery-limit"] = flags.delivery_limit
    arguments.update(flags.arguments)
    is_durable = flags.durable or flags.quorum
    return queue(name, is_durable=is_durable, auto_delete=flags.auto_delete, arguments=arguments)


def for_server(where: str, topic: str, server: str, fanout_queue: str, ttl_ms: int, flags: QueueFlags) -> list[Entity]:
    """Everything that a server of a topic needs, in the order in which it is declared.

    The fanout queue is the server's own: durable with `x-expires`, which every RabbitMQ takes.
    """
    own: dict[str, object] = {"x-queue-type": "quorum"} if flags.transient_quorum else {}
    if ttl_ms:
        own["x-expires"] = ttl_ms
    made = [topic_exchange(where, flags)]
    for name in (topic, f"{topic}.{server}"):
        made += [topic_queue(name, flags), binding(name, where, name)]
    return [
        *made,
        fanout_exchange(topic, flags),
        queue(fanout_queue, is_durable=True, auto_delete=False, arguments=own),
        binding(fanout_queue, fanout_name(topic), topic),
    ]


def for_notifications(routes: Iterable[tuple[str, str]], pool: str | None, flags: QueueFlags) -> list[Entity]:
    """A queue for each (exchange, key), or the pool's one for all."""
    made: list[Entity] = []
    for where, key in routes:
        name = pool or key
        made += [topic_exchange(where, flags), topic_queue(name, flags), binding(name, where, key)]
    return made


def declared(entity: Entity, carry_out: Callable[[Declaration], object]) -> Declaration:
    """Have it declared; gives what the broker has accepted. Raises: `DeclarationRefused`, what `carry_out` raises."""
    declaration = entity.make(entity.is_durable)
    try:
        carry_out(declaration)
    except DeclarationRefused as exc:
        if exc.reply_code != _PRECONDITION_FAILED or "inequivalent arg 'durable'" not in str(exc):
            raise explained(exc) from exc
        logger.warning("%s is there with another durability than configured, and taken as it is", declaration.what)
        declaration = entity.make(not entity.is_durable)
        carry_out(declaration)
    return declaration
