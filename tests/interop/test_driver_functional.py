"""oslo.messaging's own functional tests, on its rabbit driver and on ours, side by side: ours must do as well.

The tests are those of its package, unchanged; each run has a virtual host of its own, because their topics have fixed
names. Two of them pass themselves over unless the URL begins with rabbit://;
for those our driver is bound to that name. What both drivers fail, or skip, is no difference.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness import processes
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.interop.peer import interpreter

RUNNER = Path(__file__).with_name("functional_runner.py")
FUNCTIONAL = "oslo_messaging.tests.functional.test_functional"
LOGGER = "oslo_messaging.tests.functional.notify.test_logger"
QUICK = "test_exception,endpoint_version,bad_endpoint,CastTestCase,test_all_categories,test_compression"
ONLY_RABBIT = "test_mandatory_call,test_monitor_long_call"
SLOWER_AT_MOST = 20.0
"""Seconds that a test may take longer than on the rabbit driver: a hang that ends by a timeout is none that passes."""
PER_TEST = "60"
"""Seconds that oslotest gives each test."""


@dataclass(frozen=True)
class Outcome:
    """What became of one test."""

    name: str
    outcome: str
    seconds: float
    detail: str


class Running:
    """One run, in a process of its own. It writes to files: a pipe that nobody reads would stop it when full."""

    def __init__(self, url: str, *arguments: str) -> None:
        bin_dir = Path(interpreter()).parent
        self._output, self._errors = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115  (until it ends)
        self._process = subprocess.Popen(
            [interpreter(), "-W", "ignore", str(RUNNER), *arguments],
            env=processes.environment(
                PYTHONPATH=None,
                PATH=f"{bin_dir}{os.pathsep}{os.environ['PATH']}",  # a test starts `python3 -m oslo_metrics`
                RPC_TRANSPORT_URL=url,
                NOTIFY_TRANSPORT_URL=url,
                OS_TEST_TIMEOUT=PER_TEST,
            ),
            stdout=self._output,
            stderr=self._errors,
        )

    def outcomes(self, timeout: float) -> dict[str, Outcome]:
        """By name. Other lines are from processes that the tests start."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as exc:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"not over after {timeout:g} s; so far: {self._written()}") from exc
        output, errors = self._written()
        if self._process.returncode and "ModuleNotFoundError" in errors:
            missing("oslo.messaging's functional tests need oslotest, testscenarios, testtools: make environments")
        assert self._process.returncode == 0, errors[-3000:]
        if "Timeout (" in errors:  # faulthandler's word
            print(errors[errors.index("Timeout (") :][:6000])
        found = [Outcome(*json.loads(line)) for line in output.splitlines() if line.startswith('["')]
        return {each.name: each for each in found}

    def _written(self) -> tuple[str, str]:
        texts = []
        for file in (self._output, self._errors):
            with file:
                file.seek(0)
                texts.append(file.read())
        return texts[0], texts[1]


def own_url(rabbitmq: RabbitMQ, driver: str, label: str) -> str:
    """The URL of an empty virtual host."""
    virtual_host = f"functional-{label}"
    with suppress(OSError):  # there is none yet
        rabbitmq.api(f"vhosts/{virtual_host}", "DELETE")
    rabbitmq.api(f"vhosts/{virtual_host}", "PUT", {})
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    rabbitmq.api(f"permissions/{virtual_host}/{rabbitmq.user}", "PUT", everything)
    return f"{driver}://{rabbitmq.user}:{rabbitmq.password}@{rabbitmq.host}:{rabbitmq.amqp_port}/{virtual_host}"


def compared(rabbitmq: RabbitMQ, timeout: float, *tests: str) -> tuple[dict[str, Outcome], list[Any]]:
    """Ours, and what it does worse than the rabbit driver; both run at the same time."""
    theirs_running = Running(own_url(rabbitmq, "rabbit", "theirs"), *tests)
    ours_running = Running(own_url(rabbitmq, "wsgi+rabbit", "ours"), *tests)
    theirs, ours = theirs_running.outcomes(timeout), ours_running.outcomes(timeout)
    assert theirs.keys() == ours.keys()
    assert any(each.outcome == "passed" for each in theirs.values())
    print_table(theirs, ours)
    worse = [ours[name] for name in ours if is_worse(ours[name], theirs[name])]
    return ours, worse


def is_worse(ours: Outcome, theirs: Outcome) -> bool:
    is_slow = ours.seconds > theirs.seconds + SLOWER_AT_MOST
    return theirs.outcome == "passed" and (ours.outcome != "passed" or is_slow)


def print_table(theirs: dict[str, Outcome], ours: dict[str, Outcome]) -> None:
    for name in theirs:
        columns = [f"{each.outcome} {each.seconds:6.2f} s" for each in (theirs[name], ours[name])]
        print(f"{name:90} rabbit {columns[0]:20} wsgi+rabbit {columns[1]}")


def test_those_that_are_quick(rabbitmq: RabbitMQ) -> None:
    ours, worse = compared(rabbitmq, 100.0, f"{FUNCTIONAL}:{QUICK}")
    assert worse == []
    assert len(ours) == 8


def test_those_for_rabbit_alone_with_ours_under_its_name(rabbitmq: RabbitMQ) -> None:
    url = own_url(rabbitmq, "rabbit", "ours")
    ours = Running(url, "--as-rabbit", f"{FUNCTIONAL}:{ONLY_RABBIT}").outcomes(60.0)
    assert [each.outcome for each in ours.values()] == ["passed", "passed"], ours


@pytest.mark.soak
def test_all_of_them(rabbitmq: RabbitMQ) -> None:
    _ours, worse = compared(rabbitmq, 600.0, FUNCTIONAL)
    assert sorted(each.name.rpartition(".")[2] for each in worse) == sorted(ONLY_RABBIT.split(",")), worse
    assert {each.outcome for each in worse} == {"skipped"}


@pytest.mark.soak
def test_the_logging_handler(rabbitmq: RabbitMQ) -> None:
    ours, worse = compared(rabbitmq, 600.0, LOGGER)
    assert worse == []
    assert len(ours) == 10
