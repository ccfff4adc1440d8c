"""A remote exception on the wire, as oslo.messaging writes it, and what a caller makes of it.

Nothing is unpickled. An exception is built again only if its module is `builtins` or in the caller's own list, and
only from a subclass of Exception; everything else is a `RemoteError` that names the class.

Layer 4.
"""

from __future__ import annotations

import importlib
import json
import traceback
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from ..errors import RemoteError
from . import envelope

_SUFFIX = "_Remote"
_BUILTINS = frozenset({"builtins", "exceptions"})
"""Where Python 3 and Python 2 have their own exceptions."""


def encode(error: BaseException, *, with_traceback: bool = True) -> str:
    """The text of `failure`. Never raises: what JSON cannot hold of the exception's arguments is left as text.

    The module of a class can be told by an attribute `wire_module`.
    """
    kind = type(error)
    name, module = kind.__name__, str(getattr(kind, "wire_module", kind.__module__))
    if name.endswith(_SUFFIX) and module.endswith(_SUFFIX):
        name, module = name.removesuffix(_SUFFIX), module.removesuffix(_SUFFIX)
    message = _text(error)
    lines = _traceback(error) if with_traceback else [f"{module}.{name}: {message}\n"]
    parts = {"class": name, "module": module, "message": message, "tb": lines}
    as_text: envelope.Json = {"args": [message], "kwargs": {}}
    for arguments in (_arguments(error) or as_text, as_text):
        try:
            return json.dumps({**parts, **arguments}, default=envelope.primitive)
        except Exception:  # noqa: BLE001  (`primitive` runs code of the values)
            continue
    raise AssertionError("texts are always JSON")


def _arguments(error: BaseException) -> envelope.Json:
    try:
        return {"args": error.args, "kwargs": getattr(error, "kwargs", {})}
    except Exception:  # noqa: BLE001  (they may be an exception's own properties, which may fail)
        return {}


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  (an exception's own __str__ may fail)
        return f"<{type(error).__name__} without a text>"


def _traceback(error: BaseException) -> list[str]:
    try:
        return traceback.format_exception(type(error), error, error.__traceback__)
    except Exception:  # noqa: BLE001  (it formats the exception with its own __str__)
        return traceback.format_tb(error.__traceback__)


def rebuild(failure: str, allowed_modules: Collection[str] = ()) -> Exception:
    """The exception to raise for a failure: its own class where that is allowed, else a `RemoteError`. Never raises."""
    try:
        parts = json.loads(failure)
    except (ValueError, RecursionError):
        return RemoteError("unknown", failure)
    if not isinstance(parts, dict):
        return RemoteError("unknown", failure)
    name, module, message = (str(parts.get(key) or "") for key in ("class", "module", "message"))
    lines = parts.get("tb")
    trace = "".join(map(str, lines)) if isinstance(lines, list) else str(lines or "")
    built = None
    if module in _BUILTINS or module in allowed_modules:
        module = "builtins" if module in _BUILTINS else module
        built = _construct(module, name, parts.get("args"), parts.get("kwargs"))
    if built is not None:
        with suppress(Exception):  # its class may refuse to be derived from, or to be changed
            return _as_remote(built, module, f"{message}\n{trace}".rstrip())
    return RemoteError(name, message, trace)


def _construct(module: str, name: str, args: Any, kwargs: Any) -> Exception | None:
    try:
        kind = getattr(importlib.import_module(module), name, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            return None
        return kind(*(args or []), **(kwargs or {}))
    except Exception:  # noqa: BLE001  (the constructor may be anything, and gets arguments from outside)
        return None


def _as_remote(error: Exception, module: str, text: str) -> Exception:
    """Have the exception say that it came from elsewhere; `except` clauses for its class still match."""
    kind = type(error)
    remote = type(kind.__name__ + _SUFFIX, (kind,), {"__str__": lambda _self: text, "__module__": module + _SUFFIX})
    try:
        error.__class__ = remote
    except TypeError:  # a built-in exception's class cannot be changed
        error.args = (text, *error.args[1:])
    return error
