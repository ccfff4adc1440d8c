"""Where the pages are and who may see one: the middleware's options, checked where they are given.

Layer 1: imports errors.
"""

from __future__ import annotations

from ..errors import ConfigurationError

SHORTEST_TOKEN = 16
LOOPBACK = "loopback"
"""In place of a token: for this host, and the deployer says that no proxy stands in front. Too short to be a token."""


def checked_path(option: str, path: object, hint: str = "") -> str:
    """A path as a request's environ has it: its octets in UTF-8, each as a character (PEP 3333, "Unicode Issues").

    Raises: `ConfigurationError`, naming the option.
    """
    if isinstance(path, str) and path.startswith("/") and not path.endswith("/"):
        return path.encode("utf-8", "surrogateescape").decode("latin-1")
    raise ConfigurationError(f"{option}: {path!r} does not begin with a slash, or ends with one{hint}")


def checked_token(token: object) -> str:
    """A token, or `LOOPBACK`. Raises: `ConfigurationError`, without the token."""
    if token == LOOPBACK:
        return LOOPBACK
    if isinstance(token, str) and len(token) >= SHORTEST_TOKEN and token.isascii() and token.isprintable():
        return token
    raise ConfigurationError(f"status_token: it must have at least {SHORTEST_TOKEN} characters, all printable ASCII")
