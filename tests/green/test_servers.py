"""Real servers with gevent and eventlet, the files of hooks/ as shipped: idle for ten intervals, then ten seconds busy.

Each server has two connections: one beats for an interval of 4 s (idle for ten of them), one for 2 s (a greenlet, or
thread, computes for five of them).
"""

from __future__ import annotations

import re

import pytest

from tests.green.fleet import BRISK, FLEET, HEARTBEAT, Fleet, Ship
from tests.harness.requirements import missing

pytestmark = [pytest.mark.parametrize("ship_name", FLEET), pytest.mark.timeout(240)]
COMPLAINT = re.compile(
    r"Traceback|Segmentation [Ff]ault|exit signal|NO MERCY|Exception|CRITICAL|:critical\]|wsgi_messaging: |\berror:"
)
FORK_HOOK_OF_GEVENT = re.compile(r"Exception ignored in: <bound method _ForkHooks.*?AssertionError: *\n", re.DOTALL)
"""py-call-osafterfork tells gevent, where it has patched the master, of a fork whose beginning nobody told it of."""
PATCHED_MASTER = "master was patched by gevent before it forked"
CRASH = r"Segmentation [Ff]ault|Traceback|Exception ignored"
"""uWSGI ends Python in an exit handler of the C library, where greenlets are gone: every application that patches
itself crashes there, with this package or without. What is asked for is that the connection was closed before."""
EXPECTED = {
    "uwsgi-threadless": "Python threads disabled",
    "uwsgi-gevent-early": PATCHED_MASTER,
    "uwsgi-app-gevent": f"{PATCHED_MASTER}|{CRASH}",
    "uwsgi-app-eventlet": CRASH,
    "apache-embedded-eventlet": "running in the mod_wsgi sub-interpreter",
    "gunicorn-gevent-preload": r"imported BEFORE gevent\.monkey\.patch_all",
}
"""What some of these configurations deserve, and no other has."""


@pytest.fixture
def ship(fleet: Fleet | None, ship_name: str) -> Ship:
    """The server of the test, at the end of its journey."""
    assert fleet is not None
    if ship_name in fleet.missing:
        missing(fleet.missing[ship_name])
    fleet.finish()
    found = fleet.ships[ship_name]
    if found.trouble is not None:
        raise AssertionError(f"{found.trouble!r}\n{found.server.log_text()}") from found.trouble
    return found


def test_the_broker_closed_no_connection(ship: Ship) -> None:
    assert len(ship.before) == 2, ship.server_log
    assert {each.heartbeat for each in ship.before} == {HEARTBEAT, BRISK}
    assert {each.name for each in ship.after} == {each.name for each in ship.before}, ship.server_log
    assert "closing AMQP connection" not in ship.broker_log
    assert "missed heartbeats" not in ship.broker_log
    assert [status["reconnects"] for status in ship.statuses] == [0, 0]


def test_no_beat_was_late(ship: Ship) -> None:
    """A beat is due after a third of an interval, the broker gives up after two: between is a busy machine's."""
    assert ship.busy_turns > 0
    for status in ship.statuses:
        interval = status["heartbeat"]
        assert status["beats_sent"] >= 40 / interval, status
        # Without threads, a timer of uWSGI's is all that the beat has: it comes once a second.
        longest_gap = 1.8 * interval if ship.server.name == "uwsgi-threadless" else 1.6 * interval
        assert status["lateness_worst"] <= longest_gap - interval / 3, status


def test_the_next_request_is_served(ship: Ship) -> None:
    answers = [*ship.after_idle, *ship.after_busy]
    assert [answer.status for answer in answers] == [200] * 4, [answer.body for answer in answers]
    assert max(answer.json()["elapsed"] for answer in answers) < 5.0, "in vain, it is 10 s"


def test_the_log_is_clean_and_the_end_is_tidy(ship: Ship) -> None:
    """A worker that crashes when it is stopped, or leaves its connection to be cut, says so here."""
    log = FORK_HOOK_OF_GEVENT.sub("", ship.server_log)
    expected = re.compile(EXPECTED.get(ship.server.name, r"(?!)"))
    assert not [line for line in log.splitlines() if COMPLAINT.search(line) and not expected.search(line)], log
    assert "closing AMQP connection" in ship.broker_log_of_the_end
    assert "unexpectedly" not in ship.broker_log_of_the_end
