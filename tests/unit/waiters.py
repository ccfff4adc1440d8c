"""Threads that wait, and wakers that are killed, for the tests of what waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType

import pytest

from wsgi_messaging.runtime import native
from wsgi_messaging.runtime.waiting import Waker, make_waker

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


def make_waker_here(monkeypatch: pytest.MonkeyPatch, user: ModuleType, make: Callable[[], Waker]) -> None:
    """In the module that makes its wakers, for the calling thread alone: those that other tests have left may be about
    to wait, too."""
    here = native.get_ident()
    monkeypatch.setattr(user, "make_waker", lambda: (make if native.get_ident() == here else make_waker)())
