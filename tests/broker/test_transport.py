"""What an application may rely on of `Transport`, on the embedded broker and on a real RabbitMQ: the same tests.

What is on the broker is read with py-amqp, not with the code under test.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial, wraps
from typing import Any

import amqp
import pytest
from kombu import Exchange, Queue, binding

from tests.broker.semantics_client import Address, depth, get_all
from tests.harness.secret import PASSWORD, USER
from tests.harness.waiting import stays, wait_until
from wsgi_messaging import (
    Closed,
    ConfigurationError,
    ConfirmTimeout,
    ConnectionStatus,
    DeclarationRefused,
    Delivery,
    InvalidMessage,
    Message,
    MessagingError,
    NotDelivered,
    Rejected,
    Settings,
    Transport,
    Unroutable,
)
from wsgi_messaging import consumer as consumer_module
from wsgi_messaging.connection import frames

Name = Callable[[str], str]


@pytest.fixture
def transport(broker: Address) -> Iterator[Transport]:
    with Transport(broker.url, name="tested") as made:
        yield made


@pytest.fixture
def queue(witness: Any, unique: Name) -> Iterator[str]:
    """A queue that was not declared through the transport."""
    name = unique("transport")
    witness.queue_declare(name, durable=True, auto_delete=False)
    yield name
    _deleted(witness, name)


def _deleted(witness: Any, name: str) -> None:
    witness.connection.channel().queue_delete(name)


def dead_lettering(witness: Any, unique: Name) -> tuple[str, str]:
    """A queue, and the one that its rejected messages come to."""
    dead, name = unique("dead"), unique("work")
    witness.queue_declare(dead, exclusive=True, auto_delete=False)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    witness.queue_declare(name, exclusive=False, auto_delete=False, durable=True, arguments=arguments)
    return name, dead


def texts(witness: Any, queue: str) -> list[str]:
    return [str(_text(message)) for message in get_all(witness, queue)]


def _text(message: Any) -> str:
    return message.body.decode() if isinstance(message.body, bytes) else str(message.body)


def only(witness: Any, queue: str) -> Any:
    [message] = get_all(witness, queue)
    return message


def status_of(transport: Transport, role: str = "publish") -> ConnectionStatus:
    [status] = [each for each in transport.status().connections if each.role == role]
    return status


# Publishing: what is on the wire.


@pytest.mark.parametrize(
    ("body", "on_the_wire", "content_type", "encoding"),
    [
        (b"\x00\xff", b"\x00\xff", "application/octet-stream", None),
        (bytearray(b"ab"), b"ab", "application/octet-stream", None),
        (memoryview(b"abcd")[::2], b"ac", "application/octet-stream", None),
        (b"", b"", "application/octet-stream", None),
        ("grüß", "grüß".encode(), "text/plain", "utf-8"),
        ({"id": 7, "ü": [1.5, None, True]}, '{"id": 7, "ü": [1.5, null, true]}'.encode(), "application/json", "utf-8"),
        (None, b"null", "application/json", "utf-8"),
        (0, b"0", "application/json", "utf-8"),
    ],
)
def test_bodies(
    transport: Transport, witness: Any, queue: str, body: Any, on_the_wire: bytes, content_type: str, encoding: str
) -> None:
    transport.publish(body, queue)
    message = only(witness, queue)
    raw = message.body.encode() if isinstance(message.body, str) else message.body
    assert raw == on_the_wire
    assert message.properties["content_type"] == content_type
    assert message.properties.get("content_encoding") == encoding


def test_all_arguments_are_on_the_wire(transport: Transport, witness: Any, queue: str) -> None:
    headers = {"text": "ü", "number": 2**40, "nested": {"list": [1, "a", None]}, "flag": True}
    transport.publish(
        "body",
        queue,
        "",
        headers=headers,
        content_type="text/x-mine",
        persistent=False,
        mandatory=True,
        expiration=12.345,
        priority=3,
        message_id="message-1",
        correlation_id="correlation-1",
        reply_to="reply.queue",
        properties={"type": "kind", "app_id": "app", "user_id": "guest", "timestamp": 1700000000},
    )
    properties = only(witness, queue).properties
    assert properties.pop("application_headers") == headers
    timestamp = properties.pop("timestamp")
    assert timestamp in (
        1700000000,
        datetime(2023, 11, 14, 22, 13, 20),
        datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc),
    )
    assert properties == {
        "content_type": "text/x-mine",
        "content_encoding": "utf-8",
        "delivery_mode": 1,
        "priority": 3,
        "correlation_id": "correlation-1",
        "reply_to": "reply.queue",
        "expiration": "12345",
        "message_id": "message-1",
        "type": "kind",
        "user_id": "guest",
        "app_id": "app",
    }


def test_defaults(transport: Transport, witness: Any, queue: str) -> None:
    """Persistent, with an id of its own, without anything that nobody asked for."""
    for _ in range(3):
        transport.publish("body", queue)
    messages = get_all(witness, queue)
    ids = {message.properties.pop("message_id") for message in messages}
    assert len(ids) == 3
    assert all(
        message.properties == {"content_type": "text/plain", "content_encoding": "utf-8", "delivery_mode": 2}
        for message in messages
    )


@pytest.mark.parametrize("size", [4071, 4072, 4073, 131064, 131065, 1_000_000])
def test_every_size_arrives_whole(transport: Transport, witness: Any, queue: str, size: int) -> None:
    """Around the largest small frame, around one whole frame, and many frames."""
    body = bytes(range(256)) * (size // 256 + 1)
    transport.publish(body[:size], queue)
    assert only(witness, queue).body == body[:size]


def test_expiration_is_seconds(transport: Transport, witness: Any, queue: str) -> None:
    transport.publish("gone soon", queue, expiration=0.05)
    transport.publish("stays", queue, expiration=60)
    wait_until(lambda: depth(witness, queue) == 1, what="the expiry")
    assert texts(witness, queue) == ["stays"]


def test_priority_goes_first(transport: Transport, witness: Any, unique: Name) -> None:
    name = unique("priority")
    witness.queue_declare(name, exclusive=False, auto_delete=False, arguments={"x-max-priority": 5})
    for priority in (1, 5, 3):
        transport.publish(f"priority {priority}", name, priority=priority)
    assert texts(witness, name) == ["priority 5", "priority 3", "priority 1"]
    _deleted(witness, name)


def test_order_of_one_thread_is_kept(transport: Transport, witness: Any, queue: str) -> None:
    confirms = [transport.publish_soon(str(number), queue) for number in range(300)]
    for confirm in confirms:
        confirm.wait()
    assert texts(witness, queue) == [str(number) for number in range(300)]


# Publishing: what comes of it.


def test_publish_soon(transport: Transport, witness: Any, queue: str) -> None:
    confirm = transport.publish_soon("soon", queue)
    confirm.wait()
    confirm.wait(0)
    assert confirm.done
    assert confirm.error is None
    assert repr(confirm) == f"<Confirm /{queue} confirmed>"
    assert texts(witness, queue) == ["soon"]


def test_publish_soon_tells_what_failed(transport: Transport, unique: Name) -> None:
    confirm = transport.publish_soon("soon", unique("nowhere"))
    for _ in range(2):
        with pytest.raises(Unroutable):
            confirm.wait()
    assert isinstance(confirm.error, Unroutable)
    assert "failed: no queue takes" in repr(confirm)


def test_unroutable(transport: Transport, witness: Any, queue: str, unique: Name) -> None:
    key = unique("nowhere")
    with pytest.raises(Unroutable, match="declare and bind the queue") as caught:
        transport.publish("body", key)
    assert caught.value.reply_code == 312
    assert not caught.value.maybe_sent
    assert key in str(caught.value)
    transport.publish("body", key, mandatory=False)
    transport.publish("routed", queue)
    status = status_of(transport)
    assert (status.confirmed, status.failed, status.returned, status.in_flight) == (2, 1, 1, 0)


def test_many_unroutable_ones_are_told_apart(transport: Transport, witness: Any, queue: str, unique: Name) -> None:
    """Twins in route and body, routed ones in between: each error belongs to its message."""
    nowhere = unique("nowhere")
    messages = [
        Message(body="same", routing_key=queue if number % 3 == 0 else nowhere, mandatory=number % 3 != 2)
        for number in range(60)
    ]
    results = transport.publish_many(messages)
    assert [isinstance(result, Unroutable) for result in results] == [number % 3 == 1 for number in range(60)]
    assert len(get_all(witness, queue)) == 20


def test_publish_many_of_more_bytes_than_may_wait(broker: Address, witness: Any, queue: str) -> None:
    """Half of them said that the broker did not answer."""
    with Transport(f"{broker.url}?max_queued_bytes=100000") as transport:
        results = transport.publish_many(Message(body=b"x" * 10_000, routing_key=queue) for _ in range(200))
    assert results == [None] * 200


def test_publish_many(transport: Transport, witness: Any, queue: str, unique: Name) -> None:
    messages = [
        Message(body="first", routing_key=queue),
        Message(body={1, 2}, routing_key=queue),
        Message(body="nowhere", routing_key=unique("nowhere")),
        Message(body="no exchange", routing_key=queue, exchange=unique("no-exchange")),
        Message(body="key", routing_key="k" * 256),
        Message(body="last", routing_key=queue),
    ]
    results = transport.publish_many(messages)
    kinds = [type(result) for result in results]
    assert kinds == [type(None), InvalidMessage, Unroutable, Rejected, InvalidMessage, type(None)]
    assert texts(witness, queue) == ["first", "last"]
    assert transport.publish_many([]) == []


def test_publish_many_beyond_its_window(broker: Address, witness: Any, queue: str) -> None:
    with Transport(settings=Settings(url=broker.url, max_queued=10)) as transport:
        results = transport.publish_many(Message(body=str(number), routing_key=queue) for number in range(200))
    assert results == [None] * 200
    assert texts(witness, queue) == [str(number) for number in range(200)]


def test_unknown_exchange_harms_no_neighbour(transport: Transport, witness: Any, queue: str, unique: Name) -> None:
    """A 404 closes a channel: of 16 threads that publish meanwhile none fails and nothing arrives twice."""
    over = threading.Event()
    failures: list[Exception] = []
    confirmed: list[str] = []

    def produce(thread: int) -> None:
        number = 0
        while not over.is_set() or number < 5:
            body = f"{thread}-{number}"
            number += 1
            try:
                transport.publish(body, queue)
            except MessagingError as exc:
                failures.append(exc)
            confirmed.append(body)

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            name = unique("no-exchange")
            with pytest.raises(Rejected, match=name) as caught:
                transport.publish("body", queue, name)
            assert caught.value.reply_code == 404
            assert not caught.value.maybe_sent
    finally:
        over.set()
        for thread in threads:
            thread.join(10.0)
    assert not failures
    assert Counter(texts(witness, queue)) == Counter(confirmed)
    assert status_of(transport).reconnects == 0


def test_an_exchange_that_vanishes_fails_only_its_own_messages(
    transport: Transport, witness: Any, queue: str, unique: Name
) -> None:
    """It was proven, so its messages share the main channel, and the 404 hits what is in flight there. What others had
    in flight is sent again: nothing is lost; some may arrive twice, with the same message_id."""
    name = unique("vanishing")
    witness.exchange_declare(name, "direct", auto_delete=False)
    witness.queue_bind(queue, name, queue)
    transport.publish("proves it", queue, name)
    witness.exchange_delete(name)
    soon = []
    for number in range(50):
        soon.append(transport.publish_soon(f"good {number}", queue, message_id=f"good {number}"))
        if number % 10 == 5:
            soon.append(transport.publish_soon("bad", queue, name, message_id=f"bad {number}"))
    errors = []
    for confirm in soon:
        try:
            confirm.wait()
        except Rejected as exc:
            errors.append(exc)
    assert [error.reply_code for error in errors] == [404] * 5
    messages = get_all(witness, queue)
    assert {_text(message) for message in messages} == {"proves it"} | {f"good {number}" for number in range(50)}
    assert len(messages) - 51 <= 50
    twice = Counter(message.properties["message_id"] for message in messages)
    assert all(_text(message) == "proves it" or twice[_text(message)] >= 1 for message in messages)
    assert status_of(transport).reconnects == 0


def test_reasons_that_are_cut_in_the_middle_of_a_letter(transport: Transport, witness: Any, queue: str) -> None:
    """RabbitMQ cuts its text at 252 bytes, UTF-8 or not. Without leniency this ended the connection's thread."""
    for name in ("é" * 127, "a" + "é" * 127, "日" * 85):
        with pytest.raises(Rejected, match="404"):
            transport.publish("body", "key", name)
    transport.publish("after", queue)
    assert status_of(transport).reconnects == 0
    assert texts(witness, queue) == ["after"]


