"""Deliveries in batches: so many, or what came within a time after the first.

One thread collects, in the order of arrival over all queues of a listener; others handle what is complete. A
delivery stays unacknowledged meanwhile, so a batch that is never handled goes back to its queue.

Layer 4: imports runtime.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from functools import partial
from typing import Generic, TypeVar

from ..runtime import native
from ..runtime.mailbox import Mailbox
from ..runtime.waiting import Completion, can_run_greenlets, is_exit, start_application_thread

logger = logging.getLogger("wsgi_messaging.notify")

T = TypeVar("T")

_IDLE = 3600.0
"""Seconds that a thread sleeps at a time when nothing comes."""
_MOST_PREFETCH = 65535
"""AMQP 0-9-1's `prefetch-count` is a short; 0 is no limit."""


def prefetch_for(size: int, threads: int) -> int:
    """A batch for each thread and one that is being collected, but never less than one batch."""
    return min(size * (threads + 1), _MOST_PREFETCH) if size <= _MOST_PREFETCH else 0


class Batches(Generic[T]):
    """Collects items into batches of `size` and has `handle` called with each, on `threads` threads.

    `timeout` is counted from the first item of a batch; None waits for as long as it takes. Of items with the same
    `key` in one batch the latest stays, and `drop` is called with the earlier one: after a reconnect what was
    collected comes again, and only the later one can be acknowledged.
    """

    def __init__(
        self,
        size: int,
        timeout: float | None,
        threads: int,
        handle: Callable[[list[T]], None],
        key: Callable[[T], Hashable],
        drop: Callable[[T], None],
    ) -> None:
        self._size = size
        self._timeout = float("inf") if timeout is None else timeout
        self._threads = threads
        self._handle = handle
        self._key = key
        self._drop = drop
        self._items: Mailbox[T] = Mailbox()
        self._complete: Mailbox[list[T]] = Mailbox()
        self._is_stopping = False
        self._running = [None] * threads
        self._ended = Completion()
        self.put = self._items.put

    def start(self) -> None:
        """Start the threads."""
        start_application_thread("wsgi-messaging-notify-collect", self._collect_all)
        for number in range(self._threads):
            self._start_one(number)

    def _start_one(self, number: int) -> None:
        start_application_thread(f"wsgi-messaging-notify-batch-{number}", partial(self._handle_all, number))

    def stop(self, timeout: float) -> bool:
        """Begin no more batches. Blocks: until those begun are handled, up to `timeout`; False when one is not."""
        self._is_stopping = True
        self._items.close()
        self._complete.clear()
        self._complete.close()
        return self._ended.wait(timeout)

    def _collect_all(self) -> None:
        while not self._is_stopping:
            first = self._items.get(_IDLE)
            if first is not None:
                batch = self._collected(first)
                if not self._is_stopping:
                    self._complete.put(batch)

    def _collected(self, first: T) -> list[T]:
        batch = {self._key(first): first}
        ends_at = native.monotonic() + self._timeout
        while len(batch) < self._size and not self._is_stopping:
            remaining = max(0.0, ends_at - native.monotonic())
            item = self._items.get(min(remaining, _IDLE))
            if item is not None:
                key = self._key(item)
                if key in batch:
                    self._drop(batch[key])
                batch[key] = item
            elif remaining == 0.0:
                break
        return list(batch.values())

    def _handle_all(self, number: int) -> None:
        try:
            while not self._is_stopping:
                batch = self._complete.get(_IDLE)
                if batch is not None:
                    self._handle_one(batch)
        except BaseException:
            self._hand_on(number)
            raise
        self._leave()

    def _handle_one(self, batch: list[T]) -> None:
        try:
            self._handle(batch)
        except BaseException as exc:
            if is_exit(exc):
                raise
            logger.exception("a batch of %d could not be handled", len(batch))

    def _hand_on(self, number: int) -> None:
        """Have another thread take the place of this one, which is ended from outside."""
        if not self._is_stopping and can_run_greenlets():
            try:
                self._start_one(number)
                return
            except RuntimeError as exc:
                logger.error("a thread for batches ended, and none could be started in its place: %s", exc)
        self._leave()

    def _leave(self) -> None:
        self._running.pop()
        if not self._running:
            self._ended.set()
