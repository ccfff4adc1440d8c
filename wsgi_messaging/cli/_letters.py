"""Dead letters: where a message died and why, and what it was before; from its x-death header.

Which death counts is the first one: a message that has been through a retry queue has died there, too. Source:
https://www.rabbitmq.com/docs/dlx ("Dead-Lettered Effects on Messages").

Layer 5: imports connection.codec, the conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..connection import codec
from ._conversation import Fetched, Parcel

REPLAYS = "x-replays"
"""Header of ours: how often the message was replayed."""
_OF_THE_BROKER = ("x-death", "x-delivery-count", "x-acquired-count", "CC", "BCC")
_NOT_TEXT = "\ufffd"
"""What stands for octets that are no UTF-8 in what was decoded."""
_OF_DEATHS = ("x-first-death-", "x-last-death-")


@dataclass(frozen=True, slots=True)
class Death:
    """What the first x-death entry says."""

    queue: str
    reason: str
    exchange: str
    routing_keys: tuple[str, ...]
    count: int
    time: object


def first_death(message: Fetched) -> Death | None:
    """Where the message died first; None when it has no such history, or one that makes no sense."""
    headers = _headers(message)
    deaths = headers.get("x-death")
    if not isinstance(deaths, list):
        return None
    entries = [each for each in deaths if isinstance(each, dict) and _has_keys(each)]
    if not entries:
        return None
    queue, reason = headers.get("x-first-death-queue"), headers.get("x-first-death-reason")
    named = [each for each in entries if each.get("queue") == queue and each.get("reason") == reason]
    entry = (named or entries)[-1]  # new entries are put in front
    count = entry.get("count")
    return Death(
        queue=str(entry.get("queue", "")),
        reason=str(entry.get("reason", "")),
        exchange=str(entry.get("exchange", "")),
        routing_keys=tuple(str(key) for key in entry["routing-keys"]),
        count=count if isinstance(count, int) else 1,
        time=entry.get("time"),
    )


def _has_keys(entry: Mapping[str, Any]) -> bool:
    keys = entry.get("routing-keys")
    return isinstance(keys, list) and bool(keys)


def delivery_count(message: Fetched) -> int:
    """How often it was delivered before, where the queue counts that: a quorum queue, to give up at its limit."""
    count = _headers(message).get("x-delivery-count")
    return count if type(count) is int else 0


def replayed(message: Fetched, death: Death, user: str, *, to_queue: bool) -> Parcel:
    """The message as it was before it died, with a count of its replays.

    What the broker added is taken out: an old delivery count would make a consumer give the message up at once. A
    user-id that is not ours would be refused, so it goes. An expiration does not come back: the broker had taken it
    out when it dead-lettered the message. All else is as it was, octet for octet.

    Raises: codec.UnencodableValue.
    """
    properties = codec.read_properties(message.header, split=True)
    headers: dict[str, Any] = {
        name: field
        for name, field in (properties.get("headers") or {}).items()
        if name not in _OF_THE_BROKER and not name.startswith(_OF_DEATHS)
    }
    before = _headers(message).get(REPLAYS)
    headers[REPLAYS] = (before if isinstance(before, int) else 0) + 1
    exchange, routing_key, *copies = ("", death.queue) if to_queue else (death.exchange, *death.routing_keys)
    for name in (exchange, routing_key, *copies):
        codec.shortstr(name)
        if _NOT_TEXT in name:
            raise codec.UnencodableValue(f"its route is no UTF-8: {name!r}")
    if copies:
        headers["CC"] = copies
    properties["headers"] = headers
    if properties.get("user_id") not in (None, user):
        del properties["user_id"]
    return Parcel(exchange, routing_key, codec.properties(properties), message.body)


def _headers(message: Fetched) -> Mapping[str, Any]:
    return message.properties.get("headers") or {}
