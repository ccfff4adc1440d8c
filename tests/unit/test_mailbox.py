"""Mailboxes between threads: nothing is lost, nobody sleeps beside an item; who is killed leaves nothing behind."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from tests.harness.waiting import wait_until
from tests.unit.waiters import LONG, Killed, KilledWaker, Threads, make_waker_here, threads
from wsgi_messaging.runtime import mailbox as mailboxes
from wsgi_messaging.runtime import native
from wsgi_messaging.runtime.mailbox import Mailbox
from wsgi_messaging.runtime.waiting import Waker, make_waker

__all__ = ["threads"]


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
    make_waker_here(monkeypatch, mailboxes, lambda: KilledWaker(lambda: None))
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
    make_waker_here(monkeypatch, mailboxes, lambda: killed)
    with pytest.raises(Killed):
        mailbox.get(LONG)
    assert killed.woken
    woken_at = native.monotonic()
    assert threads.join() == ["item"]
    assert native.monotonic() - woken_at < LONG / 2, "at the end of its time the other one finds the item anyway"


def test_an_item_that_comes_before_the_sleep_is_not_slept_through(monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox: Mailbox[str] = Mailbox()

    def put_first() -> Waker:
        mailbox.put("item")
        return make_waker()

    make_waker_here(monkeypatch, mailboxes, put_first)
    began_at = native.monotonic()
    assert mailbox.get(LONG) == "item"
    assert native.monotonic() - began_at < LONG / 2


class Called:
    """A waiter that was called, or not, and does not come."""

    def __init__(self) -> None:
        self.is_called = False

    def acquire(self, _blocking: bool, _timeout: float) -> bool:
        return True

    def release(self) -> None:
        self.is_called = True


def test_one_is_called_for_many_items_and_calls_the_next() -> None:
    mailbox: Mailbox[str] = Mailbox()
    waiters = [Called() for _ in range(3)]
    mailbox._wakers.extend(waiters)
    for _ in range(4):
        mailbox.put("item")
    assert [waiter.is_called for waiter in waiters] == [False, False, True]
    mailbox._is_one_called = False  # it has come
    assert mailbox.get(0) == "item"
    assert [waiter.is_called for waiter in waiters] == [False, True, True]


def test_each_item_goes_to_one_and_those_that_take_long_are_taken_up_side_by_side(threads: Threads) -> None:
    mailbox: Mailbox[int] = Mailbox()
    everybody = threading.Barrier(4)

    def work() -> int | None:
        item = mailbox.get(LONG)
        everybody.wait(LONG)
        return item

    threads.run(work, times=4)
    wait_until(lambda: len(mailbox._wakers) == 4, LONG, "the waiters")
    for number in range(4):
        mailbox.put(number)
    assert sorted(threads.join()) == [0, 1, 2, 3]  # type: ignore[type-var]


def test_one_that_never_comes_does_not_keep_the_others_asleep(threads: Threads) -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox._wakers.append(Called())
    mailbox.put("first")
    threads.run(lambda: [mailbox.get(LONG), mailbox.get(LONG)])
    wait_until(lambda: mailbox._wakers, LONG, "the waiter")
    mailbox.put("second")
    woken_at = native.monotonic()
    assert threads.join() == [["first", "second"]]
    assert native.monotonic() - woken_at < LONG / 2, "at the end of its time it finds the item anyway"


def test_nobody_sleeps_beside_an_item(threads: Threads) -> None:
    """Those who come, take and go at the same time as what is put: nothing lies there for longer than a call takes."""
    mailbox: Mailbox[float] = Mailbox()
    waits: list[float] = []

    def take() -> None:
        while (put_at := mailbox.get(LONG)) is not None:
            waits.append(native.monotonic() - put_at)

    threads.run(take, times=6)
    producers = Threads()

    def put() -> None:
        for _ in range(2000):
            mailbox.put(native.monotonic())
            if not len(mailbox) % 7:
                time.sleep(0.0001)  # so that they go to sleep again and again

    producers.run(put, times=3)
    producers.join()
    wait_until(lambda: len(waits) == 6000, LONG, "all items", interval=0.001)
    mailbox.close()
    threads.join()
    assert max(waits) < LONG / 2
