"""Liveness is the process's; readiness is what its connections know, without waiting for anybody."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.secret import PASSWORD, USER, dev_broker
from tests.harness.waiting import wait_until
from wsgi_messaging import ConfigurationError, MessagingMiddleware, Settings, Transport
from wsgi_messaging.connection import link
from wsgi_messaging.devbroker import DevBroker
from wsgi_messaging.observe.health import _CAUSES, HealthEndpoints, _cause, liveness, readiness
from wsgi_messaging.runtime import native

NOBODY = "amqp://127.0.0.1:1"


def ask(app: Any, path: str, method: str = "GET") -> tuple[str, dict[str, str], bytes]:
    """One request."""
    answer: list[Any] = []
    environ = {"PATH_INFO": path, "REQUEST_METHOD": method}
    body = b"".join(app(environ, lambda status, headers: answer.extend((status, dict(headers)))))
    return answer[0], answer[1], body


def test_readiness_follows_the_connection(make: Callable[..., Transport]) -> None:
    transport = make(run_dir=None)
    first = readiness(transport)
    assert not first.is_ok and first.reasons == ("not connected yet",)
    wait_until(lambda: readiness(transport).is_ok, what="the connection that the question began")
    assert liveness().is_ok


def test_readiness_is_lost_and_found_with_the_broker() -> None:
    with dev_broker() as broker, Transport(broker.url, name="health") as transport:
        wait_until(lambda: readiness(transport).is_ok, what="the connection")
        port = broker.port
        broker.stop()
        wait_until(lambda: not readiness(transport).is_ok, what="the loss")
        assert readiness(transport).reasons[0].startswith(("publish: waiting", "publish: connecting"))
        assert liveness().is_ok, "no broker is no reason for a restart"
        with dev_broker(port=port):
            wait_until(lambda: readiness(transport).is_ok, 10.0, "the reconnect")


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("amqp://guest:wrong@{broker}//", "login refused"),
        (f"amqp://{USER}:{PASSWORD}@{{broker}}/nowhere", "virtual host refused"),
        (f"amqps://{USER}:{PASSWORD}@{{broker}}//", "no TLS"),
        (NOBODY, "broker is away"),
        ("amqp://no-such-host.invalid", "host name unknown"),
    ],
)
def test_it_says_why_there_is_no_connection(broker: DevBroker, url: str, cause: str) -> None:
    with Transport(url.format(broker=f"{broker.host}:{broker.port}"), name="health") as transport:
        readiness(transport)
        wait_until(lambda: transport.status().connections[0].last_failure, 10.0, "a failed attempt")
        (reason,) = readiness(transport).reasons
        assert reason in (f"publish: waiting ({cause})", f"publish: connecting ({cause})")


def test_files_that_are_missing_are_an_answer(tmp_path: Path) -> None:
    """Fails when the probe gets an error of the server in place of it, and the server's log a traceback each time."""
    settings = Settings(url="amqps://127.0.0.1:1", tls_ca_file=str(tmp_path / "not-mounted.pem"))
    endpoints = HealthEndpoints(Transport(settings=settings))
    status, _headers, body = ask(endpoints, "/readyz")
    assert status == "503 Service Unavailable"
    assert json.loads(body)["reasons"] == ["cannot connect (TLS files cannot be used)"]


def test_the_causes_are_those_of_the_errors() -> None:
    """Fails when an error is put into other words, and the cause is not known any more."""
    package = Path(link.__file__).parent
    texts = "".join((package / name).read_text() for name in ("link.py", "connecting.py"))
    for said in _CAUSES:
        assert said in texts, said


def test_a_failure_without_a_cause_to_show_tells_nothing_else() -> None:
    assert _cause("amqp://10.0.0.1:5672: something new about 'shop'") == " (no connection)"
    assert _cause(None) == ""


def test_it_costs_no_time_while_the_broker_is_away() -> None:
    with Transport(NOBODY, name="health") as transport:
        began_at = native.monotonic()
        for _ in range(200):
            readiness(transport), liveness()
        assert native.monotonic() - began_at < 4.0, "one attempt to connect may take 5 s"
        assert not readiness(transport).is_ok


def test_a_silent_connection_is_not_ready(make: Callable[..., Transport]) -> None:
    """As after a stall of the connection's thread. Fails when readiness believes the state alone."""
    transport = make(run_dir=None)
    wait_until(lambda: readiness(transport).is_ok, what="the connection")
    (loop,) = transport._process.get().loops()
    loop._pulse.beat.interval = 0.001
    loop._pulse.beat.received_at -= 100.0
    assert "nothing was heard" in readiness(transport).reasons[0]


