"""The wire format of oslo.messaging: envelope, request, reply. Bytes and values, no network.

The body of a message is JSON in JSON: `{"oslo.version": "2.0", "oslo.message": "<JSON text>"}`; the AMQP properties
are the same on every message but for the expiration of a call. What comes in is hostile until proven otherwise:
everything that is not as it should be is a `MalformedMessage`, and nothing else is raised.

`_wsgi_messaging_deadline`, the point in time at which a caller gives up (seconds since 1970), is ours. It stands
beside the other keys and not among `_context_*`, because oslo.messaging's server hands the context to the
application, and some build objects of it key by key; a key of the message that it does not know it passes over.

Layer 4.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import inspect
import ipaddress
import itertools
import json
import sys
import uuid
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ..connection import codec
from ..errors import InvalidMessage

VERSION = "2.0"
CONTENT_TYPE = "application/json"
DEADLINE = "_wsgi_messaging_deadline"

_ENVELOPE = ("oslo.version", "oslo.message")
_TYPED = b'"__type__"'
_CONTEXT = "_context_"
_ENCODINGS = frozenset({"utf-8", "utf8", "us-ascii", "binary"})
"""`binary` is what kombu calls a body that was given to it as bytes: JSON that its sender has encoded itself."""
_COMPRESSED = ("application/x-gzip", "application/gzip")
_USUAL = 64
"""Octets of a property list that is worth to be kept for the next message."""
_LONGEST_ID = 255
"""Octets of the longest name of a queue; ids are 32."""

Json = dict[str, Any]


class MalformedMessage(ValueError):
    """Not a message of this format; the text says what is wrong."""


# Properties.


@functools.lru_cache(maxsize=256)
def header(expiration_ms: int | None = None, *, persistent: bool = True) -> bytes:
    """The content header's property list: oslo.messaging's, with the expiration of a call."""
    return codec.properties(
        {
            "content_type": CONTENT_TYPE,
            "content_encoding": "utf-8",
            "headers": {},
            "delivery_mode": 2 if persistent else 1,
            "priority": 0,
            "expiration": None if expiration_ms is None else str(expiration_ms),
        }
    )


_DECODER = json.JSONDecoder()


def opened(raw_header: bytes, body: bytes, max_bytes: int) -> tuple[Json, float | None]:
    """The inner message, and the seconds that it was good for when it was sent, if it says so: the property
    `expiration`, which the broker counts down, not we.

    `max_bytes` bounds a compressed body's size. Raises: `MalformedMessage`.
    """
    # Most property lists are like those of many other messages: they differ by the expiration only.
    headers, expires_after = (_known if len(raw_header) <= _USUAL else _checked_properties)(raw_header)
    if headers:
        body = _plain_body(headers, body, max_bytes)
    return _inner(body), expires_after


def read(raw_header: bytes, body: bytes, max_bytes: int) -> Json:
    """The inner message alone; else as `opened`."""
    return opened(raw_header, body, max_bytes)[0]


def with_kombus_types(body: bytes, inner: Json) -> Json:
    """The inner message; where the body has no envelope, with the dates and the like that it may hold in kombu's
    notation, which oslo.messaging's notification driver `messaging` writes. Raises: `MalformedMessage`.
    """
    if _TYPED not in body:
        return inner
    from kombu.utils import json as kombu_json  # only these need it

    try:
        typed: Any = kombu_json.loads(body.decode())  # type: ignore[no-untyped-call]
    except Exception as exc:  # kombu's decoders may raise anything for a value that is none of theirs
        raise MalformedMessage(f"not kombu's JSON: {exc}") from exc
    is_bare = isinstance(typed, dict) and not all(key in typed for key in _ENVELOPE)
    return typed if is_bare else inner


def _seconds(expiration: str | None) -> float | None:
    is_number = expiration is not None and expiration.isascii() and expiration.isdigit() and len(expiration) < 13
    return int(expiration) / 1000 if is_number and expiration else None


def _inner(body: bytes) -> Json:
    outer = _parsed(body)
    if not isinstance(outer, dict):
        raise MalformedMessage(f"the body is a JSON {type(outer).__name__} and not an object")
    if "oslo.version" not in outer or "oslo.message" not in outer:
        return outer
    if outer["oslo.version"] != VERSION:
        raise MalformedMessage(f"envelope version {outer['oslo.version']!r:.40}; this is {VERSION}")
    text = outer["oslo.message"]
    inner = _parsed(text) if isinstance(text, str) else text
    if not isinstance(inner, dict):
        raise MalformedMessage(f"the inner message is a JSON {type(inner).__name__} and not an object")
    return inner


def _checked_properties(raw_header: bytes) -> tuple[Json, float | None]:
    """The headers, not to be changed, and the expiration."""
    try:
        properties = codec.read_properties(raw_header)
    except codec.MalformedValue as exc:
        raise MalformedMessage(f"{exc}") from exc
    if properties.get("content_type") != CONTENT_TYPE:
        raise MalformedMessage(f"content_type {properties.get('content_type')!r:.60}; expected {CONTENT_TYPE}")
    encoding = properties.get("content_encoding") or "utf-8"
    if encoding.lower() not in _ENCODINGS:
        raise MalformedMessage(f"content_encoding {encoding!r:.60}; expected utf-8")
    return properties.get("headers") or {}, _seconds(properties.get("expiration"))


_known = functools.lru_cache(maxsize=256)(_checked_properties)


def _plain_body(headers: Json, body: bytes, max_bytes: int) -> bytes:
    compression = headers.get("compression")
    if compression is None:
        return body
    if compression not in _COMPRESSED:
        raise MalformedMessage(f"compression {compression!r:.60} is not known")
    return _inflated(body, max_bytes)


def _inflated(body: bytes, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(body, max_bytes)
    except zlib.error as exc:
        raise MalformedMessage(f"compressed body: {exc}") from exc
    if not inflater.eof:
        raise MalformedMessage(f"the compressed body is cut short, or larger than {max_bytes} bytes")
    return plain


def _parsed(text: str | bytes) -> Any:
    try:
        if not isinstance(text, str):
            text = text.decode()
        if text.startswith("{"):  # as nearly all do: no look for white space around it
            value, end = _DECODER.raw_decode(text)
            if end == len(text):
                return value
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as exc:
        raise MalformedMessage(f"not JSON: {exc}") from exc


def wrap(inner: Json) -> bytes:
    """The body of a message. Raises: `InvalidMessage` for what JSON cannot hold."""
    try:
        text = _encode(inner)
    except Exception as exc:  # noqa: BLE001  (`primitive` runs code of the values)
        raise InvalidMessage(f"not JSON: {type(exc).__name__}: {exc}") from exc
    return f'{{"oslo.version": "{VERSION}", "oslo.message": {_quoted(text)}}}'.encode()


# Values.

_AS_TEXT = (uuid.UUID, decimal.Decimal, ipaddress.IPv4Address, ipaddress.IPv6Address)
_NOT_DATA: tuple[Callable[[Any], bool], ...] = (
    inspect.ismodule,
    inspect.isclass,
    inspect.isroutine,
    inspect.isgenerator,
    inspect.istraceback,
    inspect.isframe,
    inspect.iscode,
)


def primitive(value: Any) -> Any:
    """What stands for a value that JSON does not have, as oslo.serialization's `jsonutils` chooses it.

    Raises: `ValueError` for an object that it has no form for.
    """
    if isinstance(value, bytes):
        return value.decode()
    xmlrpc: Any = sys.modules.get("xmlrpc.client")
    if xmlrpc is not None and isinstance(value, xmlrpc.DateTime):
        value = datetime.datetime(*value.timetuple()[:6])
    if isinstance(value, datetime.datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.%f")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, Exception):
        return repr(value)
    is_text = isinstance(value, (*_AS_TEXT, itertools.count)) or type(value).__module__.startswith("netaddr.")
    if is_text or any(test(value) for test in _NOT_DATA):
        return str(value)
    if hasattr(value, "items"):
        return dict(value.items())
    if hasattr(value, "__iter__") and not hasattr(value, "read"):
        return list(value)
    raise ValueError(f"no JSON form for {type(value).__name__}: {value!r:.100}")


_encode = json.JSONEncoder(default=primitive).encode
_quoted = json.JSONEncoder().encode


# Requests.


class Request(NamedTuple):
    """A request as it came: `method` and `args` are still whatever the peer sent."""

    method: Any
    args: Any
    namespace: str | None = None
    version: str | None = "1.0"
    context: Mapping[str, Any] = MappingProxyType({})
    msg_id: str | None = None
    reply_to: str | None = None
    beat_every: float | None = None
    """Seconds between the signs of life that the caller has asked for."""
    unique_id: str | None = None
    expires_at: float | None = None
    """When the caller gives up, by the wall clock; ours say so."""
    expires_after: float | None = None
    """Seconds after sending at which the caller gives up; a call of oslo.messaging has only this."""

    @property
    def is_call(self) -> bool:
        """True when somebody waits for a reply."""
        return self.msg_id is not None and self.reply_to is not None


def request(
    method: str,
    args: Json,
    context: Any,
    *,
    unique_id: str,
    namespace: str | None = None,
    version: str | None = None,
    call: Json | None = None,
) -> bytes:
    """The body of a request; `call` is what `call_keys` gives. Raises: `InvalidMessage`."""
    inner: Json = {"method": method, "args": args}
    if namespace is not None:
        inner["namespace"] = namespace
    if version is not None:
        inner["version"] = version
    if call is not None:
        inner.update(call)
    inner["_unique_id"] = unique_id
    for name, value in context_items(context).items():
        inner[_CONTEXT + str(name)] = value
    return wrap(inner)


def call_keys(msg_id: str, reply_to: str, monitor: float | None, expires_at: float) -> Json:
    """The keys that only a call has; `_timeout` is that of the call monitor, not the call's."""
    return {"_msg_id": msg_id, "_reply_q": reply_to, "_timeout": monitor, DEADLINE: expires_at}


