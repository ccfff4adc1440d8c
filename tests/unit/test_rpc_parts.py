"""The parts of RPC that need no broker: targets, versions, the dispatcher, duplicates, flags, deadlines, the timer."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.harness.waiting import wait_until
from wsgi_messaging import Transport
from wsgi_messaging.connection.subscription import Delivered
from wsgi_messaging.connection.topology import Declaration, bind_queue
from wsgi_messaging.errors import ConfigurationError, DeclarationRefused, Unavailable
from wsgi_messaging.oslo.envelope import Request
from wsgi_messaging.rpc import (
    ExpectedException,
    NoSuchMethod,
    QueueFlags,
    RPCClient,
    RPCDispatcher,
    RPCServer,
    Target,
    UnsupportedVersion,
    deadline,
    executor,
    expected_exceptions,
    remaining_time,
    wire,
)
from wsgi_messaging.rpc.bindings import Bindings
from wsgi_messaging.rpc.duplicates import SeenIds, UnderWay
from wsgi_messaging.rpc.executor import Pool
from wsgi_messaging.rpc.expiry import Expiry
from wsgi_messaging.rpc.flags import explained
from wsgi_messaging.rpc.serializer import NoOpSerializer, Serializer
from wsgi_messaging.rpc.timer import Timer
from wsgi_messaging.rpc.versions import is_compatible
from wsgi_messaging.runtime.waiting import is_exit

# Targets and versions


def test_a_target_gives_changed_copies_of_itself() -> None:
    target = Target(exchange="x", topic="t", legacy_namespaces=["old"])
    changed = target(server="s", version="1.1")
    assert (changed.exchange, changed.topic, changed.server, changed.version) == ("x", "t", "s", "1.1")
    assert target.server is None
    assert changed.accepted_namespaces == [None, "old"]
    assert hash(changed) == hash(target(server="s", version="1.1"))
    with pytest.raises(ConfigurationError, match="colour"):
        target(colour="red")


@pytest.mark.parametrize(
    ("target", "route"),
    [
        (Target(topic="t"), ("openstack", "t")),
        (Target(exchange="x", topic="t"), ("x", "t")),
        (Target(exchange="x", topic="t", server="s"), ("x", "t.s")),
        (Target(exchange="x", topic="t", server="s", fanout=True), ("t_fanout", "")),
    ],
)
def test_where_a_target_is(target: Target, route: tuple[str, str]) -> None:
    assert target.route == route


def test_another_librarys_target_is_refused_at_once() -> None:
    """Without it the first call, or `start`, was an AttributeError."""
    transport, foreign = (
        Transport("amqp://127.0.0.1:1//"),
        SimpleNamespace(topic="t", server="s", version=None, fanout=None),
    )
    for make in (lambda: RPCClient(transport, foreign), lambda: RPCServer(transport, foreign, [First()])):
        with pytest.raises(ConfigurationError, match=r"target: types\.SimpleNamespace is no"):
            make()


@pytest.mark.parametrize("retry", ["0", 0.0, False])
def test_a_retry_that_is_no_number_is_refused(retry: Any) -> None:
    """Without it the text "0" of a configuration file meant the opposite: the request was sent again."""
    with pytest.raises(ConfigurationError, match="retry"):
        RPCClient(Transport("amqp://127.0.0.1:1//"), Target(topic="t"), retry=retry)


def test_a_target_without_a_topic_is_nowhere() -> None:
    with pytest.raises(ConfigurationError, match="topic"):
        _ = Target(server="s").route


@pytest.mark.parametrize(
    ("have", "want", "expected"),
    [
        (None, None, True),
        (None, "9.9", True),
        ("1.0", None, False),
        ("1.3", "1.0", True),
        ("1.3", "1.3", True),
        ("1.3", "1.4", False),
        ("1.3", "2.0", False),
        ("2.0", "1.0", False),
        ("1.3.1", "1.3.1", True),
        ("1.3.1", "1.3.2", False),
        ("1.4", "1.3.9", True),
    ],
)
def test_compatible_versions(have: str | None, want: str | None, expected: bool) -> None:
    assert is_compatible(have, want) is expected


@pytest.mark.parametrize("version", ["", "1", "abc", "1.x", "1.2.3.4", "-1.0", "1.²", [], 1.0, "9" * 20 + ".0"])
def test_no_version(version: Any) -> None:
    with pytest.raises(ValueError, match="version"):
        is_compatible("1.0", version)


# The dispatcher


class First:
    target = Target(version="1.2")

    def one(self, ctxt: Any) -> str:
        return "first"


class Second:
    target = Target(namespace="n", version="2.0", legacy_namespaces=[None])

    def one(self, ctxt: Any) -> str:
        return "second"

    @expected_exceptions(KeyError)
    def two(self, ctxt: Any, key: str) -> Any:
        return {}[key]


class Foreign:
    """With another library's Target."""

    class target:  # noqa: N801
        accepted_namespaces = ["foreign"]
        version = None

    def one(self, ctxt: Any) -> str:
        return "foreign"


