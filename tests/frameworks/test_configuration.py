"""One mapping has the transport's settings and the middleware's options; nothing of a framework is needed for it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.harness.processes import environment
from wsgi_messaging import ConfigurationError, InvalidMessage, Transport
from wsgi_messaging.frameworks.commit import sealed
from wsgi_messaging.frameworks.configuration import OPTIONS, configured
from wsgi_messaging.middleware import MessagingMiddleware
from wsgi_messaging.testing import MemoryTransport


def no_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    return []


def test_importing_the_package_imports_no_framework() -> None:
    code = """
import sys, wsgi_messaging, wsgi_messaging.frameworks, wsgi_messaging.frameworks.paste
import wsgi_messaging.frameworks.pyramid
names = {"flask", "django", "falcon", "pyramid", "paste.deploy", "transaction", "werkzeug"}
print(sorted(names & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_options_are_those_of_the_middleware() -> None:
    arguments = MessagingMiddleware.__init__.__annotations__
    assert set(OPTIONS) == set(arguments) - {"app", "transport", "settings", "return"}


def test_text_is_converted_and_other_keys_are_passed_over() -> None:
    made = configured(
        {"MQ_HEARTBEAT": "7", "mq_tls_verify": "off", "MQ_DEADLINE": "2.5", "MQ_HEALTH_PATH": "", "DEBUG": object()},
        "MQ_",
    )
    assert (made.transport.settings.heartbeat, made.transport.settings.tls_verify) == (7.0, False)
    assert made.options == {"deadline": 2.5, "health_path": ""}
    assert made.wrap(no_app).transport is made.transport
    assert made.transport.status().connections == (), "nothing is opened"


def test_what_is_not_given_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSGI_MESSAGING_URL", "amqp://env//?prefetch=3")
    monkeypatch.setenv("WSGI_MESSAGING_TIMEOUT", "4")
    monkeypatch.setenv("WSGI_MESSAGING_HEARTBEAT", "9")
    settings = configured({"heartbeat": 7}).transport.settings
    assert (settings.brokers[0].host, settings.prefetch, settings.timeout, settings.heartbeat) == ("env", 3, 4.0, 7.0)
    settings = configured({"url": "amqp://given//?timeout=2"}).transport.settings
    assert (settings.brokers[0].host, settings.timeout, settings.heartbeat) == ("given", 2.0, 9.0)


@pytest.mark.parametrize(
    ("mapping", "named"),
    [
        ({"mq.hartbeat": "7"}, r"^mq\.hartbeat: no such setting; after 'mq\.' may come url, "),
        ({"mq.healthpath": "/h"}, r"^mq\.healthpath: .*, run_dir, transport, deadline, .*, status_token, health_path$"),
        ({"mq.heartbeat": "often"}, r"^mq\.heartbeat: 'often' is not a number"),
        ({"mq.heartbeat": "0.5"}, "^heartbeat: "),
        ({"mq.tls_verify": "maybe"}, r"^mq\.tls_verify: 'maybe' is not yes or no"),
        ({"mq.url": "redis://h"}, "^url: "),
        ({"mq.url": None}, "^url: expected text, not NoneType"),
        ({"mq.deadline": "soon"}, "^deadline: 'soon' is not a number of seconds"),
        ({"mq.deadline": "0"}, "^deadline: 0.0 is not a number of seconds above 0"),
        ({"mq.status_path": "status"}, "^status_path: "),
        ({"mq.transport": "memory"}, r"^mq\.transport: a Transport is wanted, not str"),
    ],
)
def test_a_bad_value_is_named_where_it_is_given(mapping: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        configured(mapping, "mq.").wrap(no_app)


@pytest.mark.parametrize("key", ["url", "transport"])
def test_no_password_is_in_an_error(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configured({key: "amqp://user:s3cret@host:port//"})
    assert "s3cret" not in str(caught.value)


def test_a_transport_that_is_there_is_used(memory_transport: MemoryTransport) -> None:
    made = configured({"Transport": memory_transport, "url": "amqp://elsewhere", "deadline": 2})
    assert made.transport is memory_transport
    assert made.options == {"deadline": 2}


# A message that waits for a commit.


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ({"id": 1, "name": "süß"}, {}),
        ("süß", {}),
        ('{"id": 1}', {"content_type": "application/json"}),
        (b"\x00", {"headers": {"a": 1}}),
        (b"\x00", {"properties": {"content_encoding": "gzip", "type": "order"}, "priority": 3}),
    ],
)
def test_a_sealed_message_is_on_the_wire_as_any_other(
    body: object, options: dict[str, Any], memory_transport: MemoryTransport
) -> None:
    memory_transport.publish(body, "q", mandatory=False, message_id="1", **options)
    memory_transport.publish(**sealed(body, "q", "", {**options, "mandatory": False, "message_id": "1"}))
    first, second = memory_transport.published
    assert first == second


def test_what_cannot_be_sent_is_said_at_once() -> None:
    with pytest.raises(InvalidMessage, match="not JSON"):
        sealed({"when": object()}, "q", "", {})
    with pytest.raises(InvalidMessage, match="priority"):
        sealed(b"", "q", "", {"priority": 300})
    with pytest.raises(TypeError, match="colour"):
        sealed(b"", "q", "", {"colour": "red"})


def test_later_changes_are_not_in_a_sealed_message(memory_transport: MemoryTransport) -> None:
    order = {"item": "tea"}
    message = sealed(order, "q", "", {"mandatory": False})
    order["item"] = "coffee"
    memory_transport.publish(**message)
    assert memory_transport.published[0].json() == {"item": "tea"}


def test_a_transport_is_made_for_each_configuration() -> None:
    first, second = configured({"app": "a"}).transport, configured({"app": "a"}).transport
    assert isinstance(first, Transport)
    assert first is not second
