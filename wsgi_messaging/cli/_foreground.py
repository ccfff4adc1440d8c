"""Commands and the signals that end them: one that waits for them, one that finishes its step first.

Layer 5: imports runtime.waiting.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from ..runtime.waiting import Completion

ENDING = (signal.SIGTERM, signal.SIGINT)


class Ending:
    """The first of the ending signals; those behind it change nothing."""

    def __init__(self) -> None:
        self._came = Completion()
        self._interrupts = False

    def note(self, _number: int, _frame: FrameType | None) -> None:
        """A signal is here."""
        is_first = not self._came.is_set
        self._came.set()
        if is_first and self._interrupts:
            raise KeyboardInterrupt

    def wait(self) -> None:
        """Blocks: until one has come."""
        self._came.wait()

    def before(self, act: Callable[[], object]) -> None:
        """Do something that may take its time; the signal ends it in the middle, and keeps it from beginning."""
        self._interrupts = True
        try:
            if not self._came.is_set:
                act()
        except KeyboardInterrupt:
            if not self._came.is_set:
                raise
        finally:
            self._interrupts = False


@contextlib.contextmanager
def signals_awaited() -> Iterator[Ending]:
    """Note the ending signals, so that none is lost or ends the process as it is.

    They are not blocked, for sigwait(2): whatever the application starts would inherit that and take no SIGTERM; and
    where gevent or eventlet has patched it, its greenlets would stand still for the time of the wait.
    """
    ending = Ending()
    before = {number: signal.signal(number, ending.note) for number in ENDING}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def interruption_awaited() -> Iterator[Callable[[], bool]]:
    """Tell whether an ending signal came, so that a step is finished first. A second one ends it as usual, at once."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in ENDING}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        restore()
        with contextlib.suppress(OSError):  # `print` may be in the middle of a line of its own
            os.write(sys.stderr.fileno(), b"\ninterrupted: ending after this step (again: at once)\n")

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        restore()
