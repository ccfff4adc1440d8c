"""Sets of numbered messages while a broker is killed and comes back: what was confirmed is there."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import wait_until
from wsgi_messaging import Delivery, MessagingError, Settings, Transport

THREADS = 16


class Producers:
    """Threads that publish numbered messages until told to stop, and note what was confirmed."""

    def __init__(self, transport: Transport, queue: str, timeout: float) -> None:
        self.confirmed: list[str] = []
        self.doubtful: list[str] = []
        self.failed: list[MessagingError] = []
        self.slowest = 0.0
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._produce, args=(transport, queue, timeout, number))
            for number in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def _produce(self, transport: Transport, queue: str, timeout: float, thread: int) -> None:
        number = 0
        while not self._over.is_set():
            body = f"{thread}-{number}"
            number += 1
            begun = time.monotonic()
            try:
                transport.publish(body, queue, timeout=timeout)
            except MessagingError as exc:
                self.failed.append(exc)
                if exc.maybe_sent:
                    self.doubtful.append(body)
            else:
                self.confirmed.append(body)
            self.slowest = max(self.slowest, time.monotonic() - begun)

    def go_on(self, transport: Transport, more: int = 100, within: float = 60.0) -> None:
        """Wait until so many more were confirmed; what hinders it is in the failure's text."""
        before, failed = len(self.confirmed), len(self.failed)
        try:
            wait_until(lambda: len(self.confirmed) > before + more, within, "publishing goes on")
        except AssertionError as exc:
            errors = Counter(str(error) for error in self.failed[failed:])
            came = len(self.confirmed) - before
            raise AssertionError(
                f"{came} confirmed in {within:g} s; {transport.status()}; {errors.most_common(5)}"
            ) from exc

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30.0)
            assert not thread.is_alive(), "a publish hangs"


def check(producers: Producers, received: Counter[str], timeout: float) -> None:
    assert set(producers.confirmed) <= set(received), "confirmed and not there"
    unasked = set(received) - set(producers.confirmed) - set(producers.doubtful)
    assert not unasked, "there, and neither confirmed nor told that it may be"
    assert producers.slowest < timeout + 0.5 + 4.0, "a call went on beyond its time (four seconds for a busy machine)"


def received_of(url: str, queue: str, quiet: float = 3.0) -> Counter[str]:
    """Everything in a queue: what comes until nothing has for `quiet` seconds."""
    received: Counter[str] = Counter()
    came_at = [time.monotonic()]

    def take(delivery: Delivery) -> None:
        received[delivery.body.decode()] += 1
        came_at[0] = time.monotonic()

    with Transport(url) as transport:
        transport.consume(queue, take, prefetch=1000)
        wait_until(lambda: time.monotonic() - came_at[0] > quiet, 300.0, "the end of the queue", interval=0.1)
    return received


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.soak)])
def test_through_kills_of_the_broker(own_rabbitmq: RabbitMQ, kills: int) -> None:
    own_rabbitmq.declare_queue("set")
    own_rabbitmq.keep_declarations()
    timeout = 12.0
    with Transport(settings=Settings(url=own_rabbitmq.url, app="set", fail_fast_after=0.0)) as transport:
        producers = Producers(transport, "set", timeout)
        try:
            for _ in range(kills):
                producers.go_on(transport)
                own_rabbitmq.kill()
                own_rabbitmq.start()
        finally:
            producers.stop()
        assert transport.status().connections[0].reconnects >= kills
    received = received_of(own_rabbitmq.url, "set")
    check(producers, received, timeout)
    duplicates = sum(received.values()) - len(received)
    print(
        f"{kills} kills: {len(producers.confirmed)} confirmed, {len(producers.failed)} failed, {duplicates} duplicates"
    )
    assert duplicates <= kills * THREADS
