"""`DevBroker` itself: quick to start, gone without a trace, loopback only, and its fault switches."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import pytest

from wsgi_messaging.devbroker import DevBroker
from wsgi_messaging.errors import ConfigurationError


@pytest.fixture
def broker() -> Iterator[DevBroker]:
    with DevBroker(heartbeat=0) as started:
        yield started


Connect = Callable[..., Any]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """connect(broker) gives an open connection, whose socket is closed after the test."""
    opened: list[Any] = []

    def connect(broker: DevBroker, **settings: Any) -> Any:
        connection = amqp.Connection(f"{broker.host}:{broker.port}", connect_timeout=5, **{"heartbeat": 0, **settings})
        opened.append(connection)
        connection.connect()
        return connection

    yield connect
    for connection in opened:
        connection.collect()


@pytest.fixture
def connection(broker: DevBroker, connect: Connect) -> Any:
    return connect(broker, client_properties={"connection_name": "faults"})


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def drain_until(connection: Any, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        try:
            connection.drain_events(timeout=0.05)
        except TimeoutError:
            continue


class Publisher:
    """A confirming channel with a queue, and what came in on it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.outcomes: list[tuple[str, int, bool]] = []
        self.channel = connection.channel()
        self.channel.confirm_select()
        for name in ("ack", "nack"):
            self.channel.events[f"basic_{name}"].add(
                lambda tag, multiple, name=name: self.outcomes.append((name, tag, multiple))
            )
        self.queue = self.channel.queue_declare("", exclusive=True).queue

    def publish(self, count: int = 1) -> None:
        for _ in range(count):
            self.channel.basic_publish(amqp.Message("x"), "", self.queue)

    def until(self, count: int) -> list[tuple[str, int, bool]]:
        drain_until(self.connection, lambda: self.outcomes and self.outcomes[-1][1] >= count)
        return self.outcomes


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_starts_fast_and_leaves_nothing(connect: Connect) -> None:
    before, threads = descriptors(), threading.active_count()
    begun = time.monotonic()
    broker = DevBroker().start()
    assert time.monotonic() - begun < 2.5
    connect(broker).close()
    assert [thread.daemon for thread in threading.enumerate() if "devbroker" in thread.name] == [True]
    broker.stop()
    broker.stop()
    assert threading.active_count() == threads
    assert descriptors() <= before
    assert "stopped" in repr(broker)


def test_restarts_on_its_port_with_what_is_durable(broker: DevBroker, connect: Connect) -> None:
    port = broker.port
    channel = connect(broker).channel()
    channel.queue_declare("durable", durable=True, auto_delete=False)
    channel.queue_declare("transient", auto_delete=False)
    for body in ("tried", "kept"):
        channel.basic_publish(amqp.Message(body, delivery_mode=2), "", "durable")
    channel.basic_get("durable")
    broker.stop()
    with pytest.raises(ConnectionRefusedError):
        connect(broker)
    assert broker.start().port == port
    channel = connect(broker).channel()
    back = [channel.basic_get("durable", no_ack=True) for _ in range(2)]
    # As RabbitMQ has it: what was never delivered is not redelivered by a restart.
    assert [(each.body, each.delivery_info["redelivered"]) for each in back] == [("tried", True), ("kept", False)]
    with pytest.raises(amqp.NotFound):
        channel.queue_declare("transient", passive=True)


def test_stop_says_goodbye(broker: DevBroker, connection: Any) -> None:
    broker.stop()
    with pytest.raises(amqp.ConnectionForced, match="broker forced connection closure with reason 'shutdown'"):
        drain_until(connection, lambda: False)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.com", ""])
def test_loopback_only(host: str) -> None:
    with pytest.raises(ConfigurationError, match="host"):
        DevBroker(host=host)


def test_a_taken_port_is_an_error(broker: DevBroker) -> None:
    with pytest.raises(OSError, match="in use"):
        DevBroker(port=broker.port).start()


def test_url_and_users_and_vhosts(connect: Connect) -> None:
    with DevBroker(users={"me@home": "a/b"}, vhosts=("/one", "two")) as broker:
        assert broker.url == f"amqp://me%40home:a%2Fb@127.0.0.1:{broker.port}/%2Fone"
        connect(broker, userid="me@home", password="a/b", virtual_host="two").close()


def test_connections_can_be_seen(broker: DevBroker, connection: Any) -> None:
    publisher = Publisher(connection)
    publisher.publish(3)
    publisher.until(3)
    (info,) = broker.connections()
    assert (info.name, info.user, info.vhost, info.channels, info.published) == ("faults", "guest", "/", 1, 3)
    assert info.client_properties["product"] == "py-amqp"
    connection.close()
    assert broker.connections() == []
    assert (broker.accepted, broker.abrupt_closes) == (1, 0)


