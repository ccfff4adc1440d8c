"""The wire format, by bytes: what goes out, and that nothing that comes in can do more than be refused."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi_messaging.connection import codec
from wsgi_messaging.errors import InvalidMessage, RemoteError
from wsgi_messaging.oslo import envelope, failure
from wsgi_messaging.oslo.envelope import MalformedMessage

MOST = 10_000


def properties(**changes: Any) -> bytes:
    return codec.properties({"content_type": "application/json", "content_encoding": "utf-8", **changes})


# Properties and envelope


def test_the_properties_are_theirs() -> None:
    plain = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {},
        "delivery_mode": 2,
        "priority": 0,
    }
    assert codec.read_properties(envelope.header()) == plain
    assert codec.read_properties(envelope.header(10000)) == {**plain, "expiration": "10000"}


def test_the_body_is_json_in_json_to_the_byte() -> None:
    body = envelope.wrap({"method": "ż", "args": {"a": None}})
    assert body == (
        b'{"oslo.version": "2.0", "oslo.message": "{\\"method\\": \\"\\\\u017c\\", \\"args\\": {\\"a\\": null}}"}'
    )
    assert envelope.read(envelope.header(), body, MOST) == {"method": "ż", "args": {"a": None}}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_what_is_wrapped_is_read(value: Any) -> None:
    assert envelope.read(envelope.header(5), envelope.wrap({"value": value}), MOST) == {"value": value}


@pytest.mark.parametrize(
    "raw_header",
    [
        properties(),
        properties(content_encoding=None),
        properties(content_encoding="binary"),  # kombu's, for a body that it was given as bytes
        properties(content_encoding="UTF-8", priority=3, message_id="x", headers={"other": 1}),
    ],
)
def test_properties_that_a_peer_may_send(raw_header: bytes) -> None:
    assert envelope.read(raw_header, b'{"a": 1}', MOST) == {"a": 1}


@pytest.mark.parametrize(
    "raw_header",
    [
        b"",
        b"\xff\xff",
        properties(content_type=None),
        properties(content_type="text/plain"),
        properties(content_encoding="latin-1"),
        properties(headers={"compression": "application/x-unknown"}),
        properties(headers={"compression": ["application/x-gzip"]})[:-1],
    ],
)
def test_properties_that_are_refused(raw_header: bytes) -> None:
    with pytest.raises(MalformedMessage):
        envelope.read(raw_header, b'{"a": 1}', MOST)


def test_a_compressed_body() -> None:
    compressed = properties(headers={"compression": "application/x-gzip"})
    assert envelope.read(compressed, zlib.compress(b'{"a": 1}'), MOST) == {"a": 1}
    for body in (b"no zlib", zlib.compress(b'{"a": 1}')[:-3], zlib.compress(b'{"a": "' + b"x" * 10**6 + b'"}')):
        with pytest.raises(MalformedMessage):
            envelope.read(compressed, body, MOST)


@pytest.mark.parametrize(
    ("expiration", "seconds"), [("1500", 1.5), ("0", 0.0), ("-1", None), ("x", None), ("²", None), ("9" * 40, None)]
)
def test_the_expiration_is_read(expiration: str, seconds: float | None) -> None:
    assert envelope.opened(properties(expiration=expiration), b"{}", MOST)[1] == seconds


def test_a_bare_message_is_format_1() -> None:
    assert envelope.read(envelope.header(), b'{"method": "x", "oslo.version": "2.0"}', MOST)["method"] == "x"


@pytest.mark.parametrize("version", ["1.0", "2.1", "3.0", "2", 2.0, None, [], "2.0 "])
def test_every_other_version_is_refused(version: Any) -> None:
    with pytest.raises(MalformedMessage, match="version"):
        envelope.read(envelope.header(), json.dumps({"oslo.version": version, "oslo.message": "{}"}).encode(), MOST)


@given(st.binary(max_size=200), st.binary(max_size=60))
def test_no_bytes_do_more_than_be_refused(body: bytes, raw_header: bytes) -> None:
    for header in (raw_header, envelope.header()):
        try:
            inner = envelope.read(header, body, MOST)
        except MalformedMessage:
            continue
        envelope.read_request(inner)


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
_keys = st.sampled_from(
    ["method", "args", "version", "namespace", "_msg_id", "_reply_q", "_timeout", "_unique_id", envelope.DEADLINE]
    + ["result", "failure", "ending", "_context_a", "_context_"]
)


@given(st.dictionaries(_keys, _json))
def test_no_keys_do_more_than_be_refused(inner: dict[str, Any]) -> None:
    request = envelope.read_request(inner)
    for identifier in (request.msg_id, request.reply_to, request.unique_id):
        assert identifier is None or len(identifier.encode()) < 256
    assert request.beat_every is None or 1 <= request.beat_every <= 86400
    with contextlib.suppress(MalformedMessage):
        envelope.read_reply(inner)


# Requests and replies


def test_a_requests_keys_are_theirs_in_their_order() -> None:
    call = envelope.call_keys("m" * 32, "reply_q", None, 1.5)
    body = envelope.request("add", {"a": 1}, {"user": "alice"}, unique_id="u", version="1.0", namespace="n", call=call)
    inner = envelope.read(envelope.header(), body, MOST)
    assert list(inner) == [
        "method", "args", "namespace", "version", "_msg_id", "_reply_q", "_timeout", envelope.DEADLINE,
        "_unique_id", "_context_user",
    ]  # fmt: skip
    request = envelope.read_request(inner)
    assert (request.method, request.args, request.context) == ("add", {"a": 1}, {"user": "alice"})
    assert (request.msg_id, request.reply_to, request.unique_id) == ("m" * 32, "reply_q", "u")
    assert (request.expires_at, request.beat_every, request.is_call) == (1.5, None, True)


def test_a_casts_keys_are_theirs() -> None:
    inner = envelope.read(envelope.header(), envelope.request("m", {}, None, unique_id="u"), MOST)
    assert list(inner) == ["method", "args", "_unique_id"]
    assert not envelope.read_request(inner).is_call
    assert envelope.read_request(inner).version == "1.0"


def test_a_request_without_arguments_may_leave_them_out() -> None:
    """As with oslo.messaging's server; without it the method was refused with a TypeError."""
    assert envelope.read_request({"method": "m"}).args == {}
    assert envelope.read_request({"method": "m", "args": None}).args is None, "that is no object"


