"""How the commands speak: colour on a terminal that wants it, tables, progress, JSON.

Colour only repeats what the words say, so that nothing is lost without it. It is used when standard output is a
terminal and NO_COLOR is not set (https://no-color.org); progress has none. What goes out has no control characters but
ours: a queue's name or a broker's answer cannot write to somebody's terminal.

Layer 5: imports runtime.native.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO

from ..runtime import native

_CODES = {"red": "31", "yellow": "33", "green": "32", "dim": "2", "bold": "1"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UPPER_CONTROL = re.compile(r"[\x7f-\x9f]")
PROGRESS_EVERY = {True: 0.1, False: 5.0}
"""Seconds between two signs of life: on a terminal, and elsewhere."""


def plain(value: object) -> str:
    """Text without control characters, for a value that came from somewhere else."""
    return _CONTROL.sub("?", str(value))


def is_colourful(stream: TextIO) -> bool:
    """Whether colour is welcome there."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, colour: str, stream: TextIO | None = None) -> str:
    """The text in a colour of `red yellow green dim bold`, where that is welcome."""
    if colour not in _CODES or not is_colourful(stream or sys.stdout):
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def counted(number: int, noun: str) -> str:
    """The number with its noun, whose plural has an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def print_json(value: object) -> None:
    print(as_json(value, indent=2))


def as_json(value: object, indent: int | None = None) -> str:
    """JSON that standard output can take: with escapes where a character cannot be encoded there, or is a control
    character, of which JSON itself asks that for half of them only."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    text = _UPPER_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent, default=str)
    return text


def paragraph(label: str, text: str, indent: int) -> str:
    """`label: text`, wrapped for people; what is to be copied stands on a line of its own."""
    return textwrap.fill(
        plain(f"{label}: {text}"),
        width=110,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + len(label) + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def print_table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows under their headings; `columns` is the heading of each key. Numbers stand to the right."""
    cells = [[plain("-" if row.get(key) is None else row[key]) for key in columns] for row in rows]
    heads = list(columns.values())
    widths = [max(len(line[index]) for line in [heads, *cells]) for index in range(len(heads))]
    are_numbers = [all(isinstance(row.get(key), (int, type(None))) for row in rows) for key in columns]
    for index, line in enumerate([heads, *cells]):
        parts = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(line, widths, are_numbers, strict=True)
        ]
        text = "  ".join(parts).rstrip()
        print(text if index else coloured(text, "bold"))


class Progress:
    """One line on standard error that says how far it is: rewritten on a terminal, a new one every 5 s elsewhere."""

    def __init__(self, what: str, total: int, *, is_quiet: bool) -> None:
        self._what = what
        self._total = total
        self._is_quiet = is_quiet
        self._is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._said_at = native.monotonic()
        self._started_at = self._said_at
        self._width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._width:
            self._say("\r" + " " * self._width + "\r", end="")

    def show(self, done: int) -> None:
        """Say it, unless it was said a moment ago."""
        now = native.monotonic()
        if self._is_quiet or now - self._said_at < PROGRESS_EVERY[self._is_terminal]:
            return
        self._said_at = now
        rate = done / max(now - self._started_at, 0.001)
        left = f", {(self._total - done) / rate:.0f} s left" if rate else ""
        line = f"{self._what}: {done} of {self._total} ({100 * done // max(1, self._total)} %, {rate:.0f}/s{left})"
        if self._is_terminal:
            line = line[: _columns(sys.stderr) - 1]
            self._say("\r" + line.ljust(self._width), end="")
            self._width = len(line)
        else:
            self._say(line)

    def _say(self, text: str, end: str = "\n") -> None:
        with contextlib.suppress(OSError):  # nobody reads it: no reason to stop in the middle of the work
            print(text, end=end, file=sys.stderr, flush=True)


def _columns(stream: TextIO) -> int:
    """The width of a terminal; beyond it a line wraps and cannot be rewritten."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80
