"""A lone caller reads the reply to its call in the place of the thread of the consuming connection.

What must not come of it: an error that is told late, a second caller who waits for the first, a call that outlives its
time, a thread that stands by while somebody waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.harness.proxy import DOWN, FaultProxy
from tests.harness.waiting import Elsewhere, wait_until
from wsgi_messaging import Closed, ReplyTimeout, RPCClient, RPCServer, Settings, Target, Transport, Unroutable
from wsgi_messaging.connection import consuming, loop, shortcut
from wsgi_messaging.connection.shortcut import Shortcut
from wsgi_messaging.devbroker import DevBroker
from wsgi_messaging.lifetime import CONSUME
from wsgi_messaging.rpc.replies import replies_of

LONG = 30.0
HEARTBEAT = 1.0


class Endpoint:
    """What is called: it answers, or waits until it may."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()

    def add(self, _context: object, a: int, b: int) -> int:
        return a + b

    def wait(self, _context: object) -> str:
        self.may_answer.wait(LONG)
        return "waited"


@pytest.fixture
def endpoint(broker: DevBroker) -> Iterator[Endpoint]:
    """Served, over a transport of its own."""
    made = Endpoint()
    with Transport(broker.url) as transport:
        RPCServer(transport, Target(topic="lone", server="s"), [made]).start()
        yield made
        made.may_answer.set()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what is tested ends a standing by, or a reading, within the time of the test."""
    monkeypatch.setattr(shortcut, "STANDBY_FOR", LONG)
    monkeypatch.setattr(shortcut, "READ_WITHIN", LONG)
    monkeypatch.setattr(consuming, "ACK_WITHIN", LONG)


def client_of(transport: Transport, topic: str = "lone") -> RPCClient:
    return RPCClient(transport, Target(topic=topic), timeout=LONG)


def add(client: RPCClient, count: int = 5) -> float:
    """The longest that one of so many calls took."""
    longest = 0.0
    for number in range(count):
        began_at = time.monotonic()
        assert client.call({}, "add", a=number, b=1) == number + 1
        longest = max(longest, time.monotonic() - began_at)
    return longest


def consuming_loop(used: RPCClient | RPCServer) -> loop.Loop:
    found = used.transport.connections().peek(CONSUME)
    assert found is not None
    return found


def note_readers(loop: loop.Loop, patch: pytest.MonkeyPatch) -> list[int]:
    """Who was in the place of the loop's thread at each read from now on: 0 for itself."""
    readers: list[int] = []
    read = loop._inlet.read

    def noted(link: Any) -> None:
        readers.append(loop.watch.deputy)
        read(link)

    patch.setattr(loop._inlet, "read", noted)
    return readers


