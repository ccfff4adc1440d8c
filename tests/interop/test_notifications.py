"""Notifications between ours and the real oslo.messaging over a real RabbitMQ, in both directions."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from tests.harness.proxy import UP, FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import wait_until
from tests.interop import peer as peers
from tests.interop.capture import Published, published
from tests.interop.peer import Peer
from wsgi_messaging import DeclarationRefused, Delivery, Transport
from wsgi_messaging.connection import codec, frames, topology
from wsgi_messaging.notify import (
    NotificationFilter,
    NotificationListener,
    NotificationResult,
    Notifier,
    RequestNotifications,
)
from wsgi_messaging.rpc import QueueFlags

EXCHANGE = "interop-notify"
PRIORITIES = ["audit", "debug", "info", "warn", "error", "critical", "sample"]
CONTEXT = {"user": "alice", "roles": ["admin"], "auth_token": "secret"}
PAYLOAD = {"id": 1, "text": "żółw 🐢", "list": [1, None, 2.5], "deep": {"oslo.version": "2.0"}}


class Context:
    """As oslo.context's RequestContext."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def redacted_copy(self) -> Context:
        return Context({**self.values, "auth_token": "***"})

    def to_dict(self) -> dict[str, Any]:
        return self.values


class Endpoint:
    """Keeps what comes, and answers as many times REQUEUE as it was told to."""

    def __init__(self, requeue: int = 0, rule: NotificationFilter | None = None) -> None:
        self.seen: list[list[Any]] = []
        self.requeue = requeue
        self.lock = threading.Lock()
        if rule is not None:
            self.filter_rule = rule
        for priority in PRIORITIES:
            setattr(self, priority, self._method(priority))

    def _method(self, priority: str) -> Callable[..., str]:
        def method(*arguments: Any) -> str:
            with self.lock:
                self.seen.append([priority, *arguments])
                if self.requeue:
                    self.requeue -= 1
                    return NotificationResult.REQUEUE
            return NotificationResult.HANDLED

        return method


@pytest.fixture(scope="module")
def start_peer() -> Iterator[Callable[..., Peer]]:
    """Starts processes of the real oslo.messaging's notifications; they end with the module."""
    started: list[Peer] = []

    def start(url: str, **options: Any) -> Peer:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(peers, "SCRIPT", peers.SCRIPT.with_name("notify_peer.py"))
            started.append(Peer(url, exchange=EXCHANGE, **options))
        return started[-1]

    yield start
    for peer in started:
        peer.close()


@pytest.fixture(scope="module")
def peer(rabbitmq: RabbitMQ, start_peer: Callable[..., Peer]) -> Peer:
    return start_peer(rabbitmq.url)


@pytest.fixture
def transport(rabbitmq: RabbitMQ) -> Iterator[Transport]:
    with Transport(rabbitmq.url, name="interop") as opened:
        yield opened


def notifier_of(transport: Transport, topic: str, **options: Any) -> Notifier:
    return Notifier(transport, "ours.host", topics=[topic], exchange=EXCHANGE, **options)


def listener_of(transport: Transport, topic: str, *endpoints: Any, **options: Any) -> NotificationListener:
    return NotificationListener(transport, [topic], endpoints, exchange=EXCHANGE, **options)


def heard(peer: Peer, name: str, count: int) -> list[Any]:
    wait_until(lambda: len(peer(do="heard", name=name)) >= count, 20.0, f"{count} notifications", interval=0.1)
    found: list[Any] = peer(do="heard", name=name)
    return found


# Ours to theirs.


@pytest.mark.parametrize("driver", ["messagingv2", "messaging"])
@pytest.mark.parametrize("soon", [False, True])
def test_their_listener_hears_every_priority(
    peer: Peer, transport: Transport, unique: Callable[[str], str], driver: str, soon: bool
) -> None:
    topic = unique("ours")
    peer(do="listen", name=topic, topics=[topic])
    notifier = notifier_of(transport, topic, drivers=driver, soon=soon)
    for priority in PRIORITIES:
        getattr(notifier, priority)(Context(CONTEXT), "an.event", {**PAYLOAD, "priority": priority})
    assert notifier.flush()
    seen = heard(peer, topic, 7)
    assert sorted(each[0] for each in seen) == sorted(PRIORITIES)
    for priority, ctxt, publisher_id, event_type, payload, metadata in seen:
        assert {**CONTEXT, "auth_token": "***"}.items() <= ctxt.items()
        assert (publisher_id, event_type) == ("ours.host", "an.event")
        assert payload == {**PAYLOAD, "priority": priority}
        assert set(metadata) == {"message_id", "timestamp"}


