"""Streams of a real RabbitMQ: what cannot be used is passed over, and nobody's connection is lost for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from kombu import Queue

from tests.broker.semantics_client import Address, Client
from tests.harness.proxy import FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import wait_until
from wsgi_messaging import DeclarationRefused, Delivery, Settings, Transport
from wsgi_messaging.connection import frames
from wsgi_messaging.consumer import Consumer

FIRST = {"x-stream-offset": "first"}

UNUSABLE = {
    "correlation_id is not UTF-8": (b"\x04\x00" + b"\x04\xff\xfe\xfd\xfc", b"poison"),
    "a header's name is not UTF-8": (b"\x20\x00" + b"\x00\x00\x00\x04\x01\xfft\x01", b"poison"),
    "the body is too large": (b"\x00\x00", b"x" * 1001),
}


@pytest.fixture
def stream(rabbitmq: RabbitMQ, unique: Callable[[str], str]) -> Iterator[str]:
    name = unique("stream")
    rabbitmq.declare_queue(name, **{"x-queue-type": "stream"})
    yield name
    rabbitmq.delete_queue(name)


@pytest.fixture
def client(rabbitmq: RabbitMQ) -> Iterator[Client]:
    made = Client(Address("rabbitmq", rabbitmq.host, rabbitmq.amqp_port))
    yield made
    made.close()


@pytest.fixture
def transport(rabbitmq: RabbitMQ) -> Iterator[Transport]:
    with Transport(settings=Settings(url=rabbitmq.url, app="streams", max_message_bytes=1000)) as made:
        yield made


def is_undisturbed(transport: Transport, consumer: Consumer) -> bool:
    return consumer.is_active and all(not each.reconnects for each in transport.status().connections)


def fail(_delivery: Delivery) -> None:
    raise LookupError("no")


@pytest.mark.parametrize("refuse", [fail, Delivery.reject, Delivery.requeue], ids=lambda each: each.__name__)
def test_a_message_that_is_refused_is_passed_over(
    transport: Transport, stream: str, refuse: Callable[[Delivery], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A basic.reject ends the connection (540), and the consumer meets the message again at its offset, for ever."""
    seen: list[str] = []

    def take(delivery: Delivery) -> None:
        seen.append(delivery.body.decode())
        if delivery.body == b"bad":
            refuse(delivery)

    # A prefetch of 1: without an acknowledgement of the bad message the good one would not come.
    consumer = transport.consume(stream, take, prefetch=1, arguments=FIRST)
    transport.publish("bad", stream)
    transport.publish("good", stream)
    wait_until(lambda: consumer.handled == (1 if refuse is fail else 2), what="the good message")
    assert seen == ["bad", "good"]
    assert (consumer.failed, consumer.rejected) == ((1, 1) if refuse is fail else (0, 0))
    assert is_undisturbed(transport, consumer)
    said = [record for record in caplog.records if record.name == "wsgi_messaging.consumer"]
    assert [record.levelno for record in said] == ([logging.ERROR] if refuse is fail else [])


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_never_comes_to_the_callback_is_passed_over(
    client: Client, transport: Transport, stream: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether a message came from a stream is seen even where its headers cannot be decoded."""
    received: list[bytes] = []
    channel, route = client.channel().channel_id, frames.encoded_route("", stream, True)
    client.connection.transport.write(frames.message_frames(channel, route, *UNUSABLE[kind], 131072))
    consumer = transport.consume(stream, lambda delivery: received.append(delivery.body), prefetch=1, arguments=FIRST)
    wait_until(lambda: consumer.rejected == 1, what="the message that cannot be used")
    transport.publish("good", stream)
    wait_until(lambda: received == [b"good"], what="the next good message")
    assert consumer.rejected == 1
    assert is_undisturbed(transport, consumer)
    assert [record.levelno for record in caplog.records if "rejected" in record.getMessage()] == [logging.WARNING]


def test_the_same_header_of_a_publisher_makes_no_stream_of_a_queue(transport: Transport, queue: str) -> None:
    """An offset that went along with a message's headers: in its queue the message is tried again."""
    tries: list[bool] = []

    def take(delivery: Delivery) -> None:
        tries.append(delivery.redelivered)
        if not delivery.redelivered:
            raise LookupError("no")

    transport.publish("passed on", queue, headers={"x-stream-offset": 7})
    consumer = transport.consume(queue, take)
    wait_until(lambda: consumer.handled == 1, what="the second try")
    assert tries == [False, True]


@pytest.mark.parametrize("arguments", [FIRST, None], ids=["from the first", "from the next"])
def test_a_consumer_goes_on_where_it_was_after_a_reconnect(
    transport: Transport, rabbitmq: RabbitMQ, stream: str, arguments: dict[str, str] | None
) -> None:
    """From the first: all came again. From the next: what was published meanwhile never came."""
    received: list[int] = []
    with FaultProxy((rabbitmq.host, rabbitmq.amqp_port)) as between, Transport(between.url(), name="away") as away:
        consumer = away.consume(stream, lambda delivery: received.append(delivery.json()), arguments=arguments)
        for number in range(5):
            transport.publish(number, stream)
        wait_until(lambda: consumer.handled == 5, 5.0, "the first five")
        between.refuse()
        between.cut()
        wait_until(lambda: not consumer.is_active, 5.0, "the loss")
        for number in range(5, 8):
            transport.publish(number, stream)
        between.heal()
        wait_until(lambda: consumer.is_active, 10.0, "the reconnect")
        transport.publish(8, stream)
        wait_until(lambda: 8 in received, 5.0, "the last one")
        assert set(received) == set(range(9))
        assert received.count(0) == 1


def test_an_offset_that_the_broker_does_not_know_is_the_callers_error(
    transport: Transport, stream: str, rabbitmq: RabbitMQ, unique: Callable[[str], str]
) -> None:
    """RabbitMQ closes the connection on it, with 541: on each attempt, and with all other consumers on it."""
    other = transport.consume(Queue(unique("other"), exclusive=True), print)
    with pytest.raises(DeclarationRefused, match="closed the connection: 541") as caught:
        transport.consume(stream, print, arguments={"x-stream-offset": "nonsense"})
    assert caught.value.reply_code == 541
    wait_until(lambda: other.is_active, 5.0, "the other consumer")
    assert sum(each.reconnects for each in transport.status().connections) == 2
