"""RPC between ours, said of both brokers: a real RabbitMQ and the embedded one."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Any

import pytest
from kombu import entity

from tests.broker.rpc_endpoints import (
    AT_ONCE,
    DEPARTURES,
    EXCHANGE,
    RESULTS,
    UNSPEAKABLE,
    Endpoint,
    client_of,
    serving,
    took,
)
from tests.harness.waiting import stays, wait_until
from wsgi_messaging import (
    Closed,
    ConfigurationError,
    ConnectTimeout,
    DeclarationRefused,
    Delivery,
    RemoteError,
    ReplyTimeout,
    Transport,
    Unavailable,
    Unroutable,
)
from wsgi_messaging.lifetime import CONSUME, PUBLISH
from wsgi_messaging.oslo import envelope
from wsgi_messaging.rpc import (
    ExplicitRPCAccessPolicy,
    LegacyRPCAccessPolicy,
    NoOpSerializer,
    QueueFlags,
    RPCClient,
    RPCServer,
    RPCVersionCapError,
    Target,
    deadline,
    executor,
    timer,
    wire,
)
from wsgi_messaging.rpc.replies import replies_of

Name = Callable[[str], str]
STOP_WITHIN = 5.0
"""Seconds. What a server's `stop` waits by default for what does not end."""


@pytest.fixture
def transport(url: str) -> Iterator[Transport]:
    """The server's."""
    with Transport(url, name="server") as opened:
        yield opened


@pytest.fixture
def other(url: str) -> Iterator[Transport]:
    """The client's."""
    with Transport(url, name="client") as opened:
        yield opened


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def server(transport: Transport, unique: Name, endpoint: Endpoint) -> Iterator[RPCServer]:
    with serving(transport, unique, endpoint, ping=True) as running:
        yield running


@pytest.fixture
def client(other: Transport, server: RPCServer) -> RPCClient:
    return client_of(other, server)


# Calls


def test_a_call_gives_the_result(client: RPCClient, endpoint: Endpoint) -> None:
    assert client.call({}, "add", a=1, b=2) == 3
    assert endpoint.executed == [(1, 2)]


def test_the_context_arrives(client: RPCClient) -> None:
    context = {"user": "alice", "nested": {"a": [1]}}
    assert client.call(context, "context") == context


def test_the_callers_deadline_is_visible_and_bounds_nested_calls(client: RPCClient) -> None:
    patient = client.prepare(timeout=60)
    left = patient.call({}, "left")
    assert 45 < left <= 60
    with deadline(20.0):
        assert 5 < patient.call({}, "left") <= 20


def test_a_call_within_a_deadline_ends_with_it(client: RPCClient, endpoint: Endpoint) -> None:
    client.call({}, "add", a=1, b=1)  # so that the deadline is not that of two connections and a queue
    with deadline(0.8):
        seconds, _error = took(lambda: client.call({}, "hold"), ReplyTimeout)
    endpoint.go_on.set()
    assert 0.7 < seconds < AT_ONCE


def test_a_large_body_goes_both_ways(client: RPCClient) -> None:
    value = "ż" * 300_000
    assert client.call({}, "echo", value=value) == value


@pytest.mark.parametrize("size", [10, 5_000])
@pytest.mark.parametrize("end", [{}, {"_msg_id": "another"}, {"end": '"_msg_id": "another"'}, {"end": "\\"}], ids=repr)
def test_a_result_of_any_size_and_end_finds_its_call(client: RPCClient, size: int, end: dict[str, str]) -> None:
    """The id of a large reply is looked for at its end, where the result may look like one."""
    values = [{"number": number, "text": "x" * size, **end} for number in range(4)]
    with ThreadPoolExecutor(len(values)) as callers:
        assert list(callers.map(lambda value: client.call({}, "echo", value=value), values)) == values
    assert replies_of(client.transport.connections()).malformed == 0


@pytest.mark.parametrize("kind", RESULTS)
def test_what_json_has_no_type_for_arrives_as_their_serialization_has_it(client: RPCClient, kind: str) -> None:
    assert client.call({}, "result", kind=kind) == RESULTS[kind][1]


@pytest.mark.parametrize("kind", UNSPEAKABLE)
def test_a_result_that_cannot_be_sent_is_a_failure_at_once(client: RPCClient, kind: str) -> None:
    seconds, error = took(lambda: client.call({}, "result", kind=kind), RemoteError)
    assert error.exc_type == "InvalidMessage"
    assert seconds < AT_ONCE


