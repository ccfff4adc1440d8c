"""kombu's Exchange and Queue objects to declarations.

kombu's entities declare themselves on a channel; they get one that turns each call into a `Declaration` and has it
carried out, so kombu's own logic (bindings, `expires`, `message_ttl`, server-named queues) stays kombu's.

Layer 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kombu.entity import Exchange, Queue
from kombu.transport.base import to_rabbitmq_queue_arguments

from ..errors import ConfigurationError
from . import codec, topology
from .frames import Inbound
from .topology import Declaration

CarryOut = Callable[[Declaration], Inbound]
Record = Callable[[Declaration], None]

_ANSWERS = {topology.QUEUE_DECLARE: "sll"}


class DeclaringChannel:
    """What kombu's entities call a channel, as far as declaring goes."""

    def __init__(self, carry_out: CarryOut, record: Record) -> None:
        self._carry_out = carry_out
        self._record = record
        self._named_by_broker = ""

    def _do(self, declaration: Declaration) -> list[Any]:
        answer = self._carry_out(declaration)
        values = codec.read_arguments(_ANSWERS.get(declaration.method, ""), answer.arguments)
        if declaration.method == topology.QUEUE_DECLARE and not declaration.queue:
            self._named_by_broker = values[0]
            declaration = replace(declaration, queue=values[0])
        is_named_by_broker = bool(declaration.queue) and declaration.queue == self._named_by_broker
        self._record(replace(declaration, is_named_by_broker=is_named_by_broker))
        return values

    def exchange_declare(
        self,
        exchange: str,
        type: str,  # noqa: A002  (kombu's name)
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
        internal: bool = False,
    ) -> None:
        self._do(
            topology.declare_exchange(
                exchange,
                type,
                passive=passive,
                durable=durable,
                auto_delete=auto_delete,
                internal=internal,
                arguments=arguments or {},
            )
        )

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> tuple[str, int, int]:
        name, messages, consumers = self._do(
            topology.declare_queue(
                queue,
                passive=passive,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                arguments=arguments or {},
            )
        )
        return name, messages, consumers

    def queue_bind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self._do(topology.bind_queue(queue, exchange, routing_key, arguments or {}))

    def prepare_queue_arguments(self, arguments: dict[str, Any] | None, **options: Any) -> dict[str, Any]:
        prepared: dict[str, Any] = to_rabbitmq_queue_arguments(arguments or {}, **options)
        return prepared


def is_exclusive(entity: object) -> bool:
    """True for a queue that belongs to the connection which declares it."""
    return isinstance(entity, Queue) and bool(entity.exclusive)


def declare(entity: object, carry_out: CarryOut, record: Record) -> str:
    """Declare a kombu Exchange or Queue with all that belongs to it; gives its name (the broker's, if it chose one).

    `record` gets each declaration that was accepted. Raises: `ConfigurationError` for anything else, and what
    `carry_out` raises.
    """
    if not isinstance(entity, (Exchange, Queue)):
        raise ConfigurationError(f"declare: expected a kombu Exchange or Queue, not {type(entity).__name__}")
    channel: Any = DeclaringChannel(carry_out, record)
    bound = entity(channel)
    try:
        bound.declare()
    except codec.UnencodableValue as exc:
        raise ConfigurationError(f"declare: {entity!r}: {exc}") from exc
    return str(bound.name)
