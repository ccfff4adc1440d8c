"""What oslo.messaging does badly (OSLO_WIRE section 0): the same faults, and how ours ends.

Through a TCP proxy in front of RabbitMQ, or on an embedded broker that misbehaves on command.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.broker.rpc_endpoints import AT_ONCE, EXCHANGE, Endpoint, client_of, serving, took
from tests.harness import processes
from tests.harness.proxy import DOWN, FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.secret import dev_broker
from tests.harness.waiting import wait_until
from wsgi_messaging import (
    BrokerBlocked,
    Closed,
    ConnectFailed,
    ConnectTimeout,
    MessagingError,
    ReplyTimeout,
    Transport,
    Unroutable,
)
from wsgi_messaging.devbroker import DevBroker
from wsgi_messaging.rpc import QueueFlags, RPCClient, Target, bindings
from wsgi_messaging.rpc.replies import replies_of

Name = Callable[[str], str]
LATE = 3.0
"""Seconds after its timeout by which every call has ended on a busy machine, too. What does not end a call that should
is the 5 s of `connect_timeout` at the least."""


@pytest.fixture
def devbroker() -> Iterator[DevBroker]:
    with dev_broker() as broker:
        yield broker


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[FaultProxy]:
    with FaultProxy((rabbitmq.host, rabbitmq.amqp_port)) as between:
        yield between


@pytest.fixture
def direct(rabbitmq: RabbitMQ) -> Iterator[Transport]:
    """The server's, undisturbed."""
    with Transport(rabbitmq.url, name="server") as opened:
        yield opened


@pytest.fixture
def disturbed(proxy: FaultProxy) -> Iterator[Transport]:
    """The client's, through the proxy."""
    with Transport(proxy.url(), name="client") as opened:
        yield opened


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


# Deadlines


@pytest.mark.parametrize("fault", ["refuse", "silent"])
def test_a_call_on_an_unreachable_broker_ends_in_time(proxy: FaultProxy, disturbed: Transport, fault: str) -> None:
    """The peer: still blocked at 15 s."""
    getattr(proxy, fault)()
    client = RPCClient(disturbed, Target(exchange=EXCHANGE, topic="any"), timeout=1)
    seconds, error = took(lambda: client.call({}, "add", a=1, b=1), MessagingError)
    assert 0.9 < seconds < 1 + LATE
    assert isinstance(error, (ConnectTimeout, ConnectFailed))
    assert not error.maybe_sent


def test_a_call_over_a_connection_that_fell_silent_ends_in_time(
    proxy: FaultProxy, direct: Transport, disturbed: Transport, unique: Name
) -> None:
    with serving(direct, unique, Endpoint()) as running:
        client = client_of(disturbed, running)
        assert client.call({}, "add", a=1, b=1) == 2
        proxy.freeze()
        seconds, error = took(lambda: client.prepare(timeout=1).call({}, "add", a=1, b=1), ReplyTimeout)
        assert 0.9 < seconds < 1 + LATE
        assert error.maybe_sent
        proxy.heal()
        assert client.call({}, "add", a=1, b=1) == 2


def test_a_call_under_way_when_the_broker_goes_ends_in_time(
    proxy: FaultProxy, direct: Transport, disturbed: Transport, unique: Name, endpoint: Endpoint
) -> None:
    """The peer: 16.1 s for 3 s."""
    with serving(direct, unique, endpoint) as running, ThreadPoolExecutor(1) as pool:
        client = client_of(disturbed, running)
        assert client.call({}, "add", a=1, b=1) == 2
        result = pool.submit(took, lambda: client.prepare(timeout=1.5).call({}, "hold"), ReplyTimeout)
        assert endpoint.running.acquire(timeout=20)
        proxy.refuse()
        proxy.cut()
        seconds, error = result.result(20)
        assert 1.4 < seconds < 1.5 + LATE
        assert error.maybe_sent
        endpoint.go_on.set()


def test_a_call_that_waits_when_its_transport_is_closed_is_told(
    direct: Transport, rabbitmq: RabbitMQ, unique: Name
) -> None:
    endpoint = Endpoint()
    with serving(direct, unique, endpoint) as running, ThreadPoolExecutor(1) as pool:
        calling = Transport(rabbitmq.url)
        client = client_of(calling, running)
        result = pool.submit(took, lambda: client.call({}, "hold"), Closed)
        assert endpoint.running.acquire(timeout=20)
        assert calling.close()
        seconds, error = result.result(20)
        assert seconds < AT_ONCE
        assert error.maybe_sent
        with pytest.raises(Closed):
            client.call({}, "add", a=1, b=1)
        endpoint.go_on.set()


