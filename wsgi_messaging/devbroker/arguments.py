"""The optional arguments of a queue: which there are, what they may be, and when two declarations differ.

Checks and words are those of RabbitMQ 3.10.8; an argument that RabbitMQ does not know is ignored by both.

Layer 5, part of the embedded broker: pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .refusals import Refusal, inequivalent, type_name

COMPARED = (
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-type",
    "x-single-active-consumer",
    "x-delivery-limit",
)
"""What a second declaration of a queue must repeat."""

LONGEST_MS = 10 * 365 * 24 * 60 * 60 * 1000
"""The longest time that RabbitMQ counts: ten years."""

_INTEGERS = (
    "x-expires",
    "x-message-ttl",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-delivery-limit",
)
_TEXTS = ("x-dead-letter-exchange", "x-dead-letter-routing-key", "x-overflow", "x-queue-mode", "x-queue-type")
_ONLY_CLASSIC = ("x-max-priority", "x-queue-mode")
_ONLY_QUORUM = ("x-delivery-limit", "x-dead-letter-strategy", "x-quorum-initial-group-size")


@dataclass(frozen=True)
class QueuePolicy:
    """What the arguments of a queue mean, in seconds and bytes; None is no limit."""

    expires: float | None = None
    message_ttl: float | None = None
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    max_priority: int = 0
    overflow: str = "drop-head"
    is_quorum: bool = False
    delivery_limit: int | None = None
    single_active_consumer: bool = False


def queue_policy(
    name: str, vhost: str, values: Mapping[str, Any], *, durable: bool, exclusive: bool, auto_delete: bool
) -> QueuePolicy:
    """The policy that the arguments ask for. Raises: `Refusal` 406 with RabbitMQ's words."""
    policy = _checked(name, vhost, values)
    if policy.is_quorum:
        for refused, label in (
            (not durable, "non-durable"),
            (exclusive, "exclusive-owner"),
            (auto_delete, "auto-delete"),
        ):
            if refused:
                raise Refusal(406, f"invalid property '{label}' for queue '{name}' in vhost '{vhost}'")
    return policy


def _checked(name: str, vhost: str, values: Mapping[str, Any]) -> QueuePolicy:
    where = f"queue '{name}' in vhost '{vhost}'"
    is_quorum = _queue_type(where, values) == "quorum"
    for argument in _ONLY_CLASSIC if is_quorum else _ONLY_QUORUM:
        if argument in values:
            kind = "rabbit_quorum_queue" if is_quorum else "rabbit_classic_queue"
            raise Refusal(406, f"invalid arg '{argument}' for {where} of queue type {kind}")
    numbers = {argument: _integer(where, argument, values) for argument in _INTEGERS}
    texts = {argument: _text(where, argument, values) for argument in _TEXTS}
    if texts["x-dead-letter-routing-key"] is not None and texts["x-dead-letter-exchange"] is None:
        raise _invalid(where, "x-dead-letter-routing-key", "routing_key_but_no_dlx_defined")
    if texts["x-overflow"] not in (None, "drop-head", "reject-publish", "reject-publish-dlx"):
        raise _invalid(where, "x-overflow", "invalid_overflow")
    if texts["x-queue-mode"] not in (None, "default", "lazy"):
        raise _invalid(where, "x-queue-mode", f"\"unsupported queue mode '{texts['x-queue-mode']}'\"")
    single = values.get("x-single-active-consumer", False)
    if not isinstance(single, bool):
        raise _invalid(where, "x-single-active-consumer", f"{{unacceptable_type,{type_name(single)}}}")
    return QueuePolicy(
        expires=_seconds(numbers["x-expires"]),
        message_ttl=_seconds(numbers["x-message-ttl"]),
        dead_letter_exchange=texts["x-dead-letter-exchange"],
        dead_letter_routing_key=texts["x-dead-letter-routing-key"],
        max_length=numbers["x-max-length"],
        max_bytes=numbers["x-max-length-bytes"],
        max_priority=numbers["x-max-priority"] or 0,
        overflow=texts["x-overflow"] or "drop-head",
        is_quorum=is_quorum,
        delivery_limit=numbers["x-delivery-limit"],
        single_active_consumer=single,
    )


def _queue_type(where: str, values: Mapping[str, Any]) -> str:
    kind = values.get("x-queue-type", "classic")
    if kind not in ("classic", "quorum"):
        raise _invalid(where, "x-queue-type", f"\"unsupported queue type '{kind}'\"")
    return str(kind)


def _integer(where: str, argument: str, values: Mapping[str, Any]) -> int | None:
    value = values.get(argument)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _invalid(where, argument, f'"expected integer, got {type_name(value)}"')
    if value < 0:
        raise _invalid(where, argument, f"{{value_negative,{value}}}")
    if value == 0 and argument == "x-expires":
        raise _invalid(where, argument, "{value_zero,0}")
    if value > 255 and argument == "x-max-priority":
        raise _invalid(where, argument, f"{{max_value_exceeded,{value}}}")
    if value > LONGEST_MS and argument in ("x-expires", "x-message-ttl"):
        raise _invalid(where, argument, f"{{value_too_large,{value}}}")
    return value


def consumer_priority(queue: str, vhost: str, values: Mapping[str, Any]) -> int:
    """What the arguments of a consumer say of its priority. Raises: `Refusal` 406."""
    value = values.get("x-priority", 0)
    if isinstance(value, bool) or not isinstance(value, int):
        where = f"queue '{queue}' in vhost '{vhost}'"
        raise _invalid(where, "x-priority", f'"expected integer, got {type_name(value)}"')
    return value


def _text(where: str, argument: str, values: Mapping[str, Any]) -> str | None:
    value = values.get(argument)
    if value is not None and not isinstance(value, str):
        raise Refusal(406, f"invalid type '{type_name(value)}' for arg '{argument}' in {where}")
    return value


def check_alternate(name: str, vhost: str, values: Mapping[str, Any]) -> None:
    """Raises: `Refusal` 406 if an exchange's alternate is no name."""
    _text(f"exchange '{name}' in vhost '{vhost}'", "alternate-exchange", values)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _invalid(where: str, argument: str, reason: str) -> Refusal:
    return Refusal(406, f"invalid arg '{argument}' for {where}: {reason}")


def check_expiration(text: str) -> None:
    """Raises: `Refusal` 406 if a message's `expiration` is no whole number of milliseconds."""
    digits = len(text) - len(text.lstrip("0123456789"))
    if digits and digits == len(text):
        if int(text) <= LONGEST_MS:
            return
        reason = f"{{value_too_large,{int(text)}}}"
    elif digits:
        reason = f'{{leftover_string,"{text[digits:]}"}}'
    elif text[:1] == "-" and text[1:].isdecimal():
        reason = f"{{value_negative,{text}}}"
    else:
        reason = "no_integer"
    raise Refusal(406, f"invalid expiration '{text}': {reason}")


def check_equivalent(
    kind: str,
    name: str,
    vhost: str,
    compared: tuple[str, ...],
    received: Mapping[str, Any],
    current: Mapping[str, Any],
) -> None:
    """Raises: `Refusal` 406 naming the first argument in which two declarations differ."""
    for argument in compared:
        if received.get(argument) != current.get(argument):
            raise inequivalent(argument, kind, name, vhost, received.get(argument), current.get(argument))