@pytest.mark.parametrize(
    ("namespace", "version", "expected"),
    [(None, "1.0", "first"), (None, "2.0", "second"), ("n", "2.0", "second"), ("foreign", "1.0", "foreign")],
)
def test_the_endpoint_is_found_by_namespace_and_version(namespace: str | None, version: str, expected: str) -> None:
    dispatcher = RPCDispatcher([First(), Second(), Foreign()])
    assert dispatcher.dispatch(Request("one", {}, namespace, version)) == expected


def test_an_endpoint_whose_version_is_none_is_refused() -> None:
    """At once, and not with each request."""

    class Wrong:
        target = Target(version="new")

    with pytest.raises(ConfigurationError, match="version: 'new' is not major.minor"):
        RPCDispatcher([Wrong()])


def test_what_the_dispatcher_raises() -> None:
    dispatcher = RPCDispatcher([First(), Second()])
    with pytest.raises(UnsupportedVersion, match=r"RPC version 3.0. Attempted method: one"):
        dispatcher.dispatch(Request("one", {}, None, "3.0"))
    with pytest.raises(NoSuchMethod, match="does not support RPC method none"):
        dispatcher.dispatch(Request("none", {}))
    with pytest.raises(ExpectedException) as caught:
        dispatcher.dispatch(Request("two", {"key": "k"}, "n", "2.0"))
    assert isinstance(caught.value.exception, KeyError)
    assert UnsupportedVersion.wire_module == NoSuchMethod.wire_module == "oslo_messaging.rpc.dispatcher"


def test_a_single_endpoint_is_no_list_of_them() -> None:
    single: Any = First()
    with pytest.raises(ConfigurationError, match=r"endpoints: .* is not a list"):
        RPCDispatcher(single)


@pytest.mark.parametrize("serializer", [None, NoOpSerializer()])
def test_a_method_that_nobody_would_execute_is_an_error(serializer: Serializer | None) -> None:
    """A coroutine is no result: the caller of a cast would never learn of it."""

    class Later:
        async def one(self, ctxt: Any) -> str:
            return "never"

    dispatcher = RPCDispatcher([Later()], serializer)
    with pytest.raises(TypeError, match=r"Later\.one is `async def`, and was not executed"):
        dispatcher.dispatch(Request("one", {}))


# Duplicates


def test_ids_are_remembered_up_to_a_number_and_an_age() -> None:
    seen = SeenIds(kept=3, kept_for=10)
    assert seen.is_new("a", 0.0)
    assert not seen.is_new("a", 9.0)
    assert seen.is_new("a", 10.0)
    assert all(seen.is_new(name, 11.0) for name in "bcd")
    assert len(seen) == 3
    assert seen.is_new("a", 11.0)
    assert not seen.is_new("d", 11.0)
    assert seen.is_new(None, 11.0) and seen.is_new(None, 11.0)


def test_what_took_long_is_remembered_from_its_end_on() -> None:
    seen = SeenIds(kept=2, kept_for=10)
    assert seen.is_new("long", 0.0)
    seen.renew("long", 9.0)
    assert not seen.is_new("long", 18.0)
    seen.renew("long", 30.0)
    assert seen.is_new("b", 30.0) and seen.is_new("c", 30.0)
    seen.renew("long", 30.0)
    seen.renew(None, 30.0)
    assert not seen.is_new("long", 30.0)
    assert len(seen) == 2


