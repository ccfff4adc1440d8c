"""One connection's status file: written by the connection's own thread, before it sleeps, at most twice a second.

Writing is a copy into mapped memory: no system call, but for one in an hour, no lock, nothing green. After a change the
thread is asked to wake once more, so that what it did last does not stay unseen until the next heartbeat; a connection
on which nothing happens costs no wake-up. Rules: nothing here raises into the connection; what fails is given up, and
said once.

Layer 2.
"""

from __future__ import annotations

import json
import logging
import os
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any, Protocol

from ..connection.state import State
from ..connection.status import ConnectionStatus
from ..runtime import native, worker
from ..version import __version__
from . import places, record

logger = logging.getLogger("wsgi_messaging.observe")

WRITE_EVERY = 0.5
"""Seconds between two writes, but for a change of state, which is written at once."""
DATED_EVERY = 3600.0
"""Seconds after which the file gets the time of day: where it lies in memory (tmpfs) a copy into it leaves it as old as
it was, and systemd-tmpfiles takes what is old out of /tmp, the file of a worker that lives, too."""
SAMPLE_EVERY = 1.0
SAMPLES_KEPT = 60
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: the upper bounds of the buckets that round trips are counted in; one more holds the rest."""

_LONGEST_TEXTS = (300, 60, 15)
"""Characters that a text is cut to: the first with which all of it fits into a record. One character can take six
octets, and a broker may say anything."""
_FIELDS = tuple(each.name for each in fields(ConnectionStatus))


class Shown(Protocol):
    """A connection that can be asked, on its own thread."""

    @property
    def state(self) -> State: ...

    def status(self, now: float) -> ConnectionStatus: ...


class RoundTrips:
    """How long the broker took to confirm: counted in buckets, and the mean and the worst of each of the last seconds
    in which there were any. The connection's thread alone uses it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.recent: deque[tuple[float, float, float]] = deque(maxlen=SAMPLES_KEPT)
        self._began_at = 0.0
        self._number = 0
        self._sum = 0.0
        self._worst = 0.0

    def add(self, seconds: float) -> None:
        """One message's time from the write to its confirm."""
        self.count += 1
        self.total += seconds
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self._number += 1
        self._sum += seconds
        self._worst = max(self._worst, seconds)

    def roll(self, now: float) -> None:
        """Begin a new sample if the running one is old enough and has something in it."""
        if self._number and now - self._began_at >= SAMPLE_EVERY:
            self.recent.append((round(now, 1), round(self._sum / self._number, 6), round(self._worst, 6)))
            self._began_at, self._number, self._sum, self._worst = now, 0, 0.0, 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "sum": round(self.total, 6),
            "buckets": self.buckets,
            "recent": list(self.recent),
        }


class Posting:
    """Shows one connection. `before_sleep` and `close` are for the connection's thread."""

    def __init__(self, shown: Shown, facts: Mapping[str, Any], target: record.Record, path: str) -> None:
        self.round_trips = RoundTrips()
        self._shown = shown
        self._facts = dict(facts)
        self._record = target
        self._path = path
        self._pid = os.getpid()
        self._next_at = 0.0
        self._dated_at = native.monotonic()
        self._state: State | None = None
        self._last = b""
        self._is_broken = False

    def __repr__(self) -> str:
        return f"<Posting {os.path.basename(self._path)}>"

    def before_sleep(self, wait_ms: int) -> int:
        """Write if it is time to; gives how long the thread may sleep, in milliseconds. Never raises."""
        if self._is_broken:
            return wait_ms
        now = native.monotonic()
        if now >= self._next_at or self._shown.state is not self._state:
            try:
                if not self._write(now):
                    return wait_ms
            except Exception:  # noqa: BLE001  (a defect here must not cost the connection)
                self._is_broken = True
                return wait_ms
        return min(wait_ms, int((self._next_at - now) * 1000) + 1)

    def _write(self, now: float) -> bool:
        """False when nothing has changed since the last time."""
        self._state = self._shown.state
        self.round_trips.roll(now)
        payload = self._payload(now)
        self._record.write(payload, now)
        self._next_at = now + WRITE_EVERY
        if now - self._dated_at >= DATED_EVERY:
            self._dated_at = now
            with suppress(OSError):
                os.utime(self._path, follow_symlinks=False)
        is_changed, self._last = payload != self._last, payload
        return is_changed

    def _payload(self, now: float) -> bytes:
        status = self._shown.status(now)
        content = {name: getattr(status, name) for name in _FIELDS}
        for what in ("sent", "received"):  # points in time, for a reader to take the age of when it reads
            age = content.pop(f"{what}_age")
            content[f"{what}_at"] = None if age is None else round(now - age, 3)
        content.update(self._facts)
        for longest in _LONGEST_TEXTS:
            payload = _encoded({**content, "round_trips": self.round_trips.as_json()}, longest)
            if len(payload) <= record.LARGEST:
                return payload
        return _encoded(content, longest)

    def close(self) -> None:
        """The connection has ended: the file goes. In a forked child: the parent's file stays."""
        self._is_broken = True
        self._record.close()
        if self._pid == os.getpid():
            with suppress(OSError):
                os.unlink(self._path)


def _encoded(content: dict[str, Any], longest: int) -> bytes:
    short = {name: value[:longest] if isinstance(value, str) else value for name, value in content.items()}
    return json.dumps(short, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def post(shown: Shown, role: str, app: str, run_dir: str) -> Posting | None:
    """Begin to show a connection of this process. Called on the application's side, for it makes a file.

    None when it cannot be shown; the log says why, and messaging goes on.
    """
    path = places.resolve(run_dir, app)
    try:
        name = places.FileName.of_this_process(role)
        with places.RunDirectory(path, make=True) as directory:
            directory.files()  # what dead processes have left goes, also where nobody ever looks
            descriptor = directory.create(name, record.SIZE)
            try:
                target = record.Record(descriptor)
            finally:
                os.close(descriptor)
    except (OSError, ValueError) as exc:
        logger.warning("run_dir: the status of pid %d is not shown: %s", os.getpid(), exc)
        return None
    known = worker.current()
    facts = {
        "app": app,
        "pid": os.getpid(),
        "started": name.started,
        "server": "" if known is None else known.server,
        "label": "" if known is None else known.label,
        "node": os.uname().nodename,
        "version": __version__,
    }
    return Posting(shown, facts, target, str(path / str(name)))
