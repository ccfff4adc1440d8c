"""What a server declares for its topic, with the flags that the other servers of the topic use.

Queues T and T.S and the two exchanges are shared with oslo.messaging's servers of the same topic, so their flags must
be equal, or the broker answers 406. The defaults are oslo.messaging's own. RabbitMQ refuses transient shared queues
by default from 4.3 on: there all servers of a topic need `durable` or `quorum`. The fanout queue is a server's own;
it is durable with `x-expires`, which every RabbitMQ takes.

Layer 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..connection import codec
from ..connection.topology import Declaration, bind_queue, declare_exchange, declare_queue
from ..errors import ConfigurationError, DeclarationRefused
from .target import Target

EXPIRES_MS = 1_800_000
"""How long the broker keeps the queues of a server, or a client, that has vanished; oslo.messaging's default."""

_MISMATCH = re.compile(
    r"inequivalent arg '(?P<flag>[^']+)' for (?P<kind>\w+) '(?P<name>[^']*)'.*?"
    r"received (?P<ours>.+?) but current is (?P<theirs>.+)"
)
_SETTINGS = {
    "durable": "durable (amqp_durable_queues of oslo.messaging), or quorum (rabbit_quorum_queue)",
    "auto_delete": "auto_delete (amqp_auto_delete of oslo.messaging)",
    "x-queue-type": "quorum (rabbit_quorum_queue of oslo.messaging)",
    "x-delivery-limit": "delivery_limit (rabbit_quorum_delivery_limit of oslo.messaging)",
}


@dataclass(frozen=True, slots=True)
class QueueFlags:
    """The flags of a topic's queues and exchanges, each named after the option of oslo.messaging that sets it."""

    durable: bool = False
    """amqp_durable_queues: the exchange and the queues survive a restart of the broker."""
    auto_delete: bool = False
    """amqp_auto_delete: they go with their last consumer."""
    quorum: bool = False
    """rabbit_quorum_queue: replicated queues; durable, too."""
    delivery_limit: int = 0
    """rabbit_quorum_delivery_limit: how often a quorum queue delivers a message; 0 for no limit of its own."""
    transient_quorum: bool = False
    """rabbit_transient_quorum_queue: the fanout exchange is durable and the fanout queue replicated."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """More arguments for the topic's queues, such as `x-max-length`."""

    def __post_init__(self) -> None:
        if self.quorum and self.auto_delete:
            raise ConfigurationError("auto_delete: a quorum queue cannot have it")
        if self.delivery_limit and not self.quorum:
            raise ConfigurationError("delivery_limit: only a quorum queue has one")

    def declarations(self, target: Target, fanout_queue: str) -> list[Declaration]:
        """Everything that a server of the target needs, in the order in which it is declared.

        Raises: `ConfigurationError` for what AMQP cannot carry: a name beyond 255 octets, an argument of another type.
        """
        try:
            return self._declarations(target, fanout_queue)
        except codec.UnencodableValue as exc:
            raise ConfigurationError(f"target or flags: {exc}") from exc

    def _declarations(self, target: Target, fanout_queue: str) -> list[Declaration]:
        topic, exchange = str(target.topic), target.exchange_name
        is_durable = self.durable or self.quorum
        made = [_exchange(exchange, "topic", durable=is_durable, auto_delete=self.auto_delete)]
        for queue in (topic, f"{topic}.{target.server}"):
            made += [
                declare_queue(
                    queue,
                    passive=False,
                    durable=is_durable,
                    exclusive=False,
                    auto_delete=self.auto_delete,
                    arguments=self._queue_arguments(),
                ),
                bind_queue(queue, exchange, queue, {}),
            ]
        return made + [
            _exchange(target.fanout_exchange, "fanout", durable=self.transient_quorum, auto_delete=True),
            declare_queue(
                fanout_queue,
                passive=False,
                durable=True,
                exclusive=False,
                auto_delete=False,
                arguments={
                    **({"x-queue-type": "quorum"} if self.transient_quorum else {}),
                    "x-expires": EXPIRES_MS,
                },
            ),
            bind_queue(fanout_queue, target.fanout_exchange, topic, {}),
        ]

    def _queue_arguments(self) -> dict[str, object]:
        arguments: dict[str, object] = {"x-queue-type": "quorum"} if self.quorum else {}
        if self.delivery_limit:
            arguments["x-delivery-limit"] = self.delivery_limit
        return {**arguments, **self.arguments}


def _exchange(name: str, kind: str, *, durable: bool, auto_delete: bool) -> Declaration:
    return declare_exchange(
        name, kind, passive=False, durable=durable, auto_delete=auto_delete, internal=False, arguments={}
    )


def explained(refusal: DeclarationRefused) -> DeclarationRefused:
    """The refusal with what to set, where another server has declared the same thing with other flags."""
    found = _MISMATCH.search(str(refusal))
    if refusal.reply_code != 406 or found is None:
        return refusal
    flag = found["flag"]
    if flag == "type":
        advice = f"exchange {found['name']!r} is not one for RPC; choose another name"
    else:
        setting = _SETTINGS.get(flag, f"arguments={{{flag!r}: ...}}")
        advice = (
            f"the servers of a topic must agree: the {found['kind']} {found['name']!r} was declared with "
            f"{flag} {found['theirs']}, this server asks for {found['ours']}; set flags=QueueFlags(...): {setting}; "
            f"or delete the {found['kind']} when nobody uses it"
        )
    return DeclarationRefused(f"{refusal}: {advice}", reply_code=406)
