"""`python -m benchmarks.storm [--workers N]`: who comes back when, after brokers were lost; in virtual time.

The model, and whose back-off it is, are in benchmarks/storm_model.py.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.storm_model import CONTESTANTS, OURS, SCENARIOS, WINDOW, Model, Storm, simulate

PARTS = (0.5, 0.95, 1.0)
HEADINGS = (
    "scenario",
    "schedule",
    "attempts",
    "in 100 ms",
    "in 1 s",
    "in vain",
    "50 % back",
    "95 % back",
    "100 % back",
)
COLOURS = ("tab:orange", "tab:green", "tab:red", "tab:blue")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__)
    model = Model()
    made.add_argument("--workers", type=int, default=model.workers, help="how many (%(default)s)")
    made.add_argument("--connections", type=int, default=model.connections, help="of each worker (%(default)s)")
    made.add_argument("--rate", type=float, default=model.rate, help="handshakes a second of a node (%(default)g)")
    made.add_argument("--backlog", type=int, default=model.backlog, help="connections that wait for it (%(default)s)")
    made.add_argument("--seed", type=int, default=model.seed, help="of chance (%(default)s)")
    made.add_argument(
        "--output", type=Path, metavar="DIR", help="write storm.txt, storm.json and, with matplotlib, .png"
    )
    return made


def cells(storm: Storm) -> list[str]:
    """One line of the table."""
    times = (storm.back_after(part) for part in PARTS)
    return [
        storm.scenario.name,
        storm.schedule,
        f"{len(storm.attempts):,}",
        f"{storm.busiest_share:.1%}".replace("%", " %"),
        f"{storm.busiest_second:,}",
        f"{storm.vain:.1f}",
        *("never" if math.isinf(at) else f"{at:.1f} s" for at in times),
    ]


def table(storms: Iterable[Storm]) -> Iterator[str]:
    """Lines to read, and to include in a page: a simple table of reStructuredText."""
    rows = [list(HEADINGS), *map(cells, storms)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    yield rule
    for number, row in enumerate(rows):
        padded = (
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(padded).rstrip()
        if not number:
            yield rule
    yield rule


def document(storms: Sequence[Storm], model: Model) -> dict[str, Any]:
    """Everything, for a machine; nothing in it hangs on where or when it ran."""
    return {
        "model": asdict(model),
        "window": WINDOW,
        "storms": [
            {
                "scenario": asdict(storm.scenario),
                "schedule": storm.schedule,
                "affected_workers": storm.affected,
                "attempts": len(storm.attempts),
                "fullest_window_share": storm.busiest_share,
                "fullest_second": storm.busiest_second,
                "in_vain_per_worker": storm.vain,
                "back_after": {f"{part:.0%}": _finite(storm.back_after(part)) for part in PARTS},
                "attempts_per_window": storm.per_window(),
            }
            for storm in storms
        ],
    }


def _finite(seconds: float) -> float | None:
    return None if math.isinf(seconds) else seconds


def write_plot(path: Path, storms: Sequence[Storm]) -> bool:
    """Attempts and returns over time, a column for each scenario; False where matplotlib is missing."""
    pyplot = report.drawing()
    if pyplot is None:
        return False
    figure, axes = pyplot.subplots(2, len(SCENARIOS), figsize=(15, 5.6), squeeze=False, layout="constrained")
    for place, scenario in enumerate(SCENARIOS):
        shown = [each for each in storms if each.scenario == scenario]
        _draw(axes[0][place], axes[1][place], shown)
        axes[0][place].set_title(scenario.name, fontsize=9)
    axes[0][0].set_ylabel("attempts in 100 ms", fontsize=8)
    axes[1][0].set_ylabel("workers back, %", fontsize=8)
    axes[1][0].legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=90, metadata={"Software": None})
    pyplot.close(figure)
    return True


def _draw(above: Any, below: Any, storms: Sequence[Storm]) -> None:
    for storm, colour in zip(storms, COLOURS, strict=True):
        counts = storm.per_window()
        filled = [(number * WINDOW, count) for number, count in enumerate(counts) if count]
        size = 3.0 if storm.schedule == OURS else 5.0
        above.plot(*zip(*filled, strict=True), ".", color=colour, markersize=size)
        numbers = [100.0 * (number + 1) / storm.affected for number in range(len(storm.back))]
        below.plot(storm.back, numbers, color=colour, label=storm.schedule)
    above.set_yscale("log")
    below.set_xlabel("seconds since the loss", fontsize=8)
    for panel in (above, below):
        panel.tick_params(labelsize=8)
        panel.set_xlim(left=-0.02 * max(storm.back[-1] for storm in storms if storm.back))


def main(words: Sequence[str] | None = None) -> int:
    given = parser().parse_args(words)
    model = Model(
        workers=given.workers,
        connections=given.connections,
        rate=given.rate,
        backlog=given.backlog,
        seed=given.seed,
    )
    storms = [simulate(scenario, schedule, model) for scenario in SCENARIOS for schedule in CONTESTANTS]
    lines = "\n".join(table(storms)) + "\n"
    print(
        f"{model.workers:,} workers, connections of each: {model.connections}; a node completes {model.rate:g} "
        f"handshakes a second and lets {model.backlog} wait; an attempt ends after {model.timeout:g} s; "
        f"seed {model.seed}\n"
    )
    print(lines, end="")
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "storm.txt").write_text(lines)
        (given.output / "storm.json").write_text(json.dumps(document(storms, model)) + "\n")
        write_plot(given.output / "storm.png", storms)
    return 0


if __name__ == "__main__":
    sys.exit(main())