def test_abrupt_closes_are_counted(broker: DevBroker, connection: Any) -> None:
    connection.sock.close()
    wait_until(lambda: broker.abrupt_closes == 1)
    assert broker.connections() == []


def test_pause_is_silence_and_resume_goes_on(broker: DevBroker, connection: Any) -> None:
    publisher = Publisher(connection)
    broker.pause()
    publisher.publish()
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.1)
    socket.create_connection((broker.host, broker.port), timeout=10).close()
    broker.resume()
    assert publisher.until(1) == [("ack", 1, False)]


def test_refuse_keeps_who_is_there(broker: DevBroker, connection: Any, connect: Connect) -> None:
    broker.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(broker)
    connection.channel()
    broker.resume()
    connect(broker).close()


def test_a_switch_that_fails_tells_the_caller_and_harms_nothing(broker: DevBroker, connection: Any) -> None:
    broker.refuse()
    with socket.create_server((broker.host, broker.port)), pytest.raises(OSError, match="in use"):
        broker.resume()
    connection.channel()


def test_dropped_connections_are_reset(broker: DevBroker, connection: Any) -> None:
    assert broker.drop_connections() == 1
    with pytest.raises(ConnectionResetError):
        drain_until(connection, lambda: False)
    assert broker.connections() == []


def test_blocked_publisher(broker: DevBroker, connect: Connect) -> None:
    said: list[str] = []
    connection = connect(broker, on_blocked=said.append, on_unblocked=lambda: said.append("unblocked"))
    publisher, other = Publisher(connection), connect(broker)
    broker.block("low on disk")
    publisher.channel.basic_publish(amqp.Message("x"), "", publisher.queue)
    drain_until(connection, lambda: said)
    assert len(said) == 1  # py-amqp keeps the reason to itself
    assert [info.is_blocked for info in broker.connections()] == [True, False]
    other.channel()  # who does not publish goes on
    assert publisher.outcomes == []
    broker.unblock()
    assert publisher.until(1) == [("ack", 1, False)]
    assert len(said) == 2
    connection.close()
    other.close()


def test_held_confirms_come_together(broker: DevBroker, connection: Any) -> None:
    publisher = Publisher(connection)
    broker.hold_confirms()
    publisher.publish(5)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.05)
    assert publisher.channel.queue_declare(publisher.queue, passive=True).message_count == 5
    broker.release_confirms()
    assert publisher.until(5) == [("ack", 5, True)]


def test_nacks(broker: DevBroker, connection: Any) -> None:
    publisher = Publisher(connection)
    broker.nack_next(2)
    for tag in (1, 2, 3):
        publisher.publish()
        publisher.until(tag)
    assert publisher.outcomes == [("nack", 1, False), ("nack", 2, False), ("ack", 3, False)]
    assert publisher.channel.queue_declare(publisher.queue, passive=True).message_count == 1


def test_oversize_message_closes_the_channel_only(connect: Connect) -> None:
    with DevBroker(heartbeat=0, max_message_bytes=100) as broker:
        connection = connect(broker)
        channel = connection.channel()
        with pytest.raises(amqp.PreconditionFailed, match="message size 101 is larger than configured max size 100"):
            channel.basic_publish(amqp.Message("x" * 101), "", "q")
            drain_until(connection, lambda: False)
        connection.channel()
        connection.close()


def test_a_forked_child_has_no_part_in_it(broker: DevBroker, connection: Any) -> None:
    """Fails, without the hook, because the child's copy keeps the client's connection open after the stop."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        broker.stop()
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    connection.channel()
    broker.stop()
    with pytest.raises(amqp.ConnectionForced):
        drain_until(connection, lambda: False)
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0


def test_hostile_bytes_end_their_own_connection_only(broker: DevBroker, connection: Any) -> None:
    for data in (b"\x00" * 8, b"AMQP\x00\x00\x09\x01" + b"\xff" * 50, struct.pack(">BHI", 1, 0, 2**31)):
        with socket.create_connection((broker.host, broker.port), timeout=5) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    connection.channel()


def test_a_lost_connection_counts_as_one_delivery(broker: DevBroker, connection: Any, connect: Connect) -> None:
    """RabbitMQ has each channel end by itself, so that it is one, and two now and then."""
    channel = connection.channel()
    channel.queue_declare("q", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
    lost = connect(broker)
    delivered: list[Any] = []
    for _ in range(3):
        lost.channel().basic_consume("q", callback=delivered.append)
    channel.basic_publish(amqp.Message("x"), "", "q")
    drain_until(lost, lambda: delivered)
    lost.sock.close()
    wait_until(lambda: channel.queue_declare("q", passive=True).message_count)
    assert channel.basic_get("q").headers == {"x-delivery-count": 1}
