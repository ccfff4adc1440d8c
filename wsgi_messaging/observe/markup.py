"""The status page's text: HTML, style, script and the small charts. Everything that comes from outside is escaped.

The same cells are shown by the server, for browsers without a script, and by the script, which only puts text into
elements. No style and no script is anywhere but in the two blocks whose hashes the page's policy names.

Layer 5.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from typing import Any

from .status import Board, RoundTripsSeen, Row

COLUMNS = (
    "app", "pid", "server", "role", "state", "broker", "last sent", "last received", "late", "confirmed",
    "failed", "in flight", "queued", "reconnects", "round trips", "trouble",
)  # fmt: skip
CHART = COLUMNS.index("round trips")
STATE = COLUMNS.index("state")
WIDTH, HEIGHT = 120, 22

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #59636e; --paper: #fff; --line: #d8dee4; --head: #f3f5f7;
  --good: #1a7f37; --bad: #c0232b; --wait: #8a5a00; --mean: #0a62c4; --worst: #c77400; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --dim: #98a2ad; --paper: #14181d; --line: #30373f;
  --head: #1c2229; --good: #4cc764; --bad: #ff7b72; --wait: #e0a93b; --mean: #6cb0ff; --worst: #f0a245; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1.5rem; background: var(--paper); color: var(--ink); font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.25rem; margin: 0; }
p { margin: .3rem 0 1rem; color: var(--dim); }
#alarm { color: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--head); font-weight: 600; }
td.number, th.number { text-align: right; }
td.trouble { white-space: normal; min-width: 12rem; color: var(--bad); }
.state { font-weight: 600; }
.state.ready { color: var(--good); }
.state.blocked, .state.stalled, .state.waiting, .state.closed { color: var(--bad); }
.state.connecting, .state.closing, .state.new { color: var(--wait); }
svg { vertical-align: middle; margin-right: .5rem; }
polyline { fill: none; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
polyline.mean { stroke: var(--mean); }
polyline.worst { stroke: var(--worst); opacity: .7; }
"""

SCRIPT = """
"use strict";
const SVG = "http://www.w3.org/2000/svg";
const rows = document.getElementById("rows");
const alarm = document.getElementById("alarm");
function chart(cell, lines) {
  if (!lines.mean) return;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("width", lines.width);
  svg.setAttribute("height", lines.height);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", lines.label);
  for (const kind of ["worst", "mean"]) {
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("class", kind);
    line.setAttribute("points", lines[kind]);
    svg.appendChild(line);
  }
  cell.prepend(svg);
}
function show(board) {
  const shown = document.createDocumentFragment();
  for (const row of board.rows) {
    const line = document.createElement("tr");
    row.cells.forEach((text, column) => {
      const cell = document.createElement("td");
      cell.className = row.classes[column];
      cell.textContent = text;
      if (column === board.chart) chart(cell, row.lines);
      line.appendChild(cell);
    });
    shown.appendChild(line);
  }
  rows.replaceChildren(shown);
  document.getElementById("summary").textContent = board.summary;
}
async function turn() {
  try {
    const answer = await fetch(document.body.dataset.source, { cache: "no-store", credentials: "same-origin" });
    if (!answer.ok) throw new Error("status " + answer.status);
    show((await answer.json()).page);
    alarm.textContent = "";
  } catch (error) {
    alarm.textContent = "no answer since " + new Date().toLocaleTimeString() + " (" + error.message + ")";
  }
  setTimeout(turn, 1000);
}
setTimeout(turn, 1000);
"""


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


