"""The Flask extension: application factories, several applications, commands, and what is said of mistakes."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness.requirements import missing
from wsgi_messaging import ConfigurationError, current_transport, get_transport, remaining_time
from wsgi_messaging.testing import MemoryTransport

if TYPE_CHECKING:
    from flask import Flask

    from wsgi_messaging.frameworks.flask import Messaging


@pytest.fixture
def messaging() -> Messaging:
    if importlib.util.find_spec("flask") is None:
        missing("flask is not installed: make test")
    from wsgi_messaging.frameworks.flask import Messaging

    return Messaging()


def create_app(messaging: Messaging, **config: Any) -> Flask:
    """An application as a factory makes it."""
    from flask import Flask, jsonify, request

    app = Flask("shop")
    app.config.update(TESTING=True, **config)
    messaging.init_app(app)

    @app.get("/")
    def index() -> Any:
        transport = messaging.transport
        assert transport is get_transport(request.environ) is current_transport()
        return jsonify(app=transport.settings.app, remaining=remaining_time())

    @app.post("/")
    def publish() -> Any:
        messaging.transport.publish(request.get_json(), "orders", mandatory=False)
        return "", 202

    @app.cli.command("announce")
    def announce() -> None:
        messaging.transport.publish("hello", "orders", mandatory=False)

    return app


def test_two_applications_of_one_factory_have_a_transport_each(messaging: Messaging) -> None:
    first = create_app(messaging, WSGI_MESSAGING_APP="first", WSGI_MESSAGING_DEADLINE=60)
    second = create_app(messaging, WSGI_MESSAGING_APP="second", WSGI_MESSAGING_DEADLINE=30)
    assert first.extensions["wsgi_messaging"] is not second.extensions["wsgi_messaging"]
    for _ in range(2):
        for app, name, most in ((first, "first", 60), (second, "second", 30)):
            answer = app.test_client().get("/").get_json()
            assert answer["app"] == name
            assert most - 25 < answer["remaining"] <= most
    with first.app_context():
        assert messaging.transport.settings.app == "first"
        with second.app_context():
            assert messaging.transport.settings.app == "second"


def test_the_application_may_be_given_at_once(messaging: Messaging, monkeypatch: pytest.MonkeyPatch) -> None:
    from flask import Flask

    monkeypatch.setenv("WSGI_MESSAGING_URL", "amqp://from-the-environment")
    app = Flask("shop")
    given = type(messaging)(app)
    with app.app_context():
        assert given.transport.settings.brokers[0].host == "from-the-environment"
        assert given.transport.status().connections == (), "nothing is opened"


def test_a_view_and_a_command_publish(messaging: Messaging, memory_transport: MemoryTransport) -> None:
    """The same two under a server and in a process: test_examples."""
    app = create_app(messaging, WSGI_MESSAGING_TRANSPORT=memory_transport, WSGI_MESSAGING_URL="amqp://elsewhere")
    assert app.test_client().post("/", json={"item": "tea"}).status_code == 202
    result = app.test_cli_runner().invoke(args=["announce"])
    assert (result.exit_code, result.exception) == (0, None)
    assert [message.body for message in memory_transport.published] == [b'{"item": "tea"}', b"hello"]


def test_pages_are_configured_too(messaging: Messaging, memory_transport: MemoryTransport) -> None:
    app = create_app(messaging, WSGI_MESSAGING_TRANSPORT=memory_transport, WSGI_MESSAGING_HEALTH_PATH="/health")
    assert app.test_client().get("/health/livez").status_code == 200
    assert app.test_client().get("/elsewhere/livez").status_code == 404


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"WSGI_MESSAGING_HARTBEAT": 5}, "^WSGI_MESSAGING_HARTBEAT: no such setting"),
        ({"WSGI_MESSAGING_HEARTBEAT": "often"}, "^WSGI_MESSAGING_HEARTBEAT: 'often' is not a number"),
        ({"WSGI_MESSAGING_DEADLINE": "soon"}, "^deadline: "),
        ({"WSGI_MESSAGING_HEALTH_PATH": "health"}, "^health_path: 'health' does not begin with a slash"),
        ({"WSGI_MESSAGING_STATUS_TOKEN": "short"}, "^status_token: it must have at least 16 characters"),
        ({"WSGI_MESSAGING_TRANSPORT": 3}, "^WSGI_MESSAGING_TRANSPORT: a Transport is wanted, not int"),
        ({"WSGI_MESSAGING": {"URL": "amqp://h"}}, "^WSGI_MESSAGING: give each setting a key of its own"),
    ],
)
def test_a_mistake_fails_in_the_factory(messaging: Messaging, config: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        create_app(messaging, **config)


def test_not_initialised_and_initialised_twice(messaging: Messaging) -> None:
    from flask import Flask

    app = Flask("shop")
    with app.app_context(), pytest.raises(ConfigurationError, match="^shop: init_app was not called"):
        _ = messaging.transport
    messaging.init_app(app)
    with pytest.raises(ConfigurationError, match="has its messaging already"):
        messaging.init_app(app)
    with pytest.raises(RuntimeError, match="application context"):
        _ = messaging.transport
