"""A connection that is lost comes back: by itself, quickly, with its consumers, and without losing a confirm."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from kombu import Exchange, Queue

from tests.harness.proxy import FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import stays, wait_until
from wsgi_messaging import ConnectionStatus, MessagingError, Settings, Transport, Unroutable
from wsgi_messaging.connection.connecting import FIRST_WITHIN

LOGGER = "wsgi_messaging.connection"


@pytest.fixture
def transport(proxy: FaultProxy) -> Iterator[Transport]:
    with Transport(proxy.url(), name="reconnect") as made:
        yield made


def lines(caplog: pytest.LogCaptureFixture, containing: str = "") -> list[str]:
    return [record.getMessage() for record in caplog.records if containing in record.getMessage()]


def status_of(transport: Transport, role: str = "publish") -> ConnectionStatus:
    [status] = [each for each in transport.status().connections if each.role == role]
    return status


def test_next_publish_after_a_reset_succeeds_quickly(transport: Transport, proxy: FaultProxy, queue: str) -> None:
    """From connections that have lived a while: those that break at once are opened again ever more slowly."""
    transport.publish("warm", queue)
    took = []
    for number in range(3):
        wait_until(lambda: _age(proxy) > 1.1, what="the connection's second second")
        proxy.cut()
        began_at = time.monotonic()
        transport.publish(number, queue)
        took.append(time.monotonic() - began_at)
    assert min(took) <= FIRST_WITHIN + 0.5, took
    assert max(took) < 5.0, took
    assert status_of(transport).reconnects == 3


def _age(proxy: FaultProxy) -> float:
    [pair] = proxy.open_pairs
    return time.monotonic() - pair.opened_at


def test_a_connection_that_breaks_as_soon_as_it_is_open_is_not_a_storm(
    transport: Transport, proxy: FaultProxy, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a firewall, or a message, ends every connection at once: attempts slow down, the log stays short."""
    caplog.set_level(logging.DEBUG, "wsgi_messaging")
    transport.publish("warm", queue)
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        if status_of(transport).state == "ready":
            proxy.cut()
        time.sleep(0.005)  # between two looks
    assert status_of(transport).reconnects < 15
    assert len(lines(caplog)) <= 4
    transport.publish("after the storm", queue)


def test_one_line_for_each_change_of_state(
    transport: Transport, proxy: FaultProxy, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "wsgi_messaging")
    transport.publish("warm", queue)
    assert lines(caplog) == []
    proxy.refuse()
    proxy.cut()
    wait_until(lambda: len(lines(caplog)) == 1, what="the first line")
    stays(lambda: len(lines(caplog)) == 1, 1.0, "one line while attempt after attempt fails")
    proxy.heal()
    transport.publish("again", queue)
    wait_until(lambda: len(lines(caplog)) == 2, what="the second line")
    [lost, back] = lines(caplog)
    name = status_of(transport).name
    assert lost.startswith(f"{name}: lost amqp://127.0.0.1:{proxy.port}: ")
    assert back.startswith(f"{name}: connected to amqp://127.0.0.1:{proxy.port} after ")


def test_attempts_slow_down_and_burn_no_processor(transport: Transport, proxy: FaultProxy, queue: str) -> None:
    transport.publish("warm", queue)
    proxy.refuse()
    proxy.cut()
    wait_until(lambda: status_of(transport).state == "waiting", what="the loss")
    used = time.process_time()
    stays(lambda: status_of(transport).state in ("waiting", "connecting"), 1.2)
    assert time.process_time() - used < 0.6


def test_a_message_that_hangs_in_the_wreck_is_sent_again(
    transport: Transport, proxy: FaultProxy, rabbitmq: RabbitMQ, queue: str
) -> None:
    transport.publish("warm", queue)
    proxy.freeze()
    confirm = transport.publish_soon("wreck", queue, message_id="the-same")
    wait_until(lambda: status_of(transport).in_flight == 1, what="the message on its way")
    proxy.cut()
    proxy.heal()
    confirm.wait()
    found = [message for message in rabbitmq.messages(queue) if message["payload"] == "wreck"]
    assert [message["properties"]["message_id"] for message in found] == ["the-same"]


