"""Opened and closed, lost and found, many times: descriptors, threads and memory are back where they were."""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import tracemalloc
from collections.abc import Callable

import pytest

from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import wait_until
from wsgi_messaging import Transport
from wsgi_messaging.connection import connecting
from wsgi_messaging.connection.state import State


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def settled() -> tuple[int, int]:
    """Descriptors and threads, when what is ending has ended."""
    gc.collect()
    wait_until(lambda: not _ending(), 10.0, "the end of the threads")
    return descriptors(), threading.active_count()


def _ending() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("wsgi-messaging-journal")]


def grown(work: Callable[[], None]) -> int:
    """Bytes that are held after `work` was done a second time and were not before it: the first fills the caches."""
    tracemalloc.start()
    try:
        work()
        settled()
        before = tracemalloc.get_traced_memory()[0]
        work()
        settled()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cycles", [pytest.param(20, id="20"), pytest.param(1000, id="1000", marks=pytest.mark.soak)])
def test_open_and_close(rabbitmq: RabbitMQ, queue: str, cycles: int) -> None:
    def work() -> None:
        for _ in range(cycles):
            with Transport(rabbitmq.url, name="cycle") as transport:
                transport.publish("body", queue)
                transport.consume(queue, lambda delivery: None)

    work()
    before = settled()
    assert grown(work) < 50_000
    assert settled() == before


@pytest.mark.parametrize("cycles", [pytest.param(5, id="5"), pytest.param(1000, id="1000", marks=pytest.mark.soak)])
def test_reconnect(
    rabbitmq: RabbitMQ, queue: str, cycles: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the pauses that keep links that break at once apart: the many cycles would take an hour."""
    caplog.set_level(logging.CRITICAL, "wsgi_messaging")  # pytest keeps each record
    monkeypatch.setattr(connecting, "STABLE_AFTER", 0.0)
    monkeypatch.setattr(connecting, "FIRST_WITHIN", 0.01)

    def work() -> None:
        for _ in range(cycles):
            link, reconnects = loop._link, loop.reconnects
            assert link is not None
            link.stream.sock.shutdown(socket.SHUT_RDWR)
            wait_until(
                lambda before=reconnects: loop.reconnects > before and loop.state is State.READY,
                10.0,
                "the next link",
                interval=0.002,
            )
            transport.publish("body", queue)
        wait_until(lambda: not _ending(), 10.0, "the journal's end")

    with Transport(rabbitmq.url, name="reconnect") as transport:
        transport.publish("body", queue)
        loop = transport.connections().loop("publish")
        before = descriptors(), threading.active_count()
        assert grown(work) < 50_000
        assert (descriptors(), threading.active_count()) == before
        assert loop.reconnects == 2 * cycles
