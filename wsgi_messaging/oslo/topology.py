"""kombu's entities for a topic exchange of oslo.messaging and the queues bound to it, for `Transport.declare`.

Layer 4: imports kombu (late), rpc.flags.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from ..rpc.flags import QueueFlags


def _kombu() -> Any:
    """kombu's entities: at first use, for their import takes longer than that of this package; without annotations."""
    return importlib.import_module("kombu.entity")


def topic_exchange(name: str, flags: QueueFlags) -> Any:
    """The exchange that the queues of a topic are bound to."""
    return _kombu().Exchange(name, "topic", durable=flags.durable or flags.quorum, auto_delete=flags.auto_delete)


def topic_queue(name: str, exchange: Any, routing_keys: Sequence[str], flags: QueueFlags) -> Any:
    """A queue bound to the exchange by each of the keys; declaring it declares the exchange first."""
    options = {
        "durable": flags.durable or flags.quorum,
        "auto_delete": flags.auto_delete,
        "queue_arguments": _queue_arguments(flags),
    }
    if len(routing_keys) == 1:
        return _kombu().Queue(name, exchange, routing_keys[0], **options)
    return _kombu().Queue(name, bindings=[_kombu().binding(exchange, key) for key in routing_keys], **options)


def _queue_arguments(flags: QueueFlags) -> dict[str, Any]:
    arguments: dict[str, Any] = {"x-queue-type": "quorum"} if flags.quorum else {}
    if flags.delivery_limit:
        arguments["x-delivery-limit"] = flags.delivery_limit
    return {**arguments, **flags.arguments}


def private_queue(name: str, exchange: Any, routing_keys: Sequence[str]) -> Any:
    """A queue of this connection alone, which gets copies and goes with it."""
    bindings = [_kombu().binding(exchange, key) for key in routing_keys]
    return _kombu().Queue(name, bindings=bindings, durable=False, exclusive=True, auto_delete=True)