def test_a_consumer_comes_back(transport: Transport, proxy: FaultProxy, queue: str) -> None:
    received: list[str] = []
    consumer = transport.consume(queue, lambda delivery: received.append(delivery.body.decode()))
    for number in range(3):
        proxy.cut()
        transport.publish(f"message {number}", queue)
        wait_until(lambda number=number: f"message {number}" in received, what=f"message {number}")
    assert consumer.is_active
    assert status_of(transport, "consume").consumers == 1


def test_a_cancelled_consumer_stays_cancelled(transport: Transport, proxy: FaultProxy, queue: str) -> None:
    received: list[bytes] = []
    other = transport.consume(queue, lambda delivery: None)
    consumer = transport.consume(queue, lambda delivery: received.append(delivery.body))
    assert consumer.cancel()
    assert other.cancel()
    proxy.cut()
    transport.publish("nobody's", queue)
    wait_until(lambda: status_of(transport, "consume").state == "ready", what="the consuming connection")
    stays(lambda: not received, 0.3)
    assert status_of(transport, "consume").consumers == 0


def test_an_exclusive_queue_comes_back_with_its_consumer(
    transport: Transport, proxy: FaultProxy, unique: Callable[[str], str]
) -> None:
    """It went with its connection; a durable one is still there."""
    name = unique("exclusive")
    received: list[bytes] = []
    transport.declare(Queue(name, exclusive=True))
    transport.consume(name, lambda delivery: received.append(delivery.body))
    transport.publish("1", name)
    wait_until(lambda: received == [b"1"], what="the first message")
    proxy.cut()
    transport.publish("2", name)
    wait_until(lambda: received == [b"1", b"2"], what="the message after the reconnect")


