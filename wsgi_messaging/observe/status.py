"""What all workers show of their connections, read from the run directory; without one, what this process knows.

Reading takes no lock and disturbs nobody. Ages are those of the moment of reading, because the files hold points in
time. What cannot be understood (another version's file) is left out, never raised.

Layer 5.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..connection.state import State
from ..connection.status import ConnectionStatus
from ..connection.timing import SILENT_INTERVALS
from ..runtime import native, worker
from ..transport import Transport
from ..version import __version__
from . import places, record
from .posting import BOUNDS

FOREIGN_FRESH = 90.0
"""Seconds since its last write for which a file of another container counts as alive: a connection that runs writes
at least once a minute."""
_FOREIGN_REMOVED_AFTER = 3600.0
_TRIES = 5
STALLED = "stalled"
"""Shown as the state of a connection whose thread does not run."""
_OPEN = (State.READY.value, State.BLOCKED.value)


@dataclass(frozen=True, slots=True)
class RoundTripsSeen:
    """The times from a publish to its confirm, in seconds; one message at a time is measured."""

    count: int = 0
    total: float = 0.0
    buckets: tuple[int, ...] = ()
    """How many were within each of `posting.BOUNDS` and above the one before; the last: beyond all."""
    recent: tuple[tuple[float, float, float], ...] = ()
    """(seconds ago, mean, worst) of each of the last seconds in which there were any, oldest first."""


@dataclass(frozen=True, slots=True)
class Row:
    """One connection of one worker."""

    app: str
    pid: int
    started: int
    server: str
    """What serves: "gunicorn", "uwsgi", ...; empty where no hook said."""
    label: str
    node: str
    version: str
    updated_age: float
    connection: ConnectionStatus
    round_trips: RoundTripsSeen

    @property
    def is_ready(self) -> bool:
        """True while the connection takes messages, and its thread runs."""
        return self.state == State.READY.value

    @property
    def state(self) -> str:
        """The connection's, or `STALLED`: what a thread that does not run has said last is not so any more."""
        return STALLED if self.is_stalled else self.connection.state

    @property
    def is_stalled(self) -> bool:
        """True for an open connection that has sent no heartbeat for so long that the broker gives it up.

        Its thread writes whenever it beats, three times in an interval; the age of what it wrote tells it from a thread
        that runs and cannot send.
        """
        interval = self.connection.heartbeat
        return self.connection.state in _OPEN and 0 < SILENT_INTERVALS * interval < self.updated_age

    @property
    def trouble(self) -> str:
        """Why it is not ready: it stands still, the broker's reason, or why there is none; empty when all is well."""
        if self.is_stalled:
            age, interval = self.updated_age, self.connection.heartbeat
            return f"no heartbeat for {age:.0f} s (due every {interval:g} s): stopped, or its threads do not run"
        return self.connection.blocked or self.connection.last_failure or ""

    def as_json(self) -> dict[str, Any]:
        """For JSON: the connection's fields beside the worker's."""
        found = asdict(self)
        connection = found.pop("connection")
        state = {"state": self.state, "is_ready": self.is_ready, "trouble": self.trouble}
        return {**found, **connection, **state}


@dataclass(frozen=True, slots=True)
class Board:
    """All rows at one moment."""

    rows: tuple[Row, ...]
    is_whole: bool
    """False when it is about this process only."""
    note: str = ""
    """What is missing of it and why, where somebody wanted it."""

    @property
    def workers(self) -> int:
        return len({(row.node, row.pid, row.started) for row in self.rows})

    def as_json(self) -> dict[str, Any]:
        return {
            "at": native.wall_clock(),
            "scope": "all" if self.is_whole else "process",
            "note": self.note,
            "workers": self.workers,
            "connections": [row.as_json() for row in self.rows],
        }


def board_of(transport: Transport) -> Board:
    """What the workers of a transport's application show; only this process where there is no run directory.

    Blocks: for reading some small files. Raises: nothing.
    """
    settings = transport.settings
    if settings.run_dir is None:
        return Board(own_rows(transport), is_whole=False)
    own = own_rows(transport)
    try:
        rows = read(places.resolve(settings.run_dir, settings.app))
    except FileNotFoundError:
        rows = ()  # no connection was opened yet, or somebody has removed it
    except OSError as exc:
        return Board(own, is_whole=False, note=f"run_dir: {exc.strerror}")
    here = os.getpid(), os.uname().nodename
    if own and not any((row.pid, row.node) == here for row in rows):
        note = f"run_dir: the files of pid {here[0]} are gone, and maybe others; each worker makes its own at its start"
        return Board((*rows, *own), is_whole=bool(rows), note=note)
    return Board(rows, is_whole=True)


