"""A command that runs in the foreground until it is told to end.

Layer 5: imports the standard library only.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

ENDING = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def signals_awaited() -> Iterator[Callable[[], object]]:
    """Keep the ending signals pending until they are waited for, so that none is lost or interrupts the start."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield lambda: signal.sigwait(ENDING)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
