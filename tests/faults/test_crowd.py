"""Faults that meet callers who publish together, and write for each other in the place of the connection's thread."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.harness.proxy import DOWN, FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import wait_until
from wsgi_messaging import ConfirmTimeout, ConnectionStatus, Settings, Transport
from wsgi_messaging.connection.shortcut import Shortcut

THREADS = 12
HEARTBEAT = 4.0


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What those who wrote for all were told: True when nothing was left to the connection's thread."""
    told: list[bool] = []
    original = Shortcut.write_all

    def counted(self: Shortcut) -> bool:
        told.append(original(self))
        return told[-1]

    monkeypatch.setattr(Shortcut, "write_all", counted)
    return told


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(THREADS) as made:
        yield made


def transport_to(url: str, heartbeat: float = 60.0) -> Transport:
    return Transport(settings=Settings(url=url, heartbeat=heartbeat, app="crowd"))


def status_of(transport: Transport) -> ConnectionStatus:
    [status] = transport.status().connections
    return status


def publish(transport: Transport, caller: int, count: int, queue: str) -> float:
    """The longest that one of so many took."""
    longest = 0.0
    for number in range(count):
        began_at = time.monotonic()
        transport.publish(f"{caller}:{number}", queue)
        longest = max(longest, time.monotonic() - began_at)
    return longest


def together(pool: ThreadPoolExecutor, transport: Transport, count: int, queue: str) -> list[Future[float]]:
    return [pool.submit(publish, transport, caller, count, queue) for caller in range(THREADS)]


def is_crowded(pool: ThreadPoolExecutor, transport: Transport, queue: str, written: list[bool]) -> bool:
    """Publishes from all threads, waits for all of them, and tells whether one has written for the others by now."""
    for done in together(pool, transport, 5, queue):
        done.result(10.0)
    return any(written)


def arrived(rabbitmq: RabbitMQ, queue: str) -> dict[int, list[int]]:
    """The numbers that came, in order, by caller."""
    found: dict[int, list[int]] = defaultdict(list)
    for message in rabbitmq.messages(queue):
        caller, number = message["payload"].split(":")
        found[int(caller)].append(int(number))
    return found


def test_they_write_for_each_other_and_keep_each_ones_order(
    rabbitmq: RabbitMQ, queue: str, pool: ThreadPoolExecutor, written: list[bool]
) -> None:
    with transport_to(rabbitmq.url) as transport:
        for done in together(pool, transport, 150, queue):
            assert done.result(60.0) < 8.0, "who waits in vain does so for 10 s"
        assert any(written), "nobody has written for the others"
        assert status_of(transport).reconnects == 0
    came = arrived(rabbitmq, queue)
    assert came == {caller: list(range(150)) for caller in range(THREADS)}


def test_what_is_confirmed_is_there_whenever_the_connection_breaks(
    rabbitmq: RabbitMQ, proxy: FaultProxy, queue: str, pool: ThreadPoolExecutor, written: list[bool]
) -> None:
    with transport_to(proxy.url()) as transport:
        working = together(pool, transport, 400, queue)
        for cuts in range(4):
            enough = status_of(transport).confirmed + 200
            wait_until(lambda enough=enough: status_of(transport).confirmed > enough, 30.0, "messages under way")
            proxy.cut()
            wait_until(lambda cuts=cuts: status_of(transport).reconnects > cuts, 10.0, "the loss")
        assert max(done.result(100.0) for done in working) < 8.0, "who waits in vain does so for 10 s"
        assert any(written)
    came = {caller: set(numbers) for caller, numbers in arrived(rabbitmq, queue).items()}
    assert came == {caller: set(range(400)) for caller in range(THREADS)}


def test_a_black_hole_ends_at_each_ones_deadline_and_the_heart_beats_on(
    proxy: FaultProxy, queue: str, pool: ThreadPoolExecutor, written: list[bool]
) -> None:
    with transport_to(proxy.url(), HEARTBEAT) as transport:
        wait_until(lambda: is_crowded(pool, transport, queue, written), 20.0, "a crowd")
        [pair] = proxy.pairs
        proxy.freeze(DOWN)
        began_at = time.monotonic()
        waiting = [pool.submit(transport.publish, "x", queue, timeout=5.2) for _ in range(THREADS)]
        for each in waiting:
            failed = each.exception(20.0)
            assert isinstance(failed, ConfirmTimeout) and failed.maybe_sent
        assert time.monotonic() - began_at < 5.2 + 3.0
        assert pair.traffic["up"].largest_gap(time.monotonic()) < 1.2 * HEARTBEAT, "no beat: it is 5.2 s"


def test_the_end_loses_nothing_that_waits_for_others(
    rabbitmq: RabbitMQ, queue: str, pool: ThreadPoolExecutor, written: list[bool]
) -> None:
    """`publish_soon` waits for nobody, so it is what a crowd may leave lying."""
    transport = transport_to(rabbitmq.url)
    wait_until(lambda: is_crowded(pool, transport, queue, written), 20.0, "a crowd")
    rabbitmq.messages(queue)
    confirms = list(pool.map(lambda number: transport.publish_soon(f"99:{number}", queue), range(200)))
    assert transport.close()
    for confirm in confirms:
        confirm.wait(10.0)
    assert sorted(arrived(rabbitmq, queue)[99]) == list(range(200))
