"""The results as a table for the terminal, as JSON, and as a plot where matplotlib is there."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.runner import Outcome
from benchmarks.workloads import UNITS, Bar, Workload

PACKAGES = ("wsgi-messaging", "amqp", "kombu", "oslo.messaging", "pika", "AMQPStorm", "aio-pika", "gevent")
LABEL = 12
COLUMN = 13


@dataclass(frozen=True)
class Verdict:
    """A bar and what came of it; without a result it was not measured."""

    workload: str
    bar: str
    result: float | None = None
    lower: float | None = None
    upper: float | None = None
    is_met: bool | None = None
    is_reached: bool | None = None

    @property
    def word(self) -> str:
        if self.is_met is None:
            return "not measured"
        if self.is_reached:
            return "met, and what to reach for"
        return "met" if self.is_met else "NOT MET"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; of a single value three times that."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper


def verdict(outcome: Outcome, bar: Bar) -> Verdict:
    if bar.against is not None:
        values = outcome.ratios(bar.subject, bar.against, bar.figure)
    else:
        values = [each[bar.figure] for each in outcome.rounds.get(bar.subject, []) if bar.figure in each]
    if not values:
        return Verdict(outcome.workload.name, str(bar))
    lower, median, upper = quartiles(values)
    is_reached = None
    if bar.reach_for is not None:
        is_reached = median >= bar.reach_for if bar.relation == ">=" else median <= bar.reach_for
    return Verdict(outcome.workload.name, str(bar), median, lower, upper, bar.is_met_by(median), is_reached)


def verdicts(outcomes: Iterable[Outcome]) -> list[Verdict]:
    return [verdict(outcome, bar) for outcome in outcomes for bar in outcome.workload.bars]


def block(outcome: Outcome) -> Iterator[str]:
    """One workload's part of the table."""
    workload = outcome.workload
    seen = {name for rounds in outcome.rounds.values() for figures in rounds for name in figures}
    columns = [name for name in UNITS if name in seen]
    ratio = f"ratio to {workload.baseline} (quartiles)" if workload.baseline in outcome.rounds else ""
    yield f"{workload.name}: {workload.title}"
    yield "  " + " " * LABEL + "".join(UNITS[name].heading.rjust(COLUMN) for name in columns) + f"   {ratio}"
    for contestant in workload.contestants:
        if contestant.label in outcome.rounds:
            yield "  " + _row(outcome, contestant.label, columns)
    for label, reason in outcome.missing.items():
        yield f"  {label:<{LABEL}}not measured: {reason}"
    if workload.note:
        yield f"  note: {workload.note}"
    if outcome.machine:
        yield f"  machine: {machine.told(outcome.machine)}"
    yield from (f"  bar   {line}" for line in _bar_lines(outcome))
    better = ahead_of_ours(outcome)
    if better:
        yield f"  better than ours here: {', '.join(better)}"


def _row(outcome: Outcome, label: str, columns: Sequence[str]) -> str:
    workload = outcome.workload
    cells = []
    for name in columns:
        value = outcome.median(label, name)
        cells.append(("-" if value is None else f"{value:.{UNITS[name].digits}f}").rjust(COLUMN))
    ratios = outcome.ratios(label, workload.baseline, workload.figure)
    shown = "   {1:.2f} ({0:.2f} .. {2:.2f})".format(*quartiles(ratios)) if ratios else ""
    return label.ljust(LABEL) + "".join(cells) + shown


def _bar_lines(outcome: Outcome) -> Iterator[str]:
    if not outcome.workload.bars:
        yield "none"
    for each in (verdict(outcome, bar) for bar in outcome.workload.bars):
        yield f"{each.bar}: {_result(each)}{each.word}"


def _result(each: Verdict) -> str:
    return "" if each.result is None else f"{each.result:.3g} ({each.lower:.3g} .. {each.upper:.3g})  "


def ahead_of_ours(outcome: Outcome) -> list[str]:
    """The peers whose median of the workload's main figure is better than ours; the limit is no peer."""
    workload = outcome.workload
    ours = outcome.median("ours", workload.figure)
    if ours is None:
        return []
    ahead = []
    for label in outcome.rounds:
        theirs = outcome.median(label, workload.figure)
        if label in ("ours", "limit") or theirs is None:
            continue
        if theirs < ours if UNITS[workload.figure].is_less_better else theirs > ours:
            ahead.append(label)
    return ahead


def summary(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """All bars, one a line."""
    found = verdicts(outcomes)
    width = max((len(each.workload) for each in found), default=0)
    for each in found:
        yield f"{each.workload:<{width}}  {each.word:<28}{_result(each):<28}{each.bar}"
    met = sum(each.is_met is True for each in found)
    missed = sum(each.is_met is False for each in found)
    yield f"{met} of {len(found)} bars met, {missed} not met, {len(found) - met - missed} not measured"


def circumstances(**more: Any) -> dict[str, Any]:
    """What the figures hang on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}, {os.cpu_count()} cores",
        "load": load,
        "versions": versions,
        **more,
    }


def write_json(path: Path, outcomes: Sequence[Outcome], about: dict[str, Any]) -> None:
    """Everything, round by round."""
    document = {
        "circumstances": about,
        "bars": [asdict(each) for each in verdicts(outcomes)],
        "workloads": [
            {
                "name": outcome.workload.name,
                "title": outcome.workload.title,
                "baseline": outcome.workload.baseline,
                "figure": outcome.workload.figure,
                "rounds": outcome.rounds,
                "missing": outcome.missing,
                "machine": outcome.machine,
            }
            for outcome in outcomes
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def drawing() -> Any:
    """matplotlib's pyplot, which needs no display; None where it is missing."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return None
    return pyplot


def write_plot(path: Path, outcomes: Sequence[Outcome]) -> bool:
    """Bars of each peer's ratio to the baseline, a panel for each workload; False where matplotlib is missing."""
    pyplot = drawing()
    if pyplot is None:
        return False
    shown = [each for each in outcomes if each.workload.baseline in each.rounds]
    if not shown:
        return False
    rows = (len(shown) + 2) // 3
    figure, axes = pyplot.subplots(rows, 3, figsize=(15, 2.8 * rows), squeeze=False, layout="constrained")
    panels = list(axes.flat)
    for panel, outcome in zip(panels, shown, strict=False):
        _draw(panel, outcome, outcome.workload)
    for panel in panels[len(shown) :]:
        panel.axis("off")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _draw(panel: Any, outcome: Outcome, workload: Workload) -> None:
    labels = [each.label for each in workload.contestants if each.label in outcome.rounds]
    spread = [quartiles(outcome.ratios(label, workload.baseline, workload.figure) or [0.0]) for label in labels]
    middles = [median for _lower, median, _upper in spread]
    errors = [[median - lower for lower, median, _ in spread], [upper - median for _, median, upper in spread]]
    colours = ["tab:blue" if label.startswith("ours") else "lightgray" for label in labels]
    panel.barh(labels, middles, xerr=errors, color=colours, edgecolor="black", linewidth=0.5)
    panel.axvline(1.0, color="black", linewidth=0.5)
    panel.invert_yaxis()
    better = "less" if UNITS[workload.figure].is_less_better else "more"
    panel.set_title(f"{workload.name}: {UNITS[workload.figure].heading}, {better} is better", fontsize=9)
    panel.set_xlabel(f"ratio to {workload.baseline}", fontsize=8)
    panel.tick_params(labelsize=8)
