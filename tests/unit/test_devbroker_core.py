"""The pure parts of the embedded broker: queues, time, routing and frames without a socket and without a clock."""

from __future__ import annotations

import pytest

from wsgi_messaging.devbroker.arguments import QueuePolicy
from wsgi_messaging.devbroker.exchanges import topic_matches, words_of
from wsgi_messaging.devbroker.framing import FrameReader
from wsgi_messaging.devbroker.messages import Message
from wsgi_messaging.devbroker.queues import Consumer, Queue, Stored
from wsgi_messaging.devbroker.refusals import Refusal
from wsgi_messaging.devbroker.topology import Topology
from wsgi_messaging.devbroker.vhost import VirtualHost


class Listening:
    """A receiver that takes `room` messages."""

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.got: list[Stored] = []
        self.is_cancelled = False

    def has_room(self, consumer: Consumer) -> bool:
        return len(self.got) < self.room

    def deliver(self, consumer: Consumer, stored: Stored) -> None:
        self.got.append(stored)

    def cancelled(self, consumer: Consumer) -> None:
        self.is_cancelled = True


class Grave:
    """Collects what a queue is rid of."""

    def __init__(self) -> None:
        self.reasons: list[tuple[bytes, str]] = []

    def __call__(self, queue: Queue, stored: Stored, reason: str, now: float) -> None:
        self.reasons.append((stored.message.body, reason))


def message(body: bytes = b"x", key: str = "q") -> Message:
    return Message("", key, b"\x00\x00", body)


def queue(policy: QueuePolicy | None = None, grave: Grave | None = None) -> Queue:
    return Queue("q", policy or QueuePolicy(), grave or Grave(), 0.0)


def taken(source: Queue, now: float = 0.0) -> list[bytes]:
    bodies = []
    while (stored := source.get(now, no_ack=True)) is not None:
        bodies.append(stored.message.body)
    return bodies


def test_ttl_runs_on_the_time_that_is_passed_in() -> None:
    grave = Grave()
    source = queue(QueuePolicy(message_ttl=10.0), grave)
    source.publish(message(b"1"), 100.0)
    source.publish(message(b"2"), 105.0)
    assert source.due_at() == 110.0
    source.expire(109.9)
    assert source.ready == 2
    source.expire(110.0)
    assert (source.ready, source.due_at()) == (1, 115.0)
    assert grave.reasons == [(b"1", "expired")]


def test_an_expired_message_is_not_delivered() -> None:
    source, listening = queue(QueuePolicy(message_ttl=1.0)), Listening()
    source.publish(message(), 0.0)
    source.subscribe(Consumer("t", source, listening), 5.0)
    source.pump(5.0)
    assert (listening.got, source.ready) == ([], 0)


def test_unused_counts_from_the_last_use() -> None:
    source = queue(QueuePolicy(expires=10.0))
    assert source.due_at() == 10.0
    consumer = Consumer("t", source, Listening())
    source.subscribe(consumer, 5.0)
    assert source.due_at() == float("inf")
    assert not source.is_unused(100.0)
    source.unsubscribe(consumer, 100.0)
    assert not source.is_unused(109.0)
    assert source.is_unused(110.0)


def test_requeue_restores_the_order_and_counts() -> None:
    source = queue()
    for body in (b"1", b"2", b"3", b"4"):
        source.publish(message(body), 0.0)
    handed_out = [source.get(0.0, no_ack=False) for _ in range(3)]
    source.requeue([stored for stored in reversed(handed_out) if stored is not None], 0.0)
    assert len(source.unacked) == 0
    assert taken(source) == [b"1", b"2", b"3", b"4"]


def test_requeue_beyond_the_limit_is_death() -> None:
    grave = Grave()
    source = queue(QueuePolicy(is_quorum=True, delivery_limit=1), grave)
    source.publish(message(), 0.0)
    for _ in range(2):
        stored = source.get(0.0, no_ack=False)
        assert stored is not None
        source.requeue([stored], 0.0)
    assert grave.reasons == [(b"x", "delivery_limit")]


