"""The writing of a status file: seldom, soon after a change, never at the connection's cost."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.harness.waiting import stays, wait_until
from wsgi_messaging import Transport
from wsgi_messaging.connection.state import State
from wsgi_messaging.connection.status import ConnectionStatus
from wsgi_messaging.connection.watch import Watch
from wsgi_messaging.observe import places, posting, record, status
from wsgi_messaging.observe.posting import Posting, RoundTrips, post

NOTHING = ConnectionStatus(
    role="publish",
    state="ready",
    name="seen:publish:1@host",
    broker="127.0.0.1:5672",
    heartbeat=20.0,
    beats_sent=0,
    beats_received=0,
    sent_age=None,
    received_age=None,
    lateness_last=0.0,
    lateness_worst=0.0,
    confirmed=0,
    failed=0,
    returned=0,
    in_flight=0,
    queued=0,
    reconnects=0,
    blocked=None,
    consumers=0,
    last_failure=None,
)


class Connection:
    """What a posting shows."""

    def __init__(self) -> None:
        self.state = State.READY
        self.known = NOTHING
        self.asked = 0

    def status(self, now: float) -> ConnectionStatus:
        self.asked += 1
        return self.known


@pytest.fixture
def connection() -> Connection:
    return Connection()


@pytest.fixture
def shown(connection: Connection, run_dir: Path) -> Iterator[Posting]:
    made = post(connection, "publish", "seen", str(run_dir))
    assert made is not None
    yield made
    made.close()


def only(run_dir: Path) -> status.Row:
    (row,) = status.read(run_dir)
    return row


def test_a_change_is_written_within_half_a_second(connection: Connection, shown: Posting, run_dir: Path) -> None:
    assert shown.before_sleep(60000) <= 501, "it was written, and once more after the throttle"
    connection.known = replace(NOTHING, confirmed=7)
    asked = connection.asked
    assert shown.before_sleep(60000) <= 501 and connection.asked == asked, "too early to write, and not for long"
    assert only(run_dir).connection.confirmed == 0
    wait_until(lambda: shown.before_sleep(60000) and only(run_dir).connection.confirmed == 7)


def test_a_busy_connection_is_not_asked_more_than_twice_a_second(connection: Connection, shown: Posting) -> None:
    began_at = time.monotonic()
    for _ in range(10000):
        assert shown.before_sleep(0) == 0
    assert connection.asked <= 2 + 2 * (time.monotonic() - began_at)


def test_a_connection_on_which_nothing_happens_sleeps_on(connection: Connection, shown: Posting) -> None:
    shown.before_sleep(60000)
    wait_until(lambda: shown.before_sleep(60000) == 60000, what="a sleep that is not cut short")


def test_a_change_of_state_is_written_at_once(connection: Connection, shown: Posting, run_dir: Path) -> None:
    shown.before_sleep(60000)
    connection.state, connection.known = State.WAITING, replace(NOTHING, state="waiting")
    shown.before_sleep(60000)
    assert only(run_dir).connection.state == "waiting"


def test_a_defect_does_not_reach_the_connection(connection: Connection, shown: Posting) -> None:
    connection.known = replace(NOTHING, confirmed=object())  # type: ignore[arg-type]
    assert shown.before_sleep(1234) == 1234
    assert shown.before_sleep(1234) == 1234


def test_what_a_broker_says_at_length_fits(connection: Connection, shown: Posting, run_dir: Path) -> None:
    long = "\U0001f600\ud800\0\n" * 4000
    connection.known = replace(NOTHING, blocked=long, last_failure=long, name=long, broker=long)
    for number in range(200):
        shown.round_trips.add(0.1)
        shown.round_trips.roll(number * 2.0)
    shown.before_sleep(0)
    assert only(run_dir).trouble.startswith("\U0001f600")


def test_ages_go_on_between_two_writes(connection: Connection, shown: Posting, run_dir: Path) -> None:
    connection.known = replace(NOTHING, sent_age=1.0, received_age=2.0)
    shown.before_sleep(0)
    wait_until(lambda: (only(run_dir).connection.sent_age or 0) > 1.2, what="an age that grows without a write")
    assert connection.asked == 1
    assert (only(run_dir).connection.received_age or 0) > 2.2


def test_a_file_that_is_written_to_does_not_grow_old(
    shown: Posting, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when the cleaning of /tmp by age takes it away from a worker that lives (tmpfiles.d(5), 10 days)."""
    (file,) = run_dir.iterdir()
    os.utime(file, (0.0, 0.0))
    shown.before_sleep(0)
    assert file.stat().st_atime == 0.0, "that is a system call, and not for each write"
    monkeypatch.setattr(posting, "DATED_EVERY", 0.0)
    wait_until(lambda: shown.before_sleep(0) == 0 and file.stat().st_atime > time.time() - 60.0, 5.0, "a new date")
    monkeypatch.setattr(posting, "WRITE_EVERY", 0.0)
    file.unlink()
    shown.before_sleep(0)
    assert not shown._is_broken, "it goes on without its file"


def test_closing_removes_the_file(shown: Posting, run_dir: Path) -> None:
    shown.before_sleep(0)
    assert len(list(run_dir.iterdir())) == 1
    shown.close()
    assert list(run_dir.iterdir()) == []
    assert shown.before_sleep(5) == 5


