"""Completions between threads; a waiter that is killed leaves nothing behind."""

from __future__ import annotations

import threading

import pytest

from tests.harness.waiting import wait_until
from tests.unit.waiters import LONG, Killed, KilledWaker, Threads, make_waker_here, threads
from wsgi_messaging.runtime import native, waiting
from wsgi_messaging.runtime.waiting import Completion

__all__ = ["threads"]


def test_set_before_the_wait() -> None:
    completion = Completion()
    completion.set()
    assert completion.wait() and completion.wait(0) and completion.is_set


def test_the_wait_ends_when_it_is_set(threads: Threads) -> None:
    completion = Completion()
    threads.run(lambda: completion.wait(LONG), times=5)
    wait_until(lambda: len(completion._wakers) == 5, LONG, "the waiters")
    completion.set()
    completion.set()
    assert threads.join() == [True] * 5
    assert completion._wakers == []


@pytest.mark.parametrize("timeout", [0, -1, 0.001])
def test_a_wait_that_times_out_leaves_nothing(timeout: float) -> None:
    completion = Completion()
    assert not completion.wait(timeout)
    assert completion._wakers == []


def test_a_killed_wait_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    completion = Completion()
    make_waker_here(monkeypatch, waiting, lambda: KilledWaker(lambda: None))
    with pytest.raises(Killed):
        completion.wait()
    assert completion._wakers == []


def test_killed_while_it_is_being_set(monkeypatch: pytest.MonkeyPatch) -> None:
    completion = Completion()
    make_waker_here(monkeypatch, waiting, lambda: KilledWaker(completion.set))
    with pytest.raises(Killed):
        completion.wait()
    assert completion._wakers == [] and completion.is_set


def test_taken_off_by_set_before_the_flag_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waker is gone from the list while the flag is not yet set: nothing to remove is no error."""
    completion = Completion()
    make_waker_here(monkeypatch, waiting, lambda: KilledWaker(completion._wakers.clear))
    with pytest.raises(Killed):
        completion.wait()


def test_set_and_wait_at_the_same_time(threads: Threads) -> None:
    """Whoever is first: no wait sleeps through it."""
    completions = [Completion() for _ in range(300)]
    start = threading.Barrier(2)

    def wait_for_all() -> bool:
        start.wait()
        return all(completion.wait(LONG) for completion in completions)

    def set_all() -> bool:
        start.wait()
        for completion in completions:
            completion.set()
        return True

    threads.run(wait_for_all)
    threads.run(set_all)
    assert threads.join() == [True, True]


def test_a_plain_thread_waits_on_a_native_lock() -> None:
    assert isinstance(waiting.make_waker(), type(native.allocate_lock()))
