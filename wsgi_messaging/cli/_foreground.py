"""Commands and the signals that end them: one that waits for them, one that finishes its step first.

Layer 5: imports the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def signals_awaited() -> Iterator[Callable[[], object]]:
    """Keep the ending signals pending until they are waited for, so that none is lost or interrupts the start."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield lambda: signal.sigwait(ENDING)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