def test_their_listener_requeues_ours(peer: Peer, transport: Transport, unique: Callable[[str], str]) -> None:
    topic = unique("ours")
    peer(do="listen", name=topic, topics=[topic], requeue=2)
    notifier_of(transport, topic).info({}, "e", 1)
    seen = heard(peer, topic, 3)
    assert [each[4] for each in seen] == [1, 1, 1]


def test_their_pool_and_batch_and_filter_hear_ours(
    peer: Peer, transport: Transport, unique: Callable[[str], str]
) -> None:
    topic = unique("ours")
    peer(do="listen", name=f"{topic}-pool", topics=[topic], pool=f"{topic}-pool")
    peer(do="listen", name=f"{topic}-batch", topics=[topic], batch=3, batch_timeout=20, pool=f"{topic}-batch")
    peer(do="listen", name=topic, topics=[topic], rule={"event_type": "^image", "context": {"user": "ali"}})
    notifier = notifier_of(transport, topic)
    for number, event_type in enumerate(["image.a", "server.b", "image.c"]):
        notifier.info(Context(CONTEXT), event_type, number)
    assert sorted(each[4] for each in heard(peer, f"{topic}-pool", 3)) == [0, 1, 2]
    assert sorted(each[4] for each in heard(peer, topic, 2)) == [0, 2]
    batches = heard(peer, f"{topic}-batch", 1)
    assert sorted(number for batch in batches for number in batch) == [0, 1, 2]


def test_what_ours_sent_before_they_listened_is_heard(
    peer: Peer, transport: Transport, unique: Callable[[str], str]
) -> None:
    topic = unique("ours")
    notifier_of(transport, topic).error({}, "e", "early")
    peer(do="listen", name=topic, topics=[topic])
    assert heard(peer, topic, 1)[0][4] == "early"


# Theirs to ours.


@pytest.mark.parametrize("driver", ["messagingv2", "messaging"])
def test_our_listener_hears_every_priority(
    peer: Peer, transport: Transport, unique: Callable[[str], str], driver: str
) -> None:
    topic = unique("theirs")
    endpoint = Endpoint()
    with listener_of(transport, topic, endpoint) as listener:
        for priority in PRIORITIES:
            peer(
                do="notify",
                topics=[topic],
                priority=priority,
                event_type="an.event",
                payload={**PAYLOAD, "priority": priority},
                driver=driver,
                context=CONTEXT,
            )
        wait_until(lambda: listener.status().handled == 7, what="7 notifications")
    assert sorted(each[0] for each in endpoint.seen) == sorted(PRIORITIES)
    for priority, ctxt, publisher_id, event_type, payload, metadata in endpoint.seen:
        assert {**CONTEXT, "auth_token": "***"}.items() <= ctxt.items()
        assert (publisher_id, event_type) == ("peer.host", "an.event")
        assert payload == {**PAYLOAD, "priority": priority}
        assert set(metadata) == {"message_id", "timestamp"}


def test_our_listener_requeues_pools_filters_and_batches_theirs(
    peer: Peer, transport: Transport, unique: Callable[[str], str]
) -> None:
    topic = unique("theirs")
    batches: list[list[Any]] = []

    class Batch:
        def info(self, messages: list[dict[str, Any]]) -> None:
            batches.append([message["payload"] for message in messages])

    requeuing, pooled = Endpoint(requeue=2), Endpoint()
    filtered = Endpoint(rule=NotificationFilter(event_type="never"))
    with (
        listener_of(transport, topic, requeuing, filtered, allow_requeue=True) as listener,
        listener_of(transport, topic, pooled, pool=f"{topic}-pool"),
        listener_of(transport, topic, Batch(), pool=f"{topic}-batch", batch_size=4, batch_timeout=20.0),
    ):
        peer(do="notify", topics=[topic], priority="info", event_type="e", payload="x", times=4)
        wait_until(lambda: listener.status().handled == 4, what="4 notifications")
        wait_until(lambda: len(pooled.seen) == 4, what="the pool's copies")
        wait_until(lambda: sum(map(len, batches)) == 4, what="the batch")
    assert len(requeuing.seen) == 6
    assert filtered.seen == []
    assert listener.status().duplicates == 0


