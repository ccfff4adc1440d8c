"""Threads and greenlets mixed: no deadlock, no lost wake-up, nothing left pending (tests/green/mixing.py)."""

from __future__ import annotations

import time

import pytest

from tests.green.conftest import Starter
from tests.green.fleet import Fleet
from tests.harness.proxy import FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import wait_until

NOTHING = {"in_flight": 0, "queued": 0, "entries": 0, "waiters": 0}
PROMPT = 10.0
"""Seconds. A wake-up that is lost shows as a publish that takes its whole timeout, which is 20."""


@pytest.fixture(scope="module", autouse=True)
def busy_servers(fleet: Fleet | None) -> None:
    """Nothing here measures time finely, so the servers of test_servers.py may have the machine."""
    if fleet is not None:
        fleet.may_be_busy()


def test_publish_from_native_threads(library: str, start: Starter, rabbitmq: RabbitMQ) -> None:
    report = start("native_thread", library, rabbitmq.url, module="mixing").report()
    assert report["errors"] == []
    assert report["confirmed"] == 4 * 50 + 20 * 20
    assert report["slowest"] < PROMPT
    assert report["left"] == NOTHING
    assert report["ended"]


def test_first_use_on_a_native_thread(library: str, start: Starter, proxy: FaultProxy) -> None:
    program = start("first_use_on_a_native_thread", library, proxy.url(), module="mixing")
    program.await_file("ready")
    proxy.cut()
    program.tell("lost")
    report = program.report()
    assert report["errors"] == []
    assert report["confirmed"] == 1 + 50
    assert report["slowest"] < PROMPT
    assert report["left"] == NOTHING
    assert report["ended"]
    assert [line for line in report["lines"] if "lost" in line], "the lines of the connection are written"


def test_first_use_on_native_threads_while_greenlets_hold_the_log(
    library: str, start: Starter, rabbitmq: RabbitMQ
) -> None:
    report = start("contended_log", library, rabbitmq.url, module="mixing").report()
    assert report["errors"] == []
    assert report["confirmed"] == 3
    assert report["slowest"] < PROMPT
    assert report["closed"] == [True] * 3
    assert report["warned"] == 3


def test_publish_from_the_hub_itself(library: str, start: Starter, rabbitmq: RabbitMQ) -> None:
    report = start("hub", library, rabbitmq.url, module="mixing").report()
    assert report["errors"] == []
    assert report["confirmed"] == 10 + 10 * 20
    assert report["slowest"] < PROMPT
    assert report["left"] == NOTHING


def test_first_use_in_the_hub_itself(library: str, start: Starter, rabbitmq: RabbitMQ) -> None:
    """Fails where something of the first use waits for a greenlet."""
    report = start("first_use_in_the_hub", library, rabbitmq.url, module="mixing").report()
    assert report["errors"] == []
    assert report["confirmed"] == 1
    assert report["slowest"] < PROMPT
    assert report["left"] == NOTHING


def test_publish_from_a_pool_of_threads(library: str, start: Starter, rabbitmq: RabbitMQ) -> None:
    report = start("pool", library, rabbitmq.url, module="mixing").report()
    assert report["errors"] == []
    assert report["confirmed"] == 20 * 20
    assert report["slowest"] < PROMPT
    assert report["left"] == NOTHING


def test_notify_first_from_a_pool_of_threads(library: str, start: Starter, rabbitmq: RabbitMQ) -> None:
    """No greenlet that was started there would ever run."""
    report = start("notified_from_a_pool", library, rabbitmq.url, module="mixing").report()
    assert report == {"flushed": True, "closed": True, "sent": [2, 1]}


def test_publish_from_a_signal_handler_amid_publishes(library: str, start: Starter, rabbitmq: RabbitMQ) -> None:
    report = start("signal_handler", library, rabbitmq.url, module="mixing").report()
    handled = report["handled"]
    assert report["errors"] == handled["errors"] == []
    assert report["confirmed"] > 200
    assert handled["confirmed"] > 20
    assert max(report["slowest"], handled["slowest"]) < PROMPT
    assert handled["left"] == NOTHING


def test_killed_in_mid_wait(library: str, start: Starter, proxy: FaultProxy) -> None:
    program = start("killed", library, proxy.url(), module="mixing", heartbeat=20.0)
    program.await_file("ready")
    proxy.freeze()
    program.tell("frozen")
    program.await_file("killed")
    proxy.heal()
    program.tell("healed")
    report = program.report()
    assert report["all_ended"], report["ended"]
    assert (report["waiting"], report["still_waiting"]) == (3, 0), "a waiter that was killed takes itself off"
    assert report["errors"] == []
    assert report["slowest"] < PROMPT
    assert report["left"] == NOTHING
    assert report["consumers"] == 0, "a consumer whose call was killed is not left behind"


def test_no_timeout_and_no_kill_ends_a_consumer_or_a_server(library: str, start: Starter, rabbitmq: RabbitMQ) -> None:
    """The one is a failure of the callback or the method; where the other ends a greenlet, another takes its place."""
    report = start("ended", library, rabbitmq.url, module="mixing").report()
    assert report["handled"] == [True, True]
    assert report["calls"] == ["Timeout", "GreenletExit", "served", "served"]
    assert (report["failed"], report["workers"]) == (4, 1)
    assert report["ended"] == [True, True, True]


def test_killed_in_the_first_use(library: str, start: Starter, rabbitmq: RabbitMQ) -> None:
    report = start("killed_at_first_use", library, rabbitmq.url, module="mixing").report()
    assert report["errors"] == []
    assert report["slowest"] < PROMPT
    assert report["left"] == NOTHING


def test_publish_from_exit_handlers(library: str, start: Starter, rabbitmq: RabbitMQ, queue: str) -> None:
    began_at = time.monotonic()
    reports = start("at_exit", library, rabbitmq.url, module="mixing").reports()
    assert reports == [{"exiting": True}, {"confirmed": True}, {"closed": True}]
    assert time.monotonic() - began_at < 15.0, "no publish waited for its timeout"
    wait_until(lambda: not rabbitmq.connections(f"{library}-at_exit:"), what="the end of the connection")
    bodies = [message["payload"] for message in rabbitmq.messages(queue)]
    assert bodies == ["warm", "at exit", "at exit, by a greenlet"]
