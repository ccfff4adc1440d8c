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


@contextlib.contextmanager
def signals_awaited() -> Iterator[Callable[[], object]]:
    """Keep the ending signals until they are waited for, so that none is lost or interrupts the start.

    They are not blocked, for sigwait(2): whatever the application starts would inherit that and take no SIGTERM; and
    where gevent or eventlet has patched it, its greenlets would stand still for the time of the wait.
    """
    came = Completion()
    before = {number: signal.signal(number, lambda *_which: came.set()) for number in ENDING}
    try:
        yield came.wait
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