def stand_by(client: RPCClient, elsewhere: Elsewhere) -> None:
    """Until the other thread reads its replies itself."""
    reads: list[object] = []
    original = Shortcut.read_answer

    def counted(self: Shortcut, *arguments: Any) -> bool:
        reads.append(original(self, *arguments))
        return bool(reads[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shortcut, "read_answer", counted)
        wait_until(lambda: elsewhere(lambda: add(client)).result(20.0) and any(reads), what="a read")


@pytest.fixture
def client(broker: DevBroker, endpoint: Endpoint, elsewhere: Elsewhere) -> Iterator[RPCClient]:
    """The thread of its consuming connection stands by."""
    with Transport(broker.url) as transport:
        made = client_of(transport)
        stand_by(made, elsewhere)
        yield made


def reading(used: RPCClient | RPCServer) -> Callable[[], bool]:
    """Tells whether somebody is in the place of the consuming thread."""
    return lambda: bool(consuming_loop(used).watch.deputy)


def test_most_replies_are_read_by_the_caller(
    client: RPCClient, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = note_readers(consuming_loop(client), monkeypatch)
    elsewhere(lambda: add(client, 200)).result(LONG)
    assert len([reader for reader in readers if reader]) > 100, f"{len(readers)} reads"


def test_nobody_serves_is_told_at_once(patient: None, client: RPCClient, elsewhere: Elsewhere) -> None:
    """The broker's answer comes over the other connection."""
    began_at = time.monotonic()
    failed = elsewhere(lambda: client_of(client.transport, "nobody").call({}, "add", a=1, b=1)).exception(LONG)
    assert isinstance(failed, Unroutable)
    assert time.monotonic() - began_at < LONG / 2


def test_a_second_call_does_not_wait_for_the_first(
    patient: None, client: RPCClient, endpoint: Endpoint, elsewhere: Elsewhere
) -> None:
    first = elsewhere(lambda: client.call({}, "wait"))
    wait_until(reading(client), what="the first one, in the thread's place")
    with ThreadPoolExecutor(1) as another:
        assert float(another.submit(lambda: add(client)).result(LONG)) < LONG / 2
        assert not first.done()
        endpoint.may_answer.set()
        assert first.result(LONG / 2) == "waited"


def test_the_main_thread_waits_for_nobody(patient: None, client: RPCClient) -> None:
    """It never reads for itself, so the thread must not stand by any longer."""
    assert add(client, 3) < LONG / 2


def test_a_reply_that_takes_long_is_read_by_the_thread(
    patient: None, client: RPCClient, endpoint: Endpoint, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortcut, "READ_WITHIN", 0.1)
    working = elsewhere(lambda: client.call({}, "wait"))
    wait_until(reading(client), what="the caller, in the thread's place")
    wait_until(lambda: not reading(client)(), what="its end there")
    endpoint.may_answer.set()
    assert working.result(LONG / 2) == "waited"


def test_closing_ends_a_call_that_reads(patient: None, client: RPCClient, elsewhere: Elsewhere) -> None:
    working = elsewhere(lambda: client.call({}, "wait"))
    wait_until(reading(client), what="the caller, in the thread's place")
    client.transport.close()
    assert isinstance(working.exception(LONG / 2), Closed)


def test_through_breaks_of_the_connection(proxy: FaultProxy, rabbitmq: Any, elsewhere: Elsewhere) -> None:
    """On the real broker: every call is answered, and none takes long."""
    with Transport(rabbitmq.url) as serving, Transport(proxy.url()) as transport:
        server = RPCServer(serving, Target(topic="lone-breaks", server="s"), [Endpoint()])
        server.start()
        client = client_of(transport, "lone-breaks")
        stand_by(client, elsewhere)
        working = elsewhere(lambda: add(client, 1000))
        for _ in range(4):
            time.sleep(0.1)  # so that calls are under way again
            proxy.cut()
        assert float(str(working.result(60.0))) < 10.0
        assert sum(status.reconnects for status in transport.status().connections) >= 2, "else nothing was tried"


def test_a_black_hole_ends_at_the_deadline_and_the_heart_beats_on(
    proxy: FaultProxy, rabbitmq: Any, elsewhere: Elsewhere
) -> None:
    with (
        Transport(rabbitmq.url) as serving,
        Transport(settings=Settings(url=proxy.url(), heartbeat=2 * HEARTBEAT, app="lone")) as transport,
    ):
        RPCServer(serving, Target(topic="lone-hole", server="s"), [Endpoint()]).start()
        client = client_of(transport, "lone-hole")
        stand_by(client, elsewhere)
        proxy.freeze(DOWN)
        began_at = time.monotonic()
        failed = elsewhere(lambda: client.prepare(timeout=2.6).call({}, "add", a=1, b=1)).exception(20.0)
        assert isinstance(failed, ReplyTimeout)
        assert time.monotonic() - began_at < 2.6 + 3.0
        for pair in proxy.pairs:
            assert pair.traffic["up"].largest_gap(time.monotonic()) < 2.4 * HEARTBEAT, "no beat: it is 2.6 s"


def test_who_begins_to_wait_as_the_thread_begins_to_stand_by_is_seen(
    client: RPCClient, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked for callers, there was none; then one came and did not see it stand by; then it stood by."""
    watch, replies = consuming_loop(client).watch, replies_of(client.transport.connections())
    fall_asleep, sleep = watch.fall_asleep, watch.sleep
    slept: list[bool] = []

    def raced(until: float, *, on_standby: bool = False) -> None:
        if on_standby:
            replies.expect("raced")
        fall_asleep(until, on_standby=on_standby)

    def noted(wait_ms: int) -> bool:
        if replies.is_one_awaited:
            slept.append(watch.is_on_standby)
        return sleep(wait_ms)

    monkeypatch.setattr(watch, "fall_asleep", raced)
    monkeypatch.setattr(watch, "sleep", noted)
    wait_until(lambda: elsewhere(lambda: add(client)).result(20.0) and slept, what="the race")
    assert not any(slept)


# The worker that has answered one request reads the next.


@pytest.fixture
def server(broker: DevBroker, endpoint: Endpoint) -> Iterator[RPCServer]:
    """Another one, of its own topic."""
    with Transport(broker.url) as transport:
        made = RPCServer(transport, Target(topic="worker", server="s"), [endpoint])
        made.start()
        yield made
        endpoint.may_answer.set()


@pytest.fixture
def caller(broker: DevBroker, server: RPCServer) -> Iterator[RPCClient]:
    with Transport(broker.url) as transport:
        yield client_of(transport, "worker")


def let_its_worker_read(server: RPCServer, caller: RPCClient) -> None:
    """Until a worker is in the place of the server's thread."""

    def is_reading() -> bool:
        add(caller)
        time.sleep(0.01)  # its worker has answered, and is about to read
        return reading(server)()

    wait_until(is_reading, what="a worker in the thread's place")


def test_most_requests_are_read_by_the_worker(
    server: RPCServer, caller: RPCClient, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(lambda: add(caller)).result(LONG)
    readers = note_readers(consuming_loop(server), monkeypatch)
    elsewhere(lambda: add(caller, 200)).result(LONG)
    assert len([reader for reader in readers if reader]) > 100, f"{len(readers)} reads"


def test_the_next_request_does_not_wait_for_the_worker_that_read(
    patient: None, server: RPCServer, caller: RPCClient, endpoint: Endpoint, elsewhere: Elsewhere
) -> None:
    """The thread has its place again before the request is executed."""
    let_its_worker_read(server, caller)
    first = elsewhere(lambda: caller.call({}, "wait"))
    wait_until(lambda: server.status().busy == 1, what="the first request")
    assert add(caller) < LONG / 2
    assert not first.done()
    endpoint.may_answer.set()
    assert first.result(LONG / 2) == "waited"


def test_many_at_a_time_beside_a_worker_that_reads(patient: None, server: RPCServer, caller: RPCClient) -> None:
    let_its_worker_read(server, caller)
    with ThreadPoolExecutor(8) as callers:
        assert max(callers.map(lambda _number: add(caller, 50), range(8))) < LONG / 2


def test_a_server_stops_while_its_worker_reads(patient: None, server: RPCServer, caller: RPCClient) -> None:
    let_its_worker_read(server, caller)
    began_at = time.monotonic()
    assert server.stop(LONG)
    assert time.monotonic() - began_at < LONG / 2


def test_the_heart_beats_while_a_worker_reads(
    rabbitmq: Any, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortcut, "READ_WITHIN", LONG)
    with (
        Transport(settings=Settings(url=proxy.url(), heartbeat=HEARTBEAT, app="lone")) as serving,
        Transport(rabbitmq.url) as transport,
    ):
        server = RPCServer(serving, Target(topic="worker-beats", server="s"), [Endpoint()])
        server.start()
        let_its_worker_read(server, client_of(transport, "worker-beats"))
        time.sleep(HEARTBEAT * 4)  # twice as long as the broker waits for a beat
        assert [status.reconnects for status in serving.status().connections] == [0, 0]
        for pair in proxy.pairs:
            assert pair.traffic["up"].largest_gap(time.monotonic()) < 1.6 * HEARTBEAT, "the broker gives up after two"


def test_a_worker_reads_through_breaks_of_its_connection(
    rabbitmq: Any, proxy: FaultProxy, elsewhere: Elsewhere
) -> None:
    with Transport(proxy.url()) as serving, Transport(rabbitmq.url) as transport:
        server = RPCServer(serving, Target(topic="worker-breaks", server="s"), [Endpoint()])
        server.start()
        client = client_of(transport, "worker-breaks").prepare(timeout=2.0)
        answered = 0

        def work() -> None:
            nonlocal answered
            while not is_over.is_set():
                try:
                    answered += client.call({}, "add", a=1, b=1) == 2
                except ReplyTimeout:  # its server had taken it when the connection broke: at most once
                    continue

        is_over = threading.Event()
        working = elsewhere(work)
        for _ in range(4):
            before = answered
            wait_until(lambda before=before: answered > before + 20, 20.0, "calls")  # type: ignore[misc]
            proxy.cut()
        before = answered
        wait_until(lambda: answered > before + 20, 20.0, "calls after the last break")
        is_over.set()
        working.result(LONG)
        assert sum(status.reconnects for status in serving.status().connections) >= 4, "else nothing was tried"
