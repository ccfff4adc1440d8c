"""`wsgi-messaging status`: every worker's connections, as the workers show them in their run directory.

Layer 5: imports observe.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..connection.state import State
from ..errors import ConfigurationError
from ..observe import markup, places
from ..observe import status as observed
from ..observe.status import Board, Row

_COLOURS = {State.READY.value: "32", State.CONNECTING.value: "33", State.CLOSING.value: "33"}
_ALARM = "31"
_CLEAR = "\x1b[H\x1b[2J"
_WATCH_EVERY = 1.0
_COLUMNS = tuple(name for name in markup.COLUMNS if name != "trouble")
_RIGHT = (
    "pid",
    "last sent",
    "last received",
    "late",
    "confirmed",
    "failed",
    "in flight",
    "queued",
    "reconnects",
    "round trips",
)


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "status",
        description="Show the connections of all workers that have a run directory (the setting run_dir), live.",
        epilog="Exit status: 0 all connections are ready, 1 some are not or there are none, 2 wrong usage,"
        " 130 interrupted. 'last sent' and 'last received' are how long ago that was (heartbeats count); 'late' is how"
        " long after it was due a heartbeat was sent, at worst. A connection whose thread has not run for two"
        " heartbeat intervals is 'stalled', and not ready. Numbers are shown up to a second late.",
    )
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        help="the setting run_dir of the application (default: $WSGI_MESSAGING_RUN_DIR, or the automatic ones"
        " of this user's applications)",
    )
    parser.add_argument("--watch", action="store_true", help="again every second, until interrupted")
    parser.add_argument("--json", action="store_true", help="for programs; with --watch one line for each second")


def run(args: argparse.Namespace) -> int:
    """Show it, once or for ever."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    path = _path(args.run_dir or os.environ.get("WSGI_MESSAGING_RUN_DIR") or places.AUTO)
    board = _board(path)
    while args.watch:
        _show(board, as_json=args.json, clear=sys.stdout.isatty())
        time.sleep(_WATCH_EVERY)
        board = _board(path)
    _show(board, as_json=args.json, clear=False)
    return 0 if board.rows and all(row.is_ready for row in board.rows) else 1


def _path(run_dir: str) -> Path | None:
    """None for all the automatic ones, which may come and go."""
    if run_dir == places.AUTO:
        return None
    if not os.path.isdir(run_dir):
        raise ConfigurationError(f"run_dir: {run_dir} is no directory (a worker makes it with its first connection)")
    return Path(run_dir)


def _board(path: Path | None) -> Board:
    if path is None:
        return observed.automatic()
    try:
        return Board(observed.read(path), is_whole=True)
    except FileNotFoundError:
        return Board((), is_whole=True)
    except OSError as exc:
        raise ConfigurationError(f"run_dir: {exc.filename}: {exc.strerror}") from exc


def _show(board: Board, *, as_json: bool, clear: bool) -> None:
    if as_json:
        print(json.dumps(board.as_json()), flush=True)
        return
    is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    text = "\n".join(_lines(board, is_coloured))
    print(f"{_CLEAR if clear else ''}{text}", flush=True)


def _lines(board: Board, is_coloured: bool) -> list[str]:
    if not board.rows:
        return [
            "no worker shows itself: set WSGI_MESSAGING_RUN_DIR=auto (or a directory; here, too) for the server and"
            " restart it; a worker is shown from its first connection on",
            *([_printable(board.note)] if board.note else []),
        ]
    table = [markup.cells(row)[: len(_COLUMNS)] for row in board.rows]
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *table, strict=True)]
    lines = [_line(_COLUMNS, widths, "1" if is_coloured else "")]
    for row, shown in zip(board.rows, table, strict=True):
        lines.append(_line(shown, widths, _colour(row) if is_coloured else ""))
        if row.trouble:
            lines.append(f"    {_printable(row.trouble)}")
    return [*lines, "", _printable(markup.summary(board))]


def _line(shown: Sequence[str], widths: Sequence[int], colour: str) -> str:
    aligned = [
        text.rjust(width) if name in _RIGHT else text.ljust(width)
        for name, text, width in zip(_COLUMNS, map(_printable, shown), widths, strict=True)
    ]
    line = "  ".join(aligned).rstrip()
    return f"\x1b[{colour}m{line}\x1b[0m" if colour else line


def _colour(row: Row) -> str:
    return _COLOURS.get(row.state, _ALARM)


def _printable(text: str) -> str:
    """What comes from a broker or a file must not steer the terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)