def test_a_forked_child_leaves_the_file_alone(shown: Posting, run_dir: Path) -> None:
    shown.before_sleep(0)
    pid = os.fork()
    if pid == 0:
        shown.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert only(run_dir).connection.role == "publish"


def test_a_directory_that_cannot_be_used_is_said_once(
    connection: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "wsgi_messaging.observe"):
        assert post(connection, "publish", "seen", str(tmp_path / "none" / "run")) is None
    assert "run_dir" in caplog.text and "No such file" in caplog.text


def test_publishing_goes_on_where_nothing_can_be_shown(make: Callable[..., Transport], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    transport = make(run_dir=str(file))
    transport.publish(b"x", "nobody", mandatory=False)
    board = status.board_of(transport)
    assert not board.is_whole and [row.pid for row in board.rows] == [os.getpid()]


def test_off_is_off(make: Callable[..., Transport], run_dir: Path) -> None:
    transport = make(run_dir=None)
    transport.publish(b"x", "nobody", mandatory=False)
    (loop,) = transport._process.get().loops()
    assert loop.watch.make_posting is None and loop.publisher.on_round_trip is None
    assert not run_dir.exists()


def test_a_watch_without_a_posting_sleeps_as_it_is_told() -> None:
    watch = Watch()
    assert watch.make_posting is None
    watch.open()
    try:
        assert not watch.sleep(0)
    finally:
        watch.close()


def test_a_transport_shows_what_it_says_of_itself(make: Callable[..., Transport], run_dir: Path) -> None:
    transport = make()
    for _ in range(50):
        transport.publish(b"x", "nobody", mandatory=False)
    wait_until(lambda: only(run_dir).connection.confirmed == 50, what="the last confirms, with nothing after them")
    row = only(run_dir)
    (own,) = transport.status().connections
    assert (row.pid, row.app, row.connection.name) == (os.getpid(), "seen", own.name)
    assert row.connection.broker == own.broker and row.is_ready
    assert 0 < row.round_trips.count <= 50 and sum(row.round_trips.buckets) == row.round_trips.count
    transport.close()
    assert list(run_dir.iterdir()) == []


def test_heartbeats_are_seen_while_nothing_else_happens(make: Callable[..., Transport], run_dir: Path) -> None:
    transport = make(heartbeat=1)
    transport.warm()
    wait_until(lambda: run_dir.exists() and status.read(run_dir), what="the connection")
    wait_until(lambda: only(run_dir).connection.beats_sent >= 3, what="three beats")
    stays(lambda: (only(run_dir).connection.sent_age or 0) < 1.0, 1.0, "an age below the interval")


def test_round_trips_are_counted_in_buckets_and_by_the_second() -> None:
    trips = RoundTrips()
    for seconds in (0.0004, 0.0005, 0.003, 99.0):
        trips.add(seconds)
    trips.roll(10.0)
    trips.add(1.0)
    trips.roll(10.5)  # too early for another sample
    assert [count for count in trips.buckets if count] == [2, 1, 1, 1]
    assert trips.buckets[0] == 2 and trips.buckets[-1] == 1 and trips.count == 5
    assert len(trips.recent) == 1 and trips.recent[0][0] == 10.0 and trips.recent[0][2] == 99.0
    for number in range(200):
        trips.add(0.1)
        trips.roll(20.0 + 2 * number)
    assert len(trips.recent) == posting.SAMPLES_KEPT


@pytest.mark.parametrize("what", ["directory", "file"])
def test_what_somebody_has_removed_is_told(make: Callable[..., Transport], run_dir: Path, what: str) -> None:
    """The page said that all of no workers were ready, while this one served."""
    transport = make()
    transport.publish(b"x", "nobody", mandatory=False)
    wait_until(lambda: run_dir.exists() and status.read(run_dir), what="its file")
    (file,) = run_dir.iterdir()
    file.unlink()
    if what == "directory":
        run_dir.rmdir()
    board = status.board_of(transport)
    assert [row.pid for row in board.rows] == [os.getpid()]
    assert "are gone" in board.note


@pytest.mark.parametrize(
    "change",
    [
        {"round_trips": [1]},
        {"round_trips": {"count": 3, "sum": 1.0, "buckets": [1, 2], "recent": []}},
        {"confirmed": float("inf")},
    ],
    ids=repr,
)
def test_the_file_of_another_version_keeps_nobody_from_the_others(
    make: Callable[..., Transport], run_dir: Path, change: dict[str, Any]
) -> None:
    transport = make()
    transport.publish(b"x", "nobody", mandatory=False)
    wait_until(lambda: run_dir.exists() and status.read(run_dir), what="its file")
    with places.RunDirectory(run_dir) as directory:
        (name,) = directory.files()
        reading = record.read(directory.read(name, record.SIZE))
        assert reading is not None
        descriptor = directory.create(replace(name, serial="0" * 8), record.SIZE)
        other = record.Record(descriptor)
        os.close(descriptor)
        other.write(json.dumps({**json.loads(reading.payload), **change}).encode(), time.monotonic())
    rows = status.read(run_dir)
    assert len(rows) in (1, 2)
    assert all(len(row.round_trips.buckets) in (0, len(posting.BOUNDS) + 1) for row in rows)
