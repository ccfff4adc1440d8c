"""What is bounded: how much waits, how long it is hoped for, and how long a password is good for."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import pytest
from kombu import Queue

from tests.harness.processes import free_port
from tests.harness.secret import dev_broker
from tests.harness.waiting import wait_until
from wsgi_messaging import (
    ConnectFailed,
    Expired,
    Notifier,
    RPCClient,
    Settings,
    Target,
    Transport,
    Unavailable,
    Unroutable,
)
from wsgi_messaging.devbroker import DevBroker

NOBODY = f"amqp://guest:guest@127.0.0.1:{free_port()}//"


def test_a_backlog_in_bytes_is_refused_at_once() -> None:
    with Transport(settings=Settings(url=NOBODY, max_queued_bytes=100_000)) as transport:
        handles = []
        with pytest.raises(Unavailable, match="max_queued_bytes") as raised:
            for _ in range(40):
                handles.append(transport.publish_soon(b"x" * 5_000, "q", timeout=5.0))
        assert 20 <= len(handles) <= 25  # it is added up each time the backlog has grown by an eighth
        assert not raised.value.maybe_sent
        assert not any(handle.done for handle in handles)
        assert transport.close(2.0)


@pytest.mark.parametrize(("bound", "value"), [("max_queued", 50), ("max_queued_bytes", 50_000)])
def test_what_waits_for_the_first_message_to_an_exchange_counts(bound: str, value: int) -> None:
    with (
        dev_broker() as broker,
        Transport(settings=Settings(url=broker.url).with_changes(**{bound: value})) as transport,
    ):
        transport.publish("warm", "q", mandatory=False)
        broker.hold_confirms()
        handles = []
        with pytest.raises(Unavailable, match=bound):
            for _ in range(200):
                handles.append(transport.publish_soon(b"x" * 1000, "q", "amq.direct", mandatory=False))
                wait_until(lambda: not transport.connections().loop("publish").outbox, what="an empty outbox")
        assert 40 <= len(handles) <= 60
        [status] = transport.status().connections
        assert (status.in_flight, status.queued) == (1, len(handles) - 1)
        broker.release_confirms()
        for handle in handles:
            handle.wait(10.0)


def test_a_single_large_message_is_not_a_backlog() -> None:
    with dev_broker() as broker, Transport(settings=Settings(url=broker.url, max_queued_bytes=1000)) as transport:
        transport.publish(b"x" * 1_000_000, "q", mandatory=False)


def test_a_long_outage_is_answered_at_once_and_its_end_is_noticed() -> None:
    with Transport(settings=Settings(url=NOBODY, fail_fast_after=0.3)) as transport:
        with pytest.raises(Expired):
            transport.publish("x", "q", timeout=0.6)
        begun = time.monotonic()
        with pytest.raises(ConnectFailed, match="fail_fast_after") as raised:
            transport.publish("x", "q", timeout=10.0)
        assert time.monotonic() - begun < 5.0
        assert not raised.value.maybe_sent
    broker = dev_broker().start()
    port = broker.port
    with Transport(settings=Settings(url=broker.url, fail_fast_after=0.1)) as transport:
        transport.publish("x", "q", mandatory=False)
        broker.stop()
        wait_until(lambda: transport.status().connections[0].last_failure, what="the outage")
        time.sleep(0.2)  # longer than fail_fast_after
        with pytest.raises(ConnectFailed):
            transport.publish("x", "q", timeout=10.0)
        with dev_broker(port=port):
            wait_until(lambda: transport.status().connections[0].state == "ready", what="the reconnect")
            transport.publish("x", "q", mandatory=False)


def test_in_a_long_outage_nothing_else_waits_either() -> None:
    """A declaration and a call took their whole time: an RPC client's is a minute."""
    broker = dev_broker().start()
    with Transport(settings=Settings(url=broker.url, fail_fast_after=0.1)) as transport:
        client = RPCClient(transport, Target(topic="nobody"), timeout=20.0)
        notifier = Notifier(transport, "p", timeout=20.0)
        for attempt in (lambda: client.call({}, "m"), lambda: transport.declare(Queue("q"))):
            with suppress(Unroutable):
                attempt()
        broker.stop()
        statuses = transport.status
        wait_until(lambda: all(each.last_failure for each in statuses().connections), what="the outage")
        time.sleep(0.2)  # longer than fail_fast_after
        for attempt in (
            lambda: transport.declare(Queue("q"), timeout=20.0),
            lambda: client.call({}, "m"),
            lambda: client.cast({}, "m"),
            lambda: notifier.info({}, "e", 1),
        ):
            begun = time.monotonic()
            with pytest.raises(ConnectFailed, match="fail_fast_after"):
                attempt()
            assert time.monotonic() - begun < 10.0


def test_credentials_are_asked_for_at_each_connect() -> None:
    """Secrets rotate: what the function gives counts, not the URL, and a wrong one is asked for again."""
    given: list[str] = []
    secret = ["old-secret"]

    def credentials() -> tuple[str, str]:
        given.extend(secret)
        return "app", secret[0]

    def goes_through() -> bool:
        with suppress(ConnectFailed):  # an attempt was under way with the old one
            transport.publish("x", "q", mandatory=False)
            return True
        return False

    with DevBroker(users={"app": "new-secret"}) as broker:
        settings = Settings(url=broker.url, credentials=credentials)
        with Transport(settings=settings) as transport:
            with pytest.raises(ConnectFailed, match="login refused") as raised:
                transport.publish("x", "q", mandatory=False)
            assert "secret" not in f"{raised.value!r} {transport!r} {settings!r}"
            secret[:] = ["new-secret"]
            wait_until(goes_through, what="the connection with the new one")
            before = len(given)
            broker.drop_connections()
            transport.publish("x", "q", mandatory=False)
            wait_until(lambda: len(given) == before + 1, what="the function is asked again")


def test_a_function_for_credentials_that_fails_or_hangs_holds_no_call_beyond_its_time() -> None:
    def fail() -> tuple[str, str]:
        raise OSError("the vault is sealed: s.secret-token")

    def hang() -> tuple[str, str]:
        over.wait(8.0)  # longer than the call may take
        return "a", "b"

    over = threading.Event()
    with dev_broker() as broker:
        with Transport(settings=Settings(url=broker.url, credentials=fail)) as transport:
            with pytest.raises(Expired, match="credentials") as raised:
                transport.publish("x", "q", timeout=0.5)
            assert "secret-token" not in str(raised.value)
        with Transport(settings=Settings(url=broker.url, credentials=hang, connect_timeout=0.2)) as transport:
            begun = time.monotonic()
            with pytest.raises(Expired):
                transport.publish("x", "q", timeout=0.5)
            assert time.monotonic() - begun < 4.0
            over.set()
            transport.close(0.1)
