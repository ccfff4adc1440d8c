"""What the application gives us: refused where it is given, when it could not do its work.

An `async def` or a generator function returns at once and has done nothing, so its messages would be acknowledged and
lost. One that takes other arguments fails on each message, so a queue would be emptied into its dead letters. A URL in
place of a transport fails at the first call, in a request.

Layer 1.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from .errors import ConfigurationError

_NOT_PLAIN = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)


def check_transport(transport: object) -> None:
    """Raises: `ConfigurationError` for a URL, which is not repeated: it may hold a password."""
    if isinstance(transport, (str, bytes)):
        raise ConfigurationError("transport: a Transport is wanted, not a URL; make one of it: Transport(url)")


def check_plain(what: str, function: Callable[..., Any]) -> None:
    """Raises: `ConfigurationError`, naming `what`, where a call would only make a coroutine or a generator."""
    for each in (function, getattr(function, "__call__", None)):  # noqa: B004  (an object's own may be a coroutine)
        if any(test(each) for test in _NOT_PLAIN):
            raise ConfigurationError(
                f"{what}: {function!r:.80} is a coroutine or a generator function: a call of it does nothing; "
                "give a plain function (it may call asyncio.run)"
            )


def check_takes(what: str, function: Callable[..., Any], *arguments: str) -> None:
    """Raises: `ConfigurationError`, naming `what`, where it cannot be called with so many arguments."""
    try:
        signature = inspect.signature(function, follow_wrapped=False)  # a decorator may add arguments of its own
    except ValueError:  # a built-in that does not tell
        return
    try:
        signature.bind(*arguments)
    except TypeError as exc:
        raise ConfigurationError(
            f"{what}: {function!r:.80} takes {signature}, and is called with {', '.join(arguments)}: {exc}"
        ) from exc


def listed(endpoints: Iterable[object]) -> list[object]:
    """The endpoints. Raises: `ConfigurationError` for a single one where a list belongs."""
    if not isinstance(endpoints, Iterable):
        raise ConfigurationError(f"endpoints: {endpoints!r:.60} is not a list of endpoints; put it into one")
    return list(endpoints)