def read(path: Path) -> tuple[Row, ...]:
    """What stands in a run directory. Files of dead workers are removed. Raises: `OSError`."""
    rows = []
    with places.RunDirectory(path) as directory:
        for name in directory.files():
            row = _row(directory, name)
            if row is not None:
                rows.append(row)
    return tuple(sorted(rows, key=lambda row: (row.app, row.node, row.pid, row.connection.role)))


def _row(directory: places.RunDirectory, name: places.FileName) -> Row | None:
    for _attempt in range(_TRIES):
        reading = record.read(directory.read(name, record.SIZE))
        if reading is not None:
            break
    else:
        return None
    now = native.monotonic()
    updated_age = max(0.0, now - reading.written_at)
    if name.is_dead() is None and updated_age > FOREIGN_FRESH:
        if updated_age > _FOREIGN_REMOVED_AFTER:
            directory.remove(name)
        return None
    try:
        return _parsed(json.loads(reading.payload), updated_age, now)
    except Exception:  # noqa: BLE001  (whatever another version, or another program, has written there)
        return None


def _parsed(content: dict[str, Any], updated_age: float, now: float) -> Row:
    return Row(
        **{name: str(content[name]) for name in ("app", "server", "label", "node", "version")},
        pid=int(content["pid"]),
        started=int(content["started"]),
        updated_age=updated_age,
        connection=_connection(content, now),
        round_trips=_round_trips(content.get("round_trips") or {}, now),
    )


def _connection(content: dict[str, Any], now: float) -> ConnectionStatus:
    values: dict[str, Any] = {name: str(content[name]) for name in ("role", "state", "name")}
    values |= {name: _text(content[name]) for name in ("broker", "blocked", "last_failure")}
    values |= {name: int(content[name]) for name in _COUNTS}
    values |= {name: float(content[name]) for name in ("heartbeat", "lateness_last", "lateness_worst")}
    values |= {f"{what}_age": _age(content[f"{what}_at"], now) for what in ("sent", "received")}
    return ConnectionStatus(**values)


def _round_trips(content: dict[str, Any], now: float) -> RoundTripsSeen:
    recent, buckets = content.get("recent", ()), tuple(map(int, content.get("buckets", ())))
    if len(buckets) != len(BOUNDS) + 1:
        return RoundTripsSeen()
    return RoundTripsSeen(
        count=int(content.get("count", 0)),
        total=float(content.get("sum", 0.0)),
        buckets=buckets,
        recent=tuple((max(0.0, now - at), float(mean), float(worst)) for at, mean, worst in recent),
    )


_COUNTS = (
    "beats_sent",
    "beats_received",
    "confirmed",
    "failed",
    "returned",
    "in_flight",
    "queued",
    "reconnects",
    "consumers",
)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _age(at: object, now: float) -> float | None:
    return max(0.0, now - at) if isinstance(at, (int, float)) else None


def own_rows(transport: Transport) -> tuple[Row, ...]:
    """This process's connections. Never blocks, never connects."""
    known, status = worker.current(), transport.status()
    started = None
    with suppress(OSError):  # no descriptor is left to look with
        started = places.started(status.pid)
    return tuple(
        Row(
            app=status.name,
            pid=status.pid,
            started=started or 0,
            server="" if known is None else known.server,
            label="" if known is None else known.label,
            node=os.uname().nodename,
            version=__version__,
            updated_age=0.0,
            connection=connection,
            round_trips=RoundTripsSeen(),
        )
        for connection in status.connections
    )


def automatic() -> Board:
    """What stands in the automatic run directories of all applications of this user.

    They lie where others may make some, too: what is none of ours is left out, and said, and keeps nobody from the
    others.
    """
    rows: list[Row] = []
    left_out = []
    for path in sorted(places.automatic_parent().glob(f"{places.automatic_prefix()}*")):
        try:
            rows += read(path)
        except FileNotFoundError:  # it has just gone
            continue
        except OSError as exc:
            left_out.append(f"{path}: {exc.strerror}")
    return Board(tuple(rows), is_whole=True, note=f"Left out: {'; '.join(left_out)}." if left_out else "")
