"""NotificationListener in memory: dispatch, filters, results, pools, batches, and hostile messages."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime
from typing import Any

import pytest
from kombu import Queue

from tests.harness.waiting import wait_until
from wsgi_messaging import ConfigurationError, DeclarationRefused
from wsgi_messaging.notify import NotificationFilter, NotificationListener, NotificationResult, Notifier
from wsgi_messaging.rpc import QueueFlags, Target
from wsgi_messaging.testing import MemoryTransport

PRIORITIES = ["audit", "debug", "info", "warn", "error", "critical", "sample"]


@pytest.fixture
def transport() -> Iterator[MemoryTransport]:
    made = MemoryTransport()
    yield made
    made.close()


class Endpoint:
    """Keeps what its methods are called with, and returns, or raises, `result`."""

    def __init__(self, *priorities: str, result: Any = None, rule: NotificationFilter | None = None) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.result = result
        if rule is not None:
            self.filter_rule = rule
        for priority in priorities:
            setattr(self, priority, self._method(priority))

    def _method(self, priority: str) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            self.seen.append((priority, *arguments))
            if isinstance(self.result, BaseException):
                raise self.result
            return self.result() if callable(self.result) else self.result

        return called

    @property
    def payloads(self) -> list[Any]:
        return [arguments[4] for arguments in self.seen]


def listening(transport: MemoryTransport, *endpoints: Endpoint, **options: Any) -> NotificationListener:
    return NotificationListener(transport, ["notifications"], endpoints, **options)


def raw(transport: MemoryTransport, body: Any, **options: Any) -> None:
    """Publish what no notifier would."""
    text = body if isinstance(body, (str, bytes)) else json.dumps(body)
    options = {"content_type": "application/json", **options}
    transport.publish(text, "notifications.info", "openstack", **options)


def enveloped(inner: Any, version: str = "2.0") -> dict[str, Any]:
    return {"oslo.version": version, "oslo.message": inner if isinstance(inner, str) else json.dumps(inner)}


UNWILLING = [NotificationResult.REQUEUE, "requeue", ValueError("no"), SystemExit(), asyncio.CancelledError()]
"""What a method may return or raise that does not handle its notification."""

GOOD = {"priority": "INFO", "payload": "good", "event_type": "e", "publisher_id": "p"}


@pytest.mark.parametrize("driver", ["messaging", "messagingv2"])
def test_every_priority_reaches_the_method_of_its_name(transport: MemoryTransport, driver: str) -> None:
    endpoint = Endpoint(*PRIORITIES)
    notifier = Notifier(transport, "pub", drivers=driver)
    with listening(transport, endpoint) as listener:
        for priority in PRIORITIES:
            getattr(notifier, priority)({}, "an.event", {"p": priority})
        assert transport.drain()
    assert sorted(arguments[0] for arguments in endpoint.seen) == sorted(PRIORITIES)
    for priority, ctxt, publisher_id, event_type, payload, metadata in endpoint.seen:
        assert (ctxt, publisher_id, event_type, payload) == ({}, "pub", "an.event", {"p": priority})
        assert set(metadata) == {"message_id", "timestamp"}
    assert listener.status().handled == 7


def test_dates_of_the_driver_messaging_arrive_as_dates(transport: MemoryTransport) -> None:
    """kombu's notation, which oslo.messaging's driver of that name writes; without it the payload had mappings of
    `__type__` and `__value__`."""
    endpoint = Endpoint("info")
    moment = {"__type__": "datetime", "__value__": "2026-01-02T03:04:05"}
    with listening(transport, endpoint, pool_size=1) as listener:
        raw(transport, {**GOOD, "payload": {"at": moment}})
        raw(transport, {**GOOD, "payload": {"at": {**moment, "__value__": "yesterday"}}})
        raw(transport, enveloped({**GOOD, "payload": moment}))
        assert transport.drain()
    assert endpoint.payloads == [{"at": datetime(2026, 1, 2, 3, 4, 5)}, moment], "with an envelope it is JSON alone"
    assert listener.status().rejected == 1


def test_only_the_priorities_that_have_a_method_are_listened_to(transport: MemoryTransport) -> None:
    with listening(transport, Endpoint("info"), Endpoint("error")) as listener:
        assert sorted(listener.status().queues) == ["notifications.error", "notifications.info"]


def test_a_single_endpoint_is_no_list_of_them(transport: MemoryTransport) -> None:
    single: Any = Endpoint("info")
    with pytest.raises(ConfigurationError, match=r"endpoints: .* is not a list"):
        NotificationListener(transport, ["notifications"], single)


def test_a_method_that_nobody_would_execute_is_refused(transport: MemoryTransport) -> None:
    """What came to it was acknowledged, and lost."""

    class Later:
        async def info(self, *arguments: Any) -> None:
            raise AssertionError("nobody awaits it")

    with pytest.raises(ConfigurationError, match="endpoints, info: .* is a coroutine"):
        NotificationListener(transport, ["notifications"], [Later()])


def test_several_targets_in_several_exchanges(transport: MemoryTransport) -> None:
    endpoint = Endpoint("info")
    targets = ["a", Target(topic="b", exchange="nova"), Target(topic="c")]
    with NotificationListener(transport, targets, [endpoint], exchange="neutron"):
        Notifier(transport, "p", topics=["a", "c"], exchange="neutron").info({}, "e", 1)
        Notifier(transport, "p", topics=["b"], exchange="nova").info({}, "e", 2)
        assert transport.drain()
    assert sorted(endpoint.payloads) == [1, 1, 2]


def test_filters_and_several_endpoints(transport: MemoryTransport) -> None:
    images = Endpoint("info", rule=NotificationFilter(event_type=r"^image\."))
    everything = Endpoint("info")
    with listening(transport, images, everything) as listener:
        notifier = Notifier(transport, "p")
        notifier.info({}, "image.create", 1)
        notifier.info({}, "server.create", 2)
        assert transport.drain()
    assert images.payloads == [1]
    assert sorted(everything.payloads) == [1, 2]
    assert listener.status().ignored == 0


def test_what_nobody_wants_is_acknowledged_and_counted(transport: MemoryTransport) -> None:
    with listening(transport, Endpoint("info", rule=NotificationFilter(event_type="never"))) as listener:
        Notifier(transport, "p").info({}, "e", 1)
        raw(transport, enveloped({**GOOD, "priority": "FATAL"}))
        assert transport.drain()
    assert (listener.status().ignored, listener.status().handled) == (2, 2)


@pytest.mark.parametrize("result", UNWILLING)
def test_requeue_brings_it_again(transport: MemoryTransport, result: Any) -> None:
    endpoint = Endpoint("info", result=result)
    with listening(transport, endpoint, allow_requeue=True, pool_size=1) as listener:
        Notifier(transport, "p").info({}, "e", 1)
        wait_until(lambda: len(endpoint.seen) >= 3, what="a third delivery")
        endpoint.result = NotificationResult.HANDLED
        assert transport.drain()
    assert listener.status().requeued >= 2
    assert (listener.status().handled, listener.status().duplicates) == (1, 0)


@pytest.mark.parametrize("result", UNWILLING)
def test_without_allow_requeue_it_is_acknowledged(transport: MemoryTransport, result: Any) -> None:
    endpoint = Endpoint("info", result=result)
    with listening(transport, endpoint) as listener:
        Notifier(transport, "p").info({}, "e", 1)
        assert transport.drain()
    assert len(endpoint.seen) == 1
    assert listener.status().requeued == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("end", [KeyboardInterrupt, GeneratorExit])
def test_one_that_ends_its_thread_is_not_lost(transport: MemoryTransport, end: type[BaseException]) -> None:
    """The second delivery, without a message_id as oslo.messaging's have none: it was rejected, and counted nowhere."""
    results: list[Any] = [NotificationResult.REQUEUE, end(), NotificationResult.HANDLED]

    def result() -> Any:
        outcome = results.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    endpoint = Endpoint("info", result=result)
    with listening(transport, endpoint, allow_requeue=True, pool_size=1) as listener:
        Notifier(transport, "p").info({}, "e", 1)
        wait_until(lambda: listener.status().handled == 1, what="the third delivery")
    assert len(endpoint.seen) == 3
    assert listener.status().rejected == 0