def test_a_call_during_a_memory_alarm_ends_in_time(devbroker: DevBroker, unique: Name) -> None:
    """The peer: 61.9 s."""
    with (
        Transport(devbroker.url) as transport,
        Transport(devbroker.url) as other,
        serving(other, unique, Endpoint()) as running,
    ):
        client = client_of(transport, running)
        assert client.call({}, "add", a=1, b=1) == 2
        devbroker.block("no memory")
        for maybe_sent in (True, False):  # a broker says that it is blocked when it meets a message
            seconds, error = took(lambda: client.prepare(timeout=1).call({}, "add", a=1, b=1), BrokerBlocked)
            assert 0.9 < seconds < 1 + LATE
            assert "no memory" in str(error)
            assert error.maybe_sent is maybe_sent
        devbroker.unblock()
        assert client.call({}, "add", a=1, b=1) == 2


def test_without_retry_an_unreachable_broker_is_an_error_at_once(proxy: FaultProxy, disturbed: Transport) -> None:
    """The peer: 32.5 s."""
    proxy.refuse()
    client = RPCClient(disturbed, Target(exchange=EXCHANGE, topic="any"), timeout=30, retry=0)
    for send in (lambda: client.call({}, "add", a=1, b=1), lambda: client.cast({}, "add", a=1, b=1)):
        seconds, _error = took(send, ConnectFailed)
        assert seconds < AT_ONCE


# Connections that break


def test_calls_whose_confirms_were_lost_are_executed_once(
    proxy: FaultProxy, direct: Transport, disturbed: Transport, unique: Name, endpoint: Endpoint
) -> None:
    """The peer: 14 of 30 executed twice."""
    with serving(direct, unique, endpoint) as running, ThreadPoolExecutor(30) as pool:
        client = client_of(disturbed, running)
        assert client.call({}, "add", a=0, b=0) == 0
        proxy.freeze(DOWN)
        results = pool.map(lambda _number: client.call({}, "hold"), range(30))
        for _ in range(30):
            assert endpoint.running.acquire(timeout=20)
        proxy.cut()
        proxy.heal()
        wait_until(lambda: running.status().duplicates == 30, what="all thirty sent again")
        endpoint.go_on.set()
        assert list(results) == ["held"] * 30
        assert endpoint.executed == [(0, 0), *["held"] * 30]


def test_a_call_in_flight_survives_a_lost_connection_of_either_side(rabbitmq: RabbitMQ, unique: Name) -> None:
    target = (rabbitmq.host, rabbitmq.amqp_port)
    endpoint = Endpoint()
    with (
        FaultProxy(target) as near,
        FaultProxy(target) as far,
        ThreadPoolExecutor(1) as pool,
        Transport(near.url()) as calling,
        Transport(far.url()) as served,
        serving(served, unique, endpoint, ack="late") as running,
    ):
        client = client_of(calling, running)
        result = pool.submit(lambda: client.call({}, "hold"))
        assert endpoint.running.acquire(timeout=20)
        assert near.cut() and far.cut()
        wait_until(lambda: (len(near.open_pairs), len(far.open_pairs)) == (2, 1), what="the reconnects")
        endpoint.go_on.set()
        assert result.result(30) == "held"
        assert endpoint.executed == ["held"]


