"""Versions of an interface: `major.minor` or `major.minor.revision`, compatible within a major version.

Layer 4: imports our errors.
"""

from __future__ import annotations

import functools
from typing import Any

from ..errors import ConfigurationError, MessagingError


class RPCVersionCapError(MessagingError):
    """The request needs a version beyond the client's cap; nothing was sent. Use what the cap allows."""

    def __init__(self, version: str | None, version_cap: str) -> None:
        super().__init__(f"version {version} of the interface is beyond the version cap {version_cap}")
        self.version = version
        self.version_cap = version_cap


def is_compatible(have: str | None, want: str | None) -> bool:
    """True when one who has `have` can serve a request for `want`; no `have` means any, no `want` means none.

    `have` was `checked`. Raises: `ValueError` when `want` is no version.
    """
    if have is None or have == want:
        return True
    if want is None:
        return False
    own, other = _numbers(have), _numbers(want)
    return own[0] == other[0] and other[1:] <= own[1:]


def _numbers(version: Any) -> tuple[int, int, int]:
    if not isinstance(version, str):
        raise ValueError(f"version: {version!r:.40} is not a text")
    return _parsed(version)


@functools.lru_cache(maxsize=256)
def _parsed(version: str) -> tuple[int, int, int]:
    parts = version.split(".")
    if not 2 <= len(parts) <= 3 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise ValueError(f"version: {version!r:.40} is not major.minor or major.minor.revision")
    major, minor, revision = (*map(int, parts), 0)[:3]
    return major, minor, revision


def checked(name: str, version: str | None) -> str | None:
    """A version from a setting. Raises: `ConfigurationError`, naming the setting."""
    try:
        if version is not None:
            _numbers(version)
    except ValueError as exc:
        raise ConfigurationError(f"{name}: {exc}") from exc
    return version