@pytest.mark.parametrize(
    ("monitor", "every"),
    [(None, None), (0, None), (1, None), (2, 1), (60, 30), ("4", 2), ("x", None), ([], None), (-5, None), (True, None)],
)
def test_how_often_a_caller_wants_to_hear(monitor: Any, every: float | None) -> None:
    assert envelope.read_request({"_timeout": monitor}).beat_every == every


class Context:
    def to_dict(self) -> dict[str, Any]:
        return {"user": "bob"}


def test_a_context_is_a_mapping_or_has_to_dict() -> None:
    assert envelope.context_items(Context()) == {"user": "bob"}
    assert envelope.context_items(None) == {}
    with pytest.raises(InvalidMessage, match="context"):
        envelope.context_items(5)


def test_a_reply_without_an_id_or_with_a_wrong_failure() -> None:
    for inner in ({}, {"_msg_id": 5}, {"_msg_id": "m", "failure": {}}):
        with pytest.raises(MalformedMessage):
            envelope.read_reply(inner)
    assert not envelope.read_reply({"_msg_id": "m", "failure": None}).is_last


# Failures


class Teapot(Exception):
    def __init__(self, text: str, color: str = "blue") -> None:
        super().__init__(text)
        self.kwargs = {"color": color}
        self.color = color


def raised(make: Callable[[], Exception]) -> Exception:
    try:
        raise make()
    except Exception as exc:  # noqa: BLE001  (whatever it is)
        return exc