def context_items(context: Any) -> Mapping[str, Any]:
    """A context as a mapping: one itself, or an object that offers `to_dict()`. Raises: `InvalidMessage`."""
    if context is None:
        return {}
    if isinstance(context, (dict, Mapping)):
        return context
    to_dict = getattr(context, "to_dict", None)
    if to_dict is None:
        raise InvalidMessage(f"context: {type(context).__name__} is neither a mapping nor has it to_dict()")
    items: Mapping[str, Any] = to_dict()
    return items


def read_context(inner: Json) -> Json:
    """The context of a message."""
    return {name[len(_CONTEXT) :]: value for name, value in inner.items() if name.startswith(_CONTEXT)}


def read_request(inner: Json, expires_after: float | None = None) -> Request:
    """A request of an inner message. Never raises: what is wrong with the method shows when it is dispatched."""
    expires_at = inner.get(DEADLINE)
    return Request(
        method=inner.get("method"),
        args=inner.get("args", {}),
        namespace=inner.get("namespace"),
        version=inner.get("version", "1.0"),
        context=read_context(inner),
        msg_id=_identifier(inner.get("_msg_id")),
        reply_to=_identifier(inner.get("_reply_q")),
        beat_every=_beat_every(inner.get("_timeout")),
        unique_id=_identifier(inner.get("_unique_id")),
        expires_at=expires_at if isinstance(expires_at, (int, float)) and 0 < expires_at < 2**53 else None,
        expires_after=expires_after,
    )


