"""What the doctor found: how grave, what breaks, why, and the line to write.

Layer 5: imports the output.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .output import coloured, paragraph, plain

ERROR, WARNING, NOTE = "error", "warning", "note"
_ORDER = (ERROR, WARNING, NOTE)
_COLOURS = {ERROR: "red", WARNING: "yellow", NOTE: "dim"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about a deployment. Errors and warnings are to be mended; a note is good to know."""

    severity: str
    rule: str
    """A short, lasting name, such as `uwsgi-threads`."""
    breaks: str
    why: str
    fix: str
    """The line, or lines, to write; it can be copied as it stands."""
    file: str = ""
    line: int = 0

    @property
    def is_grave(self) -> bool:
        return self.severity != NOTE

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def ordered(findings: Sequence[Finding]) -> list[Finding]:
    """The gravest first; as they stand in the files otherwise."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def print_finding(finding: Finding) -> None:
    where = f"{finding.file}:{finding.line}" if finding.line else finding.file
    place = f"{plain(where)}: " if where else ""
    print(f"{place}{coloured(finding.severity, _COLOURS[finding.severity])}: {plain(finding.breaks)}  [{finding.rule}]")
    print(paragraph("why", finding.why, 4))
    print("    write:")
    print(textwrap.indent(finding.fix, "        "))


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside the files."""

    timeout: float = 10.0
    """Seconds that a call of the transport may take."""
    heartbeat: float = 20.0
    gunicorn: tuple[int, ...] | None = None
    """Version, where it is known."""
    uwsgi: tuple[int, ...] | None = None
    defines: frozenset[str] = frozenset()
    """Names that Apache is started with (-D)."""
