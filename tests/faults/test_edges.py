"""Moments that are rare and must not be the last: no descriptor left, a consumer accepted and lost in one, an end while
callbacks go on, an answer that never comes to somebody else."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue

from tests.faults.test_reconnect import status_of
from tests.harness.secret import dev_broker
from tests.harness.waiting import wait_until
from wsgi_messaging import ConfirmTimeout, Transport, Unavailable, Unroutable
from wsgi_messaging.connection.hosts import Broker
from wsgi_messaging.connection.link import Interrupted, LinkOptions, open_link
from wsgi_messaging.connection.loop import Loop
from wsgi_messaging.connection.state import State
from wsgi_messaging.connections import Connections
from wsgi_messaging.devbroker import DevBroker
from wsgi_messaging.devbroker.channels import Channel
from wsgi_messaging.devbroker.sessions import Session
from wsgi_messaging.runtime import native


@pytest.fixture
def broker() -> Iterator[DevBroker]:
    with dev_broker() as made:
        yield made


@pytest.fixture
def transport(broker: DevBroker) -> Iterator[Transport]:
    with Transport(broker.url, name="edges") as made:
        yield made


Frame = Callable[[Channel, int, str, Any, Any], None]


def threads(part: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if part in thread.name]


def test_a_resolver_that_takes_longer_than_an_attempt(broker: DevBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first name server of two is down: the name takes 5 s each time, and the broker is not to blame for it."""
    addresses = native.addresses

    def slow(host: str, port: int) -> list[tuple[int, Any]]:
        time.sleep(0.5)  # the resolver, with more than connect_timeout
        return addresses(host, port)

    monkeypatch.setattr(native, "addresses", slow)
    left: list[float] = []

    def wait(_sock: object, _events: int, deadline: float) -> None:
        left.append(deadline - native.monotonic())
        raise Interrupted

    with pytest.raises(Interrupted):
        open_link(Broker("127.0.0.1", broker.port), LinkOptions(connect_timeout=0.3), None, wait)
    assert left[0] > 0


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), ValueError("embedded null character")])
def test_a_resolver_that_fails_is_asked_again(
    broker: DevBroker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """For want of a descriptor for its own socket, for one: that is no gaierror."""
    addresses, failures = native.addresses, [error] * 2

    def failing(host: str, port: int) -> list[tuple[int, Any]]:
        if failures:
            raise failures.pop()
        return addresses(host, port)

    monkeypatch.setattr(native, "addresses", failing)
    with Transport(broker.url) as transport:
        transport.publish("x", "q", mandatory=False)
    assert not failures


def test_without_a_descriptor_left_it_is_tried_again(transport: Transport) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 8, hard))
    try:
        with pytest.raises(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(Unavailable, match="Too many open files"):
            transport.publish("x", "q")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)
    transport.publish("x", "q", mandatory=False)
    assert transport.close(5.0)


