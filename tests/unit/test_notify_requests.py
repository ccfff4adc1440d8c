"""RequestNotifications: what oslo.messaging's RequestNotifier sends, and never at a request's expense."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import pytest

from wsgi_messaging import ConfigurationError, Unavailable
from wsgi_messaging.notify import Notifier, RequestNotifications
from wsgi_messaging.testing import MemoryTransport


@pytest.fixture
def transport() -> Iterator[MemoryTransport]:
    made = MemoryTransport()
    yield made
    made.close()


@pytest.fixture
def notifier(transport: MemoryTransport) -> Notifier:
    return Notifier(transport, "api", soon=True)


def environ(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"HTTP_HOST": "example.org", "HTTP_X_AUTH_TOKEN": "secret", "lower": 1, **changes}
    setup_testing_defaults(made)
    return made


def application(env: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    env["ADDED"] = "by the application"
    start_response("201 Created", [("Content-Type", "text/plain"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    return [b"body"]


class Started:
    """The server's start_response."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *arguments: Any) -> str:
        self.calls.append(arguments)
        return "write"


def told(transport: MemoryTransport, notifier: Notifier) -> list[tuple[str, dict[str, Any]]]:
    assert notifier.flush(5.0)
    inners = [json.loads(each.json()["oslo.message"]) for each in transport.published]
    assert all((inner["publisher_id"], inner["priority"]) == ("api", "INFO") for inner in inners)
    return [(inner["event_type"], inner["payload"]) for inner in inners]


def test_a_request_and_its_response(transport: MemoryTransport, notifier: Notifier) -> None:
    started = Started()
    given = environ()
    assert list(RequestNotifications(application, notifier)(given, started)) == [b"body"]
    assert len(started.calls) == 1
    (first, request), (second, response) = told(transport, notifier)
    assert (first, second) == ("http.request", "http.response")
    expected = {name: value for name, value in environ().items() if name.isupper() and name != "HTTP_X_AUTH_TOKEN"}
    expected["HTTP_X_SERVICE_NAME"] = "example.org"
    assert request == {"request": expected}
    assert response == {
        "request": {**expected, "ADDED": "by the application"},
        "response": {"status": "201 Created", "headers": {"Content-Type": "text/plain", "Set-Cookie": "b=2"}},
    }
    assert given["HTTP_X_SERVICE_NAME"] == "example.org"


def test_a_service_name_and_what_is_withheld(transport: MemoryTransport, notifier: Notifier) -> None:
    wrapped = RequestNotifications(
        application, notifier, service_name="images", withheld=["HTTP_COOKIE", "HTTP_X_AUTH_TOKEN"]
    )
    wrapped(environ(HTTP_COOKIE="session"), Started())
    for _event, payload in told(transport, notifier):
        assert payload["request"]["HTTP_X_SERVICE_NAME"] == "images"
        assert "HTTP_COOKIE" not in payload["request"]


def test_ignored_methods_pass_untouched(transport: MemoryTransport, notifier: Notifier) -> None:
    given = environ(REQUEST_METHOD="OPTIONS")
    RequestNotifications(application, notifier, ignored_methods=["options "])(given, Started())
    assert told(transport, notifier) == []
    assert "HTTP_X_SERVICE_NAME" not in given


def test_an_exception_is_told_and_raised(transport: MemoryTransport, notifier: Notifier) -> None:
    def failing(env: Any, start_response: Any) -> Iterable[bytes]:
        raise ValueError("boo")

    with pytest.raises(ValueError, match="boo"):
        RequestNotifications(failing, notifier)(environ(), Started())
    _request, (event, payload) = told(transport, notifier)
    assert event == "http.response"
    assert payload["exception"]["value"] == "ValueError('boo')"
    assert "in failing" in payload["exception"]["traceback"][-1]
    assert "response" not in payload


def test_the_iterable_is_the_applications_own(notifier: Notifier, tmp_path: Any) -> None:
    """Servers decide about sendfile by its type."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        wrapper = FileWrapper(file)

        def serving(env: Any, start_response: Any) -> Any:
            start_response("200 OK", [])
            return wrapper

        assert RequestNotifications(serving, notifier)(environ(), Started()) is wrapper


def test_a_generator_starts_its_response_late(transport: MemoryTransport, notifier: Notifier) -> None:
    def generating(env: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("X", "1")])
        yield b"a"

    iterable = RequestNotifications(generating, notifier)(environ(), Started())
    assert len(told(transport, notifier)) == 1
    assert list(iterable) == [b"a"]
    assert told(transport, notifier)[1][1]["response"] == {"status": "200 OK", "headers": {"X": "1"}}


def test_write_and_exc_info_go_through(transport: MemoryTransport, notifier: Notifier) -> None:
    def twice(env: Any, start_response: Any) -> Iterable[bytes]:
        assert start_response("200 OK", []) == "write"
        start_response("500 No", [], ("kind", "value", "traceback"))
        return []

    started = Started()
    RequestNotifications(twice, notifier)(environ(), started)
    assert started.calls[1] == ("500 No", [], ("kind", "value", "traceback"))
    assert [payload["response"]["status"] for event, payload in told(transport, notifier)[1:]] == ["500 No"]


def test_a_broker_that_is_away_costs_a_request_nothing(transport: MemoryTransport) -> None:
    transport.fail_with(Unavailable("away"))
    notifier = Notifier(transport, "api", soon=True, buffer_size=3)
    wrapped = RequestNotifications(application, notifier)
    for _ in range(10):
        assert list(wrapped(environ(), Started())) == [b"body"]
    assert notifier.status().dropped == 17
    assert wrapped.failures == 0


def test_what_cannot_be_notified_is_counted_and_said_once(
    transport: MemoryTransport, notifier: Notifier, caplog: pytest.LogCaptureFixture
) -> None:
    wrapped = RequestNotifications(application, notifier)
    for _ in range(2):
        assert list(wrapped(environ(SOMETHING=object()), Started())) == [b"body"]
    assert wrapped.failures == 4
    assert sum("could not be notified" in record.getMessage() for record in caplog.records) == 1


def test_a_notifier_that_waits_is_refused(transport: MemoryTransport) -> None:
    with pytest.raises(ConfigurationError, match="soon"):
        RequestNotifications(application, Notifier(transport, "api"))


def test_without_a_publisher_id_it_is_the_programs_name(transport: MemoryTransport) -> None:
    notifier = Notifier(transport, soon=True)
    RequestNotifications(application, notifier)(environ(), Started())
    assert notifier.flush(5.0)
    assert json.loads(transport.published[0].json()["oslo.message"])["publisher_id"]


def test_an_exception_that_cannot_be_told_reaches_the_server(transport: MemoryTransport, notifier: Notifier) -> None:
    class Untold(Exception):
        def __repr__(self) -> str:
            raise AttributeError("no such thing")

    def failing(env: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        raise Untold

    middleware = RequestNotifications(failing, notifier)
    with pytest.raises(Untold):
        middleware(environ(), Started())
    assert middleware.failures == 1
    assert [event_type for event_type, _payload in told(transport, notifier)] == ["http.request"]
