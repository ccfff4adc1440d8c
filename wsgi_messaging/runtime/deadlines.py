"""The deadline that the current work has: set by the middleware for a request, around a block, or by whoever called.

It bounds every publish and every call made in it. It is a context variable, so it holds for one thread or greenlet and
for what these call.

Layer 1: imports errors, runtime.native.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token

from ..errors import ConfigurationError
from . import native

_ends_at: ContextVar[float | None] = ContextVar("wsgi_messaging_ends_at", default=None)


ends_at: Callable[[], float | None] = _ends_at.get
"""The point in time (monotonic) at which the current work is no longer wanted; None when nobody said."""


def remaining_time() -> float | None:
    """Seconds until whoever waits for the current work gives up, from 0 up; None when nobody said."""
    end = _ends_at.get()
    return None if end is None else max(0.0, end - native.monotonic())


def begin_at(end: float | None) -> Token[float | None]:
    """From now on the current work ends at a point in time (monotonic), or whenever it likes, until `end`.

    For the middleware: a response may be produced after its function has returned, so there is no block to end it.
    """
    return _ends_at.set(end)


def end(token: Token[float | None]) -> None:
    """The work is over that began with `begin_at`."""
    _ends_at.reset(token)


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Within the block, calls end after `seconds` at the latest; never later than an outer deadline.

    Raises: `ConfigurationError` for what is no number of seconds.
    """
    if seconds is not None and not _is_number(seconds):
        raise ConfigurationError(f"deadline: {seconds!r} is not a number of seconds")
    outer = _ends_at.get()
    end = None if seconds is None else native.monotonic() + seconds
    token = _ends_at.set(outer if end is None else end if outer is None else min(end, outer))
    try:
        yield
    finally:
        _ends_at.reset(token)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value  # NaN is not itself
