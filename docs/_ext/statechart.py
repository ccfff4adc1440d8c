"""The diagram of a connection's states, drawn from the table of transitions.

Only where a state stands is written here; which arrows there are, and what they are called, the table says. A state
that has no place, or a place without a state, is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import copysign, hypot, inf

Transition = tuple[str, str, str]
"""State, event, state that follows: by name."""

PLACES = {
    "NEW": (0.0, 0.0),
    "CONNECTING": (1.0, 0.0),
    "READY": (2.0, 0.0),
    "BLOCKED": (3.0, 0.0),
    "WAITING": (1.5, 1.0),
    "CLOSED": (0.5, 2.0),
    "CLOSING": (2.5, 2.0),
}
"""Column and row of each state."""

_COLUMN, _ROW, _LEFT, _TOP = 210, 130, 90, 60
_HALF_WIDTH, _HALF_HEIGHT = 62, 20
_BEND = 12
"""How far an arrow stands off the line to its opposite."""
_HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 400" width="100%" style="min-width: 40rem" role="img"'
    ' aria-label="States of a connection and the events between them" font-family="sans-serif" font-size="12"'
    ' fill="currentColor" stroke="currentColor" stroke-width="1.2"><defs><marker id="tip" viewBox="0 0 10 10" refX="9"'
    ' refY="5" markerWidth="8" markerHeight="8" orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z"/></marker>'
    "</defs>"
)


def svg(transitions: Iterable[Transition]) -> str:
    """The drawing. Raises: `ValueError` when the places are not those of the table's states."""
    arrows = _arrows(transitions)
    states = {state for pair in arrows for state in pair}
    if states != PLACES.keys():
        raise ValueError(f"statechart.PLACES: {sorted(states ^ PLACES.keys())} differ from the table")
    parts = [_HEAD]
    parts += [_arrow(source, target, (target, source) in arrows) for source, target in arrows]
    parts += [_state(name) for name in PLACES]
    parts += [line for (source, target), events in arrows.items() for line in _label(source, target, events, arrows)]
    return "".join([*parts, "</svg>"])


def _arrows(transitions: Iterable[Transition]) -> dict[tuple[str, str], list[str]]:
    """The events of each arrow."""
    found: dict[tuple[str, str], list[str]] = {}
    for source, event, target in transitions:
        found.setdefault((source, target), []).append(event.lower().replace("_", " "))
    return found


def _middle(name: str) -> tuple[float, float]:
    column, row = PLACES[name]
    return _LEFT + column * _COLUMN, _TOP + row * _ROW


def _ends(source: str, target: str, is_bent: bool) -> tuple[float, float, float, float]:
    """From the edge of one box to the edge of the other, shifted to the left of its direction where it is bent."""
    (x1, y1), (x2, y2) = _middle(source), _middle(target)
    length = hypot(x2 - x1, y2 - y1)
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    shift = _BEND if is_bent else 0
    off_x, off_y = dy * shift, -dx * shift
    out, back = _way_out(off_x, off_y, dx, dy), _way_out(off_x, off_y, -dx, -dy) + 2
    return x1 + off_x + dx * out, y1 + off_y + dy * out, x2 + off_x - dx * back, y2 + off_y - dy * back


def _way_out(off_x: float, off_y: float, dx: float, dy: float) -> float:
    """How far it is from a point in a box, given from its middle, to the box's edge in a direction."""
    across = (copysign(_HALF_WIDTH, dx) - off_x) / dx if dx else inf
    along = (copysign(_HALF_HEIGHT, dy) - off_y) / dy if dy else inf
    return min(across, along)


def _arrow(source: str, target: str, has_opposite: bool) -> str:
    if source == target:
        x, y = _middle(source)
        x, up = x + _HALF_WIDTH, -1 if PLACES[source][1] == 0 else 1
        path = f"M{x - 26:.0f} {y + up * _HALF_HEIGHT:.0f} c 0 {up * 40} 70 {up * 34} 28 {-up * 14}"
        return f'<path d="{path}" fill="none" marker-end="url(#tip)"/>'
    x1, y1, x2, y2 = _ends(source, target, has_opposite)
    return f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" marker-end="url(#tip)"/>'


def _state(name: str) -> str:
    x, y = _middle(name)
    box = f'x="{x - _HALF_WIDTH:.0f}" y="{y - _HALF_HEIGHT:.0f}" width="{2 * _HALF_WIDTH}" height="{2 * _HALF_HEIGHT}"'
    return (
        f'<rect {box} rx="8" fill="none"/><text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" stroke="none"'
        f' font-weight="bold" font-size="14">{name}</text>'
    )


def _label(source: str, target: str, events: list[str], arrows: dict[tuple[str, str], list[str]]) -> Iterator[str]:
    if source == target:
        x, y = _middle(source)
        y += 64 if PLACES[source][1] else -42
        x += 62
    else:
        x1, y1, x2, y2 = _ends(source, target, (target, source) in arrows)
        x, y = x1 + 0.42 * (x2 - x1), y1 + 0.42 * (y2 - y1) + (-6 if y1 == y2 else 4)
        if y1 == y2 and x1 > x2:
            y += 22
    text = ", ".join(events)
    yield (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle" stroke="var(--color-background-primary, white)"'
        f' stroke-width="4" paint-order="stroke">{text}</text>'
    )
