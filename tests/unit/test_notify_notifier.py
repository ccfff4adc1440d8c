"""Notifier over the in-memory transport: what goes out, by which driver, and how failures are told."""

from __future__ import annotations

import contextvars
import gc
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest

from tests.harness.waiting import wait_until
from wsgi_messaging import (
    ConfigurationError,
    ConfirmTimeout,
    DeclarationRefused,
    InvalidMessage,
    MessagingError,
    MessagingMiddleware,
    Unavailable,
    current_transport,
)
from wsgi_messaging.notify import NotificationFailed, Notifier, buffer
from wsgi_messaging.rpc import QueueFlags
from wsgi_messaging.testing import MemoryTransport

PRIORITIES = ["audit", "debug", "info", "warn", "error", "critical", "sample"]


@pytest.fixture
def transport() -> Iterator[MemoryTransport]:
    made = MemoryTransport()
    yield made
    made.close()


def inner(body: bytes) -> dict[str, Any]:
    outer = json.loads(body)
    assert list(outer) == ["oslo.version", "oslo.message"]
    assert outer["oslo.version"] == "2.0"
    read: dict[str, Any] = json.loads(outer["oslo.message"])
    return read


class Context:
    """As oslo.context's RequestContext."""

    def __init__(self) -> None:
        self.user, self.auth_token = "alice", "secret"

    def redacted_copy(self) -> Context:
        copy = Context()
        copy.auth_token = "***"
        return copy

    def to_dict(self) -> dict[str, Any]:
        return {"user": self.user, "auth_token": self.auth_token}