def test_the_endpoints(make: Callable[..., Transport]) -> None:
    transport = make(run_dir=None)
    pages = HealthEndpoints(transport, "/health")
    assert pages.paths == ("/health/livez", "/health/readyz")
    status, headers, body = ask(pages, "/health/livez")
    assert status == "200 OK" and json.loads(body) == {"status": "ok", "reasons": []}
    assert headers["Cache-Control"] == "no-store" and int(headers["Content-Length"]) == len(body)
    status, headers, body = ask(pages, "/health/readyz")
    assert status == "503 Service Unavailable" and json.loads(body)["reasons"] == ["not connected yet"]
    wait_until(lambda: ask(pages, "/health/readyz")[0] == "200 OK", what="the connection")
    assert ask(pages, "/health/readyz", "HEAD")[2] == b""
    assert ask(pages, "/health/readyz", "POST")[0].startswith("405")
    assert ask(pages, "/health/else")[0].startswith("404")


@pytest.mark.parametrize("path", ["health", "/health/", "/", 7])
def test_a_path_that_no_request_has_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^health_path: {path!r} does not begin with a slash, or ends with"):
        MessagingMiddleware(lambda _environ, _start: [], Transport(), health_path=path)


def test_the_endpoints_tell_strangers_no_host() -> None:
    with Transport("amqp://somebody:secret@127.0.0.1:1", name="health") as transport:
        pages = HealthEndpoints(transport)
        ask(pages, "/readyz")
        wait_until(lambda: transport.status().connections[0].last_failure, what="a failed attempt")
        body = ask(pages, "/readyz")[2].decode()
        assert "broker is away" in body
        assert not any(each in body for each in ("secret", "somebody", "127.0.0.1"))


def test_the_middleware_answers_for_them_and_for_nothing_else(make: Callable[..., Transport]) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [b"the application"]

    transport = make(run_dir=None)
    assert ask(MessagingMiddleware(app, transport), "/livez")[2] == b"the application", "off by default"
    wrapped = MessagingMiddleware(app, transport, health_path="")
    assert ask(wrapped, "/livez")[2] != b"the application"
    assert ask(wrapped, "/livez/more")[2] == b"the application"


def test_the_plug_in_of_oslo_middleware(make: Callable[..., Transport]) -> None:
    pytest.importorskip("oslo_middleware")
    from oslo_config import cfg

    from wsgi_messaging.observe.healthcheck import MessagingHealthcheck

    transport = make(run_dir=None)
    plug_in = MessagingHealthcheck(cfg.ConfigOpts(), {})
    result = plug_in.healthcheck(80)
    assert not result.available and "not connected yet" in result.details
    wait_until(lambda: readiness(transport).is_ok, what="the connection")
    wait_until(lambda: plug_in.healthcheck(80).available, what="an available service")


def test_the_middleware_of_oslo_finds_it(make: Callable[..., Transport], monkeypatch: pytest.MonkeyPatch) -> None:
    """oslo.middleware itself answers 200 or 503 by it, under the name of the entry point in setup.cfg."""
    healthcheck = pytest.importorskip("oslo_middleware.healthcheck")
    webob = pytest.importorskip("webob")
    import stevedore
    from oslo_config import cfg

    from wsgi_messaging.observe.healthcheck import MessagingHealthcheck

    def manager(namespace: str, names: list[str], **rest: Any) -> Any:
        assert (namespace, names) == ("oslo.middleware.healthcheck", ["wsgi_messaging"])
        plug_in = MessagingHealthcheck(*rest["invoke_args"])
        extension = stevedore.extension.Extension("wsgi_messaging", None, MessagingHealthcheck, plug_in)
        return stevedore.named.NamedExtensionManager.make_test_instance([extension], namespace=namespace)

    monkeypatch.setattr(stevedore, "NamedExtensionManager", manager)
    transport = make(run_dir=None)
    conf = cfg.ConfigOpts()
    conf([])
    application = healthcheck.Healthcheck(None, {"backends": "wsgi_messaging", "path": "/healthcheck"})
    request = webob.Request.blank("/healthcheck")
    assert request.get_response(application).status_int == 503
    wait_until(lambda: readiness(transport).is_ok, what="the connection")
    wait_until(lambda: webob.Request.blank("/healthcheck").get_response(application).status_int == 200, what="200")