def test_both_listen_to_one_queue(peer: Peer, transport: Transport, unique: Callable[[str], str]) -> None:
    topic = unique("both")
    endpoint = Endpoint()
    peer(do="listen", name=topic, topics=[topic])
    with listener_of(transport, topic, endpoint):
        for number in range(20):
            notifier_of(transport, topic).info({}, "e", number)
        wait_until(lambda: len(endpoint.seen) + len(peer(do="heard", name=topic)) == 20, what="20", interval=0.1)
    assert endpoint.seen and peer(do="heard", name=topic)


@pytest.mark.parametrize(
    ("option", "flags"),
    [
        ("amqp_durable_queues", QueueFlags(durable=True)),
        ("amqp_auto_delete", QueueFlags(auto_delete=True)),
        ("rabbit_quorum_queue", QueueFlags(quorum=True)),
    ],
)
def test_the_flags_of_their_options(rabbitmq: RabbitMQ, unique: Callable[[str], str], option: str, flags: Any) -> None:
    """In an exchange of its own, for flags belong to the exchange, too."""
    topic, exchange = unique("flags"), unique("flags-exchange")
    endpoint = Endpoint()
    with pytest.MonkeyPatch.context() as patch, Transport(rabbitmq.url) as transport:
        patch.setattr(peers, "SCRIPT", peers.SCRIPT.with_name("notify_peer.py"))
        with Peer(rabbitmq.url, exchange=exchange, **{option: True}) as peer:
            peer(do="listen", name=topic, topics=[topic])
            with pytest.raises(DeclarationRefused, match="QueueFlags"):
                Notifier(transport, "p", topics=[topic], exchange=exchange).info({}, "e", 1)
            Notifier(transport, "p", topics=[topic], exchange=exchange, flags=flags).info({}, "e", 2)
            assert [each[4] for each in heard(peer, topic, 1)] == [2]
            options = {"exchange": exchange, "flags": flags, "pool": f"{topic}-pool"}
            with NotificationListener(transport, [topic], [endpoint], **options):
                peer(do="notify", topics=[topic], priority="warn", event_type="e", payload=3)
                wait_until(lambda: [each[4] for each in endpoint.seen] == [3], what="theirs")


def test_theirs_compressed(rabbitmq: RabbitMQ, start_peer: Callable[..., Peer], unique: Callable[[str], str]) -> None:
    topic = unique("compressed")
    endpoint = Endpoint()
    with Transport(rabbitmq.url) as transport, listener_of(transport, topic, endpoint):
        start_peer(rabbitmq.url, kombu_compression="gzip")(
            do="notify", topics=[topic], priority="info", event_type="e", payload="x" * 1000
        )
        wait_until(lambda: [each[4] for each in endpoint.seen] == ["x" * 1000], what="the plain payload")


# On the wire.


def declarations(proxy: FaultProxy, name: str) -> list[tuple[int, list[Any]]]:
    """What clients declared through the proxy that concerns `name`, with its arguments."""
    kinds = {
        topology.EXCHANGE_DECLARE: "BssbbbbbF",
        topology.QUEUE_DECLARE: "BsbbbbbF",
        topology.QUEUE_BIND: "BsssbF",
    }
    found: list[tuple[int, list[Any]]] = []
    for pair in proxy.pairs:
        raw, offset = bytes(pair.traffic[UP].recorded), 8
        while offset + 8 <= len(raw):
            kind, _channel, size = struct.unpack_from(">BHI", raw, offset)
            payload = raw[offset + 7 : offset + 7 + size]
            offset += size + 8
            if kind == frames.METHOD:
                (method,) = struct.unpack_from(">I", payload)
                if method in kinds:
                    found.append((method, codec.read_arguments(kinds[method], payload[4:])))
    return [each for each in found if name in each[1] or EXCHANGE in each[1]]


def described(message: Published) -> dict[str, Any]:
    """All of a message but the ids and the time."""
    inner = dict(message.inner)
    assert len(inner.pop("_unique_id")) == 32
    assert len(inner.pop("message_id")) == 36
    assert time.strptime(inner.pop("timestamp").partition(".")[0], "%Y-%m-%d %H:%M:%S")
    return {
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "properties": message.properties,
        "outer": (list(message.outer), message.outer["oslo.version"]),
        "keys": list(message.inner),
        "inner": inner,
    }


