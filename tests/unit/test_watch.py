"""The sleep of the connection's thread, and what ends it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from wsgi_messaging.connection.watch import Watch
from wsgi_messaging.runtime import native

LONG = 5000


@pytest.fixture
def watch() -> Iterator[Watch]:
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


def test_nothing_is_open_before_open() -> None:
    watch = Watch()
    watch.wake(), watch.rouse(), watch.close()
    assert not watch.sleep(0)


def test_a_wake_up_ends_the_sleep_once(watch: Watch) -> None:
    watch.fall_asleep(0.0)
    watch.wake()
    assert elapsed(watch, LONG) < 2.0
    assert sleeps(watch), "it was taken"


def test_wake_costs_nothing_while_it_is_awake(watch: Watch) -> None:
    watch.wake()
    assert sleeps(watch)


def test_rouse_ends_the_next_sleep_whatever_it_does_now(watch: Watch) -> None:
    watch.rouse()
    assert elapsed(watch, LONG) < 2.0


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
    assert elapsed(watch, LONG) < 2.0
    watch.fall_asleep(0.0)
    assert sleeps(watch)


def test_from_another_thread(watch: Watch) -> None:
    watch.fall_asleep(0.0)
    thread = threading.Thread(target=watch.wake)
    thread.start()
    assert elapsed(watch, LONG) < 2.0
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
    assert native.monotonic() - began_at < 4.0


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
        watch.await_writing(ours, True)  # type: ignore[arg-type]
        assert watch.sleep(0)
        watch.await_writing(ours, False)  # type: ignore[arg-type]
        assert not watch.sleep(0)
        watch.remove(ours)  # type: ignore[arg-type]


def test_close_is_idempotent(watch: Watch) -> None:
    watch.close()
    watch.close()
    watch.rouse()
