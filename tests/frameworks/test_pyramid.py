"""Pyramid's include: settings, requests, and messages that wait for pyramid_tm's commit."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import pytest

from tests.harness.requirements import missing
from wsgi_messaging import ConfigurationError, ConnectTimeout, InvalidMessage, MessagingMiddleware
from wsgi_messaging.testing import MemoryTransport

INCLUDE = "wsgi_messaging.frameworks.pyramid"
# webob imports cgi, which Python 3.11 and 3.12 complain about, and Pyramid pkg_resources, which setuptools does.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:pkg_resources is deprecated:UserWarning")


@pytest.fixture
def configurator() -> Any:
    """Makes a Configurator of the settings of an ini file."""
    for name in ("pyramid", "pyramid_tm"):
        if importlib.util.find_spec(name) is None:
            missing(f"{name} is not installed: make test")
    from pyramid.config import Configurator

    return lambda **settings: Configurator(settings={f"wsgi_messaging.{key}": settings[key] for key in settings})


def application(config: Any, view: Any) -> Any:
    config.include(INCLUDE)
    config.add_route("index", "/")
    config.add_view(view, route_name="index", renderer="string")
    return config.make_wsgi_app()


def ask(app: Any, **environ: Any) -> tuple[str, str]:
    from pyramid.request import Request

    response = Request.blank("/", environ=environ).get_response(app)
    return response.status, response.text


def test_a_request_has_the_transport_of_the_settings(configurator: Any) -> None:
    config = configurator(url="amqp://rabbit1//", heartbeat="7", tls_verify="off")
    seen: list[Any] = []
    app = application(config, lambda request: seen.append(request.messaging) or "seen")
    assert ask(app) == ("200 OK", "seen")
    [transport] = seen
    settings = transport.settings
    assert (settings.brokers[0].host, settings.heartbeat, settings.tls_verify) == ("rabbit1", 7.0, False)
    assert transport is config.registry["wsgi_messaging"], "for scripts, and to wrap the application"
    assert transport.status().connections == (), "nothing is opened"


def test_the_middlewares_transport_comes_first(configurator: Any, memory_transport: MemoryTransport) -> None:
    """With a PasteDeploy filter in front there is one transport, not two."""
    seen: list[Any] = []
    app = application(configurator(), lambda request: seen.append(request.messaging) or "")
    ask(MessagingMiddleware(app, memory_transport))
    assert seen == [memory_transport]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"hartbeat": "7"}, r"^wsgi_messaging\.hartbeat: no such setting; .* url, .*, run_dir, transport$"),
        ({"heartbeat": "often"}, r"^wsgi_messaging\.heartbeat: 'often' is not a number"),
        ({"status_path": "/messaging"}, r"^wsgi_messaging\.status_path: give it to MessagingMiddleware"),
    ],
)
def test_a_bad_setting_is_named(configurator: Any, settings: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        configurator(**settings).include(INCLUDE)


@pytest.fixture
def transactional(configurator: Any, memory_transport: MemoryTransport) -> Any:
    """Makes an application of a view, with pyramid_tm and the transport in memory."""

    def make(view: Any) -> Any:
        config = configurator(transport=memory_transport)
        config.include("pyramid_tm")
        return application(config, view)

    return make


def test_it_is_published_after_the_commit(transactional: Any, memory_transport: MemoryTransport) -> None:
    published_in_view: list[int] = []

    def view(request: Any) -> str:
        order = {"item": "tea"}
        request.publish_on_commit(order, "orders", mandatory=False)
        order["item"] = "coffee"
        published_in_view.append(len(memory_transport.published))
        return "ordered"

    assert ask(transactional(view)) == ("200 OK", "ordered")
    assert published_in_view == [0]
    assert [message.json() for message in memory_transport.published] == [{"item": "tea"}]


def test_an_abort_publishes_nothing(transactional: Any, memory_transport: MemoryTransport) -> None:
    def failing(request: Any) -> str:
        request.publish_on_commit(1, "orders", mandatory=False)
        raise LookupError

    def dooming(request: Any) -> str:
        request.publish_on_commit(1, "orders", mandatory=False)
        request.tm.doom()
        return ""

    with pytest.raises(LookupError):
        ask(transactional(failing))
    assert ask(transactional(dooming))[0] == "200 OK"
    assert memory_transport.published == []


class Refusing:
    """A resource of the transaction that cannot be committed."""

    def sortKey(self) -> str:
        return "refusing"

    def tpc_begin(self, transaction: object) -> None:
        raise LookupError("the database's")

    def abort(self, transaction: object) -> None: ...

    tpc_abort = abort


def test_a_commit_that_fails_publishes_nothing(transactional: Any, memory_transport: MemoryTransport) -> None:
    def view(request: Any) -> str:
        request.publish_on_commit(1, "orders", mandatory=False)
        request.tm.get().join(Refusing())
        return ""

    with pytest.raises(LookupError):
        ask(transactional(view))
    assert memory_transport.published == []


def test_what_cannot_be_sent_undoes_the_transaction(transactional: Any, memory_transport: MemoryTransport) -> None:
    def view(request: Any) -> str:
        request.publish_on_commit(1, "orders", mandatory=False)
        request.publish_on_commit({"when": object()}, "orders")
        return ""

    with pytest.raises(InvalidMessage):
        ask(transactional(view))
    assert memory_transport.published == []


def test_a_publish_that_fails_is_logged(
    transactional: Any, memory_transport: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    """As `transaction` does with its hooks: the data is committed, the others are called."""

    def view(request: Any) -> str:
        memory_transport.fail_with(ConnectTimeout("no broker"))
        request.publish_on_commit(1, "orders")
        request.tm.get().addAfterCommitHook(lambda is_committed: memory_transport.fail_with(None))
        request.publish_on_commit(2, "orders", mandatory=False)
        return "ordered"

    with caplog.at_level(logging.ERROR):
        assert ask(transactional(view)) == ("200 OK", "ordered")
    assert [message.json() for message in memory_transport.published] == [2]
    [record] = caplog.records
    assert "no broker" in caplog.text
    assert record.name.startswith("txn")


def test_without_pyramid_tm_it_says_so(configurator: Any, memory_transport: MemoryTransport) -> None:
    app = application(configurator(transport=memory_transport), lambda request: request.publish_on_commit(1, "orders"))
    with pytest.raises(ConfigurationError, match=r'config.include\("pyramid_tm"\)'):
        ask(app)
