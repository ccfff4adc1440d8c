"""A broker that beats and does not answer: a channel that is suspended, as one is that waits for a hung node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from kombu import Queue

from tests.broker.rpc_endpoints import Endpoint, client_of, serving
from tests.faults.test_reconnect import lines, status_of
from tests.harness.proxy import FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.secret import dev_broker
from tests.harness.waiting import stays, wait_until
from wsgi_messaging import ConnectionLost, MessagingError, Transport
from wsgi_messaging.connection import patience, subscription
from wsgi_messaging.rpc.replies import replies_of

SOON = 1.0
"""Seconds instead of fifteen."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SILENT_AFTER", SOON)
    monkeypatch.setattr(patience, "LATE_AFTER", SOON / 2)
    monkeypatch.setattr(patience, "LOOK_EVERY", SOON / 5)


@pytest.fixture
def transport(rabbitmq: RabbitMQ) -> Iterator[Transport]:
    with Transport(rabbitmq.url, name="silence") as made:
        yield made


@contextmanager
def suspended_channels(rabbitmq: RabbitMQ, transport: Transport) -> Iterator[None]:
    """The channels of the publishing connection as they are now take nothing in and answer nothing; it beats on."""
    [connection] = rabbitmq.connections(status_of(transport).name)
    channels = (
        "[P || [{pid, P}, {name, N}] <- rabbit_channel:info_all([pid, name]), "
        f'binary:match(N, <<"{connection.name}">>) =/= nomatch]'
    )
    rabbitmq.evaluate(f"persistent_term:put(suspended, {channels}), [sys:suspend(P) || P <- {channels}]")
    try:
        yield
    finally:
        rabbitmq.evaluate("[catch sys:resume(P) || P <- persistent_term:get(suspended)]")


def test_a_message_that_is_not_answered_goes_to_another_connection(
    rabbitmq: RabbitMQ, transport: Transport, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    transport.publish("first", queue)
    with suspended_channels(rabbitmq, transport):
        transport.publish("second", queue, timeout=30.0)
        assert status_of(transport).reconnects == 1
        transport.publish("third", queue)
    assert status_of(transport).reconnects == 1
    assert len(lines(caplog, "lost")) == 1 and lines(caplog, "a message was not answered for 1 s")
    bodies = [message["payload"] for message in rabbitmq.messages(queue)]
    assert set(bodies) == {"first", "second", "third"} and bodies.count("third") == 1


def test_a_request_too(rabbitmq: RabbitMQ, transport: Transport, unique: Callable[[str], str]) -> None:
    """It has no confirm of its own: the broker is asked about it."""
    with Transport(rabbitmq.url) as served, serving(served, unique, Endpoint()) as running:
        client = client_of(transport, running, timeout=30)
        for number in range(2):  # the first proves the exchange, the second opens the channel
            assert client.call({}, "add", a=1, b=number) == 1 + number
        with suspended_channels(rabbitmq, transport):
            assert client.call({}, "add", a=2, b=2) == 4
            assert status_of(transport).reconnects == 1


def test_a_reply_queue_that_hangs_is_replaced(
    rabbitmq: RabbitMQ, proxy: FaultProxy, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker lives, and who consumes that queue waits for ever: the next call has another one."""
    monkeypatch.setattr(subscription, "ACCEPTED_WITHIN", SOON)
    with (
        Transport(rabbitmq.url) as served,
        Transport(proxy.url()) as calling,
        serving(served, unique, Endpoint()) as running,
    ):
        client = client_of(calling, running, timeout=30)
        assert client.call({}, "add", a=1, b=1) == 2
        replies = replies_of(calling.connections())
        hangs = replies.queue
        found = f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{hangs}">>))'
        rabbitmq.evaluate(f"{found}, sys:suspend(amqqueue:get_pid(Q))")
        try:
            proxy.cut()
            wait_until(lambda: replies.queue != hangs and replies.is_active, 20.0, "another one")
            assert client.call({}, "add", a=2, b=2) == 4
        finally:
            rabbitmq.evaluate(f"{found}, sys:resume(amqqueue:get_pid(Q))")
            rabbitmq.delete_queue(hangs)


def test_what_gets_one_attempt_is_not_sent_again(queue: str) -> None:
    with dev_broker() as broker, Transport(broker.url) as transport:
        transport.declare(Queue(queue))
        broker.hold_confirms()
        with pytest.raises(ConnectionLost, match="a message was not answered") as refused:
            transport.publish("once", queue, timeout=20.0, retry=0)
        assert refused.value.maybe_sent


def test_an_alarm_is_no_silence(queue: str) -> None:
    with dev_broker() as broker, Transport(broker.url) as transport, ThreadPoolExecutor(1) as pool:
        transport.declare(Queue(queue))
        transport.publish("first", queue)
        broker.block("no disk")
        late = pool.submit(transport.publish, "late", queue, timeout=30.0)
        wait_until(lambda: status_of(transport).blocked, what="the alarm")
        stays(lambda: status_of(transport).reconnects == 0, SOON * 2)
        broker.unblock()
        late.result(20.0)
        assert status_of(transport).reconnects == 0


def test_a_queue_that_never_answers_does_not_end_one_connection_after_the_other(
    queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quorum queue without a majority: each time it is waited for twice as long, so the others have their peace."""
    monkeypatch.setattr(patience, "IN_A_ROW", 1)
    with dev_broker() as broker, Transport(broker.url) as transport:
        transport.declare(Queue(queue))
        broker.hold_confirms()
        with pytest.raises(MessagingError):
            transport.publish("x", queue, timeout=SOON * 7)
        assert status_of(transport).reconnects == 2, "after one time, and two more; the next would be after seven"