class _Opaque:
    """Nothing that JSON or AMQP has."""


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "wrong",
    [
        {"body": _Opaque()},
        {"body": {1, 2}},
        {"body": float("nan")},
        {"body": LOOP},
        {"body": "\ud800"},
        {"body": {"x": "\ud800"}},
        {"body": {"x": 1}, "content_type": "text/plain"},
        {"routing_key": "k" * 256},
        {"routing_key": None},
        {"routing_key": b"bytes"},
        {"routing_key": 7},
        {"routing_key": {"id": 1}},  # the body and the key exchanged
        {"exchange": "e" * 256},
        {"exchange": None},
        {"exchange": ["shop"]},
        {"headers": {"x": _Opaque()}},
        {"headers": {"x": 2**64}},
        {"headers": {"k" * 256: 1}},
        {"headers": {"x": LOOP}},
        {"headers": [("x", 1)]},
        {"headers": {"x": "a" * 200_000}},
        {"message_id": "m" * 256},
        {"message_id": 7},
        {"correlation_id": b"bytes"},
        {"reply_to": "r" * 256},
        {"content_type": "c" * 256},
        {"priority": 256},
        {"priority": -1},
        {"priority": 1.5},
        {"priority": "high"},
        {"expiration": -1},
        {"expiration": float("nan")},
        {"expiration": 2.0**32},
        {"expiration": "10"},
        {"properties": {"timestamp": "now"}},
        {"properties": {"timestamp": -1}},
        {"properties": {"type": 7}},
        {"properties": {"tpye": "misspelt"}},
        {"properties": {"headers": {"x": 1}}},
        {"retry": "0"},
        {"retry": False},
    ],
    ids=lambda wrong: next(iter(wrong)) + "=" + repr(next(iter(wrong.values())))[:20],
)
def test_what_cannot_be_sent_is_an_error_and_harms_nothing(
    transport: Transport, witness: Any, queue: str, wrong: dict[str, Any]
) -> None:
    transport.publish("before", queue)
    with pytest.raises(InvalidMessage) as caught:
        transport.publish(**{"body": "body", "routing_key": queue, "timeout": 3.0, **wrong})
    assert not caught.value.maybe_sent
    transport.publish("after", queue)
    assert texts(witness, queue) == ["before", "after"]
    assert status_of(transport).reconnects == 0