POLICY = (
    f"default-src 'none'; style-src '{_hash(STYLE)}'; script-src '{_hash(SCRIPT)}'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy that goes with it."""


def cells(row: Row) -> list[str]:
    """What stands in the columns."""
    one = row.connection
    server = " ".join(part for part in (row.server, row.label) if part)
    return [
        *(row.app, str(row.pid), server, one.role, row.state, one.broker or "-"),
        *(_seconds(one.sent_age), _seconds(one.received_age), _seconds(one.lateness_worst)),
        *map(str, (one.confirmed, one.failed, one.in_flight, one.queued, one.reconnects)),
        _last_trip(row.round_trips),
        row.trouble,
    ]


def summary(board: Board) -> str:
    """One line about all of it."""
    unready = sum(not row.is_ready for row in board.rows)
    scope = "" if board.is_whole else " This process only: without run_dir the others are not seen."
    note = f" {board.note}" if board.note else ""
    total = f"{_counted(len(board.rows), 'connection')} of {_counted(board.workers, 'worker')}"
    return f"{total}, {'all ready' if not unready else f'{unready} NOT ready'}.{scope}{note}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def model(board: Board) -> dict[str, Any]:
    """What the script shows."""
    return {
        "summary": summary(board),
        "chart": CHART,
        "rows": [
            {"cells": cells(row), "classes": _classes(row), "lines": _lines(row.round_trips)} for row in board.rows
        ],
    }


def page(board: Board, source: str) -> str:
    """The whole page; `source` is where its script fetches JSON."""
    head = "".join(f'<th scope="col"{_number(name)}>{escape(name)}</th>' for name in COLUMNS)
    body = "".join(_table_row(row) for row in model(board)["rows"])
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>messaging: workers</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<noscript><meta http-equiv="refresh" content="2"></noscript>'
        f"<style>{STYLE}</style></head>"
        f'<body data-source="{escape(source)}"><h1>Messaging, worker by worker</h1>'
        f'<p><span id="summary">{escape(summary(board))}</span> <span id="alarm" role="status"></span></p>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody id="rows">{body}</tbody></table></div>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _table_row(row: dict[str, Any]) -> str:
    shown = []
    for column, (text, kind) in enumerate(zip(row["cells"], row["classes"], strict=True)):
        chart = _svg(row["lines"]) if column == CHART else ""
        shown.append(f'<td class="{escape(kind)}">{chart}{escape(text)}</td>')
    return f"<tr>{''.join(shown)}</tr>"


_NUMBERS = ("pid", "last sent", "last received", "late", "confirmed", "failed", "in flight", "queued", "reconnects")


def _number(name: str) -> str:
    return ' class="number"' if name in _NUMBERS else ""


def _classes(row: Row) -> list[str]:
    classes = ["number" if name in _NUMBERS else name.replace(" ", "-") for name in COLUMNS]
    classes[STATE] = f"state {row.state}"
    return classes


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _last_trip(trips: RoundTripsSeen) -> str:
    return _milliseconds(trips.recent[-1][1]) if trips.recent else "-"


def _lines(trips: RoundTripsSeen) -> dict[str, Any]:
    """The chart's two lines: the mean of each second with traffic, and the worst; the tallest fills the height."""
    if len(trips.recent) < 2:
        return {"mean": ""}
    top = max(worst for _ago, _mean, worst in trips.recent) or 1.0
    step = WIDTH / (len(trips.recent) - 1)

    def points(column: int) -> str:
        return " ".join(
            f"{position * step:.1f},{HEIGHT - 1 - sample[column] / top * (HEIGHT - 2):.1f}"
            for position, sample in enumerate(trips.recent)
        )

    label = f"round trips: {_milliseconds(trips.recent[-1][1])} last, {_milliseconds(top)} worst"
    return {"mean": points(1), "worst": points(2), "width": WIDTH, "height": HEIGHT, "label": label}


def _svg(lines: dict[str, Any]) -> str:
    if not lines["mean"]:
        return ""
    drawn = "".join(f'<polyline class="{kind}" points="{escape(lines[kind])}"/>' for kind in ("worst", "mean"))
    label = escape(lines["label"])
    return f'<svg width="{lines["width"]}" height="{lines["height"]}" role="img" aria-label="{label}">{drawn}</svg>'


def as_json(board: Board) -> bytes:
    """The board for programs, and under "page" what the script shows."""
    return json.dumps({**board.as_json(), "page": model(board)}).encode() + b"\n"
