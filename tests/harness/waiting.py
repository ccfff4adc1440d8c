"""Polling up to a deadline: how every test waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
Elsewhere = Callable[[Callable[[], object]], "Future[object]"]
"""Has something done on another thread; gives what becomes of it."""


def wait_until(
    condition: Callable[[], T], timeout: float = 10.0, what: str = "the condition", interval: float = 0.02
) -> T:
    """The first true value of `condition()`. Fails the test, naming `what`, when `timeout` seconds have passed."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what} did not come true within {timeout:g} s; last value: {value!r}")
        time.sleep(interval)


def stays(condition: Callable[[], object], seconds: float, what: str = "the condition") -> None:
    """Fails the test as soon as `condition()` is false within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), f"{what} did not hold for {seconds:g} s"
        time.sleep(0.02)