def delivered_by(subscription: Any) -> Delivered:
    """A delivery that equals no other."""
    inbound: Any = object()
    return Delivered(subscription, subscription.generation, inbound, 1)


def test_a_request_under_way_is_acknowledged_with_all_its_deliveries() -> None:
    """The client may have sent it twice; what came over a connection that is gone can be left out."""
    subscription: Any = SimpleNamespace(generation=1)
    first, second = (delivered_by(subscription) for _ in range(2))
    under_way = UnderWay()
    assert not under_way.joins("a", first)
    assert under_way.joins("a", second)
    assert not under_way.joins("b", first)
    assert under_way.end("a", first) == [first, second]
    assert under_way.end("a", first) == []
    subscription.generation = 2
    third = delivered_by(subscription)
    assert under_way.joins("b", third)
    assert under_way.end("b", first) == [third]
    assert not under_way.joins("b", third), "it is over"


def test_requests_without_an_id_are_not_taken_for_one_another() -> None:
    subscription: Any = SimpleNamespace(generation=1)
    deliveries = [delivered_by(subscription) for _ in range(2)]
    under_way = UnderWay()
    assert not any(under_way.joins(None, each) for each in deliveries)
    assert [under_way.end(None, each) for each in deliveries] == [[each] for each in deliveries]


# Flags