def test_a_consumer_that_is_accepted_and_lost_in_one_comes_back(
    broker: DevBroker, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends right behind consume-ok, before who waits for that has run."""
    original: Frame = Channel.frame
    accepted: list[int] = []

    def frame(self: Channel, kind: int, name: str, arguments: Any, payload: Any) -> None:
        original(self, kind, name, arguments, payload)
        if name == "basic.consume" and not accepted:
            accepted.append(1)
            [session] = [each for each in broker._server.sessions() if self in each._channels.values()]
            session.end(session.now)
            session.close(320, "shutdown")

    transport.declare(Queue("q"))
    monkeypatch.setattr(Channel, "frame", frame)
    for _ in range(5):  # which of the two comes first is chance
        accepted.clear()
        came = threading.Event()
        consumer = transport.consume("q", lambda _delivery, came=came: came.set())  # type: ignore[misc]
        transport.publish("x", "q", timeout=10.0)
        assert came.wait(10.0), "a consumer that nobody told of its end"
        consumer.cancel()


def test_what_a_callback_opens_while_the_transport_closes_is_closed_too(broker: DevBroker) -> None:
    with Transport(broker.url) as feeder:
        feeder.declare(Queue("q")), feeder.declare(Queue("out"))
        feeder.publish("x", "q")
    transport = Transport(broker.url, name="victim")
    begun, go_on = threading.Event(), threading.Event()

    def callback(_delivery: object) -> None:
        begun.set(), go_on.wait(20.0)
        transport.publish("result", "out")  # the first message of this process

    transport.consume("q", callback)
    assert begun.wait(20.0)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(transport.close, 20.0)
        wait_until(lambda: not any(each.consumers for each in broker.connections()), what="the end of the consumer")
        go_on.set()
        assert closing.result(30.0)
    assert not [each for each in broker.connections() if "victim" in each.name]
    assert not threads("wsgi-messaging-publish")


def test_a_consumer_that_is_made_while_the_transport_closes_ends_too(broker: DevBroker) -> None:
    transport = Transport(broker.url)
    transport.declare(Queue("q")), transport.declare(Queue("late"))
    transport.publish("x", "q")
    begun, go_on = threading.Event(), threading.Event()
    transport.consume("q", lambda _delivery: (begun.set(), go_on.wait(20.0)))
    assert begun.wait(20.0)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(transport.close, 20.0)
        wait_until(lambda: not any(each.consumers for each in broker.connections()), what="the end of the consumer")
        late = transport.consume("late", lambda _delivery: None)
        go_on.set()
        assert closing.result(30.0)
    wait_until(lambda: not threads("consumer"), what="its thread's end")
    assert not late.is_active


def test_a_declaration_that_hangs_is_given_up_in_time_for_the_next(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Frame = Channel.frame

    def frame(self: Channel, kind: int, name: str, arguments: Any, payload: Any) -> None:
        if name != "queue.declare" or arguments[1] != "hangs":
            original(self, kind, name, arguments, payload)

    monkeypatch.setattr(Channel, "frame", frame)
    transport.declare(Queue("first"))
    with ThreadPoolExecutor(1) as pool:
        hangs = pool.submit(transport.declare, Queue("hangs"), timeout=0.5)
        wait_until(lambda: len(transport.connections().loops()[0].control), what="the declaration")
        assert transport.declare(Queue("next"), timeout=20.0) == "next"
        with pytest.raises(ConfirmTimeout):
            hangs.result(20.0)


def test_a_queue_that_is_declared_and_consumed_has_one_deadline(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that is slow with both answers had twice the time."""
    deadlines: list[float] = []
    request, subscribe = Connections.request, Connections.subscribe

    def asked(self: Connections, declaration: Any, deadline: float, role: str | None = None) -> Any:
        deadlines.append(deadline)
        return request(self, declaration, deadline, role)

    def subscribed(self: Connections, subscription: Any, completion: Any, deadline: float) -> Any:
        deadlines.append(deadline)
        return subscribe(self, subscription, completion, deadline)

    monkeypatch.setattr(Connections, "request", asked)
    monkeypatch.setattr(Connections, "subscribe", subscribed)
    transport.consume(Queue("both", exclusive=True), print, timeout=5.0)
    assert len(deadlines) == 2
    assert len(set(deadlines)) == 1


def test_the_end_of_the_time_to_close_and_of_the_socket_in_one(
    broker: DevBroker, transport: Transport, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pause = Loop._pause

    def dropped(self: Loop, link: Any, now: float) -> bool:
        if self.state is State.CLOSED:
            broker._server.call(broker._server.drop_all)
        return pause(self, link, now)

    transport.publish("x", "q", mandatory=False)
    monkeypatch.setattr(Loop, "_pause", dropped)
    broker.pause()
    assert transport.close(2.0)
    assert not [record for record in caplog.records if "failed" in record.getMessage()]


def test_what_comes_with_the_end_of_the_handshake_is_looked_at(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker that goes into maintenance: nothing more comes behind that, so the socket has nothing to tell."""
    shake_hands = Session._shake_hands

    def shake_hands_and_close(self: Session, name: str, arguments: Any) -> None:
        shake_hands(self, name, arguments)
        if name == "connection.open":
            monkeypatch.setattr(Session, "_shake_hands", shake_hands)
            self.close(320, "CONNECTION_FORCED - maintenance")

    monkeypatch.setattr(Session, "_shake_hands", shake_hands_and_close)
    transport.publish("x", "q", mandatory=False, timeout=20.0)
    assert "CONNECTION_FORCED - maintenance" in caplog.text


def test_a_twin_that_came_back_is_not_taken_for_the_one_that_is_in_a_queue(
    broker: DevBroker, transport: Transport
) -> None:
    """Two messages that differ by their id alone, the first one's confirm is on its way; then the binding goes."""
    exchange = Exchange("twins", "direct")
    transport.declare(Queue("q", exchange, routing_key="key"))
    transport.publish("warm", "key", "twins")
    broker.hold_confirms()
    first = transport.publish_soon("tick", "key", "twins")
    wait_until(lambda: status_of(transport).in_flight == 1, what="the first one's way")
    with Connection(broker.url) as other:
        other.channel().queue_unbind("q", "twins", "key")
    second = transport.publish_soon("tick", "key", "twins")
    with pytest.raises(Unroutable):
        second.wait()
    broker.release_confirms()
    first.wait()