def _identifier(value: Any) -> str | None:
    if not isinstance(value, str) or not value.isprintable():
        return None
    size = len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
    return value if 0 < size <= _LONGEST_ID else None


def _beat_every(monitor: Any) -> float | None:
    """Half of what the caller tolerates; None where it asked for none, or for less than once in a second."""
    try:
        every = int(monitor or 0) / 2
    except (TypeError, ValueError, OverflowError):
        return None
    return min(every, 86400.0) if every >= 1 else None


# Replies.


class Reply(NamedTuple):
    """A reply, or a sign of life: one with neither result nor failure nor end."""

    msg_id: str
    result: Any = None
    failure: str | None = None
    is_last: bool = True


def reply(msg_id: str, unique_id: str, result: Any, failure: str | None = None, *, is_last: bool = True) -> bytes:
    """The body of a reply. Raises: `InvalidMessage`."""
    return wrap({"result": result, "failure": failure, "ending": is_last, "_msg_id": msg_id, "_unique_id": unique_id})


def read_reply(inner: Json) -> Reply:
    """A reply of an inner message. Raises: `MalformedMessage`."""
    msg_id = _identifier(inner.get("_msg_id"))
    if msg_id is None:
        raise MalformedMessage("a reply without _msg_id")
    failure = inner.get("failure")
    if failure is not None and not isinstance(failure, str):
        raise MalformedMessage(f"failure is a JSON {type(failure).__name__} and not a text")
    return Reply(msg_id, inner.get("result"), failure, bool(inner.get("ending", False)))
