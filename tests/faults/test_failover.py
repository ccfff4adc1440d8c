"""Several brokers, and one or all of them gone: the other takes over, and nobody burns a processor meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.faults.test_reconnect import status_of
from tests.harness.proxy import FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import stays, wait_until
from wsgi_messaging import ConnectTimeout, Settings, Transport

HEARTBEAT = 2.0


@pytest.fixture
def ways(rabbitmq: RabbitMQ) -> Iterator[tuple[FaultProxy, FaultProxy]]:
    """Two ways to the broker, which fail one by one: as two nodes do."""
    address = (rabbitmq.host, rabbitmq.amqp_port)
    with FaultProxy(address) as one, FaultProxy(address) as two:
        yield one, two


@pytest.fixture
def transport(ways: tuple[FaultProxy, FaultProxy]) -> Iterator[Transport]:
    url = ";".join(way.url() for way in ways)
    with Transport(settings=Settings(url=url, app="failover", heartbeat=HEARTBEAT, fail_fast_after=0.0)) as made:
        yield made


def used_one(transport: Transport, ways: tuple[FaultProxy, FaultProxy]) -> FaultProxy:
    [used] = [way for way in ways if status_of(transport).broker == f"127.0.0.1:{way.port}"]
    return used


def test_out_of_a_black_hole(transport: Transport, ways: tuple[FaultProxy, FaultProxy], queue: str) -> None:
    """Packets vanish and no connection is reset: only the missing beats tell."""
    transport.publish("first", queue)
    used = used_one(transport, ways)
    used.freeze()
    began_at = time.monotonic()
    transport.publish("second", queue, timeout=20.0)
    assert time.monotonic() - began_at < 10.0, "two intervals and a second; an answer is awaited for 15 s"
    assert status_of(transport).broker != f"127.0.0.1:{used.port}"
    assert status_of(transport).reconnects == 1


def test_all_down_and_back(transport: Transport, ways: tuple[FaultProxy, FaultProxy], queue: str) -> None:
    """Each call ends with its own time, the processor rests, and the way back is short."""
    transport.publish("first", queue)
    for way in ways:
        way.refuse()
        way.cut()
    wait_until(lambda: status_of(transport).state in ("waiting", "connecting"), what="the loss")
    began_at = time.monotonic()
    with pytest.raises(ConnectTimeout):
        transport.publish("early", queue, timeout=1.0)
    assert 0.9 < time.monotonic() - began_at < 4.0, "in vain, it is the 5 s of connect_timeout"
    used = time.process_time()
    stays(lambda: status_of(transport).state in ("waiting", "connecting"), 4.0)
    assert time.process_time() - used < 4.0 * 0.25, "the looking on, and a slow machine, have the most of it"
    for way in ways:
        way.heal()
    began_at = time.monotonic()
    transport.publish("late", queue, timeout=20.0)
    assert time.monotonic() - began_at < 8.0
