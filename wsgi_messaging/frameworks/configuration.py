"""A framework's configuration: the transport that it describes, and what the middleware is told.

One mapping has both, under the names that `Settings` and `MessagingMiddleware` have for them. What it does not say
about the transport comes from the environment.

Layer 5: imports middleware, settings, transport.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError
from ..middleware import MessagingMiddleware, WsgiApplication
from ..settings import Settings
from ..transport import Transport

OPTIONS = ("deadline", "deadline_header", "status_path", "status_token", "health_path")
"""What the middleware is told beside its transport."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What an application is given: its transport, and the options of the middleware."""

    transport: Transport
    options: Mapping[str, Any]

    def wrap(self, app: WsgiApplication) -> MessagingMiddleware:
        """Raises: `ConfigurationError`, naming the option."""
        return MessagingMiddleware(app, self.transport, **self.options)


def configured(mapping: Mapping[str, Any], prefix: str = "", *, offered: Sequence[str] = OPTIONS) -> Configuration:
    """From the keys that begin with `prefix`, in any case; text is converted. Opens nothing.

    `transport` may stand for a transport that is there already, a test's for example; the settings of one are not
    looked at then. `offered` are the options that are named where a key is none. Raises: `ConfigurationError`, naming
    the key.
    """
    options: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    given: tuple[str, object] | None = None
    for key, value in mapping.items():
        if not key.lower().startswith(prefix.lower()):
            continue
        name = key[len(prefix) :].lower()
        if name == "transport":
            given = (key, value) if value is not None else None
        elif name in OPTIONS:
            options[name] = value
        else:
            settings[key] = value
    if isinstance(options.get("deadline"), str):
        with suppress(ValueError):  # the middleware names what is no number
            options["deadline"] = float(options["deadline"])
    if given is None:
        return Configuration(_transport(settings, prefix, offered), options)
    key, transport = given
    if not isinstance(transport, Transport):
        raise ConfigurationError(f"{key}: a Transport is wanted, not {type(transport).__name__} (a URL has a key)")
    return Configuration(transport, options)


def _transport(mapping: Mapping[str, Any], prefix: str, offered: Sequence[str]) -> Transport:
    checked = Settings.from_mapping(mapping, prefix, others=("transport", *offered))
    names = {key[len(prefix) :].lower(): key for key in mapping}
    changes = {name: getattr(checked, name) for name in names}
    if "url" in names:  # as it was given: in the checked settings it has lost its query string
        changes["url"] = mapping[names["url"]]
    return Transport(settings=Settings.from_environ().with_changes(**changes))
