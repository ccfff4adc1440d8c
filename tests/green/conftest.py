"""Programs in processes of their own, their connections through a proxy that notes the time of each frame."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.green.fleet import Fleet
from tests.harness.processes import environment, spawn, stop
from tests.harness.proxy import FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.harness.secret import assert_kept
from tests.harness.waiting import wait_until

LIBRARIES = ("gevent", "eventlet")
PATCHED = ("before", "after", "used")


class Program:
    """One run of tests/green/program.py."""

    def __init__(
        self,
        scenario: str,
        library: str,
        url: str,
        queue: str,
        folder: Path,
        *,
        module: str = "scenarios",
        when: str = "before",
        heartbeat: float = 2.0,
        **env: str,
    ) -> None:
        self.name = f"{scenario} under {library}, patched {when}"
        self._folder = folder / f"{module}-{scenario}-{library}-{when}"
        self._folder.mkdir()
        self._output = self._folder / "output"
        command = [sys.executable, "-m", "tests.green.program", module, scenario, library, when]
        with self._output.open("wb") as output:
            self._process: subprocess.Popen[bytes] = spawn(
                [*command, url, queue, f"{heartbeat:g}"],
                env=environment(GREEN_FOLDER=str(self._folder), PYTHONWARNINGS="ignore", **env),
                output=output,
            )

    @property
    def text(self) -> str:
        """All that it has written."""
        return self._output.read_text()

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def tell(self, name: str) -> None:
        (self._folder / name).touch()

    def await_file(self, name: str, within: float = 60.0) -> None:
        def told() -> bool:
            assert not self.is_over, f"{self.name} ended:\n{self.text}"
            return (self._folder / name).exists()

        wait_until(told, within, f"{name!r} of {self.name}")

    def stop(self) -> None:
        stop(self._process)

    def reports(self, within: float = 60.0) -> list[dict[str, Any]]:
        """Blocks: until it has ended, which must be well."""
        try:
            wait_until(lambda: self.is_over, within, f"the end of {self.name}; so far:\n{self.text}")
        finally:
            self.stop()
        assert self._process.returncode == 0, f"{self.name}:\n{self.text}"
        assert "Traceback" not in self.text, f"{self.name}:\n{self.text}"
        assert_kept(self.text, f"the output of {self.name}")
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]

    def report(self, within: float = 60.0) -> dict[str, Any]:
        """What the scenario returned. Blocks: until the program has ended."""
        [report] = self.reports(within)
        return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that measure time come first, while the servers idle; then those beside which they may compute."""
    order = ["test_processes", "test_mixed", "test_servers", "test_stress"]
    here = Path(__file__).parent
    places = [place for place, item in enumerate(items) if item.path.parent == here]
    mine = sorted((items[place] for place in places), key=lambda item: order.index(item.path.stem))
    for place, item in zip(places, mine, strict=True):
        items[place] = item


Starter = Callable[..., Program]


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    """gevent, then eventlet."""
    return need_library(request.param)


def need_library(library: str) -> str:
    if library in LIBRARIES and importlib.util.find_spec(library) is None:
        missing(f"{library} is not installed: make test, or pip install {library}")
    return library


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[FaultProxy]:
    """Forwards to `rabbitmq`."""
    with FaultProxy((rabbitmq.host, rabbitmq.amqp_port)) as fault_proxy:
        yield fault_proxy


@pytest.fixture
def start(tmp_path: Path, queue: str) -> Iterator[Starter]:
    """start(scenario, library, url, **options) gives the running `Program`."""
    programs: list[Program] = []

    def start_one(scenario: str, library: str, url: str, **options: Any) -> Program:
        programs.append(Program(scenario, library, url, queue, tmp_path, **options))
        return programs[-1]

    yield start_one
    for program in programs:
        program.stop()


@pytest.fixture(scope="session", autouse=True)
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet | None]:
    """The servers that the selected tests ask for, launched now: they idle while the other tests run."""
    names = [item.callspec.params.get("ship_name") for item in request.session.items if hasattr(item, "callspec")]
    wanted = sorted({name for name in names if name is not None})
    if not wanted:
        yield None
        return
    started = Fleet(request.getfixturevalue("rabbitmq"), wanted)
    try:
        started.launch()
        yield started
    finally:
        started.sink()


class Storms:
    """tests/green/stress.py under both libraries at the same time."""

    def __init__(self, rabbitmq: RabbitMQ, folder: Path, seconds: float) -> None:
        self.seconds = seconds
        self._rabbitmq = rabbitmq
        self._programs: dict[str, Program] = {}
        for library in LIBRARIES:
            queue = f"green-storm-{library}"
            rabbitmq.declare_queue(queue, **{"x-max-length": 1})
            rabbitmq.declare_queue(f"{queue}-idle")
            self._programs[library] = Program(
                "storm",
                library,
                rabbitmq.url,
                queue,
                folder,
                module="stress",
                heartbeat=1.0,
                GREEN_SECONDS=f"{seconds}",
            )

    def report(self, library: str) -> dict[str, Any]:
        need_library(library)
        return self._programs[library].report(self.seconds + 60.0)

    def await_end(self) -> None:
        """Blocks: until the machine is quiet again."""
        everyone = self._programs.values()
        wait_until(lambda: all(program.is_over for program in everyone), self.seconds + 60.0, "the end of the storms")

    def stop(self) -> None:
        for library, program in self._programs.items():
            program.stop()
            self._rabbitmq.delete_queue(f"green-storm-{library}")
            self._rabbitmq.delete_queue(f"green-storm-{library}-idle")


@pytest.fixture
def make_storms(rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[Callable[[float], Storms]]:
    """make_storms(seconds) starts them."""
    made: list[Storms] = []

    def make(seconds: float) -> Storms:
        made.append(Storms(rabbitmq, tmp_path, seconds))
        return made[-1]

    yield make
    for storms in made:
        storms.stop()


@pytest.fixture(scope="session", autouse=True)
def storms(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storms | None]:
    """Half a minute of it, begun now when a selected test asks for its outcome: other tests run meanwhile."""
    if not any(item.name.startswith("test_no_stall_in_half") for item in request.session.items):
        yield None
        return
    rabbitmq = request.getfixturevalue("rabbitmq")
    running = Storms(rabbitmq, tmp_path_factory.mktemp("storms"), 30.0)
    yield running
    running.stop()
