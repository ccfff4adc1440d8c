"""One notification: its fields, and its inner message as oslo.messaging writes and reads it.

Both formats are made here: "2.0" in an envelope, "1.0" without. What comes in is hostile until proven otherwise:
everything that is not as it should be is a `MalformedMessage`, and nothing else is raised.

Layer 4: imports connection.codec, errors, oslo.envelope.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ..connection import codec
from ..errors import InvalidMessage
from ..oslo import envelope
from ..oslo.envelope import Json, MalformedMessage
from ..runtime.ids import new_id

PRIORITIES = ("audit", "debug", "info", "warn", "error", "critical", "sample")
"""As they stand in routing keys and in the names of endpoints' methods; on the wire they are in upper case."""

_CONTEXT = "_context_"


def new_message(publisher_id: str | None, event_type: str, priority: str, payload: Any) -> Json:
    """The fields of a new notification, in the order in which oslo.messaging sends them."""
    return {
        "message_id": str(uuid.uuid4()),
        "publisher_id": publisher_id,
        "event_type": event_type,
        "priority": priority.upper(),
        "payload": payload,
        "timestamp": str(datetime.now(timezone.utc).replace(tzinfo=None)),
    }


def body_of(message: Json, context: Any, version: str, trace: Mapping[str, str]) -> str:
    """The body of a message, under a `_unique_id` of its own; `trace` goes among its context.

    Raises: `InvalidMessage` for what JSON cannot hold.
    """
    inner = {**message, "_unique_id": new_id()}
    for name, value in {**envelope.context_items(context), **trace}.items():
        inner[_CONTEXT + str(name)] = value
    if version == envelope.VERSION:
        return envelope.wrap(inner).decode()
    try:
        return json.dumps(inner, default=envelope.primitive)
    except Exception as exc:  # noqa: BLE001  (`primitive` runs code of the values)
        raise InvalidMessage(f"not JSON: {type(exc).__name__}: {exc}") from exc


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification as it came, its context and payload not yet deserialized."""

    priority: str
    """In lower case; anything, where the sender is no notifier."""
    context: Json
    publisher_id: Any
    event_type: Any
    payload: Any
    metadata: Json
    unique_id: str | None


def read(properties: Mapping[str, Any], body: bytes, max_bytes: int) -> Notification:
    """The notification in a message; `max_bytes` bounds a compressed one's plain body. Raises: `MalformedMessage`."""
    known = {name: properties.get(name) for name in ("content_type", "content_encoding", "headers")}
    try:
        inner = envelope.with_kombus_types(body, envelope.read(codec.properties(known), body, max_bytes))
    except codec.UnencodableValue as exc:
        raise MalformedMessage(f"headers: {exc}") from exc
    priority, unique_id = inner.get("priority"), inner.get("_unique_id")
    if not isinstance(priority, str):
        raise MalformedMessage(f"priority {priority!r:.40} is not a text")
    return Notification(
        priority=priority.lower(),
        context=envelope.read_context(inner),
        publisher_id=inner.get("publisher_id"),
        event_type=inner.get("event_type"),
        payload=inner.get("payload"),
        metadata={"message_id": inner.get("message_id"), "timestamp": inner.get("timestamp")},
        unique_id=unique_id if isinstance(unique_id, str) else None,
    )
