"""The regression gate: what a publish and a call cost, counted and not timed, so that it holds on a busy machine, too.

Each bound is what was counted when it was set, and some 15 % more. A change that goes beyond one says why in its
commit, and moves the bound; a change that saves something moves it down.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from kombu.entity import Queue

from tests.gate.counted import QUEUE
from tests.harness.processes import ROOT
from tests.harness.requirements import missing
from tests.harness.secret import dev_broker
from wsgi_messaging import Transport

OPERATIONS = {"publish": 400, "publish_many": 2000, "call": 200}
ATTEMPTS = 3
FUTEX = "futex"
"""Left out of the sum: its number hangs on who happens to hold the interpreter."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A broker with the gate's queue, in this process: the counted one has nothing of it."""
    with dev_broker() as broker:
        with Transport(broker.url) as transport:
            transport.declare(Queue(QUEUE, durable=True, queue_arguments={"x-max-length": 10}))
        yield broker.url


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tests.gate.counted", *words]


def counted(count: str, work: str, url: str, bounds: Mapping[str, float]) -> dict[str, float]:
    """The figures of the counting process; of three attempts the first that is within the bounds, else the last.

    On a busy machine a batch goes out in more pieces, and every piece is a turn of the loop: the fewest count.
    """
    words = command(count, work, url, str(OPERATIONS[work]))
    found: dict[str, float] = {}
    for _attempt in range(ATTEMPTS):
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        if all(found[name] <= bound for name, bound in bounds.items()):
            break
    return found


@pytest.mark.parametrize(
    ("work", "python", "c"),
    [
        ("publish", 127, 103),
        ("publish_many", 38, 45),
        ("call", 385, 370),  # both sides: client and server
    ],
)
def test_function_calls_of_an_operation(url: str, work: str, python: int, c: int) -> None:
    """Fails when a layer is added to the way of a message. Python and C functions entered, on all threads."""
    bounds = {"python": python, "c": c}
    found = counted("calls", work, url, bounds)
    assert {name: found[name] for name in bounds if found[name] > bounds[name]} == {}


@pytest.mark.parametrize(
    ("work", "left", "peak"),
    [
        ("publish", 0.1, 60),
        ("publish_many", 0.1, 3600),  # the peak holds the whole batch: bytes for a message in flight of 1 KiB
        # The server keeps the ids of 10,000 requests; both sides keep what was sent until they asked about it.
        ("call", 4.0, 1500),
    ],
)
def test_memory_of_an_operation(url: str, work: str, left: float, peak: int) -> None:
    """Fails when something is kept for a message after its confirm, or much more of it while it waits; and when it
    leaves a cycle behind, which the garbage collector has to find."""
    bounds = {"blocks_left": left, "garbage": 0.2, "peak_bytes": peak}
    found = counted("memory", work, url, bounds)
    assert {name: found[name] for name in bounds if found[name] > bounds[name]} == {}


@pytest.mark.parametrize(("work", "bound"), [("publish", 6.9), ("publish_many", 0.3), ("call", 14.0)])
def test_system_calls_of_an_operation(url: str, work: str, bound: float, tmp_path: Path) -> None:
    """Fails when a turn of the loop does more than it needs: a read of nothing, a wake-up of somebody awake."""
    if shutil.which("strace") is None:
        missing("strace is not installed: apt-get install strace")
    operations = OPERATIONS[work]
    each: dict[str, float] = {}
    for _attempt in range(ATTEMPTS):
        more = system_calls(work, url, operations + 100, tmp_path) - system_calls(work, url, 100, tmp_path)
        each = {name: number / operations for name, number in more.items()}
        if sum(each.values()) <= bound:
            break
    assert sum(each.values()) <= bound, each


def system_calls(work: str, url: str, operations: int, folder: Path) -> Counter[str]:
    """How often the whole process entered the kernel for what, all threads of it; waits for a lock left out."""
    table = folder / "strace"
    words = ["strace", "-f", "-qq", "-c", "-o", str(table), *command("plain", work, url, str(operations))]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100)
    if "ptrace" in done.stderr:
        missing(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    found: Counter[str] = Counter()
    for line in table.read_text().splitlines():
        columns = line.split()
        # "% time", seconds, usecs/call, calls, sometimes errors, the name.
        if len(columns) >= 5 and columns[3].isdigit() and columns[-1] not in ("total", FUTEX):
            found[columns[-1]] = int(columns[3])
    return found
