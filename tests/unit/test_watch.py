"""The sleep of the connection's thread, and what ends it."""

from __future__ import annotations

import dis
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.harness.waiting import wait_until
from wsgi_messaging.connection import watch as watches
from wsgi_messaging.connection.watch import Watch
from wsgi_messaging.runtime import native

LONG = 10_000


@pytest.fixture(params=["epoll", "poll"])
def watch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Where there is epoll(7), and where there is not."""
    if request.param == "poll":
        monkeypatch.setattr(native, "_epoll", None)
    made = Watch()
    made.open()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[native.WakeUp]:
    """Something else to poll."""
    made = native.WakeUp()
    yield made
    made.close()


class Readable:
    """What the watch asks of a socket."""

    def __init__(self, wake_up: native.WakeUp) -> None:
        self.fileno = wake_up.fileno


def elapsed(watch: Watch, wait_ms: int) -> float:
    began_at = native.monotonic()
    watch.sleep(wait_ms)
    return native.monotonic() - began_at


def sleeps(watch: Watch) -> bool:
    """True when nothing ends its sleep early."""
    return elapsed(watch, 50) > 0.045


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux counts descriptors there")
def test_nothing_is_open_before_open_and_after_close() -> None:
    watch = Watch()
    before = os.listdir("/proc/self/fd")
    watch.wake(), watch.rouse(), watch.close()
    watch.open()
    watch.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_wake_up_ends_the_sleep_once(watch: Watch) -> None:
    watch.fall_asleep(0.0)
    watch.wake()
    assert elapsed(watch, LONG) < 5.0
    assert sleeps(watch), "it was taken"


def test_wake_costs_nothing_while_it_is_awake(watch: Watch) -> None:
    watch.wake()
    assert sleeps(watch)


def test_rouse_ends_the_next_sleep_whatever_it_does_now(watch: Watch) -> None:
    watch.rouse()
    assert elapsed(watch, LONG) < 5.0


def test_a_wake_up_that_comes_late_is_taken_all_the_same(watch: Watch, pair: native.WakeUp) -> None:
    """The caller saw it asleep, the socket woke it, and the byte came after: left there it ends every sleep at once,
    a whole processor for nothing."""
    watch.add(Readable(pair), native.POLLIN)  # type: ignore[arg-type]
    watch.fall_asleep(0.0)
    pair.send()
    assert watch.sleep(LONG)
    pair.drain()
    watch.rouse()  # the second half of that caller's wake
    watch.fall_asleep(0.0)
    assert elapsed(watch, LONG) < 5.0
    watch.fall_asleep(0.0)
    assert sleeps(watch)


def test_from_another_thread(watch: Watch) -> None:
    watch.fall_asleep(0.0)
    thread = threading.Thread(target=watch.wake)
    thread.start()
    assert elapsed(watch, LONG) < 5.0
    thread.join()


def test_no_wake_up_is_lost_between_the_look_and_the_sleep(watch: Watch) -> None:
    """A caller leaves work and wakes; the thread says that it sleeps and looks for work: in any interleaving."""
    work: list[int] = []
    rounds = 200

    def give() -> None:
        for number in range(rounds):
            work.append(number)
            watch.wake()

    thread = threading.Thread(target=give)
    began_at = native.monotonic()
    thread.start()
    done = 0
    while done < rounds:
        watch.fall_asleep(0.0)
        watch.sleep(0 if work else LONG)
        while work:
            work.pop()
            done += 1
    thread.join()
    assert native.monotonic() - began_at < 8.0


def test_sockets_come_and_go(watch: Watch, pair: native.WakeUp) -> None:
    readable = Readable(pair)
    pair.send()
    watch.add(readable, native.POLLIN)  # type: ignore[arg-type]
    assert watch.sleep(0)
    pair.drain()
    assert not watch.sleep(0)
    pair.send()
    watch.remove(readable)  # type: ignore[arg-type]
    assert not watch.sleep(0)


def test_a_socket_that_can_be_written(watch: Watch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watch.add(ours, native.POLLIN)  # type: ignore[arg-type]
        assert not watch.sleep(0)
        watch.await_writing(True)
        assert watch.sleep(0)
        watch.await_writing(False)
        assert not watch.sleep(0)
        watch.remove(ours)  # type: ignore[arg-type]


def test_close_is_idempotent(watch: Watch) -> None:
    watch.close()
    watch.close()
    watch.rouse()


# In the thread's place.


class Sleeper:
    """The connection's thread: it sleeps as it is told, and says how that ended."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._is_to_sleep = threading.Semaphore(0)
        self.ended: list[bool] = []
        self._sleeps = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while self._is_to_sleep.acquire():
            self.ended.append(self._watch.sleep(self._wait_ms))

    def sleep(self, wait_ms: int = LONG, *, on_standby: bool = False) -> None:
        """Returns when its turn can be taken."""
        self._wait_ms = wait_ms
        self._watch.fall_asleep(native.monotonic() + wait_ms / 1000, on_standby=on_standby)
        self._is_to_sleep.release()
        self._sleeps += 1
        wait_until(self._watch.take_turn, what="its turn", interval=0.001)

    def has_woken(self) -> bool:
        return len(self.ended) == self._sleeps

    def ended_with_its_turn(self) -> bool:
        """What its sleep gave once it had its turn back."""
        self._watch.give_turn()
        wait_until(self.has_woken, what="the thread")
        return self.ended[-1]

    def is_asleep(self) -> bool:
        """True when nothing ends its sleep for a while."""
        time.sleep(0.05)  # nothing tells that nothing ends it
        return not self.has_woken()


