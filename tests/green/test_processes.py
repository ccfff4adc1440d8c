"""In a patched process: the beat does not need the hub, the hub does not need the beat, nothing is lost between them.

Each program is a process of its own (tests/green/scenarios.py). Its frames are timed by the proxy they pass.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.green.conftest import LIBRARIES, PATCHED, Program, Starter, Storms, need_library
from tests.green.scenarios import BLOCKED, EACH, GREENLETS, HELD, RECORDS, ROUNDS
from tests.harness.proxy import UP, FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import wait_until

HEARTBEAT = 2.0
LARGEST_GAP = 1.6 * HEARTBEAT
"""A beat is due after a third of an interval, the broker gives up after two; what is between is for a busy machine."""
PROMPT = 5.0
"""Seconds. What waits in vain does so for its whole timeout, which is 10."""


@pytest.fixture(scope="module")
def blocked(
    rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], tuple[Program, FaultProxy]]]:
    """Every way to patch, all at once: so the ten seconds pass once."""
    rabbitmq.declare_queue("green-blocked")
    folder = tmp_path_factory.mktemp("blocked")
    runs = {}
    for library in LIBRARIES:
        for when in PATCHED:
            proxy = FaultProxy((rabbitmq.host, rabbitmq.amqp_port))
            url = proxy.url()
            runs[library, when] = (Program("blocked", library, url, "green-blocked", folder, when=when), proxy)
    yield runs
    for program, proxy in runs.values():
        program.stop()
        proxy.close()
    rabbitmq.delete_queue("green-blocked")


@pytest.mark.parametrize("when", PATCHED)
def test_beats_while_the_hub_is_blocked(
    library: str, when: str, blocked: dict[tuple[str, str], tuple[Program, FaultProxy]]
) -> None:
    """Fails with a heartbeat on a `threading.Thread`, or on a greenlet: neither runs while the hub does not."""
    program, proxy = blocked[library, when]
    report = program.report(BLOCKED + 30.0)
    assert report["threads"] == 1, "exactly one thread of the operating system, beside the application's"
    assert report["confirmed"] == 100 + (when == "used")
    assert report["reconnects"] == 0
    [pair] = proxy.pairs
    assert pair.traffic[UP].largest_gap() <= LARGEST_GAP
    assert pair.traffic[UP].heartbeats >= BLOCKED / HEARTBEAT
    assert report["lateness"] <= LARGEST_GAP - HEARTBEAT / 3
    assert report["next_publish"] < PROMPT


@pytest.mark.parametrize("when", PATCHED)
def test_state_changes_are_logged_by_the_application(
    library: str, when: str, start: Starter, proxy: FaultProxy
) -> None:
    program = start("state_changes", library, proxy.url(), when=when)
    program.await_file("ready")
    # A connection that lived for less than a second is taken for one that flaps, of which less is said.
    wait_until(lambda: time.monotonic() - proxy.pairs[-1].opened_at > 1.2, what="the connection to be an old one")
    proxy.cut()
    program.tell("lost")
    report = program.report()
    assert report["took"] < PROMPT, report["lines"]
    assert [line for line in report["lines"] if "lost" in line], report["lines"]
    # A writer that began before the patch is a thread, and may go on as one.
    assert report["on_other_threads"] <= (when == "used")


def test_records_of_a_native_thread_come_in_order(library: str, start: Starter, rabbitmq: RabbitMQ) -> None:
    report = start("records", library, rabbitmq.url).report()
    assert report == {"in_order": True, "lines": 4 * RECORDS, "on_other_threads": 0, "ended": True}


def test_a_handler_that_waits_stops_no_beat(start: Starter, rabbitmq: RabbitMQ) -> None:
    """The handler holds its green lock for more than two intervals, and publishes through what it was told about."""
    with ExitStack() as stack:
        runs = []
        for library in LIBRARIES:
            proxy = stack.enter_context(FaultProxy((rabbitmq.host, rabbitmq.amqp_port)))
            runs.append((start("slow_handler", need_library(library), proxy.url(), heartbeat=HEARTBEAT), proxy))
        for program, proxy in runs:
            program.await_file("ready")
            proxy.cut()
            program.tell("lost")
        for program, proxy in runs:
            report = program.report()
            assert report["took"] < PROMPT
            assert report["published_before"] == 0, "the handler was holding its lock"
            assert report["published"] >= 2
            _first, second = proxy.pairs
            assert second.traffic[UP].largest_gap() <= LARGEST_GAP < HELD


def test_a_handler_that_publishes_may_warn_of_the_first_use(library: str, start: Starter, rabbitmq: RabbitMQ) -> None:
    """Fails where a transport is made anew by the publish of the line that is written while it is made."""
    report = start("publishing_handler", library, rabbitmq.url).report()
    assert report["took"] < PROMPT
    assert 1 <= report["published"] <= 3


def test_callbacks_are_greenlets(library: str, start: Starter, rabbitmq: RabbitMQ) -> None:
    report = start("callbacks", library, rabbitmq.url).report()
    expected = {"bodies": 40, "on_other_threads": 0, "failed": 0, "cancelled": True, "closed": True, "threads": 0}
    assert report == expected


@pytest.fixture(scope="module")
def rounds(
    rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory, storms: Storms | None
) -> Iterator[dict[str, Program]]:
    """The same load from threads and from greenlets, in turns: what else the machine does falls on all of them."""
    if storms is not None:
        storms.await_end()
    rabbitmq.declare_queue("green-rounds", **{"x-max-length": 1})
    folder = tmp_path_factory.mktemp("rounds")
    programs = {
        name: Program("throughput", need_library(name), rabbitmq.url, "green-rounds", folder)
        for name in ("threads", *LIBRARIES)
    }
    try:
        for number in range(ROUNDS):
            for program in programs.values():
                program.tell(f"go-{number}")
                program.await_file(f"done-{number}", 60.0)
        yield programs
    finally:
        for program in programs.values():
            program.stop()
        rabbitmq.delete_queue("green-rounds")


def test_a_ticker_beside_two_hundred_publishers(library: str, rounds: dict[str, Program]) -> None:
    report = rounds[library].report()
    assert report["confirmed"] == 1 + ROUNDS * GREENLETS * EACH
    assert report["reconnects"] == 0
    # The median: one round may share its core with something else.
    assert statistics.median(report["held_up"]) <= 0.2, report["held_up"]
    threads = rounds["threads"].report()
    assert max(report["rates"]) >= max(threads["rates"]) / 4, (report["rates"], threads["rates"])