@pytest.mark.parametrize("kind", ["arguments", "bytes", "kwargs", "text"])
def test_an_exception_that_cannot_be_sent_is_a_failure_at_once(client: RPCClient, kind: str) -> None:
    seconds, error = took(lambda: client.call({}, "fail", kind=kind), RemoteError, ValueError)
    assert "Unprintable" in repr(error) if kind == "text" else isinstance(error, ValueError)
    assert seconds < AT_ONCE


@pytest.mark.parametrize("kind", DEPARTURES)
def test_a_method_that_exits_ends_its_call_and_not_the_server(
    transport: Transport, other: Transport, unique: Name, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its one worker goes on, or another one takes its place."""
    monkeypatch.setattr(threading, "excepthook", lambda _ended: None)
    with serving(transport, unique, Endpoint(), pool_size=1) as running:
        client = client_of(other, running)
        with pytest.raises(RemoteError) as caught:
            client.call({}, "leave", kind=kind)
        assert caught.value.exc_type == kind
        assert client.call({}, "add", a=1, b=1) == 2
        assert (running.status().failed, running.status().workers) == (1, 1)


@pytest.mark.parametrize(
    ("method", "args", "expected"),
    [
        ("nothing", {}, "NoSuchMethod"),
        ("_private", {}, "NoSuchMethod"),
        ("target", {}, "TypeError"),
        ("executed", {}, "TypeError"),
        ("add", {"a": 1}, "TypeError"),
        ("add", {"a": 1, "b": 2, "c": 3}, "TypeError"),
    ],
)
def test_a_request_that_no_method_serves(client: RPCClient, method: str, args: dict[str, Any], expected: str) -> None:
    _seconds, error = took(lambda: client.call({}, method, **args), RemoteError, TypeError)
    assert getattr(error, "exc_type", type(error).__name__) == expected


@pytest.mark.parametrize("version", ["2.0", "1.4", "0.9"])
def test_a_version_that_nobody_serves(client: RPCClient, version: str) -> None:
    with pytest.raises(RemoteError) as caught:
        client.prepare(version=version).call({}, "add", a=1, b=1)
    assert caught.value.exc_type == "UnsupportedVersion"


def test_what_the_peers_decorator_expects_is_told_as_what_it_is(
    transport: Transport, other: Transport, unique: Name, caplog: pytest.LogCaptureFixture
) -> None:
    """An endpoint that came with oslo.messaging's `expected_exceptions`; without it callers got its empty wrapper."""

    class ExpectedException(Exception):
        def __init__(self) -> None:
            self.exc_info = sys.exc_info()

    class Moved:
        def find(self, ctxt: dict[str, Any]) -> None:
            try:
                raise KeyError("host")
            except KeyError as exc:
                raise ExpectedException() from exc

    with serving(transport, unique, Moved()) as running, pytest.raises(KeyError, match="host"):
        client_of(other, running).call({}, "find")
    assert not caplog.records


def test_the_version_cap_is_kept_locally(client: RPCClient) -> None:
    capped = client.prepare(version_cap="1.2")
    assert capped.can_send_version("1.2") and not capped.can_send_version("1.3")
    with pytest.raises(RPCVersionCapError):
        capped.prepare(version="1.3").call({}, "add", a=1, b=1)
    assert capped.prepare(version="1.1").call({}, "add", a=1, b=1) == 2


def test_the_ping_endpoint(client: RPCClient) -> None:
    assert client.call({}, "oslo_rpc_server_ping") == "pong"


@pytest.mark.parametrize(
    ("policy", "allowed", "refused"),
    [
        (LegacyRPCAccessPolicy, ("_private", {}), None),
        (ExplicitRPCAccessPolicy, ("echo", {"value": 1}), ("add", {"a": 1, "b": 1})),
    ],
)
def test_access_policies(
    transport: Transport, other: Transport, unique: Name, policy: Any, allowed: Any, refused: Any
) -> None:
    with serving(transport, unique, Endpoint(), access_policy=policy) as running:
        client = client_of(other, running)
        client.call({}, allowed[0], **allowed[1])
        if refused:
            with pytest.raises(RemoteError, match="NoSuchMethod"):
                client.call({}, refused[0], **refused[1])


class Doubling(NoOpSerializer):
    """Shows where a serializer is asked."""

    def serialize_entity(self, ctxt: Any, entity: Any) -> Any:
        return {"packed": entity}

    def deserialize_entity(self, ctxt: Any, entity: Any) -> Any:
        return entity["packed"]

    def serialize_context(self, ctxt: Any) -> Any:
        return {"user": ctxt}

    def deserialize_context(self, ctxt: Any) -> Any:
        return ctxt["user"]


def test_a_serializer_is_asked_at_both_ends(transport: Transport, other: Transport, unique: Name) -> None:
    with serving(transport, unique, Endpoint(), serializer=Doubling()) as running:
        client = client_of(other, running, serializer=Doubling())
        assert client.call("alice", "context") == "alice"
        assert client.call("alice", "add", a=1, b=2) == 3


# Who gets it


def test_topic_server_and_fanout(transport: Transport, other: Transport, unique: Name) -> None:
    one, two = Endpoint("one"), Endpoint("two")
    with (
        serving(transport, unique, one, server="one") as first,
        serving(transport, unique, two, server="two", topic=first.target.topic),
    ):
        client = client_of(other, first)
        assert {client.prepare(server=name).call({}, "who") for name in ("one", "two")} == {"one", "two"}
        wait_until(lambda: {client.call({}, "who") for _ in range(4)} == {"one", "two"}, what="both in turn")
        client.prepare(fanout=True).cast({}, "add", a=1, b=1)
        wait_until(lambda: one.executed == two.executed == [(1, 1)], what="the fanout")
        client.prepare(server="two").cast({}, "add", a=2, b=2)
        wait_until(lambda: two.executed[1:] == [(2, 2)], what="the cast")
        assert one.executed == [(1, 1)]


def test_a_topic_that_nobody_serves_is_unroutable_at_once(client: RPCClient) -> None:
    assert client.call({}, "add", a=1, b=1) == 2
    for nowhere in ({"topic": "nobody"}, {"server": "nobody"}, {"exchange": "nowhere", "topic": "nobody"}):
        seconds, error = took(lambda to=nowhere: client.prepare(**to).call({}, "add", a=1, b=1), Unroutable)
        assert seconds < AT_ONCE
        assert not error.maybe_sent
        assert "nobody serves <Target" in str(error)
        assert "start a server" in str(error)  # and not "publish with mandatory=False", which no call can


def test_a_cast_to_nobody_is_none_of_ours(client: RPCClient) -> None:
    for nowhere in ({"topic": "nobody"}, {"exchange": "nowhere"}, {"topic": "nobody", "fanout": True}):
        client.prepare(**nowhere).cast({}, "add", a=1, b=1)


def test_a_call_cannot_be_a_fanout(client: RPCClient) -> None:
    with pytest.raises(ConfigurationError, match="fanout"):
        client.prepare(fanout=True).call({}, "add", a=1, b=1)


# Deadlines


def test_a_late_reply_is_counted_and_dropped(other: Transport, client: RPCClient, endpoint: Endpoint) -> None:
    client.call({}, "add", a=1, b=1)  # so that the request is executed in its short time
    seconds, error = took(lambda: client.prepare(timeout=0.8).call({}, "hold"), ReplyTimeout)
    assert 0.7 < seconds < AT_ONCE
    assert error.maybe_sent
    endpoint.go_on.set()
    replies = replies_of(other.connections())
    wait_until(lambda: replies.unknown == 1, what="the late reply")
    assert client.call({}, "add", a=1, b=1) == 2


def test_a_request_whose_caller_gave_up_is_not_executed(
    transport: Transport, other: Transport, unique: Name, endpoint: Endpoint
) -> None:
    """It waits in the only worker's prefetch, where the broker's expiration does not reach it."""
    with serving(transport, unique, endpoint, pool_size=1, prefetch=10) as running, ThreadPoolExecutor(2) as pool:
        client = client_of(other, running)
        holding = pool.submit(lambda: client.call({}, "hold"))
        assert endpoint.running.acquire(timeout=20)
        giving_up = pool.submit(took, lambda: client.prepare(timeout=1.0).call({}, "add", a=1, b=1), ReplyTimeout)
        inside: Any = running._running
        wait_until(lambda: inside.pool._mailbox, what="the request in the prefetch")
        received_by = time.monotonic()  # from when on it is good for another second, as far as the server can know
        giving_up.result(20)
        wait_until(lambda: time.monotonic() > received_by + 1.0, what="the end of its time")
        endpoint.go_on.set()
        holding.result(20)
        wait_until(lambda: running.status().expired == 1, what="the expired request")
        assert endpoint.executed == ["held"]


def test_the_call_monitor(client: RPCClient, server: RPCServer) -> None:
    assert client.prepare(call_monitor_timeout=3).call({}, "slow", seconds=3.4) == "done"
    assert server.stop()  # and leaves its queue, in which the request waits
    monitored = client.prepare(call_monitor_timeout=2)
    seconds, error = took(lambda: monitored.call({}, "add", a=1, b=1), ReplyTimeout)
    assert "no server gave a sign of life for 2 s" in str(error)
    assert 1.9 < seconds < AT_ONCE


@pytest.mark.parametrize("seconds", [0.5, 1, 1.99])
def test_a_call_monitor_that_no_server_obeys_is_refused(client: RPCClient, seconds: float) -> None:
    """Without it every method that ran longer was a ReplyTimeout, as if its server were dead."""
    with pytest.raises(ConfigurationError, match="call_monitor_timeout"):
        client.prepare(call_monitor_timeout=seconds)
    assert client.prepare(call_monitor_timeout=0).call({}, "add", a=1, b=1) == 2


# Resources


def test_many_calls_at_once_share_two_connections(
    client: RPCClient, other: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(64) as pool:
        results = list(pool.map(lambda n: client.call({}, "add", a=n, b=1), range(640)))
    assert results == list(range(1, 641))
    connections = other.status().connections
    assert sorted(connection.role for connection in connections) == ["consume", "publish"]
    assert sum(connection.reconnects for connection in connections) == 0
    assert not caplog.records


def test_no_request_leaks_a_thread(client: RPCClient, server: RPCServer) -> None:
    for _ in range(5):
        client.call({}, "add", a=1, b=1)
    before = threading.active_count()
    for _ in range(60):
        with pytest.raises(RemoteError):
            client.prepare(call_monitor_timeout=60).call({}, "nothing")
    # A few more workers than callers: the next request may be there before the last one's worker is back.
    assert threading.active_count() <= before + 5
    assert server.status().workers <= 8


def test_pool_size_bounds_what_runs_at_a_time(transport: Transport, other: Transport, unique: Name) -> None:
    endpoint = Endpoint()
    with serving(transport, unique, endpoint, pool_size=2) as running:
        client = client_of(other, running)
        for _ in range(6):
            client.cast({}, "hold")
        wait_until(lambda: running.status().busy == 2, what="two at work")
        stays(lambda: running.status().busy == 2, 0.2, "two at work")
        endpoint.go_on.set()
        wait_until(lambda: endpoint.executed == ["held"] * 6, what="all six")


# Duplicates and hostile messages


def publish_raw(transport: Transport, server: RPCServer, header: bytes, body: bytes) -> None:
    """A message as somebody else may send it."""
    done = threading.Event()
    route = (EXCHANGE, str(server.target.topic))
    wire.publish(
        transport.connections(),
        route,
        header,
        body,
        deadline=time.monotonic() + 20,
        on_done=lambda _entry: done.set(),
        mandatory=True,
    )
    assert done.wait(20)


@pytest.mark.parametrize("ack", ["early", "late"])
def test_a_request_that_comes_twice_is_executed_once(
    transport: Transport, other: Transport, unique: Name, endpoint: Endpoint, ack: str
) -> None:
    with serving(transport, unique, endpoint, ack=ack) as running:
        body = envelope.request("add", {"a": 1, "b": 1}, {}, unique_id="twice")
        for _ in range(3):
            publish_raw(other, running, envelope.header(), body)
        wait_until(lambda: running.status().duplicates == 2, what="the duplicates")
        assert endpoint.executed == [(1, 1)]


HOSTILE = {
    "empty": b"",
    "not json": b"{",
    "not utf-8": b"\xff\xfe",
    "a list": b"[]",
    "a number": b"1",
    "deep": b"[" * 100_000,
    "deep inside": b'{"oslo.version": "2.0", "oslo.message": "' + b"[" * 100_000 + b'"}',
    "another version": b'{"oslo.version": "3.0", "oslo.message": "{}"}',
    "no text": b'{"oslo.version": "2.0", "oslo.message": 1}',
    "huge integer": b'{"method": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_is_rejected_and_the_server_goes_on(
    client: RPCClient, other: Transport, server: RPCServer, name: str
) -> None:
    publish_raw(other, server, envelope.header(), HOSTILE[name])
    wait_until(lambda: server.status().malformed == 1, what="the rejection")
    assert client.call({}, "add", a=1, b=1) == 2


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"method": None, "args": {}},
        {"method": "add"},
        {"method": "add", "args": []},
        {"method": "add", "args": {"a": 1, "b": 1}, "version": "abc"},
        {"method": "add", "args": {"a": 1, "b": 1}, "version": None},
        {"method": "add", "args": {"a": 1, "b": 1}, "namespace": []},
        {"method": "add", "args": {"a": 1, "b": 1}, "_reply_q": "x" * 300},
        {"method": "add", "args": {"a": 1, "b": 1}, "_timeout": "inf", "_unique_id": {}},
        {"method": "add", "args": {"a": 1, "b": 1}, "_timeout": 1e308},
    ],
    ids=repr,
)
def test_a_strange_request_harms_nobody(
    client: RPCClient, other: Transport, server: RPCServer, keys: dict[str, Any]
) -> None:
    inner = {"_msg_id": "m1", "_reply_q": "nobody", **keys}
    publish_raw(other, server, envelope.header(), envelope.wrap(inner))
    assert client.call({}, "add", a=1, b=1) == 2
    assert server.status().malformed == 0
    wait_until(lambda: server.status().executed == 2, what="both executed")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_reply_harms_no_call(client: RPCClient, other: Transport, name: str) -> None:
    client.call({}, "add", a=1, b=1)
    replies = replies_of(other.connections())
    done = threading.Event()
    body = HOSTILE[name] + b'\\"_msg_id\\": \\"' + b"0" * 32 + b'\\"}'
    for each in (HOSTILE[name], body):
        wire.publish(
            other.connections(),
            ("", replies.queue),
            envelope.header(),
            each,
            deadline=time.monotonic() + 20,
            on_done=lambda _entry: done.set(),
            mandatory=True,
        )
    wait_until(lambda: replies.unknown + replies.malformed == 2, what="both dropped")
    assert client.call({}, "add", a=1, b=1) == 2