@pytest.fixture
def readable(pair: native.WakeUp) -> Readable:
    return Readable(pair)


@pytest.fixture
def relieved(readable: Readable) -> Iterator[tuple[Watch, Sleeper]]:
    """It sleeps, and we have its turn, and have waited for the socket once."""
    watch = Watch()
    watch.open()
    watch.add(readable, native.POLLIN)  # type: ignore[arg-type]
    sleeper = Sleeper(watch)
    sleeper.sleep()
    assert watch.wait_for_socket(0) is None
    yield watch, sleeper
    watch.rouse()
    wait_until(sleeper.has_woken, what="its end")
    watch.close()


needs_epoll = pytest.mark.skipif(native._epoll is None, reason="the thread cannot be relieved without epoll(7)")


def test_a_turn_that_is_never_given_back_is_taken_back(readable: Readable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had it was ended from outside in the moment of taking or giving it, for one by PyThreadState_SetAsyncExc."""
    monkeypatch.setattr(watches, "GIVEN_WITHIN", 0.05)
    watch = Watch()
    watch.taken_in = Sleeper.sleep.__code__  # where nobody is any more
    watch.open()
    watch.add(readable, native.POLLIN)  # type: ignore[arg-type]
    sleeper = Sleeper(watch)
    for _ in range(3):
        sleeper.sleep()
        watch.wake()
        wait_until(sleeper.has_woken, what="the thread")
        assert not watch.deputy
    watch.close()


def test_a_turn_that_somebody_has_is_waited_for(readable: Readable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "GIVEN_WITHIN", 0.01)
    watch = Watch()
    watch.open()
    watch.add(readable, native.POLLIN)  # type: ignore[arg-type]
    sleeper = Sleeper(watch)

    def have_it() -> None:
        sleeper.sleep()
        watch.wake()
        assert sleeper.is_asleep()

    watch.taken_in = have_it.__code__
    have_it()
    assert sleeper.ended_with_its_turn() is False
    watch.close()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="CPython 3.10 looks for signals between any two instructions")
def test_nothing_from_outside_comes_between_the_flag_and_the_octet() -> None:
    """CPython looks for signals and the like behind calls and jumps; who comes then finds the thread awake, asleep."""
    steps = list(dis.get_instructions(Watch.wake))
    flag = next(at for at, each in enumerate(steps) if each.opname == "STORE_ATTR" and each.argval == "is_asleep")
    call = next(at for at, each in enumerate(steps) if at > flag and each.opname == "CALL")
    between = steps[flag + 1 : call]
    assert {each.opname.partition("_")[0] for each in between} <= {"PUSH", "LOAD", "PRECALL", "NOP", "CACHE"}
    assert "send" in [each.argval for each in between], "the socket's own function, and none of Python's"


@needs_epoll
def test_the_socket_wakes_only_who_is_in_the_threads_place(
    relieved: tuple[Watch, Sleeper], pair: native.WakeUp
) -> None:
    watch, sleeper = relieved
    pair.send()
    assert watch.wait_for_socket(LONG) is True
    assert sleeper.is_asleep()
    pair.drain()
    watch.give_turn()
    assert sleeper.is_asleep()
    pair.send()
    wait_until(sleeper.has_woken, what="the thread, which has its place again")
    assert sleeper.ended == [True]


@needs_epoll
def test_what_was_not_read_wakes_the_thread(relieved: tuple[Watch, Sleeper], pair: native.WakeUp) -> None:
    watch, sleeper = relieved
    pair.send()
    assert sleeper.is_asleep()
    assert sleeper.ended_with_its_turn() is True


@needs_epoll
def test_who_wants_the_thread_ends_both_waits(relieved: tuple[Watch, Sleeper]) -> None:
    watch, sleeper = relieved
    threading.Timer(0.05, watch.wake).start()
    assert watch.wait_for_socket(LONG) is False
    assert sleeper.ended_with_its_turn() is False


@needs_epoll
def test_a_thread_that_wakes_by_itself_gets_its_place(relieved: tuple[Watch, Sleeper], readable: Readable) -> None:
    """It cannot be woken any more while it waits for its turn, so nobody else would end the wait in its place."""
    watch, sleeper = relieved
    threading.Timer(0.05, watch.await_writing, (True,)).start()  # what the socket takes, it takes at once
    assert watch.wait_for_socket(LONG) is False
    assert sleeper.ended_with_its_turn() is True
    assert not watch.is_asleep and not watch.take_turn()


def test_who_waits_while_it_stands_by_does_not_when_that_is_over(readable: Readable) -> None:
    """The thread has woken by itself and waits for its turn; nobody else could wake either."""
    watch = Watch()
    watch.open()
    watch.add(readable, native.POLLIN)  # type: ignore[arg-type]
    sleeper = Sleeper(watch)
    sleeper.sleep(50, on_standby=True)
    assert watch.wait_for_socket(LONG) is False
    assert sleeper.ended_with_its_turn() is False
    watch.close()


@needs_epoll
def test_nobody_waits_in_the_place_of_a_thread_that_has_just_woken(readable: Readable, pair: native.WakeUp) -> None:
    """The socket woke it after its turn was taken, and before it was relieved."""
    watch = Watch()
    watch.open()
    watch.add(readable, native.POLLIN)  # type: ignore[arg-type]
    sleeper = Sleeper(watch)
    sleeper.sleep()
    pair.send()
    wait_until(lambda: not watch.is_asleep, what="the thread")
    pair.drain()
    began_at = native.monotonic()
    assert watch.wait_for_socket(LONG) is None
    assert native.monotonic() - began_at < 5.0
    watch.give_turn()
    wait_until(sleeper.has_woken, what="the thread, with its turn")
    watch.close()


def test_without_epoll_nobody_waits_in_its_place(readable: Readable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_epoll", None)
    watch = Watch()
    watch.open()
    watch.add(readable, native.POLLIN)  # type: ignore[arg-type]
    began_at = native.monotonic()
    assert watch.wait_for_socket(LONG) is None
    assert native.monotonic() - began_at < 5.0
    watch.close()
