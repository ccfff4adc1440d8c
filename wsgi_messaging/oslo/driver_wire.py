"""Messages as the rabbit driver writes and reads them: its serialisation, its envelope, kombu's JSON around it.

Layer 5: imports oslo.messaging and kombu.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import uuid4

from kombu.utils import json as kombu_json
from oslo_messaging._drivers import common as oslo_common

from ..connection import codec
from ..connection.frames import Inbound
from . import envelope
from .envelope import Json

_CONTEXT = "_context_"


def new_id() -> str:
    """The hexadecimal digits of a uuid4."""
    return uuid4().hex


def pack(message: Mapping[str, Any], context: Any, **keys: Any) -> Json:
    """A copy of the message with the keys of the wire and the context in it."""
    items = (context if isinstance(context, dict) else context.to_dict()).items()
    return {**message, **keys, "_unique_id": new_id(), **{f"{_CONTEXT}{name}": value for name, value in items}}


def encoded(inner: Json, *, has_envelope: bool = True) -> bytes:
    """The body. Raises: what oslo.serialization and kombu raise for values that JSON does not have."""
    outer = oslo_common.serialize_msg(inner) if has_envelope else inner
    body: bytes = kombu_json.dumps(outer).encode()  # type: ignore[no-untyped-call]
    return body


@lru_cache(maxsize=256)
def header(expiration_ms: int | None, *, is_compressed: bool) -> bytes:
    """The property list of a message."""
    if not is_compressed:
        return envelope.header(expiration_ms)
    return codec.properties(
        {
            "content_type": envelope.CONTENT_TYPE,
            "content_encoding": "utf-8",
            "headers": {"compression": "application/x-gzip"},
            "delivery_mode": 2,
            "priority": 0,
            "expiration": None if expiration_ms is None else str(expiration_ms),
        }
    )


def compressed(body: bytes) -> bytes:
    """As kombu's `gzip`, which is zlib's format."""
    return zlib.compress(body)


class Incoming(NamedTuple):
    """A message out of its envelope: what the application gets, and what the driver keeps."""

    message: Json
    context: Json
    unique_id: str | None
    msg_id: str | None
    reply_to: str | None
    client_timeout: Any


def decoded(inbound: Inbound, max_bytes: int) -> Incoming:
    """What came. Raises: `MalformedMessage`."""
    if inbound.body is None:
        raise envelope.MalformedMessage(f"a body of {inbound.body_size} bytes is beyond max_message_bytes")
    inner = envelope.with_kombus_types(inbound.body, envelope.read(inbound.header, inbound.body, max_bytes))
    request = envelope.read_request(inner)
    client_timeout = inner.pop("_timeout", None)
    for name in ("_msg_id", "_reply_q", "_unique_id", envelope.DEADLINE):
        inner.pop(name, None)
    context = {name: inner.pop(name) for name in list(inner) if name.startswith(_CONTEXT)}
    context = {name.removeprefix(_CONTEXT): value for name, value in context.items()}
    return Incoming(inner, context, request.unique_id, request.msg_id, request.reply_to, client_timeout)


def remote_exception(failure: str, allowed: list[str]) -> Exception:
    """The exception of a failure reply, as the rabbit driver makes it. Never raises."""
    try:
        error: Exception = oslo_common.deserialize_remote_exception(failure, allowed)
    except Exception as exc:  # noqa: BLE001  (a constructor may raise anything for arguments from outside)
        error = oslo_common.oslo_messaging.RemoteError("unknown", f"{failure:.2000} ({exc!r})", [])
    return error