def test_frames_equal_theirs(rabbitmq: RabbitMQ, start_peer: Callable[..., Peer], unique: Callable[[str], str]) -> None:
    """All but `mandatory`, which we set so that a queue that was deleted is made again."""
    topic, target = unique("wire"), (rabbitmq.host, rabbitmq.amqp_port)
    with FaultProxy(target, record=True) as theirs, FaultProxy(target, record=True) as ours:
        peer = start_peer(theirs.url())
        with Transport(ours.url()) as transport:
            notifier = Notifier(transport, "peer.host", topics=[topic], exchange=EXCHANGE)
            for priority in PRIORITIES:
                getattr(notifier, priority)(Context(CONTEXT), "an.event", PAYLOAD)
                peer(
                    do="notify",
                    topics=[topic],
                    priority=priority,
                    event_type="an.event",
                    payload=PAYLOAD,
                    context=CONTEXT,
                )
        sent, expected = list(map(described, published(ours))), list(map(described, published(theirs)))
        assert sent == expected
        assert len(sent) == 7
        our = declarations(ours, f"{topic}.info")
        assert [each for each in our if f"{topic}.info" in each[1]] == [
            each for each in declarations(theirs, f"{topic}.info") if f"{topic}.info" in each[1]
        ]
        assert our[0] == declarations(theirs, f"{topic}.info")[0]


def test_format_1_0_equals_theirs(peer: Peer, transport: Transport, unique: Callable[[str], str]) -> None:
    topic = unique("bare")
    got: list[Delivery] = []
    notifier_of(transport, topic, drivers="messaging").info(Context(CONTEXT), "e", PAYLOAD)
    peer(
        do="notify",
        topics=[topic],
        priority="info",
        event_type="e",
        payload=PAYLOAD,
        driver="messaging",
        context=CONTEXT,
    )
    transport.consume(f"{topic}.info", got.append)
    wait_until(lambda: len(got) == 2, what="both messages")
    our, their = got
    assert our.properties == their.properties
    assert list(our.json()) == list(their.json())
    volatile = ("message_id", "timestamp", "_unique_id", "publisher_id")
    assert {key: value for key, value in our.json().items() if key not in volatile} == {
        key: value for key, value in their.json().items() if key not in volatile
    }


@pytest.mark.parametrize("fail", [False, True])
def test_request_notifications_equal_theirs(
    peer: Peer, transport: Transport, unique: Callable[[str], str], fail: bool
) -> None:
    topic = unique("requests")
    environ: dict[str, Any] = {"HTTP_HOST": "example.org:80", "HTTP_X_AUTH_TOKEN": "secret", "lower.case": "no"}
    setup_testing_defaults(environ)
    texts = {name: value for name, value in environ.items() if isinstance(value, str)}

    def app(env: dict[str, Any], start_response: Any) -> list[bytes]:
        if fail:
            raise ValueError("boo")
        start_response("201 Created", [("Content-Type", "text/plain"), ("X-Twice", "a"), ("X-Twice", "b")])
        return [b"body"]

    notifier = Notifier(transport, "api", topics=[topic], exchange=EXCHANGE, soon=True)
    try:
        RequestNotifications(app, notifier)(dict(texts), lambda *_arguments: None)
    except ValueError:
        assert fail
    assert notifier.flush()
    peer(do="request", environ=texts, topic=topic, fail=fail)
    got: list[dict[str, Any]] = []
    transport.consume(f"{topic}.info", lambda delivery: got.append(json.loads(delivery.json()["oslo.message"])))
    wait_until(lambda: len(got) == 4, what="two notifications of each")
    ours, theirs = got[:2], got[2:]
    for our, their in zip(ours, theirs, strict=True):
        assert list(our) == list(their)
        for key in ("publisher_id", "event_type", "priority"):
            assert our[key] == their[key]
        if "exception" in their["payload"]:
            assert our["payload"]["exception"].pop("traceback")[-1].rstrip().endswith('raise ValueError("boo")')
            assert their["payload"]["exception"].pop("traceback")
        assert our["payload"] == their["payload"]
