"""Django's settings, its transactions and its checks; the databases are SQLite's, in memory."""

from __future__ import annotations

import contextvars
import importlib.util
import logging
from collections.abc import Callable, Iterator
from io import BytesIO
from types import ModuleType
from typing import Any

import pytest

from tests.harness.requirements import missing
from wsgi_messaging import ConfigurationError, ConnectTimeout, InvalidMessage, RPCClient, Target, remaining_time
from wsgi_messaging.testing import MemoryTransport

MEMORY = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}


def urlconf(*patterns: Any) -> ModuleType:
    """A module with `urlpatterns`."""
    module = ModuleType("urls")
    module.urlpatterns = list(patterns)  # type: ignore[attr-defined]
    return module


@pytest.fixture(scope="module")
def configured() -> None:
    if importlib.util.find_spec("django") is None:
        missing("Django is not installed: make test")
    import django
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": MEMORY, "other": MEMORY},
        INSTALLED_APPS=["wsgi_messaging.frameworks.django"],
        LOGGING_CONFIG=None,
        ROOT_URLCONF=urlconf(),
    )
    django.setup()


@pytest.fixture
def messaging(configured: None) -> ModuleType:
    """The module under test."""
    return importlib.import_module("wsgi_messaging.frameworks.django")


@pytest.fixture
def given(configured: None) -> Iterator[Callable[[Any], None]]:
    """given(value) makes it `settings.WSGI_MESSAGING` for the test."""
    from django.test.utils import override_settings

    overrides: list[Any] = []

    def give(value: Any) -> None:
        overrides.append(override_settings(WSGI_MESSAGING=value))
        overrides[-1].enable()

    yield give
    for override in reversed(overrides):
        override.disable()


@pytest.fixture
def bodies(memory_transport: MemoryTransport, given: Callable[[Any], None]) -> Iterator[Callable[[], list[Any]]]:
    """bodies() is what was published; each database has an empty table `orders`."""
    from django.db import connections

    given({"TRANSPORT": memory_transport})
    for connection in connections.all():
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE orders (item TEXT)")
    yield lambda: [message.json() for message in memory_transport.published]
    connections.close_all()
    for connection in connections.all():  # close() leaves a database in memory alone
        connection.connection.close()
        connection.connection = None


def insert(item: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO orders VALUES (%s)", [item])


def stored() -> list[str]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT item FROM orders")
        return [row[0] for row in cursor.fetchall()]


# Settings.


def test_the_transport_is_that_of_the_settings(messaging: ModuleType, given: Callable[[Any], None]) -> None:
    given({"URL": "amqp://rabbit1//?prefetch=3", "HEARTBEAT": "7", "app": "shop", "STATUS_PATH": "/messaging"})
    transport = messaging.get_transport()
    assert transport is messaging.get_transport()
    settings = transport.settings
    assert (settings.brokers[0].host, settings.prefetch, settings.heartbeat, settings.app) == ("rabbit1", 3, 7, "shop")
    assert RPCClient(transport, Target(topic="compute")), "what is built on a transport takes it"
    assert transport.status().connections == (), "nothing is opened"
    given({"URL": "amqp://rabbit2"})
    assert messaging.get_transport().settings.brokers[0].host == "rabbit2"


def test_without_the_setting_it_is_the_environments(messaging: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMQP_URL", "amqp://from-the-environment")
    messaging._made.clear()
    assert messaging.get_transport().settings.brokers[0].host == "from-the-environment"
    messaging._made.clear()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"HEARTBEAT": "often"}, "HEARTBEAT: 'often' is not a number"),
        ({"HARTBEAT": 5}, "HARTBEAT: no such setting; there are url, "),
        ({"URL": "redis://h"}, "url: "),
        ({"DEADLINE": "soon"}, "deadline: 'soon' is not a number of seconds"),
        ("amqp://host", "expected a dict, not str"),
    ],
)
def test_the_check_names_what_is_wrong(given: Callable[[Any], None], value: Any, named: str) -> None:
    from django.core.management import call_command
    from django.core.management.base import SystemCheckError

    given(value)
    with pytest.raises(SystemCheckError) as caught:
        call_command("check")
    assert f"(wsgi_messaging.E001) settings.WSGI_MESSAGING: {named}" in str(caught.value)


def test_the_check_passes(given: Callable[[Any], None], capsys: pytest.CaptureFixture[str]) -> None:
    from django.core.management import call_command

    given({"URL": "amqp://127.0.0.1:1//", "DEADLINE": 5})
    call_command("check")
    assert "no issues" in capsys.readouterr().out


def test_a_bad_setting_is_an_error_at_the_first_use(messaging: ModuleType, given: Callable[[Any], None]) -> None:
    given({"HEARTBEAT": 0.5})
    with pytest.raises(ConfigurationError, match="^heartbeat: "):
        messaging.get_transport()


def test_the_wsgi_application_is_wrapped(
    messaging: ModuleType, given: Callable[[Any], None], memory_transport: MemoryTransport
) -> None:
    from django.http import HttpResponse
    from django.test.utils import override_settings
    from django.urls import path

    given({"TRANSPORT": memory_transport, "DEADLINE": "30", "HEALTH_PATH": "/health"})
    seen: list[Any] = []

    def view(request: Any) -> Any:
        seen.extend([request.environ["wsgi_messaging.transport"], remaining_time()])
        return HttpResponse(b"viewed")

    def ask(path: str) -> bytes:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_NAME": "h", "SERVER_PORT": "80"}
        return b"".join(application({**environ, "wsgi.input": BytesIO()}, lambda status, headers: None))

    with override_settings(ROOT_URLCONF=urlconf(path("view", view))):
        application = messaging.get_wsgi_application()
        context = contextvars.copy_context()
        assert context.run(ask, "/view") == b"viewed"
        assert b'"ok"' in context.run(ask, "/health/livez")
    assert seen[0] is messaging.get_transport() is memory_transport
    assert 0 < seen[1] <= 30


