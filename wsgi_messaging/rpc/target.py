"""Where a request goes, and where a server listens: names only.

Layer 4: imports our errors and checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..callables import check_transport
from ..errors import ConfigurationError

DEFAULT_EXCHANGE = "openstack"
"""oslo.messaging's `control_exchange` where nobody sets it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A topic in an exchange, one server of it or all of them (fanout), an interface (namespace) and its version.

    As oslo.messaging's Target; calling it gives a copy with some attributes changed.
    """

    exchange: str | None = None
    topic: str | None = None
    namespace: str | None = None
    version: str | None = None
    server: str | None = None
    fanout: bool | None = None
    legacy_namespaces: Sequence[str | None] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "legacy_namespaces", tuple(self.legacy_namespaces or ()))

    def __call__(self, **changes: Any) -> Target:
        try:
            return replace(self, **changes)
        except TypeError as exc:
            raise ConfigurationError(f"Target: {exc}") from exc

    def __repr__(self) -> str:
        names = ("exchange", "topic", "namespace", "version", "server", "fanout")
        given = (f"{name}={getattr(self, name)}" for name in names if getattr(self, name))
        return f"<Target {', '.join(given)}>"

    @property
    def accepted_namespaces(self) -> list[str | None]:
        """The namespaces that an endpoint with this target answers to."""
        return [self.namespace, *self.legacy_namespaces]

    @property
    def exchange_name(self) -> str:
        """The topic exchange; its name is a default's where none is given."""
        return self.exchange or DEFAULT_EXCHANGE

    @property
    def fanout_exchange(self) -> str:
        """The exchange that reaches all servers of the topic; it has no part of `exchange` in its name."""
        return f"{self.topic}_fanout"

    @property
    def route(self) -> tuple[str, str]:
        """The exchange and the routing key of a request. Raises: `ConfigurationError` when there is no topic."""
        if not self.topic:
            raise ConfigurationError(f"topic: {self!r} has none, so there is nowhere to send to")
        if self.fanout:
            return self.fanout_exchange, ""
        return self.exchange_name, f"{self.topic}.{self.server}" if self.server else self.topic


def check(transport: object, target: object) -> None:
    """Raises: `ConfigurationError` for a URL in place of a transport, and for another library's Target, which looks the
    same and knows no route."""
    check_transport(transport)
    if not isinstance(target, Target):
        kind = f"{type(target).__module__}.{type(target).__qualname__}"
        raise ConfigurationError(f"target: {kind} is no wsgi_messaging.Target; make one, with the same arguments")
