"""Octets to and from a socket, by whichever of the two ways, and which one is taken."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness.waiting import wait_until
from wsgi_messaging.runtime import native, octets
from wsgi_messaging.runtime.octets import DEAR, KEPT_AT_MOST, KEPT_FOR, Octets


class SlowSocket:
    """Each of its calls takes what is told, in turn."""

    def __init__(self, calls: list[float]) -> None:
        self.now = 100.0
        self._calls = iter(calls)

    def monotonic(self) -> float:
        return self.now

    def send(self, data: memoryview) -> int:
        self.now += next(self._calls)
        return len(data)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture(params=["given away", "kept"])
def ways(request: pytest.FixtureRequest, pair: tuple[socket.socket, socket.socket]) -> Octets:
    made = Octets(pair[0])
    if request.param == "kept":
        made._keeps_until = float("inf")
    assert made.is_contended is (request.param == "kept")
    return made


def test_there_and_back(ways: Octets, pair: tuple[socket.socket, socket.socket]) -> None:
    assert ways.send(memoryview(b"a question")[2:]) == 8
    assert pair[1].recv(100) == b"question"
    pair[1].sendall(b"an answer")
    buffer = bytearray(b"." * 12)
    assert ways.recv_into(memoryview(buffer)[2:]) == 9
    assert buffer == b"..an answer."
    buffer += b"it is nobody's any more"


def test_nothing_there_and_no_room(ways: Octets) -> None:
    with pytest.raises(BlockingIOError):
        ways.recv_into(memoryview(bytearray(10)))
    with pytest.raises(BlockingIOError):
        while ways.send(memoryview(bytes(2 * KEPT_AT_MOST))):
            pass
    with pytest.raises(BlockingIOError):
        ways.send(memoryview(b"one more"))


def test_the_end_and_what_is_broken(ways: Octets, pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].close()
    assert ways.recv_into(memoryview(bytearray(10))) == 0
    with pytest.raises(BrokenPipeError):
        ways.send(memoryview(b"to nobody"))
    pair[0].close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        ways.send(memoryview(b"to nobody"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        ways.recv_into(memoryview(bytearray(10)))


@pytest.mark.parametrize(
    ("calls", "is_contended"),
    [
        ([2 * DEAR, 2 * DEAR], True),
        ([2 * DEAR, 0.0], False),
        ([2 * DEAR, 0.0, 2 * DEAR], False),
        ([DEAR / 2, DEAR / 2], False),
        ([0.0, 2 * DEAR, 2 * DEAR], True),
    ],
)
def test_two_dear_ones_in_a_row_tell_that_others_want_the_interpreter(
    monkeypatch: pytest.MonkeyPatch, calls: list[float], is_contended: bool
) -> None:
    slow: Any = SlowSocket(calls)
    monkeypatch.setattr(native, "monotonic", slow.monotonic)
    made = Octets(slow)
    for _ in calls:
        made.send(memoryview(b"x"))
    assert made.is_contended is is_contended
    slow.now += KEPT_FOR
    assert not made.is_contended


def test_without_ctypes_it_is_given_away(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(octets, "_system", None)
    monkeypatch.setattr(octets, "DEAR", -1.0)
    made = Octets(pair[0])
    for _ in range(4):
        assert made.send(memoryview(b"x")) == 1
    assert not made.is_contended


def test_beside_threads_that_compute_it_is_kept(pair: tuple[socket.socket, socket.socket]) -> None:
    """And given away again when they have ended."""
    made = Octets(pair[0])
    is_over = threading.Event()

    def compute(until: Callable[[], bool]) -> None:
        while not until():
            sum(range(100))

    def says_so() -> bool:
        made.send(memoryview(b"x"))
        pair[1].recv(100)
        return made.is_contended

    computing = [threading.Thread(target=compute, args=(is_over.is_set,)) for _ in range(2)]
    for thread in computing:
        thread.start()
    try:
        wait_until(says_so, 20.0, "a sign of the others")
    finally:
        is_over.set()
        for thread in computing:
            thread.join(10.0)
    wait_until(lambda: not says_so(), 20.0, "the end of it")