def test_a_call_in_flight_outlives_its_connection_and_its_exchange(
    rabbitmq: RabbitMQ, proxy: FaultProxy, direct: Transport, unique: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent again over the next connection it meets no exchange; that it was under way keeps it going."""
    monkeypatch.setattr("wsgi_messaging.connection.lanes.ASK_AFTER", 2.0)  # unasked
    endpoint, exchange = Endpoint(), unique("exchange")
    with (
        ThreadPoolExecutor(1) as pool,
        Transport(proxy.url()) as calling,
        serving(direct, unique, endpoint, exchange=exchange) as running,
    ):
        client = RPCClient(calling, running.target(server=None), timeout=30)
        assert client.call({}, "add", a=1, b=1) == 2
        result = pool.submit(lambda: client.call({}, "hold"))
        assert endpoint.running.acquire(timeout=20)
        rabbitmq.api(f"exchanges/%2F/{exchange}", "DELETE")
        proxy.cut()
        publishing = calling.connections().loop("publish")
        wait_until(lambda: publishing.reconnects == 1 and publishing.publisher.failed >= 1, what="the refusal")
        endpoint.go_on.set()
        assert result.result(30) == "held"
        assert endpoint.executed == [(1, 1), "held"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("flags", [QueueFlags(), QueueFlags(durable=True)], ids=["transient", "durable"])
def test_a_call_in_flight_survives_a_restart_of_the_broker(
    own_rabbitmq: RabbitMQ, unique: Name, flags: QueueFlags
) -> None:
    """And everything works after it, the fanout too, whose exchange was transient."""
    endpoint = Endpoint()
    with (
        Transport(own_rabbitmq.url) as calling,
        Transport(own_rabbitmq.url) as served,
        ThreadPoolExecutor(1) as pool,
        serving(served, unique, endpoint, flags=flags) as running,
    ):
        client = client_of(calling, running, timeout=100)
        assert client.call({}, "add", a=1, b=1) == 2
        result = pool.submit(lambda: client.call({}, "hold"))
        assert endpoint.running.acquire(timeout=20)
        own_rabbitmq.kill()
        own_rabbitmq.start()
        endpoint.go_on.set()
        assert result.result(100) == "held"

        def works() -> bool:  # a transient queue is not there before the server is back
            try:
                return bool(client.call({}, "add", a=2, b=2) == 4)
            except Unroutable:
                return False

        wait_until(works, 30, "a call")

        def told_all() -> bool:
            client.prepare(fanout=True).cast({}, "add", a=3, b=3)
            return (3, 3) in endpoint.executed

        wait_until(told_all, 30, "the fanout")


# What vanishes on the broker


def test_the_first_call_after_the_exchange_was_deleted_works(
    rabbitmq: RabbitMQ, direct: Transport, unique: Name, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer: deaf for ever."""
    monkeypatch.setattr(bindings, "EVERY", 0.3)
    exchange = unique("exchange")
    with Transport(rabbitmq.url) as calling, serving(direct, unique, endpoint, exchange=exchange) as running:
        client = RPCClient(calling, running.target(server=None), timeout=20)
        assert client.call({}, "add", a=1, b=1) == 2
        rabbitmq.api(f"exchanges/%2F/{exchange}", "DELETE")
        rabbitmq.api(f"exchanges/%2F/{running.target.fanout_exchange}", "DELETE")
        assert client.call({}, "add", a=2, b=2) == 4

        def is_bound() -> bool:
            bound = rabbitmq.api(f"queues/%2F/{running.target.topic}/bindings")
            return any(binding["source"] == exchange for binding in bound)

        wait_until(is_bound, what="the binding")

        def told_all() -> bool:
            client.prepare(fanout=True).cast({}, "add", a=3, b=3)
            return (3, 3) in endpoint.executed

        wait_until(told_all, 30, "the fanout")


def test_a_deleted_queue_is_declared_again(rabbitmq: RabbitMQ, direct: Transport, unique: Name) -> None:
    with Transport(rabbitmq.url) as calling, serving(direct, unique, Endpoint()) as running:
        client = client_of(calling, running)
        assert client.call({}, "add", a=1, b=1) == 2
        replies = replies_of(calling.connections())
        for queue in (running.target.topic, running.fanout_queue, replies.queue):
            rabbitmq.delete_queue(str(queue))

        def works() -> bool:
            try:
                return bool(client.prepare(timeout=5).call({}, "add", a=1, b=1))
            except MessagingError:
                return False

        wait_until(works, 30, "a call")
        assert client.prepare(server="s1").call({}, "who") == "s1"


def test_a_subscription_that_the_broker_forgot_is_found_by_a_probe(
    rabbitmq: RabbitMQ, direct: Transport, unique: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it happens after a partition: the consumer is gone, and nobody was told."""
    monkeypatch.setattr("wsgi_messaging.rpc.replies.PROBE_WITHIN", 0.3)
    with Transport(rabbitmq.url) as calling, serving(direct, unique, Endpoint()) as running:
        client = client_of(calling, running)
        assert client.call({}, "add", a=1, b=1) == 2
        replies = replies_of(calling.connections())
        feed: Any = replies._feed
        feed._loop.order(lambda _now: feed._loop.consumers.stop(feed._subscription))  # still active, as it believes
        took(lambda: client.prepare(timeout=1).call({}, "add", a=1, b=1), ReplyTimeout)
        wait_until(lambda: replies._is_probe_overdue(), what="the probe's time")
        assert client.call({}, "add", a=1, b=1) == 2
        assert replies._feed is not feed


# A caller that is gone


def test_a_reply_to_nobody_is_given_up(rabbitmq: RabbitMQ, direct: Transport, unique: Name) -> None:
    endpoint = Endpoint()
    with serving(direct, unique, endpoint) as running, ThreadPoolExecutor(2) as pool:
        calling = Transport(rabbitmq.url)
        client = client_of(calling, running).prepare(timeout=1.5)  # for so long a reply is tried
        client.prepare(timeout=30).call({}, "add", a=1, b=1)
        calls = [pool.submit(took, lambda: client.call({}, "hold"), MessagingError) for _ in range(2)]
        for _ in calls:
            assert endpoint.running.acquire(timeout=20)
        queue = replies_of(calling.connections()).queue
        calling.close()
        rabbitmq.delete_queue(queue)  # not before: a client that hears of it declares its queue again
        endpoint.go_on.set()
        wait_until(lambda: running.status().undeliverable == 2, what="both given up")
        assert running.status().replies == 1, "the first call's"


# A server that is killed


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Where the killed server writes what it began and finished."""
    path = tmp_path / "record"
    path.touch()
    return path


@pytest.mark.parametrize("ack", ["early", "late"])
def test_a_killed_server_loses_at_most_what_it_was_executing(
    rabbitmq: RabbitMQ, direct: Transport, unique: Name, record: Path, ack: str
) -> None:
    """The peer: 175 of 200 casts."""
    topic = unique("killed")
    command = [
        sys.executable, "-m", "tests.broker.rpc_recorder", rabbitmq.url, EXCHANGE, topic, ack, str(record)
    ]  # fmt: skip
    first = processes.spawn(command, env=processes.environment())
    client = RPCClient(direct, Target(exchange=EXCHANGE, topic=topic), timeout=20)
    try:
        wait_until(lambda: _answers(client), 60, "the server")
        for number in range(200):
            client.cast({}, "note", number=number)
        wait_until(lambda: record.read_text().count("begun") >= 20, 30, "twenty")
    finally:
        processes.stop(first, signal.SIGKILL)
    second = processes.spawn(command, env=processes.environment())
    try:
        expected = 199 if ack == "early" else 200

        def done() -> set[str]:
            return {line for line in record.read_text().splitlines() if line.startswith("done")}

        wait_until(lambda: len(done()) >= expected, 30, "the rest")
    finally:
        processes.stop(second)


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_late_request_whose_connection_broke_is_not_acknowledged_before_it_was_executed(
    devbroker: DevBroker, unique: Name, is_finished: bool
) -> None:
    """The copy that the broker delivers to the same server is what keeps the request on the broker."""
    endpoint, successor = Endpoint("one"), Endpoint("two")
    with (
        Transport(devbroker.url) as transport,
        Transport(devbroker.url) as other,
        serving(transport, unique, endpoint, ack="late") as first,
    ):
        client = client_of(other, first)
        client.cast({}, "hold")
        assert endpoint.running.acquire(timeout=20)
        devbroker.drop_connections()
        wait_until(lambda: first.status().duplicates == 1, what="the copy")
        if is_finished:
            endpoint.go_on.set()
            wait_until(lambda: endpoint.executed == ["held"], what="its end")
        transport.close(1.0)
        successor.go_on.set()
        with serving(other, unique, successor, topic=first.target.topic, server="two"):
            assert client.call({}, "who") == "two"
            assert successor.running.acquire(timeout=0.2 if is_finished else 20) is not is_finished
        endpoint.go_on.set()
    assert (first.status().executed, endpoint.executed) == (1, ["held"])


def _answers(client: RPCClient) -> bool:
    try:
        return client.prepare(timeout=1).call({}, "oslo_rpc_server_ping") == "pong"
    except MessagingError:
        return False


def test_twenty_threads_share_two_connections_and_two_threads(
    rabbitmq: RabbitMQ, direct: Transport, unique: Name
) -> None:
    """The peer: 20 connections, and a heartbeat thread for each."""
    with serving(direct, unique, Endpoint()) as running:
        direct.warm()
        before = set(threading.enumerate())
        with Transport(rabbitmq.url, name=unique("twenty")) as calling, ThreadPoolExecutor(20) as pool:
            client = client_of(calling, running)
            assert list(pool.map(lambda n: client.call({}, "add", a=n, b=0), range(20))) == list(range(20))
            names = [thread.name for thread in threading.enumerate() if thread not in before]
            assert len([name for name in names if name.startswith("wsgi-messaging") and "-rpc-" not in name]) == 2
            name = calling.status().connections[0].name.partition(":")[0]
            assert len(rabbitmq.connections(name)) == 2


def test_a_server_stops_quickly_while_the_broker_is_away(proxy: FaultProxy, unique: Name) -> None:
    with Transport(proxy.url()) as transport, serving(transport, unique, Endpoint()) as running:
        proxy.refuse()
        proxy.cut()
        wait_until(lambda: transport.status().connections[0].state != "ready", what="the loss")
        started_at = time.monotonic()
        assert running.stop()
        assert time.monotonic() - started_at < 4.0, "what it waits for at most is 5 s"
        proxy.heal()