def test_a_compressed_one_is_no_larger_than_any_other(transport: MemoryTransport) -> None:
    bound = transport.settings.max_message_bytes
    endpoint = Endpoint("info")
    with listening(transport, endpoint) as listener:
        for size in (bound + 1, bound // 2):
            inner = json.dumps(enveloped({**GOOD, "payload": "x" * size})).encode()
            raw(transport, zlib.compress(inner), headers={"compression": "application/x-gzip"})
        wait_until(lambda: listener.status().handled == 1, what="the one within the bound")
        assert listener.status().rejected == 1


def test_an_endpoint_that_wants_it_again_keeps_it_from_the_next(transport: MemoryTransport) -> None:
    first, second = Endpoint("info", result=NotificationResult.REQUEUE), Endpoint("info")
    with listening(transport, first, second):
        Notifier(transport, "p").info({}, "e", 1)
        assert transport.drain()
    assert (len(first.seen), len(second.seen)) == (1, 0)


def test_a_pool_gets_copies_and_shares_them(transport: MemoryTransport) -> None:
    alone, one, two = Endpoint("info", "error"), Endpoint("info", "error"), Endpoint("info", "error")
    with (
        listening(transport, alone),
        listening(transport, one, pool="auditors") as listener,
        listening(transport, two, pool="auditors"),
    ):
        notifier = Notifier(transport, "p")
        for number in range(10):
            notifier.info({}, "e", number)
            notifier.error({}, "e", number)
        assert transport.drain()
        assert listener.status().queues == ("auditors",)
    assert len(alone.seen) == 20
    assert len(one.seen) + len(two.seen) == 20
    assert one.seen and two.seen


HOSTILE: dict[str, tuple[Any, dict[str, Any]]] = {
    "no JSON": ("{", {}),
    "no UTF-8": (b"\xff\xfe{}", {}),
    "nested 5,000 deep": ("[" * 5000 + "]" * 5000, {}),
    "a number": (3, {}),
    "a list": ([GOOD], {}),
    "null": ("null", {}),
    "content type": (enveloped(GOOD), {"content_type": "text/plain"}),
    "encoding": (json.dumps(enveloped(GOOD)).encode(), {"properties": {"content_encoding": "latin-1"}}),
    "envelope 2.1": (enveloped(GOOD, "2.1"), {}),
    "envelope 1.0": (enveloped(GOOD, "1.0"), {}),
    "envelope of no text": ({"oslo.version": 2, "oslo.message": {}}, {}),
    "inner no JSON": (enveloped("{"), {}),
    "inner a list": (enveloped([1]), {}),
    "no priority": (enveloped({"payload": 1}), {}),
    "priority a number": (enveloped({**GOOD, "priority": 3}), {}),
    "empty object": ({}, {}),
    "compressed": (enveloped(GOOD), {"headers": {"compression": "application/x-gzip"}}),
    "compressed by what": (enveloped(GOOD), {"headers": {"compression": "application/x-7z"}}),
    "headers of everything": ({}, {"headers": {"a": None, "b": [1, {"c": b"x"}], "d": 1.5}}),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("batch", [{}, {"batch_size": 1}])
def test_no_message_stalls_a_listener_with_prefetch_1(transport: MemoryTransport, kind: str, batch: Any) -> None:
    """oslo.messaging leaves a duplicate unacknowledged, and its listener with prefetch 1 stalls for ever."""
    body, options = HOSTILE[kind]
    endpoint = Endpoint("info")
    with listening(transport, endpoint, prefetch=1, pool_size=1, **batch) as listener:
        raw(transport, body, **options)
        raw(transport, enveloped(GOOD))
        assert transport.drain()
        assert len(endpoint.seen) == 1
        assert listener.status().rejected == 1
    assert transport.waiting("notifications.info") == []


def test_what_is_rejected_can_be_dead_lettered(transport: MemoryTransport) -> None:
    transport.declare(Queue("dead", durable=True))
    flags = QueueFlags(arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    with listening(transport, Endpoint("info"), flags=flags):
        raw(transport, "{")
        assert transport.drain()
    assert [each.body for each in transport.waiting("dead")] == [b"{"]


@pytest.mark.parametrize("batch", [{}, {"batch_size": 1}])
def test_a_duplicate_is_acknowledged_and_handled_once(transport: MemoryTransport, batch: Any) -> None:
    endpoint = Endpoint("info")
    with listening(transport, endpoint, prefetch=1, pool_size=1, **batch) as listener:
        for _ in range(3):
            raw(transport, enveloped({**GOOD, "_unique_id": "0123"}))
        raw(transport, enveloped({**GOOD, "_unique_id": "4567"}))
        assert transport.drain()
    assert len(endpoint.seen) == 2
    assert listener.status().duplicates == 2


def test_a_serializer_that_fails_costs_that_message_only(transport: MemoryTransport) -> None:
    class Serializer:
        def deserialize_context(self, ctxt: Any) -> Any:
            return {"read": ctxt}

        def deserialize_entity(self, ctxt: Any, entity: Any) -> Any:
            return entity["value"]

        def serialize_context(self, ctxt: Any) -> Any:
            return ctxt

        def serialize_entity(self, ctxt: Any, entity: Any) -> Any:
            return entity

    endpoint = Endpoint("info")
    with listening(transport, endpoint, serializer=Serializer(), allow_requeue=True) as listener:
        raw(transport, enveloped(GOOD))
        raw(transport, enveloped({**GOOD, "payload": {"value": 7}, "_context_user": "alice"}))
        assert transport.drain()
    assert endpoint.payloads == [7]
    assert endpoint.seen[0][1] == {"read": {"user": "alice"}}
    assert listener.status().rejected == 1


# Batches.


class Batch:
    """An endpoint of a batch listener."""

    def __init__(self, result: Any = None) -> None:
        self.batches: list[tuple[str, list[Any]]] = []
        self.result = result

    def info(self, messages: list[dict[str, Any]]) -> Any:
        return self._take("info", messages)

    def error(self, messages: list[dict[str, Any]]) -> Any:
        return self._take("error", messages)

    def _take(self, priority: str, messages: list[dict[str, Any]]) -> Any:
        assert all(set(each) == {"ctxt", "publisher_id", "event_type", "payload", "metadata"} for each in messages)
        self.batches.append((priority, [each["payload"] for each in messages]))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def batching(transport: MemoryTransport, endpoint: Any, **options: Any) -> NotificationListener:
    return NotificationListener(transport, ["notifications"], [endpoint], **options)


def test_a_batch_of_so_many(transport: MemoryTransport) -> None:
    endpoint = Batch()
    with batching(transport, endpoint, batch_size=5, pool_size=1):
        notifier = Notifier(transport, "p")
        for number in range(12):
            notifier.info({}, "e", number)
        wait_until(lambda: len(endpoint.batches) == 2, what="two batches")
    assert endpoint.batches == [("info", [0, 1, 2, 3, 4]), ("info", [5, 6, 7, 8, 9])]
    assert len(transport.waiting("notifications.info")) == 2  # begun, not complete: back in the queue


def test_a_batch_of_what_came_in_time(transport: MemoryTransport) -> None:
    endpoint = Batch()
    with batching(transport, endpoint, batch_size=100, batch_timeout=0.05):
        for number in range(3):
            Notifier(transport, "p").info({}, "e", number)
        wait_until(lambda: endpoint.batches, what="a batch")
        assert transport.drain()
    assert [payload for _priority, payloads in endpoint.batches for payload in payloads] == [0, 1, 2]


def test_a_batch_is_given_priority_by_priority(transport: MemoryTransport) -> None:
    endpoint = Batch()
    with batching(transport, endpoint, batch_size=4):
        notifier = Notifier(transport, "p")
        notifier.info({}, "e", 1)
        notifier.error({}, "e", 2)
        notifier.info({}, "e", 3)
        notifier.error({}, "e", 4)
        assert transport.drain()
    assert sorted(endpoint.batches) == [("error", [2, 4]), ("info", [1, 3])]


def test_a_filter_picks_out_of_a_batch(transport: MemoryTransport) -> None:
    endpoint = Batch()
    endpoint.filter_rule = NotificationFilter(event_type="image")  # type: ignore[attr-defined]
    with batching(transport, endpoint, batch_size=3) as listener:
        for event_type in ("image.a", "server.b", "image.c"):
            Notifier(transport, "p").info({}, event_type, event_type)
        assert transport.drain()
    assert endpoint.batches == [("info", ["image.a", "image.c"])]
    assert listener.status().handled == 3


def test_a_result_is_of_the_type_that_a_method_is_annotated_with() -> None:
    """Fails when `-> NotificationResult` is a type error in an application: the results were of another type."""
    assert all(
        isinstance(each, NotificationResult) for each in (NotificationResult.HANDLED, NotificationResult.REQUEUE)
    )


@pytest.mark.parametrize("result", [NotificationResult.REQUEUE, ValueError("no")])
def test_a_batch_comes_again_as_a_whole(transport: MemoryTransport, result: Any) -> None:
    endpoint = Batch(result)
    with batching(transport, endpoint, batch_size=2, batch_timeout=0.05, pool_size=1, allow_requeue=True) as listener:
        for number in range(2):
            Notifier(transport, "p").info({}, "e", number)
        wait_until(lambda: len(endpoint.batches) >= 2, what="a second try")
        endpoint.result = None
        assert transport.drain()
    assert listener.status().handled == 2
    assert listener.status().requeued >= 2


def test_a_batch_that_holds_a_notification_twice_leaves_nothing_unsettled(transport: MemoryTransport) -> None:
    """What stays unsettled takes a place of the prefetch for ever."""
    endpoint = Batch()
    with batching(transport, endpoint, batch_size=2, batch_timeout=0.05, pool_size=1) as listener:
        for number in range(6):
            for _ in range(2):
                raw(transport, enveloped({**GOOD, "payload": number, "_unique_id": f"id {number}"}))
        wait_until(lambda: listener.status().received == 12, what="all of them")
        assert transport.drain()
    assert sorted({payload for _priority, payloads in endpoint.batches for payload in payloads}) == list(range(6))
    assert listener.status().handled + listener.status().duplicates == 12
    assert transport.waiting("notifications.info") == []


class Choosy:
    """A filter that fails on what it does not expect."""

    def match(self, context: Any, publisher_id: str, event_type: str, metadata: Any, payload: Any) -> bool:
        return "id" in payload


@pytest.mark.parametrize("batch", [{}, {"batch_size": 1}])
def test_a_filter_that_fails_costs_that_message_only(transport: MemoryTransport, batch: Any) -> None:
    """As an endpoint that fails: acknowledged, or tried again."""
    endpoint = Batch() if batch else Endpoint("info")
    endpoint.filter_rule = Choosy()  # type: ignore[union-attr]
    with batching(transport, endpoint, pool_size=1, **batch) as listener:
        for payload in (None, None, {"id": 1}):
            Notifier(transport, "p").info({}, "e", payload)
        assert transport.drain()
        assert (listener.status().failed, listener.status().handled) == (2, 3)
    assert listener.status().ignored == 0


def test_a_failing_filter_brings_a_batch_again_where_it_may_come(transport: MemoryTransport) -> None:
    endpoint = Batch()
    endpoint.filter_rule = Choosy()  # type: ignore[attr-defined]
    with batching(transport, endpoint, batch_size=1, pool_size=1, allow_requeue=True) as listener:
        Notifier(transport, "p").info({}, "e", None)
        wait_until(lambda: listener.status().requeued >= 3, what="a third try")


class Broken:
    """An instrument that fails where somebody listens."""

    def notifying(self, *_arguments: Any) -> Any:
        return nullcontext({})

    def hearing(self, heard: Any) -> Any:
        raise RuntimeError("the instrument failed")


@pytest.mark.parametrize("batch", [{}, {"batch_size": 1}])
def test_an_instrument_that_fails_stalls_no_listener(transport: MemoryTransport, batch: Any) -> None:
    endpoint = Batch() if batch else Endpoint("info")
    with batching(transport, endpoint, pool_size=1, **batch) as listener:
        transport.instrument = Broken()  # type: ignore[assignment]
        Notifier(transport, "p").info({}, "e", 1)
        wait_until(lambda: listener.status().failed == 1, what="the failure")
        transport.instrument = None
        Notifier(transport, "p").info({}, "e", 2)
        assert transport.drain()
        assert listener.status().handled == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_batch_that_ends_its_thread_each_time_is_given_up(transport: MemoryTransport) -> None:
    class Ending:
        calls = 0

        def info(self, messages: list[dict[str, Any]]) -> None:
            self.calls += 1
            raise KeyboardInterrupt

    endpoint = Ending()
    with batching(transport, endpoint, batch_size=1, pool_size=1) as listener:
        Notifier(transport, "p").info({}, "e", 1)
        wait_until(lambda: listener.status().handled == 1, what="the end of it")
    assert endpoint.calls == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_another_thread_takes_the_place_of_one_that_an_endpoint_ended(transport: MemoryTransport) -> None:
    """Its batch comes again."""
    causes: dict[int, BaseException] = {0: KeyboardInterrupt(), 1: GeneratorExit()}

    class Ending(Batch):
        def info(self, messages: list[dict[str, Any]]) -> Any:
            cause = causes.pop(messages[0]["payload"], None)
            if cause is not None:
                raise cause
            return super().info(messages)

    endpoint = Ending()
    with batching(transport, endpoint, batch_size=1, pool_size=1) as listener:
        for number in range(3):
            Notifier(transport, "p").info({}, "e", number)
        wait_until(lambda: listener.status().handled == 3, what="all of them")
    assert sorted(payload for _priority, payloads in endpoint.batches for payload in payloads) == [0, 1, 2]


# Starting and stopping.


@pytest.mark.parametrize("batch", [{}, {"batch_size": 10}])
def test_an_idle_listener_stops_at_once(transport: MemoryTransport, batch: Any) -> None:
    listener = listening(transport, Endpoint(*PRIORITIES), **batch)
    listener.start()
    began_at = time.monotonic()
    listener.stop()
    assert listener.wait(20.0)
    assert time.monotonic() - began_at < 10.0
    listener.stop()
    assert listener.wait(0.0)
    assert "ended" in repr(listener)


@pytest.mark.parametrize("batch", [{}, {"batch_size": 1}])
def test_stop_lets_what_is_handled_be_finished(transport: MemoryTransport, batch: Any) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow:
        def info(self, *_arguments: Any) -> None:
            entered.set()
            assert leave.wait(10.0)

    listener = NotificationListener(transport, ["notifications"], [Slow()], pool_size=1, **batch)
    listener.start()
    Notifier(transport, "p").info({}, "e", 1)
    assert entered.wait(5.0)
    listener.stop()
    assert not listener.wait(0.05)
    leave.set()
    assert listener.wait(5.0)
    assert listener.status().handled == 1
    assert transport.waiting("notifications.info") == []


def test_stop_gives_up_what_takes_too_long(transport: MemoryTransport) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Endless:
        def info(self, *_arguments: Any) -> None:
            entered.set()
            leave.wait(10.0)

    listener = NotificationListener(transport, ["notifications"], [Endless()])
    listener.start()
    Notifier(transport, "p").info({}, "e", 1)
    assert entered.wait(5.0)
    listener.close(0.1)
    wait_until(lambda: len(transport.waiting("notifications.info")) == 1, what="the message being back in its queue")
    leave.set()


@pytest.mark.parametrize("batch", [{}, {"batch_size": 1}])
@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), asyncio.CancelledError()])
def test_a_start_that_failed_can_be_made_again(batch: Any, error: BaseException) -> None:
    """Whatever it failed with: gevent.Timeout is no Exception."""

    class Failing(MemoryTransport):
        failures = [error]

        def consume(self, queue: Any, *arguments: Any, **options: Any) -> Any:
            if self.failures and queue == "notifications.info":
                raise self.failures.pop()
            return super().consume(queue, *arguments, **options)

    failing = Failing()
    others = threading.active_count()
    try:
        endpoint = Batch()
        listener = batching(failing, endpoint if batch else Endpoint("error", "info"), **batch)
        with pytest.raises(type(error)):
            listener.start()
        assert listener.status().queues == ()
        wait_until(lambda: threading.active_count() <= others, what="the end of the threads")
        listener.start()
        Notifier(failing, "p").info({}, "e", 1)
        Notifier(failing, "p").error({}, "e", 2)
        wait_until(lambda: listener.status().handled == 2, what="both")
        assert listener.close(5.0)
    finally:
        failing.close()