def test_a_queue_that_the_broker_named_comes_back_under_another_name(
    transport: Transport, proxy: FaultProxy, unique: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """With its bindings and all its consumers; what one has the other does not get."""
    told = Exchange(unique("told"), "fanout", durable=True)
    queue = Queue("", told, exclusive=True)
    received: list[bytes] = []
    name = transport.declare(queue)
    consumers = [transport.consume(name, lambda delivery: received.append(delivery.body)) for _ in range(2)]
    names: set[str] = set()
    transport.publish("1", "", told.name)
    wait_until(lambda: received == [b"1"], what="the first message")
    for number in (2, 3):
        received.clear()
        names.add(consumers[0].queue)
        proxy.cut()
        wait_until(lambda: all(each.is_active and each.queue not in names for each in consumers), 10.0, "both")
        for part in range(10):
            transport.publish(f"{number}.{part}", "", told.name)
        wait_until(lambda: len(received) >= 10, what="the messages after the reconnect")
        assert len(set(received)) == len(received) == 10
        assert len({consumer.queue for consumer in consumers}) == 1
    with pytest.raises(Unroutable):
        transport.publish("to what is gone", name)
    assert lines(caplog, "consumer") == []


def test_a_queue_that_the_broker_named_and_nobody_consumes_is_gone(
    transport: Transport, proxy: FaultProxy, unique: Callable[[str], str]
) -> None:
    told = Exchange(unique("told"), "fanout", durable=True)
    transport.declare(Queue("", told, exclusive=True))
    transport.publish("1", "", told.name)
    proxy.cut()
    with pytest.raises(Unroutable):
        transport.publish("2", "", told.name)


def test_confirmed_is_a_subset_of_received(proxy: FaultProxy, rabbitmq: RabbitMQ, queue: str) -> None:
    """Numbered messages of 8 threads while the connection is cut time and again."""
    confirmed: list[str] = []
    failed: list[MessagingError] = []
    over = threading.Event()

    def produce(transport: Transport, thread: int) -> None:
        number = 0
        while not over.is_set():
            body = f"{thread}-{number}"
            number += 1
            try:
                transport.publish(body, queue, timeout=20.0)
            except MessagingError as exc:
                failed.append(exc)
            else:
                confirmed.append(body)

    with Transport(proxy.url(), name="subset") as transport:
        threads = [threading.Thread(target=produce, args=(transport, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for _cut in range(6):
            before = len(confirmed)
            wait_until(lambda before=before: len(confirmed) > before + 20, 30.0, "publishing goes on")
            assert proxy.cut() == 1
        over.set()
        for thread in threads:
            thread.join(30.0)
            assert not thread.is_alive()
        wait_until(lambda: status_of(transport).reconnects == 6, what="the loss that nobody waited for any more")
    received = Counter(message["payload"] for message in rabbitmq.messages(queue))
    assert not failed, failed[:3]
    assert set(confirmed) <= set(received), "confirmed and not there"
    duplicates = sum(received.values()) - len(received)
    assert duplicates <= 6 * 8, "at most what was in flight at each cut"
    assert len(confirmed) > 120


def test_failover_to_the_second_host(rabbitmq: RabbitMQ, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whichever is used first dies for good; the next publish goes to the other, and no healthy host is blamed."""
    caplog.set_level(logging.DEBUG, "wsgi_messaging")
    address = (rabbitmq.host, rabbitmq.amqp_port)
    with FaultProxy(address) as one, FaultProxy(address) as two:
        settings = Settings(url=f"{one.url()};{two.url()}", app="failover")
        with Transport(settings=settings) as transport:
            transport.publish("first", queue)
            used, spare = (one, two) if one.open_pairs else (two, one)
            used.refuse()
            used.cut()
            began_at = time.monotonic()
            transport.publish("second", queue)
            assert time.monotonic() - began_at < 4.0, "in vain, it is the 5 s of connect_timeout"
            assert status_of(transport).broker == f"127.0.0.1:{spare.port}"
            stays(lambda: len(lines(caplog)) <= 2, 0.3)
            assert not [line for line in lines(caplog) if f":{spare.port}" in line and "lost" in line]
            assert len(lines(caplog, f"lost amqp://127.0.0.1:{used.port}")) == 1


def test_first_connection_with_one_dead_host(rabbitmq: RabbitMQ, queue: str) -> None:
    with FaultProxy((rabbitmq.host, rabbitmq.amqp_port)) as dead:
        dead.refuse()
        for _order in range(6):  # shuffled: both orders come up
            with Transport(f"amqp://127.0.0.1:{dead.port};{rabbitmq.url}", name="failover") as transport:
                transport.publish("through", queue, timeout=9.0)


def has_taken(transport: Transport, exchange: str) -> bool:
    """Whether a message for all whose queues are bound to an exchange had anybody to go to."""
    try:
        transport.publish("for all", "", exchange, timeout=10.0)
    except MessagingError:
        return False
    return True


def test_kill_and_restart(
    own_rabbitmq: RabbitMQ, unique: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """kill -9 while eight threads publish: nobody hangs, each confirmed message is there, one line per change."""
    caplog.set_level(logging.DEBUG, "wsgi_messaging")
    queue = unique("killed")
    own_rabbitmq.declare_queue(queue)
    passing = Queue(f"{queue}-2", Exchange("passing", "fanout", durable=False), durable=True)
    received: list[str] = []
    passed: list[str] = []
    confirmed: list[str] = []
    over = threading.Event()

    def produce(thread: int) -> None:
        number = 0
        while not over.is_set():
            body = f"{thread}-{number}"
            number += 1
            transport.publish(body, queue, timeout=100.0)
            confirmed.append(body)

    with Transport(own_rabbitmq.url, name="killed") as transport:
        transport.consume(queue, lambda delivery: received.append(delivery.body.decode()))
        transport.declare(passing)
        transport.consume(passing.name, lambda delivery: passed.append(delivery.body.decode()))
        own_rabbitmq.keep_declarations()
        threads = [threading.Thread(target=produce, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(confirmed) > 100, 30.0, "publishing")
        own_rabbitmq.kill()
        wait_until(lambda: status_of(transport).state in ("waiting", "connecting"), what="the loss")
        own_rabbitmq.start()
        came_back_at = time.monotonic()
        transport.publish("next", queue, timeout=30.0)
        assert time.monotonic() - came_back_at < 10.0
        count = len(confirmed)
        wait_until(lambda: len(confirmed) > count + 50, 30.0, "publishing after the restart")
        with Transport(own_rabbitmq.url, name="other") as other:
            wait_until(lambda: has_taken(other, passing.exchange.name), 20.0, "the binding that the restart took")
        over.set()
        for thread in threads:
            thread.join(30.0)
            assert not thread.is_alive()
        wait_until(lambda: "for all" in passed, what="the message over the exchange that the restart took")
        wait_until(lambda: set(confirmed) <= set(received), 30.0, "every confirmed message received")
        for role in ("publish", "consume"):
            name = status_of(transport, role).name
            wait_until(lambda name=name: len(lines(caplog, name)) >= 2, what="the lines")
            assert [line.split(": ")[1].split(" ")[0] for line in lines(caplog, name)] == ["lost", "connected"]
