"""Runs a workload: its peers in processes of their own, taking turns, in reversed order every round."""

from __future__ import annotations

import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.plan import Figures, Plan
from benchmarks.stage import Stage
from benchmarks.workloads import Contestant, Workload

ROOT = Path(__file__).resolve().parents[1]
ANSWER_WITHIN = 90.0
"""Seconds that a peer has beyond its round before it counts as stuck."""


class PeerFailed(Exception):
    """A peer did not do its part; the text says what it said."""


class Unavailable(Exception):
    """A peer that is not installed, or does not offer this."""


class Child:
    """One measured process."""

    def __init__(self, plan: Plan, errors: Path) -> None:
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._errors = errors / f"{plan.queue}-{plan.action}.log"
        with self._errors.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.child", plan.to_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=environ,
            )
        self.pid = self._process.pid
        self._pending = b""

    def await_ready(self) -> None:
        """Raises: `Unavailable`, `PeerFailed`."""
        answer = self.answer(ANSWER_WITHIN)
        if "unavailable" in answer:
            raise Unavailable(str(answer["unavailable"]))

    def begin(self, seconds: float) -> None:
        """Start a round."""
        if self._process.stdin is not None:
            self._process.stdin.write(f"run {seconds}\n".encode())
            self._process.stdin.flush()

    def answer(self, timeout: float) -> Figures:
        """The next line. Raises: `PeerFailed` when it is late, an error, or the process has ended."""
        figures = json.loads(self._line(time.monotonic() + timeout))
        if "failed" in figures:
            raise PeerFailed(str(figures["failed"]))
        return dict(figures)

    def _line(self, deadline: float) -> bytes:
        pipe = self._process.stdout
        while b"\n" not in self._pending:
            if pipe is None or not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise PeerFailed("no answer in time")
            more = os.read(pipe.fileno(), 65536)
            if not more:
                status = self._process.wait()
                raise PeerFailed(f"the process ended with status {status}: {self._last_words()}")
            self._pending += more
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _last_words(self) -> str:
        lines = self._errors.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "not a word"

    def stop(self) -> None:
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.write(b"exit\n")
                self._process.stdin.close()
        try:
            self._process.wait(3.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@dataclass
class Outcome:
    """What a workload gave: for each contestant its rounds, or why there are none."""

    workload: Workload
    rounds: dict[str, list[Figures]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    machine: dict[str, float] = field(default_factory=dict)
    """What the machine gave meanwhile (machine.py)."""

    def median(self, label: str, figure: str) -> float | None:
        values = [each[figure] for each in self.rounds.get(label, []) if figure in each]
        return statistics.median(values) if values else None

    def ratios(self, label: str, against: str, figure: str) -> list[float]:
        """`label`'s figure over that of `against`, round by round."""
        pairs = zip(self.rounds.get(label, []), self.rounds.get(against, []), strict=False)
        return [
            mine[figure] / theirs[figure] for mine, theirs in pairs if figure in mine and theirs.get(figure, 0.0) > 0
        ]


def cpu_seconds_of(pid: int) -> float:
    """Processor time of another process so far: its CPU clock where there is one, /proc/PID/stat otherwise."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3): the Linux encoding
    except OSError:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Turn:
    """A contestant's process, its server's, and how to run a round of it."""

    def __init__(self, contestant: Contestant, workload: Workload, stage: Stage, stack: ExitStack) -> None:
        self.label = contestant.label
        self._workload = workload
        self._stage = stage
        queue = stage.queue(workload, contestant)
        options = {**workload.options, **contestant.options}
        self._ways = stage.ways(workload)
        plan = Plan(contestant.peer, workload.action, self._ways.ports, queue, **options)
        self._queue = queue
        self._server: Child | None = None
        if contestant.server is not None:
            server = replace(plan, peer=contestant.server, action="serve", callers=1)
            self._server = Child(server, stage.folder)
            stack.callback(self._server.stop)
            self._server.await_ready()
        self._child = Child(plan, stage.folder)
        stack.callback(self._child.stop)

    def await_ready(self) -> None:
        self._child.await_ready()

    def run(self, seconds: float) -> Figures:
        """One round. Raises: `PeerFailed`."""
        counted = {"broker_us": self._stage.broker.pid, "server_us": self._server.pid if self._server else None}
        before = {name: cpu_seconds_of(pid) for name, pid in counted.items() if pid}
        self._child.begin(seconds)
        if self._workload.fault is not None:
            time.sleep(seconds / 4)
            self._ways.disturb(self._workload.fault)
        figures = dict(self._child.answer(seconds + ANSWER_WITHIN))
        if "rate" in figures and figures["operations"]:
            for name, since in before.items():
                used = cpu_seconds_of(counted[name] or 0) - since
                figures[name] = used / figures["operations"] * 1e6
        if self._workload.fault is not None:
            self._ways.heal()
        self._stage.purge(self._queue)
        return figures


def run(
    workload: Workload, stage: Stage, *, rounds: int, seconds: float, labels: Sequence[str], say: Callable[[str], None]
) -> Outcome:
    """All rounds of a workload among `labels`. A peer that fails is left out from there on, and named."""
    outcome = Outcome(workload)
    contestants = [each for each in workload.contestants if each.label in labels]
    with ExitStack() as stack:
        turns = []
        for contestant in contestants:
            try:
                turns.append(Turn(contestant, workload, stage, stack))
            except (Unavailable, PeerFailed) as exc:
                outcome.missing[contestant.label] = str(exc)
        turns = [turn for turn in turns if _is_ready(turn, outcome)]
        if workload.fault is None and workload.figure in ("rate", "p50_us"):
            for turn in list(turns):
                _take(turn, min(seconds, 0.3), turns, outcome, is_warm_up=True)
        for number in range(min(rounds, workload.rounds or rounds)):
            for turn in list(turns if number % 2 == 0 else reversed(turns)):
                say(f"{workload.name} round {number + 1} {turn.label}")
                _take(turn, workload.seconds or seconds, turns, outcome)
    return outcome


def _is_ready(turn: Turn, outcome: Outcome) -> bool:
    try:
        turn.await_ready()
    except (Unavailable, PeerFailed) as exc:
        outcome.missing[turn.label] = str(exc)
        return False
    return True


def _take(turn: Turn, seconds: float, turns: list[Turn], outcome: Outcome, is_warm_up: bool = False) -> None:
    try:
        figures = turn.run(seconds)
    except PeerFailed as exc:
        outcome.missing[turn.label] = str(exc)
        turns.remove(turn)
        return
    if not is_warm_up:
        outcome.rounds.setdefault(turn.label, []).append(figures)
