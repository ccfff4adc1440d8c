"""The steps of a diagnosis, each with its time, what came out, the cause and the remedy; and how they are shown.

Layer 5: imports the output, the conversation's `Trouble`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from ..runtime import native
from ._conversation import Trouble
from .output import coloured, paragraph, plain

T = TypeVar("T")

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"
_COLOURS = {OK: "green", WARNING: "yellow", FAILED: "red", SKIPPED: "dim"}


class Stopped(Exception):
    """A step failed without which the next ones make no sense."""


@dataclass(slots=True)
class Step:
    """One step; `notes` are worth knowing and nothing to mend."""

    name: str
    status: str = OK
    ms: float | None = None
    detail: str = ""
    cause: str = ""
    remedy: str = ""
    notes: list[str] = field(default_factory=list)

    def warn(self, cause: str, remedy: str) -> None:
        self.status, self.cause, self.remedy = WARNING, cause, remedy


class Steps:
    """Takes the steps at one broker, one after the other, and hands each to `on_step` when it is over."""

    def __init__(self, on_step: Callable[[Step], object]) -> None:
        self.steps: list[Step] = []
        self._on_step = on_step

    @property
    def has_failed(self) -> bool:
        return any(step.status == FAILED for step in self.steps)

    def take(self, name: str, act: Callable[[Step], T]) -> T:
        """Do it; the answer is what it gave. Raises: `Stopped` when it failed."""
        answer = self.attempt(name, act)
        if answer is None:
            raise Stopped
        return answer

    def attempt(self, name: str, act: Callable[[Step], T]) -> T | None:
        """Do it; None when it failed, and then the others may go on."""
        step = Step(name)
        self.steps.append(step)
        started_at = native.monotonic()
        try:
            return act(step)
        except Trouble as exc:
            step.status, step.cause, step.remedy = FAILED, exc.cause, exc.remedy
            return None
        except BaseException as exc:  # it has no result: shown as it began, it would be well
            step.status = FAILED
            step.cause = "interrupted" if isinstance(exc, KeyboardInterrupt) else f"{type(exc).__name__}: {exc}"
            raise
        finally:
            step.ms = round(1000 * (native.monotonic() - started_at), 2)
            self._on_step(step)

    def say(self, name: str, act: Callable[[Step], object]) -> None:
        """A conclusion, which takes no time worth telling."""
        step = Step(name)
        act(step)
        self.steps.append(step)
        self._on_step(step)

    def skip(self, name: str, reason: str) -> None:
        step = Step(name, SKIPPED, detail=reason)
        self.steps.append(step)
        self._on_step(step)

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(step) for step in self.steps]


def print_step(step: Step) -> None:
    """One line; cause and remedy below it where something is wrong."""
    time = "" if step.ms is None else f"{step.ms:.1f} ms"
    mark = coloured(f"{step.status:<8}", _COLOURS[step.status])
    print(f"  {mark}{step.name:<16}{time:>11}  {plain(step.detail)}".rstrip())
    for label, text in [("cause", step.cause), ("remedy", step.remedy), *(("note", note) for note in step.notes)]:
        if text:
            print(paragraph(label, text, 10))
    sys.stdout.flush()
