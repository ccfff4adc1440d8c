"""One section of an api-paste.ini, in each of the ways to name the filter."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.requirements import missing
from wsgi_messaging import ConfigurationError, MessagingMiddleware, remaining_time
from wsgi_messaging.frameworks.paste import filter_app_factory, filter_factory

INI = """
[DEFAULT]
region = one

[composite:main]
use = call:{module}:composite
pipelines = v2 v3

[pipeline:v2]
pipeline = messaging api

[pipeline:v3]
pipeline = messaging api

[filter:messaging]
{how}
{options}

[app:api]
paste.app_factory = {module}:app_factory
"""
OPTIONS = """
url = amqp://user:p%%2Fw@rabbit1//
app = keystone
heartbeat = 15
tls_verify = no
deadline = 30
health_path = /health
"""
WAYS = {
    "egg": "use = egg:wsgi-messaging",
    "filter_factory": "paste.filter_factory = wsgi_messaging.frameworks.paste:filter_factory",
    "filter_app_factory": "paste.filter_app_factory = wsgi_messaging.frameworks.paste:filter_app_factory",
}


def app_factory(global_conf: dict[str, str], **local_conf: str) -> Callable[..., Iterable[bytes]]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [str(remaining_time()).encode()]

    return app


def composite(loader: Any, global_conf: dict[str, str], pipelines: str) -> list[MessagingMiddleware]:
    return [loader.get_app(name, global_conf=global_conf) for name in pipelines.split()]


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., list[MessagingMiddleware]]:
    """The applications of an api-paste.ini."""
    if importlib.util.find_spec("paste") is None:
        missing("PasteDeploy is not installed: make test")
    from paste.deploy import loadapp

    def load(how: str, options: str) -> list[MessagingMiddleware]:
        path = tmp_path / "api-paste.ini"
        path.write_text(INI.format(how=WAYS[how], options=options, module=__name__))
        found: list[MessagingMiddleware] = loadapp(f"config:{path}")
        return found

    return load


def ask(app: MessagingMiddleware, path: str) -> tuple[str, bytes]:
    said: list[str] = []
    body = b"".join(app({"REQUEST_METHOD": "GET", "PATH_INFO": path}, lambda status, headers: said.append(status)))
    return said[0], body


@pytest.mark.parametrize("how", WAYS)
def test_an_ini_line_suffices(how: str, load: Callable[..., list[MessagingMiddleware]]) -> None:
    v2, v3 = load(how, OPTIONS)
    settings = v2.transport.settings
    assert (settings.brokers[0].host, settings.app, settings.heartbeat) == ("rabbit1", "keystone", 15.0)
    assert settings.tls_verify is False
    assert settings.brokers[0].password == "p/w"
    assert v2.transport is v3.transport, "two pipelines, one pair of connections"
    assert ask(v2, "/health/livez")[0] == "200 OK"
    assert 0 < float(ask(v3, "/")[1]) <= 30


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("hartbeat = 15", "^hartbeat: no such setting; there are url, "),
        ("heartbeat = often", "^heartbeat: 'often' is not a number"),
        ("max_queued = 1.5", "^max_queued: '1.5' is not a whole number"),
        ("deadline = soon", "^deadline: 'soon' is not a number of seconds"),
        ("status_path = status", "^status_path: 'status'"),
        ("health_path = /health/", "^health_path: '/health/'"),
    ],
)
def test_a_bad_option_is_named(
    how: str, options: str, named: str, load: Callable[..., list[MessagingMiddleware]]
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        load(how, options)


def test_other_settings_are_another_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSGI_MESSAGING_URL", "amqp://from-the-environment")
    app = app_factory({})
    one, same = filter_factory({})(app), filter_app_factory(app, {})
    other = filter_factory({}, heartbeat="7")(app)
    assert one.transport is same.transport
    assert one.transport is not other.transport
    assert other.transport.settings.brokers[0].host == "from-the-environment"