def test_what_comes_while_the_replies_consumer_is_made_is_acknowledged(
    client: RPCClient, other: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = wire.Feed.start

    def slow(feed: wire.Feed) -> None:
        start(feed)
        time.sleep(0.2)  # for what lies there to come before the caller goes on

    monkeypatch.setattr(wire.Feed, "start", slow)
    assert client.call({}, "add", a=1, b=1) == 2
    replies = replies_of(other.connections())
    deaf = replies._feed
    assert deaf is not None
    deaf.stop()
    for _ in range(3):
        other.publish(envelope.reply("late", "late", None), replies.queue, content_type="application/json")
    replies._probe = ("lost", 0.0)
    assert client.call({}, "add", a=1, b=1) == 2
    feed = replies._feed
    assert feed is not None and feed is not deaf
    assert replies.unknown == 3
    wait_until(lambda: not feed._subscription.unsettled, what="the acknowledgements")


def test_a_call_on_the_consuming_thread_is_refused(client: RPCClient, other: Transport) -> None:
    """In a `__del__` that the collector happens to run there: the process was deaf for the call's whole time."""
    client.call({}, "add", a=1, b=1)
    consuming = other.connections().peek(CONSUME)
    assert consuming is not None
    said: Queue[BaseException] = Queue()

    def call(_now: float) -> None:
        try:
            client.call({}, "add", a=1, b=1)
        except Unavailable as exc:
            said.put(exc)

    consuming.order(call)
    assert "own thread" in str(said.get(timeout=AT_ONCE))
    assert client.call({}, "add", a=1, b=1) == 2


def test_a_lone_request_is_answered_by_its_worker(
    client: RPCClient, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publishing thread wakes to ask about the replies, 20 times in a second, and not for each."""
    client.call({}, "add", a=1, b=1)
    publishing = transport.connections().peek(PUBLISH)
    assert publishing is not None
    woken: list[int] = []
    rouse = publishing.watch.rouse
    monkeypatch.setattr(publishing.watch, "rouse", lambda: (woken.append(1), rouse())[1])
    for _ in range(200):
        client.call({}, "add", a=1, b=1)
    assert len(woken) < 100


@pytest.mark.parametrize(
    ("ack", "keys", "mode"),
    [
        ("early", {envelope.DEADLINE: 4e9}, 1),
        ("early", {}, 2),  # the caller is oslo.messaging's: as its own servers do
        ("late", {envelope.DEADLINE: 4e9}, 2),
    ],
)
def test_which_replies_are_written_to_the_brokers_disk(
    transport: Transport, other: Transport, unique: Name, ack: str, keys: dict[str, Any], mode: int
) -> None:
    replies: Queue[Delivery] = Queue()
    other.declare(entity.Queue(caller := unique("caller"), durable=True, expires=60))  # type: ignore[no-untyped-call]
    other.consume(caller, replies.put)
    inner = {"method": "add", "args": {"a": 1, "b": 1}, "_msg_id": "m1", "_reply_q": caller, **keys}
    with serving(transport, unique, Endpoint(), ack=ack) as running:
        publish_raw(other, running, envelope.header(), envelope.wrap(inner))
        assert replies.get(timeout=20).properties["delivery_mode"] == mode


# Beginning and end


def test_a_server_that_was_stopped_says_so_when_it_is_started(transport: Transport, unique: Name) -> None:
    """It did nothing, and the next call to it waited in vain."""
    server = RPCServer(transport, Target(topic=unique("again"), server="one"), [Endpoint()])
    server.start()
    server.start()
    assert server.stop()
    with pytest.raises(Closed, match="make a new one"):
        server.start()


def test_stopping_an_idle_server_is_quick(transport: Transport, unique: Name) -> None:
    with serving(transport, unique, Endpoint()) as running:
        seconds, is_over = took(running.stop)
    assert is_over
    assert seconds < STOP_WITHIN * 0.8


def test_stop_finishes_what_is_executed(transport: Transport, other: Transport, unique: Name) -> None:
    endpoint = Endpoint()
    with serving(transport, unique, endpoint) as running, ThreadPoolExecutor(1) as pool:
        client = client_of(other, running)
        result = pool.submit(lambda: client.call({}, "hold"))
        assert endpoint.running.acquire(timeout=20)
        assert not running.stop(0.2)
        assert not running.wait(0.1)
        endpoint.go_on.set()
        assert result.result(20) == "held"
        assert running.wait(20)


def test_a_method_may_stop_its_own_server(transport: Transport, other: Transport, unique: Name) -> None:
    class Stopping:
        def stop(self, ctxt: Any) -> bool:
            return running.stop()

    with serving(transport, unique, Stopping()) as running:
        seconds, is_over = took(lambda: client_of(other, running).call({}, "stop"))
        assert seconds < STOP_WITHIN * 0.8
        assert not is_over
        assert running.wait(20)


def test_what_was_only_prefetched_goes_to_the_next_server(transport: Transport, other: Transport, unique: Name) -> None:
    endpoint, successor = Endpoint("one"), Endpoint("two")
    with serving(transport, unique, endpoint, pool_size=1, prefetch=10) as first:
        client = client_of(other, first)
        client.cast({}, "hold")
        assert endpoint.running.acquire(timeout=20)
        for number in range(5):
            client.cast({}, "add", a=number, b=0)
        assert not first.stop(0.1)
        with serving(transport, unique, successor, topic=first.target.topic, server="two"):
            wait_until(lambda: len(successor.executed) == 5, what="the five that were waiting")
        endpoint.go_on.set()
    wait_until(lambda: endpoint.executed == ["held"], what="the end of what was executed")


def test_what_a_late_server_still_executes_when_it_is_stopped_is_not_executed_again(
    transport: Transport, other: Transport, unique: Name
) -> None:
    endpoint, successor = Endpoint("one"), Endpoint("two")
    with serving(transport, unique, endpoint, ack="late") as first, ThreadPoolExecutor(1) as pool:
        client = client_of(other, first)
        result = pool.submit(lambda: client.call({}, "hold"))
        assert endpoint.running.acquire(timeout=20)
        assert not first.stop(0.1)
        with serving(transport, unique, successor, topic=first.target.topic, server="two"):
            assert client.call({}, "who") == "two"
            endpoint.go_on.set()
            assert result.result(20) == "held"
            assert first.wait(20)
            assert client.call({}, "who") == "two"
    assert not successor.running.acquire(blocking=False)


def test_closing_the_transport_stops_its_server(url: str, unique: Name) -> None:
    transport = Transport(url)
    with serving(transport, unique, Endpoint()) as running:
        assert transport.close()
        assert running.wait(20)
        assert "stopped" in repr(running)


def test_the_reply_queue_is_gone_after_a_clean_end(url: str, transport: Transport, server: RPCServer) -> None:
    closing = Transport(url)
    client_of(closing, server).call({}, "add", a=1, b=1)
    queue = replies_of(closing.connections()).queue
    transport.publish(b"still there", queue)
    assert closing.close()
    with pytest.raises(Unroutable):
        transport.publish(b"gone", queue)


@pytest.mark.parametrize("is_long_ago", [False, True])
def test_the_reply_queue_outlives_a_call_that_gave_up(
    url: str, transport: Transport, server: RPCServer, endpoint: Endpoint, is_long_ago: bool
) -> None:
    """Without it a server of oslo.messaging's has a thread busy for 60 s with each late reply, and so does its stop."""
    closing = Transport(url)
    client = client_of(closing, server)
    assert client.call({}, "add", a=1, b=1) == 2  # so that the queue is there before the short time begins
    with pytest.raises(ReplyTimeout):
        client.prepare(timeout=0.8).call({}, "hold")
    replies = replies_of(closing.connections())
    if is_long_ago:
        replies._owed_until -= 1800
    assert closing.close()
    if is_long_ago:
        with pytest.raises(Unroutable):
            transport.publish(b"gone", replies.queue)
    else:
        transport.publish(b"there until its time runs out", replies.queue)
    endpoint.go_on.set()


def leftovers(server: RPCServer) -> list[str]:
    """Its threads, and those connections that still consume for it."""
    names = [thread.name for thread in threading.enumerate() if f"-{server.target.topic}-" in thread.name]
    threads = [name for name in names if name.startswith("wsgi-messaging-rpc-")]
    return threads + [loop.name for loop in server.transport.connections().loops() if len(loop.consumers)]


def test_a_start_that_fails_leaves_nothing_behind(transport: Transport, other: Transport, unique: Name) -> None:
    with serving(other, unique, Endpoint()) as first:
        topic = str(first.target.topic)
    holding = other.consume(topic, print, exclusive=True)
    second = RPCServer(transport, first.target(server="s2"), [Endpoint()])
    with pytest.raises(DeclarationRefused, match="403"):
        second.start()
    wait_until(lambda: not leftovers(second), what="the end of its threads and its consumers")
    with pytest.raises(Unroutable):
        transport.publish(b"gone", second.fanout_queue)
    assert holding.cancel()
    second.start()
    assert client_of(other, second).call({}, "add", a=1, b=1) == 2
    assert second.stop()


def test_several_threads_start_one_server(transport: Transport, other: Transport, unique: Name) -> None:
    """Without it each made consumers of its own, and those of all but one served on behind `stop`; or went on before
    anybody served."""
    server = RPCServer(transport, Target(exchange=EXCHANGE, topic=unique("topic"), server="s"), [Endpoint()])

    def start() -> list[bool]:
        server.start()
        assert server._running is not None
        return [feed.is_active for feed in server._running._feeds]

    with ThreadPoolExecutor(4) as pool:
        for started in [pool.submit(start) for _ in range(4)]:
            assert started.result(20) == [True, True, True]
    assert client_of(other, server).call({}, "add", a=1, b=1) == 2
    assert sum(len(loop.consumers) for loop in transport.connections().loops()) == 3
    assert server.stop()
    wait_until(lambda: not leftovers(server), what="the end of its threads and its consumers")


def test_who_waits_for_a_start_that_fails_starts_it(
    transport: Transport, unique: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RPCServer(transport, Target(exchange=EXCHANGE, topic=unique("topic"), server="s"), [Endpoint()])
    has_begun, may_fail = threading.Event(), threading.Event()

    def start_none(_name: str, _run: object) -> None:
        has_begun.set()
        may_fail.wait(10)
        raise RuntimeError("can't start new thread")

    with ThreadPoolExecutor(2) as pool, monkeypatch.context() as exhausted:
        exhausted.setattr(timer, "start_application_thread", start_none)
        first = pool.submit(server.start)
        assert has_begun.wait(10)
        exhausted.undo()
        with pytest.raises(ConnectTimeout, match="another thread starts the server"):
            server.start(0.1)
        second = pool.submit(server.start)
        may_fail.set()
        with pytest.raises(Unavailable, match="can't start new thread"):
            first.result(10)
        second.result(10)
    assert client_of(transport, server).call({}, "add", a=1, b=1) == 2
    assert server.stop()


@pytest.mark.parametrize("phase", ["declare", "start"])
def test_a_server_that_is_stopped_while_it_starts_serves_nothing(
    transport: Transport, unique: Name, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """A signal's handler, for one. `stop` said that it was over, and the server served on behind that."""
    server = RPCServer(transport, Target(exchange=EXCHANGE, topic=unique("topic"), server="s"), [Endpoint()])
    has_begun, may_go_on = threading.Event(), threading.Event()
    owner: Any = wire if phase == "declare" else wire.Feed
    original = getattr(owner, phase)

    def held(*arguments: Any) -> None:
        has_begun.set()
        may_go_on.wait(10)
        original(*arguments)

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(owner, phase, held)
        starting = pool.submit(server.start)
        assert has_begun.wait(10)
        assert not server.stop()
        may_go_on.set()
        starting.result(20)
    assert server.wait(10) and server.stop()
    wait_until(lambda: not leftovers(server), what="the end of its threads and its consumers")
    with pytest.raises(Unroutable):
        transport.publish(b"gone", server.fanout_queue)


def test_a_server_that_is_stopped_while_the_broker_is_silent_ends_its_start(
    transport: Transport, unique: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RPCServer(transport, Target(exchange=EXCHANGE, topic=unique("topic"), server="s"), [Endpoint()])
    monkeypatch.setattr(wire.Feed, "is_active", False)
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(server.start, 60.0)
        wait_until(lambda: server._running is not None, what="the consumers")
        assert not server.stop()
        starting.result(30)
    assert server.stop()
    wait_until(lambda: not leftovers(server), what="the end of its threads and its consumers")


@pytest.mark.parametrize("short", [executor, timer])
def test_a_start_for_which_there_is_no_thread_fails(
    transport: Transport, unique: Name, short: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a server without a worker, for ever; there may be a thread the next time."""

    def start_none(_name: str, _run: object) -> None:
        raise RuntimeError("can't start new thread")

    target = Target(exchange=EXCHANGE, topic=unique("topic"), server="s")
    server = RPCServer(transport, target, [Endpoint()])
    with monkeypatch.context() as exhausted, pytest.raises(Unavailable, match="can't start new thread"):
        exhausted.setattr(short, "start_application_thread", start_none)
        server.start()
    wait_until(lambda: not leftovers(server), what="the end of what was begun")
    server.start()
    assert client_of(transport, server).call({}, "add", a=1, b=1) == 2
    assert server.stop()


def test_a_flag_that_differs_is_named_with_what_to_set(transport: Transport, server: RPCServer) -> None:
    target = server.target(server="s2")
    for flags, setting in (
        (QueueFlags(durable=True), "durable"),
        (QueueFlags(auto_delete=True), "auto_delete"),
    ):
        with pytest.raises(DeclarationRefused, match=f"QueueFlags.*{setting}") as caught:
            RPCServer(transport, target, [Endpoint()], flags=flags).start()
        assert caught.value.reply_code == 406


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"target": Target(topic="t")}, "server name"),
        ({"target": Target(server="s")}, "topic"),
        ({"executor": "process"}, "executor"),
        ({"executor": "eventlet"}, "patched"),
        ({"pool_size": 0}, "pool_size"),
        ({"ack": "never"}, "ack"),
        ({"prefetch": 0}, "prefetch"),
        ({"target": Target(topic="t" * 220, server="s")}, "target.* 260 bytes"),
        ({"target": Target(topic="t", server="s" * 255)}, "target.* 257 bytes"),
        ({"target": Target(topic="t", server="s", exchange="e" * 256)}, "target.* 256 bytes"),
        ({"flags": QueueFlags(arguments={"x-max-length": object()})}, "flags"),
        ({"endpoints": [type("Bad", (), {"target": "x"})()]}, "target"),
    ],
)
def test_a_wrong_setting_is_named(transport: Transport, changes: dict[str, Any], named: str) -> None:
    settings: dict[str, Any] = {"target": Target(topic="t", server="s"), "endpoints": [Endpoint()], **changes}
    with pytest.raises(ConfigurationError, match=named):
        RPCServer(transport, **settings)
