"""How a workload's callers are driven for some seconds: threads (greenlets in a patched process) or asyncio tasks."""

from __future__ import annotations

import asyncio
import resource
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from benchmarks.plan import Figures

Operation = Callable[[], object]


class Session(Protocol):
    """A peer, connected and ready."""

    def run(self, seconds: float) -> Figures:
        """Work for about so long; the figures of that time."""


def cpu_seconds() -> float:
    """Processor time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of a sorted sequence lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def figures(operations: int, seconds: float, cpu: float, latencies: Sequence[float]) -> Figures:
    """What every driven session reports."""
    found = {
        "operations": operations,
        "rate": operations / seconds,
        "client_us": cpu / max(1, operations) * 1e6,
    }
    if latencies:
        ordered = sorted(latencies)
        found |= {"p50_us": quantile(ordered, 0.5) * 1e6, "p99_us": quantile(ordered, 0.99) * 1e6}
    return found


class Callers:
    """One thread for each operation, calling it again and again; `batch` messages go with each call."""

    def __init__(self, operations: Sequence[Operation], *, batch: int = 1, burners: int = 0) -> None:
        self._operations = operations
        self._batch = batch
        self._burners = burners

    def run(self, seconds: float) -> Figures:
        latencies: list[list[float]] = [[] for _ in self._operations]
        failures: list[BaseException] = []
        go, over = threading.Event(), threading.Event()

        def work(operation: Operation, taken: list[float]) -> None:
            go.wait()
            clock = time.perf_counter
            before = clock()
            until = before + seconds
            try:
                while before < until:
                    operation()
                    after = clock()
                    taken.append(after - before)
                    before = after
            except Exception as exc:  # noqa: BLE001  (told to the runner, which names the peer)
                failures.append(exc)

        threads = [
            threading.Thread(target=work, args=pair, daemon=True)
            for pair in zip(self._operations, latencies, strict=True)
        ]
        threads += [threading.Thread(target=_compute, args=(over,), daemon=True) for _ in range(self._burners)]
        for thread in threads:
            thread.start()
        cpu, begun = cpu_seconds(), time.perf_counter()
        go.set()
        for thread in threads[: len(self._operations)]:
            thread.join()
        elapsed, cpu = time.perf_counter() - begun, cpu_seconds() - cpu
        over.set()
        if failures:
            raise failures[0]
        flat = [taken for each in latencies for taken in each]
        return figures(len(flat) * self._batch, elapsed, cpu, flat)


def _compute(over: threading.Event) -> None:
    """Pure Python that never lets go of the interpreter by itself."""
    total = 0
    while not over.is_set():
        for number in range(20000):
            total += number * number


class Tasks:
    """One asyncio task for each caller, on one loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, operation: Callable[[], Awaitable[object]], callers: int
    ) -> None:
        self._loop = loop
        self._operation = operation
        self._callers = callers

    def run(self, seconds: float) -> Figures:
        latencies: list[float] = []

        async def work(until: float) -> None:
            clock = time.perf_counter
            before = clock()
            while before < until:
                await self._operation()
                after = clock()
                latencies.append(after - before)
                before = after

        async def everything() -> None:
            until = time.perf_counter() + seconds
            await asyncio.gather(*(work(until) for _ in range(self._callers)))

        cpu, begun = cpu_seconds(), time.perf_counter()
        self._loop.run_until_complete(everything())
        return figures(len(latencies), time.perf_counter() - begun, cpu_seconds() - cpu, latencies)
