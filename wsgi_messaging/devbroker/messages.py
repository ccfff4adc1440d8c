"""What the broker keeps of a message, and what dead-lettering adds to it.

The properties stay the bytes that the publisher sent and are taken apart only where the broker has to know
them: what it does not understand (text that is not UTF-8, headers nested too deep) passes through unharmed,
as it does through RabbitMQ, so that a consumer's robustness can be tested.

Layer 5, part of the embedded broker: imports `connection.codec` and the standard library.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from ..connection import codec

_FLAG = {name: 1 << (15 - position) for position, (name, _kind) in enumerate(codec.PROPERTIES)}


class Message:
    """One published message: immutable, shared by every queue that it is routed to."""

    __slots__ = ("_flags", "_properties", "body", "exchange", "header", "routing_keys")

    def __init__(self, exchange: str, routing_key: str, header: bytes, body: bytes) -> None:
        self.exchange = exchange
        self.routing_keys: tuple[str, ...] = (routing_key,)
        self.header = header
        self.body = body
        self._flags = header[0] << 8 | header[1] if len(header) > 1 else 0
        self._properties: dict[str, Any] | None = None

    @property
    def routing_key(self) -> str:
        return self.routing_keys[0]

    def has(self, name: str) -> bool:
        """True when the property was sent, whatever its value."""
        return bool(self._flags & _FLAG[name])

    @property
    def properties(self) -> dict[str, Any]:
        """The properties that could be read; empty for a message whose properties are malformed."""
        if self._properties is None:
            try:
                self._properties = codec.read_properties(self.header)
            except codec.MalformedValue:
                self._properties = {}
        return self._properties

    @property
    def headers(self) -> dict[str, Any]:
        headers: dict[str, Any] = self.properties.get("headers", {}) if self.has("headers") else {}
        return headers

    @property
    def priority(self) -> int:
        return int(self.properties.get("priority", 0)) if self.has("priority") else 0

    @property
    def is_persistent(self) -> bool:
        return self.has("delivery_mode") and self.properties.get("delivery_mode") == 2

    @property
    def expiration(self) -> float | None:
        """Seconds that the message may wait in a queue, or None."""
        text = self.properties.get("expiration") if self.has("expiration") else None
        return int(text) / 1000 if text and text.isdecimal() else None

    def with_headers(
        self, added: dict[str, Any], *, without: tuple[str, ...] = (), cut: tuple[str, ...] = ()
    ) -> Message:
        """A copy with these headers set, those properties and headers taken out; itself if it is malformed."""
        if not self.properties and self._flags:
            return self
        kept = {name: value for name, value in self.properties.items() if name not in without}
        kept["headers"] = {**{name: value for name, value in self.headers.items() if name not in cut}, **added}
        copy = Message(self.exchange, self.routing_key, codec.properties(kept), self.body)
        copy.routing_keys = self.routing_keys
        return copy

    def redirected(self, exchange: str, routing_keys: tuple[str, ...]) -> Message:
        """The same content, published again elsewhere."""
        copy = Message(exchange, routing_keys[0], self.header, self.body)
        copy.routing_keys = routing_keys
        copy._properties = self._properties
        return copy


def sender_selected(message: Message) -> Message:
    """The message with the routing keys of its CC and BCC headers added, BCC removed (RabbitMQ: sender-selected
    distribution). Raises: TypeError naming the header that is no array."""
    headers = message.headers
    extra: list[str] = []
    for name in ("CC", "BCC"):
        if not isinstance(headers.get(name, []), list):
            raise TypeError(name)
        extra += _copies(message, name)
    if "BCC" in headers:
        kept = {name: value for name, value in headers.items() if name != "BCC"}
        properties = {**message.properties, "headers": kept}
        message = Message(message.exchange, message.routing_key, codec.properties(properties), message.body)
    message.routing_keys = (message.routing_key, *extra)
    return message


def _copies(message: Message, name: str) -> list[str]:
    """The routing keys that a header names."""
    value = message.headers.get(name)
    return [key for key in value if isinstance(key, str)] if isinstance(value, list) else []


def dead_letter(
    message: Message, queue: str, reason: str, exchange: str, routing_key: str | None, wall_clock: float
) -> Message:
    """The message as it is published to the dead-letter exchange, with its `x-death` history.

    https://www.rabbitmq.com/docs/dlx: one entry per queue and reason, the latest first, with a count. The
    expiration is taken out and remembered, or the message would expire in the dead-letter queue too.
    """
    deaths: list[Any] = [entry for entry in _deaths(message) if not _is_of(entry, queue, reason)]
    same = [entry for entry in _deaths(message) if _is_of(entry, queue, reason)]
    entry = {
        "count": (same[0].get("count", 0) if same else 0) + 1,
        "reason": reason,
        "queue": queue,
        "time": datetime.fromtimestamp(int(wall_clock), tz=timezone.utc),
        "exchange": message.exchange,
        "routing-keys": [message.routing_key, *_copies(message, "CC")],
    }
    if message.expiration is not None:
        entry["original-expiration"] = message.properties["expiration"]
    added: dict[str, Any] = {"x-death": [entry, *deaths]}
    if "x-first-death-queue" not in message.headers:
        added |= {
            "x-first-death-exchange": message.exchange,
            "x-first-death-queue": queue,
            "x-first-death-reason": reason,
        }
    dead = message.with_headers(added, without=("expiration",), cut=() if routing_key is None else ("CC",))
    return dead.redirected(exchange, (routing_key,) if routing_key is not None else message.routing_keys)


def in_cycle(message: Message, queue: str) -> bool:
    """True when the message came to `queue` before and no consumer rejected it since: RabbitMQ drops it then."""
    for entry in _deaths(message):
        if not isinstance(entry, dict) or entry.get("reason") == "rejected":
            return False
        if entry.get("queue") == queue:
            return True
    return False


def _deaths(message: Message) -> list[Any]:
    deaths = message.headers.get("x-death", [])
    return deaths if isinstance(deaths, list) else []


def _is_of(entry: Any, queue: str, reason: str) -> bool:
    return isinstance(entry, dict) and entry.get("queue") == queue and entry.get("reason") == reason
