"""The middleware hands the transport over and changes nothing else."""

from __future__ import annotations

import contextvars
import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from wsgi_messaging import (
    ConfigurationError,
    Expired,
    MessagingMiddleware,
    Settings,
    Transport,
    current_transport,
    deadline,
    get_transport,
    remaining_time,
)
from wsgi_messaging.runtime import native


@pytest.fixture
def transport() -> Iterator[Transport]:
    with Transport("amqp://host", name="app") as made:
        yield made


class App:
    """Keeps the environ and gives `result`."""

    def __init__(self, result: Iterable[bytes] = (b"body",)) -> None:
        self.result = result
        self.environ: dict[str, Any] = {}
        self.current: object = None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.environ = environ
        self.current = current_transport()
        start_response("200 OK", [])
        return self.result


def request(app: Any) -> Any:
    """A request in a context of its own, as servers' threads and greenlets have."""
    return contextvars.copy_context().run(app, {"REQUEST_METHOD": "GET"}, lambda status, headers: None)


def test_the_environ_has_the_transport(transport: Transport) -> None:
    app = App()
    request(MessagingMiddleware(app, transport))
    assert app.environ["wsgi_messaging.transport"] is transport
    assert get_transport(app.environ) is transport
    assert app.current is transport
    assert transport.status().connections == (), "a request opens nothing"


@pytest.mark.parametrize("result", [[b"list"], (b"tuple",), iter([b"iterator"])], ids=lambda each: type(each).__name__)
def test_the_iterable_itself_is_returned(transport: Transport, result: Iterable[bytes]) -> None:
    """uWSGI and others decide by its identity whether they may send a file without copying it."""
    assert request(MessagingMiddleware(App(result), transport)) is result


def test_an_exception_passes(transport: Transport) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        raise LookupError("the application's")

    with pytest.raises(LookupError):
        request(MessagingMiddleware(app, transport))


def test_settings_make_a_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSGI_MESSAGING_URL", "amqp://from-the-environment")
    middleware = MessagingMiddleware(App(), heartbeat=7)
    assert middleware.transport.settings.heartbeat == 7
    assert middleware.transport.settings.brokers[0].host == "from-the-environment"
    middleware.transport.close()


def test_wrong_settings_fail_when_the_application_is_wrapped(transport: Transport) -> None:
    with pytest.raises(ConfigurationError, match="^heartbeat: "):
        MessagingMiddleware(App(), heartbeat=0.5)
    with pytest.raises(ConfigurationError, match="^hartbeat: no such setting"):
        MessagingMiddleware(App(), hartbeat=5)
    with pytest.raises(ConfigurationError, match="^heartbeat: give settings to the transport"):
        MessagingMiddleware(App(), transport, heartbeat=5)


def test_not_wrapped() -> None:
    with pytest.raises(ConfigurationError, match="wrap the application in wsgi_messaging.MessagingMiddleware"):
        get_transport({})
    with pytest.raises(ConfigurationError, match="no request is being served here"):
        contextvars.Context().run(current_transport)


def test_the_current_transport_stands_for_it(transport: Transport) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[object]:
        return [current_transport.settings, repr(current_transport)]

    assert request(MessagingMiddleware(app, transport)) == [  # type: ignore[arg-type]
        transport.settings,
        f"<current_transport {transport!r}>",
    ]


def test_a_thread_that_waits_for_its_next_request_keeps_no_transport() -> None:
    """Fails when the context holds it: mod_wsgi's threads kept the connections of each version of a script."""
    context = contextvars.Context()
    middleware = MessagingMiddleware(lambda environ, start_response: [], Transport("amqp://host"))
    dropped = weakref.ref(middleware.transport)
    context.run(middleware, {}, lambda status, headers: None)
    assert context.run(current_transport) is dropped()
    del middleware
    gc.collect()
    assert dropped() is None
    with pytest.raises(ConfigurationError):
        context.run(current_transport)


# The transport as far as it needs no broker.


def test_a_transport_is_configured_by_its_url_by_settings_and_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMQP_URL", "amqp://from-the-environment")
    monkeypatch.setenv("WSGI_MESSAGING_TIMEOUT", "3")
    for transport, host, timeout in [
        (Transport(), "from-the-environment", 3.0),
        (Transport("amqp://given"), "given", 3.0),
        (Transport(settings=Settings(url="amqp://set")), "set", 10.0),
        (Transport("amqp://given", settings=Settings(url="amqp://set", timeout=4.0)), "given", 4.0),
    ]:
        assert (transport.settings.brokers[0].host, transport.settings.timeout) == (host, timeout)
        transport.close()
    named = Transport("amqp://h", name="shop")
    assert named.settings.app == named.status().name == "shop"
    named.close()


def test_bad_settings_fail_where_they_are_given() -> None:
    for url in ("redis://h", "amqp://h:port", "amqp://h?hartbeat=1"):
        with pytest.raises(ConfigurationError, match="^url: "):
            Transport(url)


def remaining(environ: dict[str, Any], **options: Any) -> float | None:
    """What is left of a request's time as its application sees it."""
    seen: list[float | None] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        seen.append(remaining_time())
        return []

    with Transport("amqp://host") as transport:
        wrapped = MessagingMiddleware(app, transport, **options)
        context = contextvars.copy_context()
        context.run(wrapped, {"REQUEST_METHOD": "GET", **environ}, lambda status, headers: None)
        assert context.run(remaining_time) is None, "what the thread does next is another matter"
        context.run(wrapped, {"REQUEST_METHOD": "GET"}, lambda status, headers: None)
    assert seen[1] == (None if "deadline" not in options else pytest.approx(options["deadline"], abs=1.0)), "the next"
    return seen[0]


