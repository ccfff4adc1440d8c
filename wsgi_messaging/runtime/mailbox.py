"""A queue from a native thread to threads or greenlets of the application.

`queue.Queue` cannot do this in a patched process: a put from a native thread loses its wake-up.

Those who wait are called one at a time, and each one calls the next as it takes an item, if there are more. So many
items at once do not have as many threads compete for the interpreter, of which the first to come takes most of them;
and items that take long are taken up side by side all the same.

Layer 1.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

from . import native
from .waiting import Waker, make_waker

T = TypeVar("T")


class Mailbox(Generic[T]):
    """`put` never blocks, `get` waits. Threads: any, and any greenlet.

    Who began to wait last gets the item: what it needs is still in the processor's cache, and the others may find that
    they are too many.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._wakers: list[Waker] = []
        self._is_closed = False
        self._is_one_called = False
        """Somebody was called and has not come yet. Whoever begins to wait, or ends it, puts an end to this: who was
        called never comes when its hub is gone."""

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, *, first: bool = False) -> None:
        """Add an item, behind the others or before them. Never blocks."""
        (self._items.appendleft if first else self._items.append)(item)
        if not self._is_one_called:
            self._call_one()

    def clear(self) -> None:
        self._items.clear()

    def _call_one(self) -> None:
        while True:
            self._is_one_called = True  # before it is: who comes takes it back
            try:
                waker = self._wakers.pop()
            except IndexError:
                self._is_one_called = False
                if self._items and self._wakers:  # both came in between: who put it saw the flag, who waits no item
                    continue
            else:
                waker.release()
            return

    def close(self) -> None:
        """Have every `get`, those that wait now and later ones, return None once there are no items."""
        self._is_closed = True
        for _ in range(len(self._wakers)):
            self._call_one()

    def get(self, timeout: float, first_waker: Waker | None = None) -> T | None:
        """The oldest item, or None after `timeout` seconds or when closed. Each item goes to one caller.

        `first_waker` is what it waits with first, for as long as that wants.
        """
        deadline = native.monotonic() + timeout
        while True:
            try:
                item = self._items.popleft()
            except IndexError:
                remaining = deadline - native.monotonic()
            else:
                if self._items and not self._is_one_called:
                    self._call_one()
                return item
            if remaining <= 0 or self._is_closed:
                return None
            self._sleep(first_waker or make_waker(), remaining)
            first_waker = None

    def _sleep(self, waker: Waker, timeout: float) -> None:
        self._wakers.append(waker)
        self._is_one_called = False
        # It was put on the list first, and the items are looked at second; `put` does it the other way round.
        if self._items or self._is_closed:
            timeout = 0.0
        woken = False
        try:
            woken = waker.acquire(True, timeout)
        finally:
            if not woken:
                with suppress(ValueError):  # it was called, too late for it
                    self._wakers.remove(waker)
            self._is_one_called = False
            if not woken and self._items:
                self._call_one()
