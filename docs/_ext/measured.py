"""The measurements: what `make bench` has left in build/, else what it left once and is kept in docs/.

No number stands in the pages themselves.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from .source import ROOT

OWN = ROOT / "build" / "bench.json"
KEPT = ROOT / "docs" / "bench.json"
"""Of a full run; `cp build/bench.json docs/` after another one."""


def results(*paths: Path) -> dict[str, Any] | None:
    """What `make bench` wrote, in the first of these files that holds it; None where none does."""
    for path in paths:
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and "workloads" in found:
            return found
    return None


def circumstances(found: dict[str, Any]) -> str:
    """Where and how it was measured, in one sentence."""
    about = found["circumstances"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(about.get("versions", {}).items()))
    return (
        f"{about.get('broker')}, Python {about.get('python')}, {about.get('system')}, load {about.get('load')}; "
        f"{about.get('rounds')} rounds of {about.get('seconds')} s"
        f"{' (quick: rough)' if about.get('quick') else ''}. {versions}.{_machine(found)}"
    )


def _machine(found: dict[str, Any]) -> str:
    """What the machine gave, from the best to the worst of the workloads; nothing where it was not looked at."""
    seen = [each["machine"] for each in found["workloads"] if each.get("machine")]
    if not seen:
        return ""
    additions, fsync, stolen = (
        f"{min(each[name] for each in seen):.{digits}f} to {max(each[name] for each in seen):.{digits}f}"
        for name, digits in (("additions_ms", 1), ("fsync_ms", 2), ("stolen_percent", 0))
    )
    return (
        f" Meanwhile the loop of additions of benchmarks/machine.py took {additions} ms, an fsync {fsync} ms, and "
        f"{stolen} % of the processors' time was stolen by the host."
    )


def rows(workload: dict[str, Any]) -> list[tuple[str, str, str]]:
    """For each peer of a workload: its name, the median of the figure, the median of its ratios to the baseline."""
    figure, baseline = workload["figure"], workload["baseline"]
    against = [each.get(figure) for each in workload["rounds"].get(baseline, [])]
    found = []
    for peer, rounds in workload["rounds"].items():
        values = [each.get(figure) for each in rounds]
        known = [value for value in values if value is not None]
        ratios = [value / other for value, other in zip(values, against, strict=False) if value is not None and other]
        median = (
            f"{statistics.median(known):,.3g}"
            if known and statistics.median(known) < 100
            else (f"{statistics.median(known):,.0f}" if known else "-")
        )
        found.append((peer, median, f"{statistics.median(ratios):.2f}" if ratios else "-"))
    return found + [(peer, "-", str(reason)) for peer, reason in workload.get("missing", {}).items()]