def test_a_body_that_is_a_generator_has_the_requests_deadline(transport: Transport) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        yield f"{remaining_time():.0f}".encode()

    wrapped = MessagingMiddleware(app, transport, deadline=30.0)
    context = contextvars.copy_context()
    body = context.run(wrapped, {"REQUEST_METHOD": "GET"}, lambda status, headers: None)
    assert context.run(lambda: list(body)) == [b"30"]


@pytest.mark.parametrize("ends", [list, lambda body: body.close(), lambda body: (next(body), body.close())])
def test_the_deadline_of_a_generator_is_not_left_behind(transport: Transport, ends: Callable[[Any], object]) -> None:
    """The next thing that the thread does is a timer's, or another application's."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        yield b"a"
        yield b"b"

    def request() -> None:
        ends(iter(inner({"REQUEST_METHOD": "GET"}, lambda status, headers: None)))
        assert remaining_time() is None
        ends(iter(outer({"REQUEST_METHOD": "GET"}, lambda status, headers: None)))
        assert remaining_time() is None

    inner = MessagingMiddleware(app, transport, deadline=30.0)
    outer = MessagingMiddleware(inner, transport, deadline=20.0)
    contextvars.copy_context().run(request)


def test_responses_that_are_produced_in_turns_have_each_its_own_deadline(transport: Transport) -> None:
    """`uwsgi --async` goes on with another request in the same thread while one produces its response. The deadline of
    one of them stayed with the thread for good, and every later publish of it was too late."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[float | None]:
        with deadline(float(environ["block"])):
            yield remaining_time()
            yield remaining_time()
        yield remaining_time()

    def requests() -> None:
        wrapped = MessagingMiddleware(app, transport, deadline=30.0)  # type: ignore[arg-type]
        one, two = (wrapped({"block": block}, lambda status, headers: None) for block in (10, 20))
        for expected in ((10, 20), (10, 20), (30, 30)):
            for body, seconds in zip((one, two), expected, strict=True):
                assert next(iter(body)) == pytest.approx(seconds, abs=5.0)
                assert remaining_time() is None
        for body in (one, two):
            assert list(body) == []
        assert remaining_time() is None

    contextvars.copy_context().run(requests)


@pytest.mark.parametrize("options", [{"deadline": 30.0}, {"deadline_header": "X-Timeout"}])
def test_a_second_middleware_does_not_lengthen_the_deadline(transport: Transport, options: dict[str, Any]) -> None:
    seen: list[float | None] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        seen.append(remaining_time())
        return []

    wrapped = MessagingMiddleware(MessagingMiddleware(app, transport, **options), transport, deadline=5.0)
    contextvars.copy_context().run(wrapped, {"REQUEST_METHOD": "GET"}, lambda status, headers: None)
    assert seen == [pytest.approx(5.0, abs=1.0)]


def test_an_application_that_raises_leaves_no_deadline(transport: Transport) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        raise LookupError

    context = contextvars.copy_context()
    with pytest.raises(LookupError):
        context.run(MessagingMiddleware(app, transport, deadline=30.0), {}, lambda status, headers: None)
    assert context.run(remaining_time) is None


HEADER = {"deadline_header": "X-Timeout"}


@pytest.mark.parametrize(
    ("environ", "options", "expected"),
    [
        ({}, {}, None),
        ({"HTTP_X_TIMEOUT": "5"}, {}, None),
        ({}, {"deadline": 30.0}, 30.0),
        ({"HTTP_X_TIMEOUT": "5"}, HEADER, 5.0),
        ({"HTTP_X_TIMEOUT": "5"}, {**HEADER, "deadline": 30.0}, 5.0),
        ({"HTTP_X_TIMEOUT": "50"}, {**HEADER, "deadline": 30.0}, 30.0),
        ({"HTTP_X_TIMEOUT": "-1"}, HEADER, 0.0),
        ({"HTTP_X_TIMEOUT": "soon"}, HEADER, None),
        ({"HTTP_X_TIMEOUT": "nan"}, {**HEADER, "deadline": 30.0}, 30.0),
        ({"HTTP_X_TIMEOUT": "inf"}, HEADER, None),
        ({"HTTP_X_TIMEOUT": "1e300"}, HEADER, None),
    ],
)
def test_the_requests_deadline(environ: dict[str, Any], options: dict[str, Any], expected: float | None) -> None:
    assert remaining(environ, **options) == (None if expected is None else pytest.approx(expected, abs=1.0))


@pytest.mark.parametrize("value", [0, -1.0, "5", True, float("nan"), float("inf")])
def test_a_bad_deadline_is_named(transport: Transport, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="^deadline: "):
        MessagingMiddleware(App(), transport, deadline=value)


def test_what_is_no_transport_and_no_header_is_named(transport: Transport) -> None:
    """Fails with a TypeError about weak references, where the URL was given."""
    with pytest.raises(ConfigurationError, match="^transport: a Transport is wanted, not str$"):
        MessagingMiddleware(App(), "amqp://host")  # type: ignore[arg-type]
    for header in (5, b"X-Timeout"):
        with pytest.raises(ConfigurationError, match="^deadline_header: .* is not the name of a header$"):
            MessagingMiddleware(App(), transport, deadline_header=header)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["5", True, float("nan"), object()])
def test_a_bad_deadline_of_a_block_is_named(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="^deadline: .* is not a number of seconds$"), deadline(value):
        pass
    assert remaining_time() is None


def test_a_publish_ends_with_the_request(transport: Transport) -> None:
    """Nobody listens on that port: the publish would wait its own ten seconds."""
    begun = native.monotonic()
    with deadline(0.2), Transport("amqp://127.0.0.1:1//") as unreachable, pytest.raises(Expired):
        unreachable.publish("x", "q")
    assert native.monotonic() - begun < 5.0
