"""What `module:name` on a command line stands for.

Layer 5: imports errors.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from ..errors import ConfigurationError


def look_here() -> None:
    """Have the modules of the current folder found first. Raises: `ConfigurationError` where it is gone."""
    try:
        sys.path.insert(0, os.getcwd())
    except FileNotFoundError as exc:
        raise ConfigurationError("the current folder does not exist any more; change to one that does") from exc


def imported(what: str, module_name: str, attribute: str) -> Any:
    """The attribute, dots included, of a module; an error that the module itself raises is its own.

    Raises: `ConfigurationError`, beginning with `what`.
    """
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise  # the module is there; what it imports is not
        hint = f"; write {module_name.removesuffix('.py')}:{attribute}" if module_name.endswith(".py") else ""
        raise ConfigurationError(f"{what}: no module {module_name!r} in {os.getcwd()} or installed{hint}") from exc
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"{what}: {module_name!r} has no {attribute!r}")
        found = getattr(found, part)
    return found


def is_module_name(text: str) -> bool:
    return all(map(str.isidentifier, text.split(".")))
