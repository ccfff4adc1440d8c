"""The beat goes on while the interpreter is busy, and a peer that has none is given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tests.harness.proxy import DOWN, UP, FaultProxy
from tests.harness.waiting import wait_until
from wsgi_messaging import ConfirmTimeout, Settings, Transport


def test_a_silent_peer_is_given_up_after_two_intervals(proxy: FaultProxy, queue: str) -> None:
    with Transport(settings=Settings(url=proxy.url(), heartbeat=1.0, app="silent")) as transport:
        transport.publish("warm", queue)
        proxy.freeze(DOWN)
        began_at = time.monotonic()
        wait_until(lambda: transport.status().connections[0].reconnects == 1, what="the peer to be given up")
        assert 1.0 <= time.monotonic() - began_at < 6.0
        proxy.cut()
        proxy.heal()
        transport.publish("again", queue)


def test_a_black_hole_costs_two_intervals_and_a_second(proxy: FaultProxy, queue: str) -> None:
    """What is in flight when the packets begin to vanish gets through on the next connection, within its deadline."""
    with Transport(settings=Settings(url=proxy.url(), heartbeat=1.0, connect_timeout=1.0, app="hole")) as transport:
        transport.publish("warm", queue)
        [pair] = proxy.open_pairs
        proxy.freeze()
        confirm = transport.publish_soon("in the hole", queue, timeout=20.0)
        with pytest.raises(TimeoutError) as caught:
            confirm.wait(0.5)
        assert not isinstance(caught.value, ConfirmTimeout), "still on its way, and it says so"
        wait_until(lambda: transport.status().connections[0].reconnects == 1, what="the connection to be given up")
        proxy.cut()
        proxy.heal()
        confirm.wait()
        assert not pair.is_open


@pytest.mark.parametrize("heartbeat", [2.0])
def test_beats_under_load(proxy: FaultProxy, queue: str, heartbeat: float) -> None:
    """Four threads that never wait: the gaps between our frames stay well below the two intervals that a peer waits."""
    over = threading.Event()

    def spin() -> None:
        number = 0
        while not over.is_set():
            number += sum(range(500))

    with Transport(settings=Settings(url=proxy.url(), heartbeat=heartbeat, app="busy")) as transport:
        transport.consume(queue, lambda delivery: None)
        transport.publish("warm", queue)
        threads = [threading.Thread(target=spin, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            wait_until(_beaten(proxy, 4), 8 * heartbeat, "four beats on each connection")
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert len(proxy.pairs) == 2
        for pair in proxy.pairs:
            traffic = pair.traffic[UP]
            assert traffic.largest_gap(time.monotonic()) <= 1.6 * heartbeat
        for status in transport.status().connections:
            assert status.heartbeat == heartbeat
            assert status.lateness_worst <= (1.6 - 1 / 3) * heartbeat
            assert status.reconnects == 0


def _beaten(proxy: FaultProxy, times: int) -> Callable[[], bool]:
    return lambda: all(pair.traffic[UP].heartbeats >= times for pair in proxy.pairs)