@pytest.mark.parametrize("timeout", [-1, "5", True, float("nan")])
def test_bad_timeouts_are_named(transport: Transport, queue: str, timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        transport.publish("body", queue, timeout=timeout)


def test_no_time_at_all_is_said_and_not_laid_to_the_broker(transport: Transport, witness: Any, queue: str) -> None:
    transport.publish("before", queue)
    with pytest.raises(ConfirmTimeout, match="its time was over before its turn came") as caught:
        transport.publish("late", queue, timeout=0)
    assert not caught.value.maybe_sent
    transport.publish("after", queue)
    assert texts(witness, queue) == ["before", "after"]


def test_oversize_message(broker: Address, witness: Any, queue: str) -> None:
    with Transport(settings=Settings(url=broker.url, max_message_bytes=1000)) as transport:
        transport.publish(b"x" * 1000, queue)
        with pytest.raises(InvalidMessage, match="1001 bytes; max_message_bytes is 1000"):
            transport.publish(b"x" * 1001, queue)
    assert len(get_all(witness, queue)) == 1


def test_a_full_queue_refuses(transport: Transport, witness: Any, unique: Name) -> None:
    """basic.nack: when it does not get better it is an error, and the next message to another queue is not touched."""
    name = unique("full")
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    witness.queue_declare(name, exclusive=False, auto_delete=False, arguments=arguments)
    transport.publish("fits", name)
    with pytest.raises(Rejected, match="its queue is full") as caught:
        transport.publish("does not", name)
    assert caught.value.reply_code == 0
    assert texts(witness, name) == ["fits"]
    transport.publish("fits again", name)
    _deleted(witness, name)


def test_two_threads_at_first_use_make_one_connection(broker: Address, queue: str) -> None:
    for _round in range(5):
        with Transport(broker.url, name="race") as transport:
            start = threading.Barrier(8)

            def publish(transport: Transport = transport, start: threading.Barrier = start) -> None:
                start.wait()
                transport.publish("body", queue)

            threads = [threading.Thread(target=publish) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10.0)
            assert status_of(transport).confirmed == 8


# Declaring.


def test_declare_queue_with_its_exchange_and_bindings(transport: Transport, witness: Any, unique: Name) -> None:
    exchange, name = Exchange(unique("exchange"), "topic"), unique("declared")
    bindings = [binding(exchange, routing_key="a.*"), binding(exchange, routing_key="b.#")]
    assert transport.declare(Queue(name, exchange, bindings=bindings)) == name
    assert transport.declare(exchange) == exchange.name
    for key in ("a.1", "b.1.2"):
        transport.publish(key, key, exchange.name)
    with pytest.raises(Unroutable):
        transport.publish("c", "c", exchange.name)
    assert texts(witness, name) == ["a.1", "b.1.2"]
    _deleted(witness, name)
    witness.exchange_delete(exchange.name)


def test_declare_exchange_to_exchange(transport: Transport, witness: Any, unique: Name) -> None:
    source, target = Exchange(unique("source"), "fanout"), Exchange(unique("target"), "fanout")
    name = unique("declared")
    transport.declare(source)
    transport.declare(Exchange(target.name, "fanout"))
    transport.declare(Queue(name, target))
    witness.exchange_bind(target.name, source.name, "")
    transport.publish("through both", "", source.name)
    assert texts(witness, name) == ["through both"]
    _deleted(witness, name)


def test_declare_with_other_flags_is_refused_with_the_reason(transport: Transport, queue: str) -> None:
    with pytest.raises(
        DeclarationRefused, match="406 PRECONDITION_FAILED.*x-max-length|406 PRECONDITION_FAILED.*inequivalent"
    ) as caught:
        transport.declare(Queue(queue, max_length=5))
    assert caught.value.reply_code == 406
    assert queue in str(caught.value)
    assert not caught.value.maybe_sent
    assert transport.declare(Queue(queue)) == queue, "the next one is not touched"
    assert status_of(transport).reconnects == 0


def test_what_cannot_be_made_again_fails_the_publish_with_the_reason(
    transport: Transport, witness: Any, unique: Name
) -> None:
    """Somebody has made another exchange of that name meanwhile."""
    name = unique("changed")
    transport.declare(Queue(name, Exchange(name, "topic"), routing_key="key"))
    transport.publish("body", "key", name)
    witness.exchange_delete(name)
    _deleted(witness, name)
    witness.exchange_declare(name, "fanout", durable=True, auto_delete=False)
    with pytest.raises(DeclarationRefused, match="406 PRECONDITION_FAILED"):
        transport.publish("body", "key", name)
    witness.exchange_delete(name)


def test_what_was_only_looked_for_is_not_made_again(transport: Transport, witness: Any, unique: Name) -> None:
    """It was said that the declaration was refused, of which the caller of publish knows nothing."""
    name = unique("looked-for")
    witness.exchange_declare(name, "topic", durable=True, auto_delete=False)
    transport.declare(Exchange(name, "topic", passive=True))
    transport.publish("body", "key", name, mandatory=False)
    witness.exchange_delete(name)
    with pytest.raises(Rejected) as caught:
        transport.publish("body", "key", name, mandatory=False)
    assert caught.value.reply_code == 404


def test_declare_reserved_name_is_refused(transport: Transport, queue: str) -> None:
    with pytest.raises(DeclarationRefused, match="403 ACCESS_REFUSED"):
        transport.declare(Queue("amq.mine"))
    transport.publish("body", queue)


def test_server_named_queue(transport: Transport, witness: Any) -> None:
    names = {transport.declare(Queue("", exclusive=True)) for _ in range(2)}
    assert len(names) == 2
    for name in names:
        assert name.startswith("amq.gen")
        transport.publish("body", name)


def test_exclusive_queue_belongs_to_the_connection_that_consumes(
    transport: Transport, witness: Any, unique: Name
) -> None:
    name = unique("exclusive")
    transport.declare(Queue(name, exclusive=True))
    with pytest.raises(amqp.ResourceLocked):
        witness.connection.channel().queue_declare(name, passive=True)
    received: list[str] = []
    transport.consume(name, lambda delivery: received.append(delivery.body.decode()))
    transport.publish("mine", name)
    wait_until(lambda: received == ["mine"], what="the delivery")


@pytest.mark.parametrize("entity", ["a name", None, 7, Queue])
def test_only_entities_can_be_declared(transport: Transport, entity: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected a kombu Exchange or Queue"):
        transport.declare(entity)


def test_names_that_are_too_long_are_typed_errors(transport: Transport, queue: str) -> None:
    with pytest.raises(MessagingError):
        transport.declare(Queue("q" * 256))
    with pytest.raises(MessagingError):
        transport.consume("q" * 256, print)
    with pytest.raises(MessagingError):
        transport.consume(queue, print, arguments={"x": _Opaque()})
    transport.publish("body", queue)


# Consuming.


def test_consume_acknowledges_what_the_callback_has_done(transport: Transport, witness: Any, queue: str) -> None:
    seen: list[Delivery] = []
    consumer = transport.consume(queue, seen.append)
    transport.publish({"id": 7}, queue, headers={"h": 1}, message_id="id-7")
    wait_until(lambda: consumer.handled == 1, what="the delivery")
    [delivery] = seen
    assert delivery.json() == {"id": 7}
    assert delivery.headers == {"h": 1}
    assert delivery.message_id == "id-7"
    assert (delivery.exchange, delivery.routing_key, delivery.redelivered) == ("", queue, False)
    assert repr(delivery) == f"<Delivery /{queue} 9 bytes>"
    assert consumer.is_active
    assert repr(consumer) == f"<Consumer {queue} active handled=1 failed=0>"
    assert consumer.cancel()
    assert not consumer.is_active
    assert "stopped" in repr(consumer)
    assert texts(witness, queue) == []


def test_reject_dead_letters(transport: Transport, witness: Any, unique: Name) -> None:
    work, dead = dead_lettering(witness, unique)

    def refuse(delivery: Delivery) -> None:
        delivery.reject()
        delivery.ack()  # settled already: nothing
        assert delivery.is_settled

    consumer = transport.consume(work, refuse)
    transport.publish("unwanted", work)
    wait_until(lambda: depth(witness, dead) == 1, what="the dead letter")
    assert consumer.failed == 0
    _deleted(witness, work)


def test_requeue_delivers_again(transport: Transport, witness: Any, queue: str) -> None:
    redelivered: list[bool] = []

    def later(delivery: Delivery) -> None:
        redelivered.append(delivery.redelivered)
        if not delivery.redelivered:
            delivery.requeue()

    transport.consume(queue, later)
    transport.publish("twice", queue)
    wait_until(lambda: redelivered == [False, True], what="the redelivery")
    stays(lambda: len(redelivered) == 2, 0.1)


def test_settling_from_another_thread(transport: Transport, witness: Any, queue: str) -> None:
    """The callback returns and acknowledges; settling later changes nothing and hurts nobody."""
    kept: list[Delivery] = []
    consumer = transport.consume(queue, kept.append)
    transport.publish("1", queue)
    wait_until(lambda: consumer.handled == 1, what="the delivery")
    thread = threading.Thread(target=kept[0].requeue)
    thread.start()
    thread.join()
    transport.publish("2", queue)
    wait_until(lambda: consumer.handled == 2, what="the next delivery")


@pytest.mark.parametrize("exception", [RuntimeError, SystemExit, asyncio.CancelledError, KeyboardInterrupt])
def test_a_message_on_which_the_callback_fails_is_rejected_the_third_time(
    transport: Transport, witness: Any, unique: Name, exception: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises; what ends its thread has another one begin."""
    monkeypatch.setattr(threading, "excepthook", lambda _ended: None)
    work, dead = dead_lettering(witness, unique)
    tries: list[str] = []

    def fail(delivery: Delivery) -> None:
        tries.append(delivery.body.decode())
        if delivery.body == b"bad":
            raise exception("no")

    consumer = transport.consume(work, fail)
    transport.publish("bad", work)
    wait_until(lambda: depth(witness, dead) == 1, what="the dead letter")
    transport.publish("good", work)
    wait_until(lambda: consumer.handled == 1, what="the next good one")
    assert tries == ["bad", "bad", "bad", "good"]
    assert (consumer.failed, consumer.rejected) == (3, 1)
    _deleted(witness, work)


def test_what_comes_with_the_id_of_one_that_was_handled_or_rejected_has_all_its_tries(
    transport: Transport, witness: Any, unique: Name
) -> None:
    """A nightly job with an id of its own, the replay of a dead letter: it was rejected at the first failure."""
    work, dead = dead_lettering(witness, unique)
    outcomes = iter(["fails", "handled", "fails", "handled", "fails", "fails", "fails", "fails", "fails", "handled"])

    def take(_delivery: Delivery) -> None:
        if next(outcomes) == "fails":
            raise LookupError("no")

    consumer = transport.consume(work, take)
    for handled, rejected in [(1, 0), (2, 0), (2, 1), (3, 1)]:
        transport.publish("job", work, message_id="nightly")
        wait_until(lambda h=handled, r=rejected: (consumer.handled, consumer.rejected) == (h, r), 5.0, "its end")
    assert depth(witness, dead) == 1
    _deleted(witness, work)


@pytest.mark.parametrize("kind", ["the callback fails", "it cannot be decoded"])
def test_a_handler_of_logging_that_raises_leaves_no_message_unsettled(
    transport: Transport, witness: Any, unique: Name, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that sends its records to a host that is away, say. Each such message took a place of the prefetch."""

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("no log server")

    monkeypatch.setattr(threading, "excepthook", lambda _ended: None)
    monkeypatch.setattr(consumer_module.logger, "handlers", [Raising()])
    work, dead = dead_lettering(witness, unique)
    received: list[bytes] = []

    def take(delivery: Delivery) -> None:
        if delivery.body == b"bad":
            raise LookupError("no")
        received.append(delivery.body)

    consumer = transport.consume(work, take, prefetch=1)
    if kind == "the callback fails":
        transport.publish("bad", work)
    else:
        arguments = frames.encoded_route("", work, True)
        raw = frames.message_frames(witness.channel_id, arguments, b"\x04\x00" + b"\x01\xff", b"bad", 131072)
        witness.connection.transport.write(raw)
    wait_until(lambda: _ready(witness, dead) == 1, 5.0, "the dead letter")
    transport.publish("good", work)
    wait_until(lambda: received == [b"good"], 5.0, "the next good message")
    assert consumer.rejected == 1
    _deleted(witness, work)


def _deep(levels: int) -> bytes:
    """A header table of tables of tables."""
    raw = b""
    for _ in range(levels):
        raw = b"\x01xF" + len(raw).to_bytes(4, "big") + raw
    return len(raw).to_bytes(4, "big") + raw


POISON = {
    "correlation_id is not UTF-8": b"\x04\x00" + b"\x04\xff\xfe\xfd\xfc",
    "headers nested 2,000 deep": b"\x20\x00" + _deep(2000),
    "content_type is not UTF-8": b"\x80\x00" + b"\x02\xc3\x28",
    "a header's name is not UTF-8": b"\x20\x00" + b"\x00\x00\x00\x04\x01\xfft\x01",
}


@pytest.mark.parametrize("kind", POISON)
def test_poison_is_rejected_and_the_next_one_served(
    transport: Transport, witness: Any, unique: Name, kind: str
) -> None:
    """py-amqp's reader raises on each of these, and every kombu consumer dies in turn."""
    work, dead = dead_lettering(witness, unique)
    received: list[bytes] = []
    consumer = transport.consume(work, lambda delivery: received.append(delivery.body))
    arguments = frames.encoded_route("", work, True)
    raw = frames.message_frames(witness.channel_id, arguments, POISON[kind], b"poison", 131072)
    witness.connection.transport.write(raw)
    wait_until(lambda: consumer.rejected == 1, what="the rejection")
    transport.publish("good", work)
    wait_until(lambda: received == [b"good"], what="the next good message")
    assert consumer.is_active
    wait_until(lambda: _ready(witness, dead) == 1, what="the dead letter")
    _deleted(witness, work)


def _ready(witness: Any, queue: str) -> int:
    """Messages in a queue, asked on a fresh channel: what is in them must not be parsed."""
    return int(witness.connection.channel().queue_declare(queue, passive=True).message_count)


def test_a_body_that_is_too_large_is_rejected(
    broker: Address, transport: Transport, witness: Any, unique: Name
) -> None:
    work, dead = dead_lettering(witness, unique)
    received: list[bytes] = []
    with Transport(settings=Settings(url=broker.url, max_message_bytes=1000)) as small:
        consumer = small.consume(work, lambda delivery: received.append(delivery.body))
        transport.publish(b"x" * 300_000, work)
        transport.publish("good", work)
        wait_until(lambda: received == [b"good"], what="the next good message")
        assert consumer.rejected == 1
    wait_until(lambda: depth(witness, dead) == 1, what="the dead letter")
    _deleted(witness, work)


def test_a_body_that_is_not_json(transport: Transport, queue: str) -> None:
    errors: list[Exception] = []

    def parse(delivery: Delivery) -> None:
        try:
            delivery.json()
        except InvalidMessage as exc:
            errors.append(exc)

    transport.consume(queue, parse)
    for body in (b"{", b"\xff", b"[" * 100_000):
        transport.publish(body, queue)
    wait_until(lambda: len(errors) == 3, what="three refusals")


def test_prefetch(transport: Transport, witness: Any, queue: str) -> None:
    """No more than that is held at a time; the rest is for others."""
    hold, held = threading.Event(), []

    def work(delivery: Delivery) -> None:
        held.append(delivery.body)
        hold.wait(30.0)

    consumer = transport.consume(queue, work, prefetch=3)
    for number in range(10):
        transport.publish(str(number), queue)
    wait_until(lambda: depth(witness, queue) == 7, what="seven left in the queue")
    stays(lambda: depth(witness, queue) == 7, 0.2)
    hold.set()
    wait_until(lambda: consumer.handled == 10, what="all")


@pytest.mark.parametrize("prefetch", [-1, 65536, 1.5, "5", True])
def test_bad_prefetch_is_named_and_harms_nothing(transport: Transport, queue: str, prefetch: Any) -> None:
    received: list[bytes] = []
    transport.consume(queue, lambda delivery: received.append(delivery.body))
    with pytest.raises(ConfigurationError, match="prefetch"):
        transport.consume(queue, print, prefetch)
    transport.publish("body", queue)
    wait_until(lambda: received == [b"body"], what="the first consumer's delivery")


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_bad_threads_are_named(transport: Transport, queue: str, threads: Any) -> None:
    with pytest.raises(ConfigurationError, match="threads"):
        transport.consume(queue, print, threads=threads)


def test_what_cannot_be_called_empties_no_queue(transport: Transport, queue: str) -> None:
    transport.publish("x", queue)
    with pytest.raises(ConfigurationError, match="callback: 5 cannot be called"):
        transport.consume(queue, 5)  # type: ignore[arg-type]


async def _coroutine(delivery: Delivery) -> None:
    raise AssertionError("nobody awaits it")


def _generator(delivery: Delivery) -> Iterator[None]:
    yield


class _Asynchronous:
    async def __call__(self, delivery: Delivery) -> None:
        raise AssertionError("nobody awaits it")


@pytest.mark.parametrize(
    ("callback", "cause"),
    [
        (_coroutine, "does nothing"),
        (_generator, "does nothing"),
        (_Asynchronous(), "does nothing"),
        (partial(_coroutine), "does nothing"),
        (lambda body, message: None, "takes (body, message), and is called with delivery"),
        (lambda channel, method, properties, body: None, "missing a required argument: 'method'"),
        (lambda: None, "takes (), and is called with delivery: too many positional arguments"),
    ],
)
def test_a_callback_that_could_only_lose_messages_is_refused(
    transport: Transport, witness: Any, queue: str, callback: Any, cause: str
) -> None:
    transport.publish("kept", queue)
    with pytest.raises(ConfigurationError, match="callback") as caught:
        transport.consume(queue, callback)
    assert cause in str(caught.value)
    assert texts(witness, queue) == ["kept"]


def test_a_decorated_callback_is_taken_by_what_it_is(transport: Transport, queue: str) -> None:
    """Its decorator hands on what the function below takes besides, and `functools.wraps` tells of the latter."""
    seen: list[tuple[str, str]] = []

    def handle(delivery: Delivery, session: str) -> None:
        seen.append((delivery.body.decode(), session))

    @wraps(handle)
    def with_session(*arguments: Any) -> None:
        handle(*arguments, "session")

    transport.consume(queue, with_session)
    transport.publish("x", queue)
    wait_until(lambda: seen == [("x", "session")], 5.0, "the delivery")


def test_several_threads_of_one_consumer(transport: Transport, queue: str) -> None:
    together = threading.Barrier(3)
    consumer = transport.consume(queue, lambda delivery: together.wait(20.0), threads=3)
    for number in range(3):
        transport.publish(str(number), queue)
    wait_until(lambda: consumer.handled == 3, what="three callbacks at the same time")


def test_consuming_a_queue_that_is_not_there(transport: Transport, queue: str, unique: Name) -> None:
    received: list[bytes] = []
    transport.consume(queue, lambda delivery: received.append(delivery.body))
    missing = unique("missing")
    with pytest.raises(DeclarationRefused, match=missing) as caught:
        transport.consume(missing, print)
    assert caught.value.reply_code == 404
    transport.publish("body", queue)
    wait_until(lambda: received == [b"body"], what="the other consumer's delivery")
    assert status_of(transport, "consume").consumers == 1


def test_exclusive_consumer(transport: Transport, broker: Address, queue: str) -> None:
    transport.consume(queue, print, exclusive=True)
    with Transport(broker.url) as other, pytest.raises(DeclarationRefused, match="403"):
        other.consume(queue, print)


def test_cancel_finishes_what_is_being_handled_and_gives_back_the_rest(
    transport: Transport, witness: Any, queue: str
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def work(delivery: Delivery) -> None:
        began.set()
        go_on.wait(30.0)

    consumer = transport.consume(queue, work, prefetch=5)
    for number in range(4):
        transport.publish(str(number), queue)
    assert began.wait(20.0)
    assert not consumer.cancel(0.1), "a callback still runs"
    go_on.set()
    assert consumer.cancel(20.0)
    assert consumer.handled == 1
    wait_until(lambda: depth(witness, queue) >= 3, what="what was not handled is back")
    left = texts(witness, queue)
    assert left in (["1", "2", "3"], ["0", "1", "2", "3"]), "the one whose cancel timed out may come again"
    assert status_of(transport, "consume").consumers == 0


def test_cancel_in_the_callback(transport: Transport, queue: str) -> None:
    took: list[float] = []

    def once(_delivery: Delivery) -> None:
        began_at = time.monotonic()
        consumers[0].cancel()
        took.append(time.monotonic() - began_at)

    consumers = [transport.consume(queue, once, prefetch=1)]
    transport.publish("1", queue)
    transport.publish("2", queue)
    wait_until(lambda: took and not consumers[0].is_active, what="the end of the consumer")
    assert took[0] < 4.0, "what it waits for at most is 5 s"
    assert len(took) == 1


def test_what_cancels_its_consumer_is_handled_and_does_not_come_again(
    transport: Transport, witness: Any, queue: str
) -> None:
    """Nor does what another thread of it handles meanwhile; what was only prefetched goes back."""
    began, go_on = threading.Event(), threading.Event()

    def work(delivery: Delivery) -> None:
        if delivery.body == b"slow":
            began.set()
            go_on.wait(30.0)
        elif began.wait(30.0):
            assert not consumers[0].cancel()

    consumers = [transport.consume(queue, work, prefetch=3, threads=2)]
    for body in ("slow", "last", "next"):
        transport.publish(body, queue)
    wait_until(lambda: consumers[0].handled == 1 and not consumers[0].is_active, what="the one that cancels")
    assert status_of(transport, "consume").consumers == 1, "a message is still being handled"
    go_on.set()
    assert consumers[0].cancel(20.0)
    assert consumers[0].handled == 2
    wait_until(lambda: status_of(transport, "consume").consumers == 0, what="the end of the consumer")
    wait_until(lambda: depth(witness, queue) == 1, what="the one that was only prefetched")
    assert texts(witness, queue) == ["next"]


def test_what_closes_its_transport_is_handled_and_does_not_come_again(
    broker: Address, witness: Any, queue: str
) -> None:
    """A message that says to stop: it came again for the next process, and stopped that one, too."""
    transport = Transport(broker.url)
    ended: list[bool] = []
    consumer = transport.consume(queue, lambda _delivery: ended.append(transport.close(10.0)))
    transport.publish("stop", queue)
    wait_until(lambda: not any(each.state != "closed" for each in transport.status().connections), 5.0, "the end")
    assert ended == [False], "it is not over in the callback"
    assert transport.close()
    assert consumer.handled == 1
    assert depth(witness, queue) == 0


def test_a_consumer_that_is_left_without_a_thread_ends_and_leaves_its_messages_to_others(
    transport: Transport, witness: Any, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_none(_name: str, _run: object) -> None:
        raise RuntimeError("can't start new thread")

    def work(_delivery: Delivery) -> None:
        monkeypatch.setattr(consumer_module, "start_application_thread", start_none)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading, "excepthook", lambda _ended: None)
    consumer = transport.consume(queue, work)
    transport.publish("1", queue)
    wait_until(lambda: "stopped" in repr(consumer), what="the end of the consumer")
    wait_until(lambda: depth(witness, queue) == 1, what="its message")
    assert consumer.cancel()


def test_publishing_in_the_callback(transport: Transport, witness: Any, queue: str, unique: Name) -> None:
    answers = unique("answers")
    transport.declare(Queue(answers, expires=60))
    transport.consume(queue, lambda delivery: transport.publish(delivery.body.upper(), answers))
    transport.publish("a", queue)
    wait_until(lambda: depth(witness, answers) == 1, what="the answer")


def test_a_cancelled_consumer_is_let_go_of(transport: Transport, queue: str) -> None:
    """An application that consumes and cancels for each request must not grow."""
    before = threading.active_count()
    consumers = []
    for _ in range(20):
        consumer = transport.consume(queue, lambda delivery: None)
        consumers.append(weakref.ref(consumer))
        assert consumer.cancel()
    del consumer
    wait_until(lambda: threading.active_count() <= before + 1, what="the end of the consumers' threads")
    gc.collect()
    wait_until(lambda: not any(each() for each in consumers), what="the end of the consumers")


# What the broker loses comes back.


def test_queue_deleted_under_a_consumer_comes_back(transport: Transport, witness: Any, unique: Name) -> None:
    exchange, name = Exchange(unique("exchange"), "topic"), unique("deleted")
    transport.declare(Queue(name, exchange, routing_key="key"))
    received: list[bytes] = []
    consumer = transport.consume(name, lambda delivery: received.append(delivery.body))
    _deleted(witness, name)
    wait_until(lambda: _exists(witness, name) and consumer.is_active, what="the queue and its consumer")
    transport.publish("by its binding", "key", exchange.name)
    wait_until(lambda: received == [b"by its binding"], what="the delivery")
    consumer.cancel()
    _deleted(witness, name)


def test_queue_of_somebody_else_deleted_under_a_consumer(transport: Transport, witness: Any, unique: Name) -> None:
    """It is not ours to make again; when its owner has, the consumer is back."""
    name = unique("theirs")
    witness.queue_declare(name, durable=True, auto_delete=False)
    received: list[bytes] = []
    consumer = transport.consume(name, lambda delivery: received.append(delivery.body))
    _deleted(witness, name)
    wait_until(lambda: not consumer.is_active, what="the consumer's end")
    stays(lambda: not _exists(witness, name), 0.3)
    witness.connection.channel().queue_declare(name, durable=True, auto_delete=False)
    wait_until(lambda: consumer.is_active, what="the consumer to be back")
    transport.publish("again", name)
    wait_until(lambda: received == [b"again"], what="the delivery")
    consumer.cancel()
    _deleted(witness, name)


def _exists(witness: Any, name: str) -> bool:
    try:
        witness.connection.channel().queue_declare(name, passive=True)
    except amqp.NotFound:
        return False
    return True


def test_publish_to_a_queue_that_vanished_declares_it_again(transport: Transport, witness: Any, unique: Name) -> None:
    name = unique("vanished")
    transport.declare(Queue(name))
    _deleted(witness, name)
    transport.publish("body", name)
    assert texts(witness, name) == ["body"]
    _deleted(witness, name)


def test_publish_to_an_exchange_that_vanished_declares_it_again(
    transport: Transport, witness: Any, unique: Name
) -> None:
    exchange, name = Exchange(unique("vanished"), "direct"), unique("bound")
    transport.declare(Queue(name, exchange, routing_key="key"))
    transport.publish("1", "key", exchange.name)
    witness.exchange_delete(exchange.name)
    transport.publish("2", "key", exchange.name)
    assert texts(witness, name) == ["1", "2"]
    _deleted(witness, name)
    witness.exchange_delete(exchange.name)


# The whole.


def test_a_queue_that_went_with_its_consumer_is_not_made_for_a_publisher(
    transport: Transport, witness: Any, unique: Name
) -> None:
    """A queue for each request: one message that no queue took made them all once more, to be filled by the next."""
    exchange = Exchange(unique("x"), "topic")
    names = [unique("for-a-request") for _ in range(3)]
    for name in names:
        consumer = transport.consume(Queue(name, exchange, routing_key="answer", exclusive=True), print)
        assert consumer.cancel()
    with pytest.raises(Unroutable):
        transport.publish("nobody waits", "answer", exchange.name)
    for name in names:
        with pytest.raises(amqp.NotFound):
            witness.connection.channel().queue_declare(name, passive=True)
    resumed = transport.consume(names[0], print)
    transport.publish("once more", "answer", exchange.name)
    wait_until(lambda: resumed.handled == 1, 5.0, "who consumes it again")


def test_nothing_is_open_before_the_first_use(broker: Address) -> None:
    before = threading.active_count()
    transport = Transport(broker.url, name="unused")
    assert transport.status().connections == ()
    assert repr(transport) == f"<Transport amqp://{broker.host}:{broker.port} NEW>"
    assert transport.close()
    assert threading.active_count() == before


def test_warm_connects_in_the_background(transport: Transport) -> None:
    began_at = time.monotonic()
    transport.warm()
    assert time.monotonic() - began_at < 4.0
    wait_until(lambda: status_of(transport).state == "ready", what="the connection")


def test_status_and_repr(transport: Transport, broker: Address, queue: str) -> None:
    transport.publish("body", queue)
    transport.consume(queue, lambda delivery: None)
    status = transport.status()
    assert status.name == "tested"
    publishing, consuming = status_of(transport), status_of(transport, "consume")
    for each, role in ((publishing, "publish"), (consuming, "consume")):
        assert each.state == "ready"
        assert each.broker == f"{broker.host}:{broker.port}"
        assert each.heartbeat == 20.0
        assert each.name.startswith(f"tested:{role}:{status.pid}@")
        assert each.sent_age is not None and 0 <= each.sent_age < 20
        assert each.received_age is not None and 0 <= each.received_age < 20
        assert (each.reconnects, each.blocked, each.queued, each.in_flight) == (0, None, 0, 0)
        assert each.last_failure is None
    assert (publishing.confirmed, publishing.consumers) == (1, 0)
    assert (consuming.confirmed, consuming.consumers) == (0, 1)
    text = repr(transport)
    assert text.startswith(f"<Transport amqp://{broker.host}:{broker.port} publish READY in-flight=0 beat=")
    assert "consume READY" in text
    assert USER not in text and PASSWORD not in text


def test_close_finishes_what_was_accepted(broker: Address, witness: Any, queue: str) -> None:
    transport = Transport(broker.url)
    confirms = [transport.publish_soon(str(number), queue) for number in range(500)]
    assert transport.close()
    assert [confirm.error for confirm in confirms] == [None] * 500
    assert all(confirm.done for confirm in confirms)
    assert len(get_all(witness, queue)) == 500


def test_close_is_idempotent_and_final(broker: Address, queue: str) -> None:
    transport = Transport(broker.url)
    consumer = transport.consume(queue, lambda delivery: None)
    transport.publish("body", queue)
    assert transport.close()
    began_at = time.monotonic()
    assert transport.close()
    assert time.monotonic() - began_at < 4.0, "what it waits for at most is 5 s"
    assert not consumer.is_active
    for use in (
        lambda: transport.publish("body", queue),
        lambda: transport.publish_soon("body", queue),
        lambda: transport.publish_many([Message(body="body", routing_key=queue)]),
        lambda: transport.declare(Queue(queue)),
        lambda: transport.consume(queue, print),
    ):
        with pytest.raises(Closed, match="make a new one") as caught:
            use()
        assert not caught.value.maybe_sent
    transport.warm()
    assert {each.state for each in transport.status().connections} == {"closed"}


def test_nothing_is_accepted_while_closing(broker: Address, queue: str) -> None:
    """Others' publishing does not keep it open, and each message either was confirmed or says that it was not."""
    transport = Transport(broker.url)
    transport.publish("body", queue)
    started, ends = threading.Barrier(5), []

    def produce() -> None:
        started.wait()
        while True:
            try:
                transport.publish("body", queue)
            except MessagingError as exc:
                ends.append(exc)
                return

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    began_at = time.monotonic()
    assert transport.close(20.0)
    assert time.monotonic() - began_at < 10.0
    for thread in threads:
        thread.join(20.0)
        assert not thread.is_alive()
    assert {type(end) for end in ends} == {Closed}


def test_context_manager_closes(broker: Address, queue: str) -> None:
    before = threading.active_count()
    with Transport(broker.url) as transport:
        transport.publish("body", queue)
        assert threading.active_count() > before
    assert threading.active_count() == before
    with pytest.raises(Closed):
        transport.publish("body", queue)


def test_dropped_without_close_ends_its_threads(broker: Address, queue: str) -> None:
    before = threading.active_count()
    transport = Transport(broker.url)
    transport.publish("body", queue)
    assert threading.active_count() == before + 1
    del transport
    gc.collect()
    wait_until(lambda: threading.active_count() == before, what="the end of the thread")


def test_errors_are_not_delivered_kinds() -> None:
    assert issubclass(Rejected, NotDelivered) and issubclass(Unroutable, NotDelivered)


def test_where_the_process_ends_with_the_request_nothing_stays_open(broker: Address, witness: Any, queue: str) -> None:
    with Transport(broker.url, name="one-shot") as transport:
        transport.is_one_shot = True
        transport.publish("1", queue)
        assert transport.status().connections == ()
        confirm = transport.publish_soon("2", queue)
        assert (confirm.done, confirm.error) == (True, None)
        assert transport.publish_many([Message(body="3", routing_key=queue)]) == [None]
        assert transport.status().connections == ()
    assert [message.body for message in get_all(witness, queue)] in (["1", "2", "3"], [b"1", b"2", b"3"])