@pytest.mark.parametrize(
    ("behind", "waited", "is_told"),
    [(0.0, 0.0, False), (0.9, 0.0, False), (30.0, 0.0, True), (0.0, 30.0, False), (-30.0, 0.0, False)],
)
def test_a_caller_whose_clock_is_behind_is_told_of(
    behind: float, waited: float, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its requests are dropped, all of them; without it nothing said why. One that waited here is nothing to tell."""
    expiry, now = Expiry(), 1000.0
    asked_at = time.time() - behind - waited
    request = Request("add", {}, expires_at=asked_at + 3.0, expires_after=3.0)
    for _ in range(2):
        until = expiry.until(request, now - waited, now)
        assert until is not None
        assert (until <= now) == (behind + waited > 4.0)
    assert len(caplog.records) == is_told


def test_wrong_flags_are_named() -> None:
    for wrong in ({"quorum": True, "auto_delete": True}, {"delivery_limit": 5}):
        with pytest.raises(ConfigurationError, match="quorum"):
            QueueFlags(**wrong)


def test_a_refusal_that_is_no_mismatch_stays_as_it_is() -> None:
    refusal = DeclarationRefused("exchange 'x': 403 ACCESS_REFUSED", reply_code=403)
    assert explained(refusal) is refusal
    other = DeclarationRefused(
        "queue 'q': 406 PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': "
        "received none but current is the value '3' of type 'long'",
        reply_code=406,
    )
    assert "x-max-length" in str(explained(other)) and "arguments" in str(explained(other))


# Deadlines


def test_an_inner_deadline_never_ends_later_than_an_outer_one() -> None:
    assert remaining_time() is None
    with deadline(5), deadline(60):
        left = remaining_time()
        assert left is not None and 4 < left <= 5
        with deadline(0), deadline(None):
            assert remaining_time() == 0
    assert remaining_time() is None


# The timer and the pool


def test_the_timer_does_things_in_their_order_and_survives_what_fails(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    timer = Timer("timer")
    timer.start()
    now = time.monotonic()
    timer.at(now + 0.3, lambda: done.append("third"))
    timer.at(now + 0.1, lambda: done.append("first"))
    timer.at(now + 0.15, lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    timer.at(now + 0.2, lambda: done.append("second"))
    cancelled = [timer.at(now + 30, lambda: done.append("cancelled")) for _ in range(200)]
    for alarm in cancelled:
        alarm.cancel()
    wait_until(lambda: len(done) == 3, what="all three")
    assert done == ["first", "second", "third"]
    assert "failed" in caplog.text
    assert timer.stop(1.0)


def test_the_pool_has_as_many_workers_as_it_needs() -> None:
    go_on, started = threading.Event(), threading.Semaphore(0)

    def execute(_delivered: Delivered, _received_at: float) -> None:
        started.release()
        assert go_on.wait(5)

    given_back: list[Delivered] = []
    pool = Pool("pool", 3, execute, given_back.append)
    pool.start()
    delivered: Any = object()
    for number in range(3):
        pool.put(delivered)
        assert started.acquire(timeout=5), number
    pool.put(delivered)
    assert pool.workers == 3
    assert not started.acquire(timeout=0.05)
    pool.stop()
    assert given_back == [delivered]
    pool.put(delivered)
    assert given_back == [delivered, delivered]
    assert not pool.wait(0.05)
    go_on.set()
    assert pool.wait(5)
    assert pool.workers == 0


def test_a_pool_that_gets_no_thread_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And has nothing left to stop."""

    def start_none(_name: str, _run: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(executor, "start_application_thread", start_none)
    pool = Pool("pool", 1, lambda _delivered, _received_at: None, lambda _delivered: None)
    with pytest.raises(Unavailable, match="can't start new thread"):
        pool.start()
    assert pool.workers == 0
    pool.stop()
    assert pool.wait(0.0)


def test_a_worker_reads_for_itself_while_nothing_is_executed() -> None:
    """While something is, its worker's acknowledgement and reply would wake the one that reads, for nothing."""
    go_on, executing = threading.Event(), threading.Semaphore(0)

    class Reading:
        def acquire(self, _blocking: bool, _timeout: float) -> bool:
            read.append(pool.busy)
            return False

        def release(self) -> None: ...

    def execute(_delivered: Delivered, _received_at: float) -> None:
        executing.release()
        assert go_on.wait(5)

    read: list[int] = []
    delivered: Any = object()
    pool = Pool("pool", 3, execute, lambda _delivered: None, Reading)
    pool.start()
    wait_until(lambda: len(read) == 1, what="the first worker, which waits")
    pool.put(delivered)
    assert executing.acquire(timeout=5)
    wait_until(lambda: pool.workers == 2 and pool.busy == 1, what="the second worker, which waits")
    pool.put(delivered)
    assert executing.acquire(timeout=5)
    assert read == [0]
    go_on.set()
    wait_until(lambda: not pool.busy, what="the end of both")
    wait_until(lambda: len(read) > 1, what="the last one, which waits")
    assert not any(read)
    pool.stop()
    assert pool.wait(5)


class Killed(BaseException):
    """What gevent.Timeout and GreenletExit are to what they end."""


def test_what_ends_a_thread_on_purpose_and_what_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without greenlet, and with it: nothing imports it."""
    monkeypatch.delitem(sys.modules, "greenlet", raising=False)
    assert is_exit(KeyboardInterrupt()) and is_exit(GeneratorExit())
    assert not any(is_exit(each()) for each in (ValueError, SystemExit, asyncio.CancelledError, Killed))
    assert "greenlet" not in sys.modules
    monkeypatch.setitem(sys.modules, "greenlet", SimpleNamespace(GreenletExit=Killed, getcurrent=lambda: None))
    assert is_exit(Killed()) and is_exit(KeyboardInterrupt()) and not is_exit(asyncio.CancelledError())


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, KeyboardInterrupt])
def test_no_request_ends_the_pool(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends a thread is let through, and another worker is there before that one is gone."""
    ended: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda about: ended.append(about.exc_type))
    executed: list[object] = []

    def execute(delivered: Delivered, _received_at: float) -> None:
        executed.append(delivered)
        if len(executed) < 3:
            raise error

    pool = Pool("pool", 1, execute, lambda _delivered: None)
    pool.start()
    delivered: Any = object()
    for _ in range(3):
        pool.put(delivered)
    wait_until(lambda: len(executed) == 3 and not pool.busy, what="all three")
    assert pool.workers == 1
    pool.stop()
    assert pool.wait(5)
    assert pool.workers == 0
    wait_until(lambda: ended == ([error, error] if is_exit(error()) else []), what="what was let through")


def test_a_worker_that_is_ended_while_it_waits_is_not_counted_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the one that takes its place starts no second one beside it."""
    monkeypatch.setattr(threading, "excepthook", lambda _ended: None)
    go_on, executing = threading.Event(), threading.Semaphore(0)

    class Reading:
        def acquire(self, _blocking: bool, _timeout: float) -> bool:
            if len(read) < 2:
                read.append(1)
                raise Killed
            return False

        def release(self) -> None: ...

    def execute(_delivered: Delivered, _received_at: float) -> None:
        executing.release()
        assert go_on.wait(5)

    read: list[int] = []
    pool = Pool("pool", 2, execute, lambda _delivered: None, Reading)
    pool.start()
    wait_until(lambda: len(read) == 2 and not pool.busy, what="the one that took the place of two")
    delivered: Any = object()
    for _ in range(2):
        pool.put(delivered)
    for number in range(2):
        assert executing.acquire(timeout=5), number
    go_on.set()
    pool.stop()
    assert pool.wait(5)


def test_a_worker_that_is_ended_while_the_pool_stops_has_no_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _ended: None)
    go_on, executing = threading.Event(), threading.Event()

    def execute(_delivered: Delivered, _received_at: float) -> None:
        executing.set()
        assert go_on.wait(5)
        raise KeyboardInterrupt

    pool = Pool("pool", 1, execute, lambda _delivered: None)
    pool.start()
    delivered: Any = object()
    pool.put(delivered)
    assert executing.wait(5)
    pool.stop()
    started: list[str] = []
    monkeypatch.setattr(executor, "start_application_thread", lambda name, _run: started.append(name))
    go_on.set()
    assert pool.wait(5)
    assert (pool.workers, started) == (0, [])


@pytest.mark.parametrize("is_own_thread", [True, False])
def test_whoever_reads_for_itself_is_woken_by_others_only(is_own_thread: bool) -> None:
    """What it has read itself ends its reading anyway, and the thread may sleep on."""
    woken: list[int] = []
    watch = SimpleNamespace(wake=lambda: woken.append(1))
    loop: Any = SimpleNamespace(watch=watch, is_own_thread=lambda: is_own_thread)
    loop.attend_unasked = lambda is_there, _until: seen.append(is_there())
    seen: list[object] = []
    reading = wire._Reading(loop)
    assert not reading.acquire(True, 1.0)
    reading.release()
    assert reading.acquire(True, 1.0)
    assert seen == [False, True]
    assert len(woken) == (not is_own_thread)


def test_a_request_is_not_alone_while_others_wait() -> None:
    """They would be answered one by one, where the connection's thread answers them together."""
    alone: list[bool] = []
    is_filled = threading.Event()

    def execute(_delivered: Delivered, _received_at: float) -> None:
        assert is_filled.wait(5)
        alone.append(pool.is_alone())

    pool = Pool("pool", 1, execute, lambda _delivered: None)
    pool.start()
    delivered: Any = object()
    for _ in range(3):
        pool.put(delivered)
    is_filled.set()
    wait_until(lambda: len(alone) == 3, what="all three")
    assert alone == [False, False, True]
    pool.stop()
    assert pool.wait(5)


# Bindings.


class Asked:
    """Connections that note what they are asked to declare."""

    def __init__(self) -> None:
        self.queues: list[str] = []

    def request_soon(self, declaration: Declaration, _deadline: float, _on_error: object) -> None:
        self.queues.append(declaration.queue)


def test_what_took_the_place_of_a_queue_is_bound_again_and_not_the_lost_one() -> None:
    made = [bind_queue(queue, "exchange", "key", {}) for queue in ("topic", "topic_fanout_1")]
    asked = Asked()
    bindings, timer = Bindings(asked, made), Timer("test-bindings")  # type: ignore[arg-type]
    timer.start()
    try:
        bindings.watch(timer)
        bindings.rename("topic_fanout_1", "topic_fanout_2")
        bindings.check_soon()
        wait_until(lambda: asked.queues == ["topic", "topic_fanout_2"], what="the declarations")
    finally:
        bindings.stop()
        timer.stop(1.0)
