"""What all connections of one broker share: virtual hosts, users, fault switches and counters.

Layer 5, part of the embedded broker: pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .publishing import PublishRules
from .vhost import VirtualHost

PRODUCT = "wsgi_messaging devbroker"
CHANNEL_MAX = 2047
FRAME_MAX = 131072

SERVER_PROPERTIES: dict[str, Any] = {
    "capabilities": {
        "publisher_confirms": True,
        "exchange_exchange_bindings": True,
        "basic.nack": True,
        "consumer_cancel_notify": True,
        "connection.blocked": True,
        "consumer_priorities": True,
        "authentication_failure_close": True,
        "per_consumer_qos": True,
        "direct_reply_to": False,
    },
    "cluster_name": "devbroker@localhost",
    "information": "For development and tests only, not for production",
    "platform": "Python",
    "product": PRODUCT,
    "version": "3.10.8",
}
"""`version` is the RabbitMQ whose behaviour this broker follows; `product` says that it is none."""


@dataclass(frozen=True)
class ConnectionInfo:
    """One open connection, as the broker sees it at one moment."""

    name: str
    """`connection_name` of the client's properties, else the peer's address."""
    peer: str
    vhost: str
    user: str
    channels: int
    consumers: int
    heartbeat: int
    """Agreed seconds; 0 is none."""
    published: int
    is_blocked: bool
    client_properties: Mapping[str, Any] = field(repr=False)


class Node:
    """The broker without its sockets."""

    def __init__(
        self,
        *,
        users: Mapping[str, str],
        vhosts: Sequence[str],
        heartbeat: int,
        clock_offset: float = 0.0,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.users = dict(users)
        self.vhosts = {name: VirtualHost(name, clock_offset) for name in vhosts}
        self.heartbeat = heartbeat
        self.report = report
        self.rules = PublishRules()
        self.blocked_reason: str | None = None
        self.accepted = 0
        self.missed_heartbeats = 0
        self.abrupt_closes = 0

    def due_at(self) -> float:
        return min((vhost.due_at for vhost in self.vhosts.values()), default=float("inf"))

    def tick(self, now: float) -> None:
        for vhost in self.vhosts.values():
            vhost.tick(now)
