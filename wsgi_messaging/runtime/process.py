"""One value per process: the pid decides, at every use.

`os.register_at_fork` does not run in uWSGI's workers, so nothing may depend on it; it serves only to let go of an
inherited connection early, so that the parent's closing reaches the broker although a child still lives.

Rules: no lock is taken, so none can be inherited in a locked state, and a signal handler may call in at any point;
an inherited value is forgotten exactly once.

Layer 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakSet

from . import native

T = TypeVar("T")

_all: WeakSet[PerProcess[object]] = WeakSet()


class PerProcess(Generic[T]):
    """Holds the value that `make` gives in this process; `forget` gets the ones that came over a fork.

    `make` may run twice when two threads race for the first use; the loser's value is dropped unused, so making
    must open and start nothing.
    """

    def __init__(self, make: Callable[[], T], forget: Callable[[T], None]) -> None:
        self._make = make
        self._forget = forget
        self._values: dict[int, T] = {}
        _all.add(self)  # type: ignore[arg-type]

    def get(self) -> T:
        """This process's value, made at its first use."""
        value = self._values.get(native.getpid())
        return self._adopt() if value is None else value

    def peek(self) -> T | None:
        """This process's value if it was made already."""
        return self._values.get(native.getpid())

    def take_out(self) -> T:
        """This process's value, which is no longer held: the next `get` makes another."""
        value = self.get()
        self._values.pop(native.getpid(), None)
        return value

    def _adopt(self) -> T:
        value = self._values.setdefault(native.getpid(), self._make())
        self.forget_inherited()
        return value

    def forget_inherited(self) -> None:
        """Let go of the values that other processes made. Sends nothing, waits for nothing."""
        own = native.getpid()
        for pid in list(self._values):
            if pid != own:
                value = self._values.pop(pid, None)
                if value is not None:
                    self._forget(value)


def _forget_all_inherited() -> None:
    for holder in list(_all):
        holder.forget_inherited()


os.register_at_fork(after_in_child=_forget_all_inherited)