def test_a_failures_keys_are_theirs() -> None:
    parts = json.loads(failure.encode(raised(lambda: Teapot("short", "red"))))
    assert list(parts) == ["class", "module", "message", "tb", "args", "kwargs"]
    assert (parts["class"], parts["module"], parts["message"]) == ("Teapot", __name__, "short")
    assert (parts["args"], parts["kwargs"]) == (["short"], {"color": "red"})
    assert parts["tb"][0] == "Traceback (most recent call last):\n"
    assert len(json.loads(failure.encode(Teapot("x"), with_traceback=False))["tb"]) == 1


class Guarded(Exception):
    @property
    def kwargs(self) -> dict[str, Any]:
        raise KeyError("no such argument")


def test_an_exception_whose_own_arguments_cannot_be_had_is_told_as_text() -> None:
    """Without it nobody replied: the caller waited its whole time, and with ack="late" the server was stuck."""
    parts = json.loads(failure.encode(raised(lambda: Guarded("closed"))))
    assert (parts["class"], parts["message"]) == ("Guarded", "closed")
    assert (parts["args"], parts["kwargs"]) == (["closed"], {})


def test_an_allowed_exception_is_built_again() -> None:
    text = failure.encode(raised(lambda: Teapot("short", "red")))
    built = failure.rebuild(text, [__name__])
    assert isinstance(built, Teapot)
    assert built.color == "red"
    assert type(built).__name__ == "Teapot_Remote"
    assert "Traceback" in str(built) and "short" in str(built)
    again = json.loads(failure.encode(built))
    assert (again["class"], again["module"]) == ("Teapot", __name__)


def test_a_builtin_exception_is_built_again_with_its_trace() -> None:
    built = failure.rebuild(failure.encode(raised(lambda: ValueError("wrong", 5))))
    assert type(built) is ValueError
    assert built.args[1] == 5
    assert "Traceback" in built.args[0]
    from_python_2 = json.dumps({"class": "KeyError", "module": "exceptions", "message": "k", "args": ["k"]})
    assert isinstance(failure.rebuild(from_python_2), KeyError)


@pytest.mark.parametrize(
    ("module", "name", "args"),
    [
        ("os", "system", ["true"]),
        ("builtins", "eval", ["1/0"]),
        ("builtins", "SystemExit", []),
        ("builtins", "KeyboardInterrupt", []),
        ("builtins", "dict", []),
        ("builtins", "NoSuchError", []),
        ("builtins", "UnicodeDecodeError", ["too few"]),
        ("subprocess", "CalledProcessError", [1, "x"]),
        ("no.such.module", "Error", []),
        (__name__ + ".sub", "Teapot", ["x"]),
    ],
)
def test_everything_else_is_a_remote_error(module: str, name: str, args: list[Any]) -> None:
    text = json.dumps({"class": name, "module": module, "message": "m", "tb": ["t"], "args": args, "kwargs": {}})
    built = failure.rebuild(text, ["no.such.module"])
    assert isinstance(built, RemoteError)
    assert (built.exc_type, built.value, built.traceback) == (name, "m", "t")


class Registered(Exception):
    """Has its subclasses say who they are."""

    def __init_subclass__(cls, *, code: int) -> None:
        super().__init_subclass__()


class Fixed(Exception):
    args = property(lambda self: ())  # type: ignore[assignment]


@pytest.mark.parametrize("kind", ["Registered", "Fixed"])
def test_an_exception_that_cannot_say_where_it_is_from_hides_nothing(kind: str) -> None:
    text = json.dumps({"class": kind, "module": __name__, "message": "m", "tb": ["t"], "args": [], "kwargs": {}})
    assert isinstance(failure.rebuild(text, [__name__]), Exception)


@given(st.text(max_size=50) | _json.map(json.dumps) | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("class", "module", "message", "tb", "args", "kwargs"), _json)
).map(json.dumps))  # fmt: skip
def test_no_failure_does_more_than_become_an_exception(text: str) -> None:
    assert isinstance(failure.rebuild(text, ["json"]), Exception)
