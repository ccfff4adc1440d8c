"""Heartbeat, backoff and deadlines: arithmetic with a clock that the test turns."""

from __future__ import annotations

import pytest

from wsgi_messaging.connection.pulse import Pulse
from wsgi_messaging.connection.timing import Backoff, Heartbeat, remaining


def heartbeat(interval: float = 30.0) -> Heartbeat:
    return Heartbeat(interval, sent_at=100.0, received_at=100.0)


def test_beats_three_times_in_an_interval_and_gives_up_after_two() -> None:
    beat = heartbeat()
    assert beat.due_at() == 110.0
    assert beat.silent_at() == 160.0
    beat.received_at = 130.0
    assert beat.silent_at() == 190.0
    beat.sent_at = 105.0
    assert beat.due_at() == 115.0


def test_without_an_interval_nothing_is_ever_due() -> None:
    beat = heartbeat(0.0)
    assert beat.due_at() == beat.silent_at() == float("inf")
    assert not beat.is_too_late(1e9)
    assert beat.beat(1e9) == 0.0


@pytest.mark.parametrize(("now", "late"), [(109.0, 0.0), (110.0, 0.0), (110.5, 0.5), (125.0, 15.0)])
def test_lateness(now: float, late: float) -> None:
    beat = heartbeat()
    assert beat.beat(now) == late
    assert (beat.sent_at, beat.beats_sent, beat.lateness_last, beat.lateness_worst) == (now, 1, late, late)


def test_the_worst_lateness_stays() -> None:
    beat = heartbeat()
    beat.beat(113.0)
    beat.beat(123.5)
    assert (beat.lateness_last, beat.lateness_worst, beat.beats_sent) == (0.5, 3.0, 2)


@pytest.mark.parametrize(("late", "is_too_late"), [(0.0, False), (15.0, False), (15.1, True)])
def test_half_an_interval_is_too_late(late: float, is_too_late: bool) -> None:
    assert heartbeat().is_too_late(late) is is_too_late


def test_backoff_doubles_up_to_its_longest_and_begins_again_after_a_success() -> None:
    backoff = Backoff()
    assert [backoff.failed(jitter=1.0) for _ in range(5)] == [0.25, 0.5, 1.0, 2.0, 2.0]
    backoff.succeeded()
    assert backoff.failed(jitter=1.0) == 0.25


@pytest.mark.parametrize(("jitter", "share"), [(0.0, 0.25), (0.5, 0.625), (1.0, 1.0)])
def test_jitter_spreads_over_three_quarters(jitter: float, share: float) -> None:
    backoff = Backoff(shortest=0.4)
    assert backoff.failed(jitter) == pytest.approx(0.4 * share)


def test_backoff_survives_years_of_failures() -> None:
    backoff = Backoff()
    delays = [backoff.failed(1.0) for _ in range(5000)]
    assert delays[-1] == 2.0
    assert backoff.failed_rounds == 30


@pytest.mark.parametrize(("deadline", "now", "left"), [(5.0, 3.0, 2.0), (3.0, 3.0, 0.0), (3.0, 5.0, 0.0)])
def test_remaining_is_never_negative(deadline: float, now: float, left: float) -> None:
    assert remaining(deadline, now) == left


class Warnings(list[str]):
    """Keeps what it is called with."""

    __call__ = list.append


def test_pulse_beats_when_due_and_not_before() -> None:
    pulse = Pulse(Warnings())
    pulse.begin(30.0, now=100.0)
    assert pulse.next_at == 110.0
    assert pulse.keep_alive(109.9) == b""
    assert pulse.keep_alive(110.0) == b"\x08\0\0\0\0\0\0\xce"
    assert pulse.keep_alive(110.1) == b""
    assert pulse.next_at == 120.0


def test_pulse_gives_a_silent_peer_up() -> None:
    pulse = Pulse(Warnings())
    pulse.begin(30.0, now=100.0)
    pulse.keep_alive(159.9)
    with pytest.raises(EOFError, match=r"nothing was heard of the broker for 60.0 s"):
        pulse.keep_alive(160.0)


def test_pulse_warns_once_of_a_late_beat_and_says_where_the_threads_are() -> None:
    warnings = Warnings()
    pulse = Pulse(warnings)
    pulse.begin(30.0, now=100.0)
    pulse.keep_alive(130.0)
    pulse.keep_alive(158.0)
    [warning] = warnings
    assert warning.startswith("a heartbeat was 20.0 s late (interval 30 s)")


def test_pulse_counts_on_over_a_reconnect() -> None:
    pulse = Pulse(Warnings())
    pulse.begin(30.0, now=100.0)
    pulse.keep_alive(113.0)
    pulse.beat.beats_received = 4
    pulse.begin(10.0, now=200.0)
    beat = pulse.beat
    assert (beat.beats_sent, beat.beats_received, beat.lateness_worst, beat.interval) == (1, 4, 3.0, 10.0)
    assert pulse.next_at == pytest.approx(200.0 + 10 / 3)


def test_anything_written_counts_as_a_beat_and_may_be_late_as_well() -> None:
    """A publish that goes out 20 s after the beat was due hides nothing: the interpreter was held all the same."""
    warnings = Warnings()
    pulse = Pulse(warnings)
    pulse.begin(30.0, now=100.0)
    pulse.wrote(105.0)
    assert pulse.keep_alive(110.0) == b""
    assert pulse.next_at == 115.0
    assert (pulse.beat.beats_sent, pulse.beat.lateness_worst) == (0, 0.0)
    pulse.wrote(135.0)
    assert pulse.beat.lateness_worst == 20.0
    assert len(warnings) == 1
    assert pulse.keep_alive(144.9) == b""
