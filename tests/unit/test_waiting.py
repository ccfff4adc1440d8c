"""Completions and mailboxes between threads; a waiter that is killed leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from tests.harness.waiting import wait_until
from wsgi_messaging.runtime import native, waiting
from wsgi_messaging.runtime.waiting import Completion, Mailbox

LONG = 10.0


class Threads:
    """Runs functions in threads and keeps what they give."""

    def __init__(self) -> None:
        self.results: list[object] = []
        self._threads: list[threading.Thread] = []

    def run(self, function: Callable[[], object], times: int = 1) -> None:
        for _ in range(times):
            thread = threading.Thread(target=lambda: self.results.append(function()), daemon=True)
            thread.start()
            self._threads.append(thread)

    def join(self) -> list[object]:
        for thread in self._threads:
            thread.join(LONG)
            assert not thread.is_alive(), "a thread still waits"
        return self.results


@pytest.fixture
def threads() -> Threads:
    return Threads()


class Killed(BaseException):
    """What gevent.Timeout and KeyboardInterrupt are to a waiter."""


class KilledWaker:
    """A waker whose wait is ended by an exception, after `before` has run."""

    def __init__(self, before: Callable[[], None]) -> None:
        self._before = before
        self.woken = False

    def acquire(self, blocking: bool, timeout: float) -> bool:
        self._before()
        raise Killed

    def release(self) -> None:
        self.woken = True


def make_waker_here(monkeypatch: pytest.MonkeyPatch, make: Callable[[], waiting.Waker]) -> None:
    """For the calling thread alone: those that other tests have left may be about to wait, too."""
    here, original = native.get_ident(), waiting.make_waker
    monkeypatch.setattr(waiting, "make_waker", lambda: (make if native.get_ident() == here else original)())


# Completion.


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
    make_waker_here(monkeypatch, lambda: KilledWaker(lambda: None))
    with pytest.raises(Killed):
        completion.wait()
    assert completion._wakers == []


def test_killed_while_it_is_being_set(monkeypatch: pytest.MonkeyPatch) -> None:
    completion = Completion()
    make_waker_here(monkeypatch, lambda: KilledWaker(completion.set))
    with pytest.raises(Killed):
        completion.wait()
    assert completion._wakers == [] and completion.is_set


def test_taken_off_by_set_before_the_flag_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waker is gone from the list while the flag is not yet set: nothing to remove is no error."""
    completion = Completion()
    make_waker_here(monkeypatch, lambda: KilledWaker(completion._wakers.clear))
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


# Mailbox.


def test_items_come_in_order() -> None:
    mailbox: Mailbox[int] = Mailbox()
    for number in range(3):
        mailbox.put(number)
    assert len(mailbox) == 3
    assert [mailbox.get(0) for _ in range(4)] == [0, 1, 2, None]


def test_get_waits_for_put(threads: Threads) -> None:
    mailbox: Mailbox[str] = Mailbox()
    threads.run(lambda: mailbox.get(LONG))
    wait_until(lambda: mailbox._wakers, LONG, "the waiter")
    mailbox.put("item")
    assert threads.join() == ["item"]
    assert not mailbox._wakers


class Helper:
    """A waker that gets the item itself, or gives up."""

    def __init__(self, mailbox: Mailbox[str], gets: bool) -> None:
        self._mailbox, self._gets, self.is_released = mailbox, gets, False

    def acquire(self, _blocking: bool, _timeout: float) -> bool:
        if self._gets:
            self._mailbox.put("item")
        return self.is_released

    def release(self) -> None:
        self.is_released = True


def test_who_waits_in_a_way_of_its_own_is_woken_first(threads: Threads) -> None:
    """It gets what it brings about itself, and wakes nobody for it."""
    mailbox: Mailbox[str] = Mailbox()
    threads.run(lambda: mailbox.get(LONG))
    wait_until(lambda: mailbox._wakers, LONG, "another waiter")
    helper = Helper(mailbox, gets=True)
    assert mailbox.get(LONG, helper) == "item"
    assert helper.is_released and len(mailbox._wakers) == 1
    mailbox.put("other")
    assert threads.join() == ["other"]


def test_who_waited_in_a_way_of_its_own_waits_on(threads: Threads) -> None:
    mailbox: Mailbox[str] = Mailbox()
    helper = Helper(mailbox, gets=False)
    threads.run(lambda: mailbox.get(LONG, helper))
    wait_until(lambda: mailbox._wakers and mailbox._wakers != [helper], LONG, "the waiter, as others wait")
    mailbox.put("item")
    assert threads.join() == ["item"]
    assert not helper.is_released and not mailbox._wakers