@pytest.mark.parametrize("priority", [*PRIORITIES, "warning"])
def test_every_priority(transport: MemoryTransport, priority: str) -> None:
    notifier = Notifier(transport, "compute.host1")
    getattr(notifier, priority)(Context(), "instance.create", {"id": 1})
    sent = transport.published[-1]
    upper = "WARN" if priority == "warning" else priority.upper()
    assert (sent.exchange, sent.routing_key) == ("openstack", f"notifications.{upper.lower()}")
    message = inner(sent.body)
    assert list(message) == [
        "message_id",
        "publisher_id",
        "event_type",
        "priority",
        "payload",
        "timestamp",
        "_unique_id",
        "_context_user",
        "_context_auth_token",
    ]
    assert uuid.UUID(message["message_id"]).version == 4
    assert re.fullmatch("[0-9a-f]{32}", message["_unique_id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?", message["timestamp"])
    assert (message["publisher_id"], message["event_type"]) == ("compute.host1", "instance.create")
    assert (message["priority"], message["payload"]) == (upper, {"id": 1})
    assert (message["_context_user"], message["_context_auth_token"]) == ("alice", "***")


def test_properties_are_the_peers(transport: MemoryTransport) -> None:
    """OSLO_WIRE section 1: these five and no other."""
    Notifier(transport, "p").info({}, "e", {})
    assert transport.published[-1].properties == {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {},
        "delivery_mode": 2,
        "priority": 0,
    }


def test_format_1_0_has_no_envelope(transport: MemoryTransport) -> None:
    Notifier(transport, "p", drivers="messaging").info({}, "e", {"at": datetime(2026, 1, 2, tzinfo=timezone.utc)})
    message = transport.published[-1].json()
    assert message["event_type"] == "e"
    assert message["payload"] == {"at": "2026-01-02T00:00:00.000000"}


def test_each_topic_gets_its_own_message(transport: MemoryTransport) -> None:
    """With one `_unique_id` for both, a listener of both topics would take the second for a duplicate."""
    Notifier(transport, "p", topics=["a", "b"]).info({}, "e", 1)
    first, second = (inner(sent.body) for sent in transport.published)
    assert [sent.routing_key for sent in transport.published] == ["a.info", "b.info"]
    assert first["_unique_id"] != second["_unique_id"]
    assert first["message_id"] == second["message_id"]


def test_the_queue_is_there_before_anybody_listens(transport: MemoryTransport) -> None:
    notifier = Notifier(transport, "p", exchange="nova")
    notifier.info({}, "e", 1)
    notifier.info({}, "e", 2)
    waiting = transport.waiting("notifications.info")
    assert [inner(each.body)["payload"] for each in waiting] == [1, 2]
    assert {each.exchange for each in waiting} == {"nova"}


@pytest.mark.parametrize("context", [None, {}, {"auth_token": "secret"}])
def test_a_plain_context_does_not_travel(transport: MemoryTransport, context: Any) -> None:
    Notifier(transport, "p").info(context, "e", 1)
    assert b"secret" not in transport.published[-1].body
    assert not [key for key in inner(transport.published[-1].body) if key.startswith("_context_")]


def test_a_context_that_cannot_be_redacted_is_left_out_and_said(
    transport: MemoryTransport, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier(transport, "p").info(object(), "e", 1)
    assert len(transport.published) == 1
    assert "redacted_copy" in caplog.text


def test_values_that_json_does_not_have(transport: MemoryTransport) -> None:
    Notifier(transport, "p").info({}, "e", {"d": Decimal("1.5"), "s": {1}, "t": (1, 2), "b": b"x"})
    assert inner(transport.published[-1].body)["payload"] == {"d": "1.5", "s": [1], "t": [1, 2], "b": "x"}


@pytest.mark.parametrize("soon", [False, True])
@pytest.mark.parametrize("driver", ["messaging", "messagingv2"])
def test_what_json_cannot_hold_is_the_callers_error(transport: MemoryTransport, driver: str, soon: bool) -> None:
    notifier = Notifier(transport, "p", drivers=driver, soon=soon)
    with pytest.raises(InvalidMessage):
        notifier.info({}, "e", object())
    assert transport.published == []


def test_the_serializer_serializes(transport: MemoryTransport) -> None:
    class Serializer:
        def serialize_entity(self, ctxt: Any, entity: Any) -> Any:
            return {"wrapped": entity}

        def serialize_context(self, ctxt: Any) -> Any:
            return {"from": "serializer"}

        def deserialize_entity(self, ctxt: Any, entity: Any) -> Any:
            return entity

        def deserialize_context(self, ctxt: Any) -> Any:
            return ctxt

    Notifier(transport, "p", serializer=Serializer()).info({}, "e", 1)
    message = inner(transport.published[-1].body)
    assert (message["payload"], message["_context_from"]) == ({"wrapped": 1}, "serializer")


def test_prepare_shares_all_but_what_was_asked_for(transport: MemoryTransport) -> None:
    base = Notifier(transport, "base", retry=3)
    other = base.prepare(publisher_id="other", retry=0)
    base.info({}, "e", 1)
    other.info({}, "e", 1)
    assert [inner(sent.body)["publisher_id"] for sent in transport.published] == ["base", "other"]
    assert (base.retry, other.retry) == (3, 0)
    assert base.prepare().publisher_id == "base"
    assert base.status().sent == 2


def test_one_topic_that_fails_hides_no_other(transport: MemoryTransport) -> None:
    """The queue `bad.info` was declared by somebody else with other flags: 406."""
    Notifier(transport, "p", topics=["bad"], flags=QueueFlags(arguments={"x-max-length": 5})).info({}, "e", 0)
    notifier = Notifier(transport, "p", topics=["bad", "good", "better"])
    for attempt in (1, 2):
        with pytest.raises(DeclarationRefused, match="x-max-length"):
            notifier.info({}, "e", attempt)
        assert len(transport.waiting("good.info")) == attempt
        assert len(transport.waiting("better.info")) == attempt
    assert (notifier.status().sent, notifier.status().failed) == (4, 2)


def test_several_failures_are_told_together(transport: MemoryTransport) -> None:
    for topic in ("x", "y"):
        Notifier(transport, "p", topics=[topic], flags=QueueFlags(arguments={"x-max-length": 5})).info({}, "e", 0)
    with pytest.raises(NotificationFailed) as caught:
        Notifier(transport, "p", topics=["x", "z", "y"]).info({}, "e", 1)
    assert [type(error) for error in caught.value.failures] == [DeclarationRefused, DeclarationRefused]
    assert len(transport.waiting("z.info")) == 1


def test_an_error_of_the_broker_is_typed(transport: MemoryTransport) -> None:
    notifier = Notifier(transport, "p")
    transport.fail_with(ConfirmTimeout("no answer", maybe_sent=True))
    with pytest.raises(ConfirmTimeout) as caught:
        notifier.info({}, "e", 1)
    assert caught.value.maybe_sent
    transport.fail_with(None)
    notifier.info({}, "e", 2)
    assert (notifier.status().sent, notifier.status().failed) == (1, 1)


def test_drivers_side_by_side(transport: MemoryTransport, caplog: pytest.LogCaptureFixture) -> None:
    class Own:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def notify(self, context: Any, message: dict[str, Any], priority: str, retry: int | None) -> None:
            self.seen.append(message["event_type"])

    own = Own()
    caplog.set_level(logging.INFO, "oslo.messaging.notification")
    Notifier(transport, "p", drivers=["messagingv2", "log", "noop", own]).info({}, "an.event", 1)
    assert len(transport.published) == 1
    assert own.seen == ["an.event"]
    assert "an.event" in caplog.text


def test_routing_by_name(transport: MemoryTransport, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "oslo.messaging.notification")
    rules = {"g": {"messagingv2": {"accepted_priorities": ["error"]}, "log": {"accepted_events": ["audit.*"]}}}
    notifier = Notifier(transport, "p", drivers="routing", routing=rules)
    notifier.info({}, "audit.login", 1)
    assert transport.published == []
    assert "audit.login" in caplog.text
    notifier.error({}, "other", 1)
    assert [sent.routing_key for sent in transport.published] == ["notifications.error"]


def test_noop_alone_is_not_enabled(transport: MemoryTransport) -> None:
    assert Notifier(transport, "p").is_enabled()
    assert not Notifier(transport, "p", drivers="noop").is_enabled()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"topics": []}, "topics"),
        ({"topics": "notifications"}, "topics"),
        ({"topics": [""]}, "topics"),
        ({"drivers": "rabbit"}, "rabbit"),
        ({"retry": -2}, "retry"),
        ({"retry": True}, "retry"),
        ({"buffer_size": 0}, "buffer_size"),
        ({"timeout": "5"}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"drivers": "routing", "routing": {"g": {"routing": {}}}}, "routing"),
        ({"drivers": "routing", "routing": {"g": {"nobody": {}}}}, "nobody"),
    ],
)
def test_a_wrong_argument_is_named(transport: MemoryTransport, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Notifier(transport, "p", **options)


# The buffer.


def test_soon_sends_off_the_callers_path_and_in_order(transport: MemoryTransport) -> None:
    notifier = Notifier(transport, "p", soon=True)
    for number in range(250):
        notifier.info({}, "e", number)
    assert notifier.flush(5.0)
    assert [inner(sent.body)["payload"] for sent in transport.published] == list(range(250))
    status = notifier.status()
    assert (status.sent, status.failed, status.dropped, status.waiting) == (250, 0, 0, 0)


def test_what_does_not_fit_is_dropped_and_counted(transport: MemoryTransport) -> None:
    transport.fail_with(Unavailable("away"))
    notifier = Notifier(transport, "p", soon=True, buffer_size=10)
    for number in range(30):
        notifier.info({}, "e", number)
    assert notifier.status().waiting == 10
    assert notifier.status().dropped == 20
    transport.fail_with(None)
    assert notifier.flush(5.0)
    assert [inner(sent.body)["payload"] for sent in transport.published] == list(range(10))
    assert (notifier.status().sent, notifier.status().waiting) == (10, 0)


@pytest.mark.parametrize(("retry", "tries"), [(0, 1), (1, 2)])
def test_a_retry_is_bounded(transport: MemoryTransport, retry: int, tries: int, caplog: Any) -> None:
    transport.fail_with(Unavailable("away"))
    notifier = Notifier(transport, "p", soon=True, retry=retry)
    notifier.info({}, "e", 1)
    wait_until(lambda: notifier.status().failed == 1, what="the notification being given up")
    assert caplog.text.count("notifications cannot be sent") == 1
    assert transport.status().connections[0].failed == tries


def test_a_message_that_is_refused_is_given_up_and_the_next_one_sent(transport: MemoryTransport) -> None:
    Notifier(transport, "p", topics=["t"], flags=QueueFlags(arguments={"x-max-length": 5})).error({}, "e", 0)
    notifier = Notifier(transport, "p", topics=["t"], soon=True)
    notifier.error({}, "e", 1)  # 406
    notifier.info({}, "e", 2)
    assert notifier.flush(5.0)
    assert (notifier.status().sent, notifier.status().failed) == (1, 1)


def test_a_route_that_hangs_stops_no_other(transport: MemoryTransport) -> None:
    """Nobody may starve behind a message that is tried again and again."""

    class Half(MemoryTransport):
        def declare(self, entity: Any, *, timeout: float | None = None) -> str:
            if entity.name == "hanging.info":
                raise ConfirmTimeout("no answer in time", maybe_sent=True)
            return super().declare(entity, timeout=timeout)

    half = Half()
    try:
        hanging = Notifier(half, "p", topics=["hanging", "fine"], soon=True)
        for number in range(3):
            hanging.info({}, "e", number)
            wait_until(lambda: len(half.published) == number + 1, what="the other topic's message")  # noqa: B023
        assert hanging.status().waiting == 3
        assert hanging.close(0.1) is False
        wait_until(lambda: hanging.status().failed == 3, what="the end of what hangs")
    finally:
        half.close()


def test_routes_that_take_all_the_time_have_the_last_turn() -> None:
    """What can be declared is sent, wherever it stands among the topics."""

    class Hanging(MemoryTransport):
        tried: list[str] = []

        def declare(self, entity: Any, *, timeout: float | None = None) -> str:
            self.tried.append(entity.name)
            if entity.name.startswith("bad"):
                time.sleep(timeout or 0.0)
            if not timeout or entity.name.startswith("bad"):
                raise ConfirmTimeout("no answer in time")
            return super().declare(entity, timeout=timeout)

    hanging = Hanging()
    try:
        notifier = Notifier(hanging, "p", topics=["bad1", "bad2", "good"], soon=True, timeout=0.1)
        notifier.info({}, "e", 1)
        wait_until(lambda: hanging.tried.count("bad2.info") >= 6, 10.0, "both that hang having had their turns")
        assert [sent.routing_key for sent in hanging.published] == ["good.info"]
        assert notifier.status().sent == 1
        hung = notifier.close(0.1)
        assert not hung
    finally:
        hanging.close()


@pytest.mark.parametrize("error", [ConfigurationError("tls_ca_file: no such file"), RuntimeError("no more threads")])
def test_an_error_that_passes_ends_no_buffer(error: Exception, caplog: Any) -> None:
    """It is what became of the messages that met it."""

    class Failing(MemoryTransport):
        failures = [error]

        def publish_many(self, messages: Any, **options: Any) -> Any:
            if self.failures:
                raise self.failures.pop()
            return super().publish_many(messages, **options)

    failing = Failing()
    try:
        notifier = Notifier(failing, "p", soon=True)
        notifier.info({}, "e", 1)
        assert notifier.flush(5.0)
        notifier.info({}, "e", 2)
        assert notifier.flush(5.0)
        assert (notifier.status().failed, notifier.status().sent) == (1, 1)
        assert str(error) in caplog.text
    finally:
        failing.close()


def test_a_thread_that_cannot_be_started_is_started_at_the_next_call(
    transport: MemoryTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is out of threads for a moment keeps what it was given meanwhile."""

    def refuse(_name: str, _run: Any) -> None:
        raise RuntimeError("can't start new thread")

    notifier = Notifier(transport, "p", soon=True)
    with monkeypatch.context() as short:
        short.setattr(buffer, "start_application_thread", refuse)
        notifier.info({}, "e", 1)
        assert not notifier.flush(0.0)
    notifier.info({}, "e", 2)
    assert notifier.flush(5.0)
    assert (notifier.status().sent, notifier.status().dropped) == (2, 0)


def test_a_notifier_that_is_dropped_ends_its_thread(transport: MemoryTransport) -> None:
    others = set(threading.enumerate())
    notifier = Notifier(transport, "p", soon=True)
    notifier.info({}, "e", 1)
    assert notifier.flush()
    threads = [thread for thread in set(threading.enumerate()) - others if thread.name == "wsgi-messaging-notify"]
    assert threads
    del notifier
    gc.collect()
    wait_until(lambda: not any(thread.is_alive() for thread in threads), what="the thread's end")


def test_close_sends_what_waits_and_takes_no_more(transport: MemoryTransport) -> None:
    notifier = Notifier(transport, "p", soon=True)
    for number in range(50):
        notifier.info({}, "e", number)
    assert notifier.close(5.0)
    assert notifier.status().sent == 50
    notifier.info({}, "e", 51)
    assert notifier.status().dropped == 1
    assert notifier.close(0.0)


def test_close_is_bounded_and_says_what_is_left(transport: MemoryTransport, caplog: Any) -> None:
    transport.fail_with(Unavailable("away"))
    notifier = Notifier(transport, "p", soon=True)
    notifier.info({}, "e", 1)
    assert notifier.close(0.2) is False
    assert "1 notifications" in caplog.text
    wait_until(lambda: notifier.status().failed == 1, what="the last message being given up")


def test_a_notifier_that_was_never_used_closes_at_once(transport: MemoryTransport) -> None:
    notifier = Notifier(transport, "p", soon=True)
    assert notifier.flush(0.0)
    assert notifier.close(0.0)


def test_a_one_shot_process_sends_directly(transport: MemoryTransport) -> None:
    """A process that ends with its request has no later."""
    notifier = Notifier(transport, "p", soon=True)
    notifier.info({}, "e", 1)
    assert notifier.flush(5.0)
    transport.is_one_shot = True
    transport.fail_with(Unavailable("away"))
    with pytest.raises(MessagingError):
        notifier.info({}, "e", 2)


def test_it_may_stand_on_current_transport_before_there_is_a_request(transport: MemoryTransport) -> None:
    """At module level, as an RPCClient may: the application did not start."""

    def module() -> None:
        notifier = Notifier(current_transport, "p", topics=["standing"])
        with pytest.raises(ConfigurationError, match="no request"):
            Notifier(current_transport, "p", soon=True)  # its thread never serves one

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            notifier.info({}, "e", 1)
            return []

        MessagingMiddleware(app, transport)({}, lambda *_: None)

    contextvars.Context().run(module)
    assert len(transport.published) == 1