@pytest.mark.parametrize("batch", [{}, {"batch_size": 1}])
def test_what_is_stopped_while_it_starts_listens_to_nothing(batch: Any) -> None:
    """A signal's handler stops it while the main thread starts it: it went on listening, and nothing could end it."""

    class Stopping(MemoryTransport):
        def consume(self, queue: Any, *arguments: Any, **options: Any) -> Any:
            if queue == "notifications.info":
                listener.stop(0.0)
                assert listener.wait(5.0)
            return super().consume(queue, *arguments, **options)

    others = threading.active_count()
    transport = Stopping()
    endpoint = Batch() if batch else Endpoint("error", "info")
    try:
        listener = batching(transport, endpoint, **batch)
        listener.start()
        Notifier(transport, "p").info({}, "e", 1)
        assert len(transport.waiting("notifications.info")) == 1
        wait_until(lambda: threading.active_count() <= others, 5.0, "the end of the threads")
        assert listener.status().received == 0
    finally:
        transport.close()


def test_an_endpoint_may_stop_its_listener(transport: MemoryTransport) -> None:
    class Stopping:
        def info(self, *_arguments: Any) -> None:
            listener.stop()

    listener = NotificationListener(transport, ["notifications"], [Stopping()])
    listener.start()
    Notifier(transport, "p").info({}, "e", 1)
    assert listener.wait(5.0)
    assert transport.waiting("notifications.info") == []


def test_flags_that_differ_are_named_with_what_to_set(transport: MemoryTransport) -> None:
    Notifier(transport, "p", flags=QueueFlags(durable=True)).info({}, "e", 1)
    listener = listening(transport, Endpoint("info"))
    with pytest.raises(DeclarationRefused, match="durable"):
        listener.start()
    assert listener.status().queues == ()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"targets": []}, "targets"),
        ({"targets": "notifications"}, "targets"),
        ({"targets": [Target(exchange="x")]}, "topic"),
        ({"endpoints": [object()]}, "endpoints"),
        ({"executor": "eventlet"}, "executor"),
        ({"pool_size": 0}, "pool_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 10, "prefetch": 5}, "prefetch"),
        ({"batch_size": 10, "batch_timeout": "5"}, "batch_timeout"),
        ({"batch_size": 10, "batch_timeout": float("nan")}, "batch_timeout"),
        ({"batch_timeout": 1.0}, "batch_timeout"),
    ],
)
def test_a_wrong_argument_is_named(transport: MemoryTransport, options: Any, named: str) -> None:
    arguments = {"targets": ["t"], "endpoints": [Endpoint("info")], **options}
    with pytest.raises(ConfigurationError, match=named):
        NotificationListener(transport, **arguments)
