"""A message's wire form."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import pytest

from wsgi_messaging.connection import codec
from wsgi_messaging.errors import InvalidMessage
from wsgi_messaging.messages import Message, encode_body


def encoded(**fields: Any) -> tuple[dict[str, Any], bytes]:
    header, body = Message(**{"body": b"", "routing_key": "key", **fields}).encoded("id-1")
    return codec.read_properties(header), body


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b"\xff", None, (b"\xff", "application/octet-stream", None)),
        (b"\xff", "image/png", (b"\xff", "image/png", None)),
        (bytearray(b"a"), None, (b"a", "application/octet-stream", None)),
        (memoryview(b"abcd")[::2], None, (b"ac", "application/octet-stream", None)),
        ("ü", None, ("ü".encode(), "text/plain", "utf-8")),
        ("{}", "application/json", (b"{}", "application/json", "utf-8")),
        ({"ü": 1}, None, ('{"ü": 1}'.encode(), "application/json", "utf-8")),
        ([], "application/json", (b"[]", "application/json", "utf-8")),
        (None, None, (b"null", "application/json", "utf-8")),
        (False, None, (b"false", "application/json", "utf-8")),
    ],
)
def test_bodies(body: Any, content_type: str | None, expected: tuple[bytes, str, str | None]) -> None:
    assert encode_body(body, content_type) == expected


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "body",
    [
        object(),
        {1, 2},
        datetime.date(2020, 1, 1),
        decimal.Decimal(1),
        uuid.uuid4(),
        float("nan"),
        float("inf"),
        CYCLE,
        "\ud800",
        ["\ud800"],
        {"x": b"bytes"},
        {(1, 2): 3},
    ],
    ids=lambda body: type(body).__name__,
)
def test_what_json_does_not_have_is_refused(body: Any) -> None:
    with pytest.raises(InvalidMessage, match="the body is not"):
        encode_body(body, None)


def test_another_content_type_needs_bytes_or_text() -> None:
    with pytest.raises(InvalidMessage, match="content_type 'text/xml' needs a body of bytes or text; this is dict"):
        encode_body({}, "text/xml")


def test_defaults() -> None:
    properties, body = encoded()
    assert properties == {"content_type": "application/octet-stream", "delivery_mode": 2, "message_id": "id-1"}
    assert body == b""


def test_everything() -> None:
    headers = {"a": 1, "b": [True, None, "x"]}
    properties, _body = encoded(
        body="text",
        headers=headers,
        content_type="text/x",
        persistent=False,
        expiration=1.5,
        priority=255,
        message_id="mine",
        correlation_id="c",
        reply_to="r",
        properties={"type": "t", "app_id": "a", "user_id": "u", "timestamp": 0, "content_encoding": "latin-1"},
    )
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    assert properties == {
        "content_type": "text/x",
        "content_encoding": "latin-1",
        "headers": headers,
        "delivery_mode": 1,
        "priority": 255,
        "correlation_id": "c",
        "reply_to": "r",
        "expiration": "1500",
        "message_id": "mine",
        "timestamp": epoch,
        "type": "t",
        "user_id": "u",
        "app_id": "a",
    }


def test_no_message_id_at_all() -> None:
    assert "message_id" not in encoded(message_id="")[0]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0"), (0.0005, "0"), (0.001, "1"), (1, "1000"), (86400.25, "86400250")]
)
def test_expiration_is_milliseconds_on_the_wire(seconds: float, text: str) -> None:
    assert encoded(expiration=seconds)[0]["expiration"] == text


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"priority": -1}, "priority"),
        ({"priority": 256}, "priority"),
        ({"expiration": -0.1}, "expiration"),
        ({"expiration": 2**32 / 1000}, "expiration"),
        ({"expiration": float("nan")}, "expiration"),
        ({"expiration": "60000"}, "expiration: '60000' is not a number of seconds"),
        ({"expiration": datetime.timedelta(minutes=1)}, "is not a number of seconds"),
        ({"priority": "high"}, "priority: 'high' is not a whole number"),
        ({"properties": {"tpye": "x"}}, "tpye"),
        ({"properties": {"headers": {}}}, "headers"),
        ({"headers": {"x": object()}}, "object"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        encoded(**fields)
    assert named in str(caught.value)


@pytest.mark.parametrize("name", ["content_type", "correlation_id", "reply_to", "message_id"])
@pytest.mark.parametrize("value", ["x" * 256, 7, b"bytes", "\ud800"])
def test_strings_that_do_not_fit(name: str, value: Any) -> None:
    with pytest.raises(InvalidMessage):
        encoded(**{name: value})


@pytest.mark.parametrize("priority", ["5", 1.5, b"1", [1]])
@pytest.mark.parametrize("expiration", [None, "5", [1]])
def test_wrong_kinds_are_invalid_messages(priority: Any, expiration: Any) -> None:
    with pytest.raises(InvalidMessage):
        encoded(priority=priority, expiration=expiration)


def test_a_message_is_frozen_and_takes_names_only() -> None:
    with pytest.raises(TypeError):
        Message(b"", "key")  # type: ignore[call-arg, misc]


def test_no_properties_may_be_said_by_none() -> None:
    assert encoded(properties=None) == encoded(properties={})
    assert encoded(properties=None, priority=1) == encoded(properties={}, priority=1)
