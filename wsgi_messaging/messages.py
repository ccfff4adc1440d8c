"""A message as the application gives it, and its wire form.

Bytes go as they are, text as UTF-8, everything else as JSON, strictly: what JSON does not have (a date, a set, NaN)
is an `InvalidMessage` and not a guess.

Layer 3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from struct import error as struct_error
from typing import Any

from .connection import codec
from .errors import InvalidMessage

JSON = "application/json"

_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode

UNENCODABLE = (ValueError, TypeError, AttributeError, ArithmeticError, struct_error)
"""What a value of the wrong kind raises on its way to the wire."""

_OTHER_PROPERTIES = ("content_encoding", "timestamp", "type", "user_id", "app_id")
"""Basic properties that have no argument of their own."""


@dataclass(slots=True, kw_only=True)
class Message:
    """One message for `Transport.publish_many`; the fields are the arguments of `Transport.publish`."""

    body: Any
    routing_key: str
    exchange: str = ""
    headers: Mapping[str, Any] | None = None
    content_type: str | None = None
    persistent: bool = True
    mandatory: bool = True
    expiration: float | None = None
    priority: int | None = None
    message_id: str | None = None
    """None for one of ours, the empty string for none at all."""
    correlation_id: str | None = None
    reply_to: str | None = None
    retry: int | None = None
    properties: Mapping[str, Any] | None = None

    def encoded(self, message_id: str) -> tuple[bytes, bytes]:
        """The content header's properties and the body. Raises: `InvalidMessage`."""
        properties = self.properties or {}
        for name in properties:
            if name not in _OTHER_PROPERTIES:
                raise InvalidMessage(f"properties: {name!r} is none of {', '.join(_OTHER_PROPERTIES)}")
        if self.retry is not None and type(self.retry) is not int:  # "0" of a configuration would have it sent again
            raise InvalidMessage(f"retry: {self.retry!r:.60} is not a whole number")
        body, content_type, encoding = encode_body(self.body, self.content_type)
        try:
            if self._is_plain():
                return codec.plain_properties(content_type, encoding, self.persistent, message_id), body
            header = codec.properties(
                {
                    **properties,
                    "content_type": content_type,
                    "content_encoding": properties.get("content_encoding", encoding),
                    "headers": self.headers,
                    "delivery_mode": 2 if self.persistent else 1,
                    "priority": self._checked_priority(),
                    "correlation_id": self.correlation_id,
                    "reply_to": self.reply_to,
                    "expiration": self._milliseconds(),
                    "message_id": message_id if self.message_id is None else self.message_id or None,
                }
            )
        except UNENCODABLE as exc:
            raise InvalidMessage(f"a property or header cannot be put on the wire: {exc}") from exc
        return header, body

    def _is_plain(self) -> bool:
        """True for what most messages are: nothing but a body, whose properties differ by their id only."""
        return (
            self.message_id is None
            and self.headers is None
            and self.priority is None
            and self.expiration is None
            and self.correlation_id is None
            and self.reply_to is None
            and not self.properties
        )

    def _checked_priority(self) -> int | None:
        if self.priority is not None and not _is_within("priority", self.priority, "a whole number", 255):
            raise InvalidMessage(f"priority: {self.priority!r} is not between 0 and 255")
        return self.priority

    def _milliseconds(self) -> str | None:
        if self.expiration is None:
            return None
        if not _is_within("expiration", self.expiration, "a number of seconds", (2**32 - 1) / 1000):
            raise InvalidMessage(f"expiration: {self.expiration!r} s is not between 0 and 49 days")
        return str(int(self.expiration * 1000))


def _is_within(name: str, value: float, kind: str, most: float) -> bool:
    try:
        return 0 <= value <= most
    except TypeError as exc:
        raise InvalidMessage(f"{name}: {value!r:.60} is not {kind}") from exc


def encode_body(body: Any, content_type: str | None) -> tuple[bytes, str, str | None]:
    """The body's bytes, its content type, its content encoding. Raises: `InvalidMessage`."""
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body), content_type or "application/octet-stream", None
    if isinstance(body, str):
        try:
            return body.encode(), content_type or "text/plain", "utf-8"
        except UnicodeEncodeError as exc:
            raise InvalidMessage(f"the body is not UTF-8: {exc}; give bytes") from exc
    if content_type not in (None, JSON):
        raise InvalidMessage(
            f"content_type {content_type!r} needs a body of bytes or text; this is {type(body).__name__}"
        )
    try:
        return _encode_json(body).encode(), JSON, "utf-8"
    except (*UNENCODABLE, RecursionError) as exc:
        raise InvalidMessage(f"the body is not JSON: {exc}; give bytes, text, or what JSON has") from exc