def test_each_item_goes_to_one(threads: Threads) -> None:
    mailbox: Mailbox[int] = Mailbox()
    threads.run(lambda: mailbox.get(LONG), times=4)
    wait_until(lambda: len(mailbox._wakers) == 4, LONG, "the waiters")
    for number in range(4):
        mailbox.put(number)
    assert sorted(threads.join()) == [0, 1, 2, 3]  # type: ignore[type-var]


def test_who_began_to_wait_last_gets_the_item(threads: Threads) -> None:
    mailbox: Mailbox[str] = Mailbox()
    taken: list[int] = []

    def take(number: int) -> None:
        while mailbox.get(LONG) is not None:
            taken.append(number)

    for number in range(3):
        threads.run(partial(take, number))
        wait_until(lambda count=number + 1: len(mailbox._wakers) == count, LONG, "the waiter")  # type: ignore[misc]
    for count in range(1, 6):
        mailbox.put("item")
        wait_until(lambda count=count: len(taken) == count and len(mailbox._wakers) == 3, LONG, "the next wait")  # type: ignore[misc]
    mailbox.close()
    threads.join()
    assert taken == [2] * 5


def test_many_to_many(threads: Threads) -> None:
    mailbox: Mailbox[int] = Mailbox()

    def take() -> list[int]:
        taken = []
        while (item := mailbox.get(LONG)) is not None:
            taken.append(item)
        return taken

    threads.run(take, times=4)
    producers = Threads()
    producers.run(lambda: [mailbox.put(number) for number in range(500)], times=3)
    producers.join()
    wait_until(lambda: not len(mailbox), LONG, "an empty mailbox")
    mailbox.close()
    taken = [item for part in threads.join() for item in part]  # type: ignore[attr-defined]
    assert sorted(taken) == sorted([*range(500)] * 3)


def test_close_ends_every_get_once_it_is_empty(threads: Threads) -> None:
    mailbox: Mailbox[str] = Mailbox()
    threads.run(lambda: mailbox.get(LONG), times=3)
    wait_until(lambda: len(mailbox._wakers) == 3, LONG, "the waiters")
    mailbox.close()
    assert threads.join() == [None] * 3
    mailbox.put("late")
    assert mailbox.get(LONG) == "late"
    assert mailbox.get(LONG) is None


def test_clear() -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox.put("old")
    mailbox.clear()
    assert mailbox.get(0) is None


def test_a_get_that_times_out_leaves_nothing(threads: Threads) -> None:
    mailbox: Mailbox[str] = Mailbox()
    assert mailbox.get(0.001) is None
    assert mailbox.get(0) is None
    assert mailbox.get(-1) is None
    assert not mailbox._wakers
    mailbox.put("item")
    assert mailbox.get(0) == "item", "no dead waiter has swallowed the wake-up"


def test_a_killed_get_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox: Mailbox[str] = Mailbox()
    make_waker_here(monkeypatch, lambda: KilledWaker(lambda: None))
    with pytest.raises(Killed):
        mailbox.get(LONG)
    assert not mailbox._wakers


def test_a_get_killed_with_the_wake_up_in_its_hand_passes_it_on(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the item lies there while another waiter sleeps."""
    mailbox: Mailbox[str] = Mailbox()
    threads.run(lambda: mailbox.get(LONG))
    wait_until(lambda: mailbox._wakers, LONG, "the other waiter")
    killed = KilledWaker(lambda: mailbox.put("item"))
    make_waker_here(monkeypatch, lambda: killed)
    with pytest.raises(Killed):
        mailbox.get(LONG)
    assert killed.woken
    woken_at = native.monotonic()
    assert threads.join() == ["item"]
    assert native.monotonic() - woken_at < LONG / 2, "at the end of its time the other one finds the item anyway"


def test_an_item_that_comes_before_the_sleep_is_not_slept_through(monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox: Mailbox[str] = Mailbox()
    make_waker = waiting.make_waker

    def put_first() -> waiting.Waker:
        mailbox.put("item")
        return make_waker()

    make_waker_here(monkeypatch, put_first)
    began_at = native.monotonic()
    assert mailbox.get(LONG) == "item"
    assert native.monotonic() - began_at < LONG / 2


def test_a_plain_thread_waits_on_a_native_lock() -> None:
    assert isinstance(waiting.make_waker(), type(native.allocate_lock()))