# Transactions.


def test_it_is_published_when_the_outermost_block_is_committed(
    messaging: ModuleType, bodies: Callable[[], list[Any]]
) -> None:
    from django.db import transaction

    order = {"item": "tea"}
    with transaction.atomic():
        with transaction.atomic():
            messaging.publish_on_commit(order, "orders", mandatory=False)
            order["item"] = "coffee"
        messaging.publish_on_commit({"item": "milk"}, "orders", mandatory=False)
        assert bodies() == []
    assert bodies() == [{"item": "tea"}, {"item": "milk"}]


def test_outside_a_transaction_it_is_published_at_once(messaging: ModuleType, bodies: Callable[[], list[Any]]) -> None:
    messaging.publish_on_commit(1, "orders", mandatory=False)
    assert bodies() == [1]


def test_a_rollback_publishes_nothing(messaging: ModuleType, bodies: Callable[[], list[Any]]) -> None:
    from django.db import transaction

    with pytest.raises(LookupError), transaction.atomic():
        messaging.publish_on_commit(1, "orders", mandatory=False)
        raise LookupError
    with transaction.atomic():
        messaging.publish_on_commit(2, "orders", mandatory=False)
        transaction.set_rollback(True)
    messaging.publish_on_commit(3, "orders", mandatory=False)
    assert bodies() == [3]


def test_a_savepoint_that_is_rolled_back_takes_its_messages_with_it(
    messaging: ModuleType, bodies: Callable[[], list[Any]]
) -> None:
    from django.db import transaction

    with transaction.atomic():
        messaging.publish_on_commit(1, "orders", mandatory=False)
        with pytest.raises(LookupError), transaction.atomic():
            messaging.publish_on_commit(2, "orders", mandatory=False)
            with transaction.atomic():
                messaging.publish_on_commit(3, "orders", mandatory=False)
            raise LookupError
        messaging.publish_on_commit(4, "orders", mandatory=False)
    assert bodies() == [1, 4]


def test_each_database_has_its_own_transaction(messaging: ModuleType, bodies: Callable[[], list[Any]]) -> None:
    from django.db import transaction

    with transaction.atomic():
        with transaction.atomic(using="other"):
            messaging.publish_on_commit("default", "orders", mandatory=False)
            messaging.publish_on_commit(1, "orders", using="other", mandatory=False)
            assert bodies() == []
        assert bodies() == [1], "the other database has committed"
        transaction.set_rollback(True)
    assert bodies() == [1]


def test_what_cannot_be_sent_undoes_the_transaction(messaging: ModuleType, bodies: Callable[[], list[Any]]) -> None:
    from django.db import transaction

    with pytest.raises(InvalidMessage, match="not JSON"), transaction.atomic():
        insert("tea")
        messaging.publish_on_commit({"when": object()}, "orders")
    assert (stored(), bodies()) == ([], [])


def test_a_publish_that_fails_is_the_callers_error_after_the_commit(
    messaging: ModuleType, bodies: Callable[[], list[Any]], memory_transport: MemoryTransport
) -> None:
    """As Django's on_commit: what was registered after it is not run."""
    from django.db import transaction

    memory_transport.fail_with(ConnectTimeout("no broker", maybe_sent=True))
    ran: list[int] = []
    with pytest.raises(ConnectTimeout) as caught, transaction.atomic():
        insert("tea")
        transaction.on_commit(lambda: ran.append(1))
        messaging.publish_on_commit(1, "orders")
        transaction.on_commit(lambda: ran.append(2))
    assert caught.value.maybe_sent
    assert (stored(), ran) == (["tea"], [1])


@pytest.mark.parametrize("is_atomic", [True, False])
def test_a_robust_one_is_logged_and_the_others_go_on(
    is_atomic: bool,
    messaging: ModuleType,
    bodies: Callable[[], list[Any]],
    memory_transport: MemoryTransport,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from contextlib import nullcontext

    from django.db import transaction

    memory_transport.fail_with(ConnectTimeout("no broker"))
    with caplog.at_level(logging.ERROR), transaction.atomic() if is_atomic else nullcontext():
        messaging.publish_on_commit(1, "orders", robust=True)
        transaction.on_commit(lambda: memory_transport.fail_with(None))
        messaging.publish_on_commit(2, "orders", mandatory=False)
    assert bodies() == [2]
    [record] = caplog.records
    assert record.name == "django.db.backends.base"
    assert "publish_on_commit" in record.getMessage()
    assert "no broker" in record.getMessage()


def test_djangos_own_test_case_can_run_them(messaging: ModuleType, bodies: Callable[[], list[Any]]) -> None:
    """A TestCase never commits; captureOnCommitCallbacks stands for it."""
    from django.db import transaction
    from django.test import TestCase

    with transaction.atomic():
        with TestCase.captureOnCommitCallbacks(execute=True) as callbacks:
            messaging.publish_on_commit(1, "orders", mandatory=False)
        assert len(callbacks) == 1
        assert bodies() == [1]
        transaction.set_rollback(True)
