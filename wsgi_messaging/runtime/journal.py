"""Log records from native threads, and questions to the application.

A native thread never logs: a handler may hold its lock for seconds, or publish its record through this very package,
and in a patched process the handlers' locks are green. Records go to a mailbox, and a thread of the application (a
greenlet in a patched process) writes them, in order. That thread exists only while there is something to write,
except in a patched process, where a native thread cannot start one. The same thread asks what only the application
may be asked (credentials, from a function of its own), for the same reasons.

Layer 2.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from . import native
from .mailbox import Mailbox
from .waiting import (
    ApplicationThread,
    Completion,
    is_application_side,
    is_exit,
    start_application_thread,
)

T = TypeVar("T")

_LINGER = 1.0
"""Seconds that the writer waits for another record before it ends."""
_IDLE = 3600.0
"""Seconds that a greenlet, which does not end, sleeps at a time."""


class Journal:
    """Writes to one logger, from whichever thread."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._records: Mailbox[Callable[[], None]] = Mailbox()
        self._writer_token = native.allocate_lock()
        self._writer: ApplicationThread | None = None
        self._linger = _LINGER
        self._is_closed = False

    def ensure_writer(self) -> None:
        """In a patched process, start the writer where greenlets run. Call it at each use by the application."""
        if native.is_patched() and not self._writer_token.locked() and is_application_side():
            self._linger = _IDLE
            self._start_writer()

    def info(self, text: str) -> None:
        self._write(logging.INFO, text)

    def warning(self, text: str) -> None:
        self._write(logging.WARNING, text)

    def error(self, text: str) -> None:
        self._write(logging.ERROR, text)

    def close(self) -> None:
        """No more records will come; those that did are still written."""
        self._is_closed = True
        self._records.close()

    def join(self, timeout: float) -> None:
        """Wait until everything is written and the writer has ended, up to `timeout`; after `close`."""
        if self._writer is not None:
            with suppress(RuntimeError):  # called by a handler of logging, on the writer itself
                self._writer.join(timeout)

    def ask(self, question: Callable[[], T], timeout: float) -> T:
        """What `question()` answers on the application's side. Native threads call it.

        Blocks: up to `timeout`. Raises: `TimeoutError`, and what the question raises.
        """
        answered = Completion()
        answers: list[T] = []
        failures: list[Exception] = []

        def put_the_question() -> None:
            try:
                answers.append(question())
            except BaseException as exc:  # raised again, on the thread that asks, which only an Exception leaves alive
                failures.append(exc if isinstance(exc, Exception) else RuntimeError(f"{type(exc).__name__}: {exc}"))
                if is_exit(exc):
                    raise
            finally:
                answered.set()

        self._hand_over(put_the_question, first=True)
        if not answered.wait(timeout):
            raise TimeoutError(f"no answer within {timeout:g} s")
        if failures:
            raise failures[0]
        return answers[0]

    def _write(self, level: int, text: str) -> None:
        self._hand_over(partial(self._logger.log, level, "%s", text))

    def _hand_over(self, task: Callable[[], None], *, first: bool = False) -> None:
        self._records.put(task, first=first)
        if not native.is_patched():
            self._start_writer()

    def _start_writer(self) -> None:
        if self._writer_token.acquire(False):
            try:
                self._writer = start_application_thread("wsgi-messaging-journal", self._write_all)
            except RuntimeError:  # out of threads just now, or the interpreter is shutting down
                self._writer_token.release()

    def _write_all(self) -> None:
        try:
            self._write_what_comes()
        except BaseException:  # it is ended from outside: whoever has something to write starts another
            self._writer_token.release()
            raise

    def _write_what_comes(self) -> None:
        while True:
            record = self._records.get(self._linger)
            if record is not None:
                _do(record)
                continue
            if self._linger == _IDLE and not self._is_closed:
                continue
            self._writer_token.release()
            # A record that came between the look and the release has found the token taken.
            if not len(self._records) or not self._writer_token.acquire(False):
                return


def _do(task: Callable[[], None]) -> None:
    """A handler of logging that raises must not end the writer; it is told as logging itself tells such errors."""
    try:
        task()
    except BaseException as exc:
        if is_exit(exc):
            raise
        traceback.print_exc()