def test_sizes_are_kept_exactly() -> None:
    source = queue(QueuePolicy(max_priority=3, max_bytes=100))
    for size in (10, 20, 30):
        source.publish(message(b"x" * size), 0.0)
    stored = source.get(0.0, no_ack=False)
    assert stored is not None
    assert (source.ready, source.ready_bytes) == (2, 50)
    source.requeue([stored], 0.0)
    assert (source.ready, source.ready_bytes) == (3, 60)
    assert source.purge() == 3
    assert (source.ready, source.ready_bytes) == (0, 0)


def test_a_consumer_without_room_is_passed_over() -> None:
    source, full, free = queue(), Listening(room=1), Listening()
    for receiver in (full, free):
        source.subscribe(Consumer("t", source, receiver), 0.0)
    for _ in range(5):
        source.publish(message(), 0.0)
    assert (len(full.got), len(free.got)) == (1, 4)


def test_restart_keeps_what_is_persistent() -> None:
    vhost = VirtualHost("/")
    topology = Topology(vhost, object())
    for name, durable in (("kept", True), ("lost", False)):
        topology.declare_queue(name, 0.0, durable=durable, exclusive=False, auto_delete=False, arguments={})
    persistent = b"\x10\x00\x02"
    for body, header in ((b"1", persistent), (b"2", b"\x00\x00"), (b"3", persistent)):
        sent = Message("", "kept", header, body)
        vhost.publish(sent, vhost.route(sent), 0.0)
    vhost.queues["kept"].get(0.0, no_ack=False)
    vhost.restart()
    assert list(vhost.queues) == ["kept"]
    assert taken(vhost.queues["kept"]) == [b"1", b"3"]


def test_the_virtual_host_knows_when_time_matters() -> None:
    vhost = VirtualHost("/")
    topology = Topology(vhost, object())
    arguments = {"x-expires": 3000}
    topology.declare_queue("q", 0.0, durable=False, exclusive=False, auto_delete=False, arguments=arguments)
    assert vhost.due_at == 3.0
    vhost.tick(2.9)
    assert "q" in vhost.queues
    vhost.tick(3.0)
    assert vhost.queues == {}
    assert vhost.due_at == float("inf")


@pytest.mark.parametrize(
    ("pattern", "key", "fits"),
    [("#", "", True), ("*", "", False), ("a.#.b", "a.b", True), ("a.#.b", "a.x.y.b", True), ("a.#.b", "a", False)],
)
def test_topic_patterns(pattern: str, key: str, fits: bool) -> None:
    assert topic_matches(words_of(pattern), words_of(key)) is fits


def test_frames_arrive_in_any_pieces() -> None:
    stream = b"".join(
        b"\x03\x00\x01" + len(payload).to_bytes(4, "big") + payload + b"\xce" for payload in (b"", b"a", b"abc" * 50)
    )
    for size in (1, 2, 7, 8, 9, 1000):
        reader = FrameReader()
        found = []
        for at in range(0, len(stream), size):
            found += list(reader.frames(stream[at : at + size]))
        assert [payload for _kind, _channel, payload in found] == [b"", b"a", b"abc" * 50]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x01\x00\x00\x00\x00\x00\x01a\x00", "invalid_frame_end_marker,0"),
        (b"\x01\x00\x00\x7f\xff\xff\xff", "frame_too_large,2147483647,4088"),
    ],
)
def test_broken_frames_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(Refusal, match=said) as caught:
        list(FrameReader().frames(data))
    assert caught.value.code == 501
    assert caught.value.is_hard


def test_malformed_properties_are_empty_and_kept() -> None:
    odd = Message("", "q", b"\x80\x00\x03\xff\xfe\xfd", b"x")
    assert odd.properties == {}
    assert odd.with_headers({"a": 1}) is odd
