"""Fixtures for every test: a real RabbitMQ for the session, and names of one's own."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from tests.harness.rabbitmq import RabbitMQ, script
from tests.harness.requirements import missing
from tests.harness.secret import assert_kept, watch_children

_numbers = itertools.count(1)


def pytest_configure() -> None:
    """A shell starts what it puts into the background with SIGINT ignored, and every child would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """On several processes a file's tests stay together; those of tests/green share servers that idle meanwhile."""
    from xdist.scheduler import LoadScopeScheduling  # only where there are several

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "tests/green" if file.startswith("tests/green/") else file

    config.option.loadscopereorder = False  # the many quick ones of tests/unit come last, and fill up
    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test fails, whatever it is about, when the brokers' password is in a log record or in anything printed."""
    report = yield
    if report.passed:
        try:
            for name, text in report.sections:
                assert_kept(text, f"{name!r} of {item.nodeid}")
        except AssertionError as error:
            report.outcome, report.longrepr = "failed", str(error)
    return report


@pytest.fixture(autouse=True)
def watched_children(monkeypatch: pytest.MonkeyPatch) -> None:
    watch_children(monkeypatch)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A real RabbitMQ on ports of its own, shared by the session. A test that kills it uses `own_rabbitmq`."""
    yield from _started_rabbitmq()


@pytest.fixture
def own_rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ for one test, which may kill, pause and restart it."""
    yield from _started_rabbitmq()


def _started_rabbitmq() -> Iterator[RabbitMQ]:
    if script("rabbitmq-server") is None:
        missing("rabbitmq-server is not installed: apt-get install rabbitmq-server")
    broker = RabbitMQ()
    try:
        yield broker.start()
    finally:
        broker.stop()


@pytest.fixture
def unique() -> Callable[[str], str]:
    """unique("queue") gives a name that no other test of any run uses."""
    return lambda label: f"{label}-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def queue(rabbitmq: RabbitMQ, unique: Callable[[str], str]) -> Iterator[str]:
    """The name of a durable queue that exists on `rabbitmq` for the length of the test."""
    name = unique("test")
    rabbitmq.declare_queue(name)
    yield name
    rabbitmq.delete_queue(name)
