"""What a user may do in a virtual host, found by doing it on a temporary queue: declare, bind, publish, get.

RabbitMQ has three permissions, each a pattern of names: configure (declare), write (publish to an exchange, bind a
queue), read (get, bind from an exchange); https://www.rabbitmq.com/docs/access-control. It checks them before it
looks whether the queue is there, so each is found out even when another is missing.

Layer 5: imports connection, the conversation.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ..connection import codec, topology
from ..connection.hosts import Broker
from ._conversation import BASIC_GET, Conversation, Parcel, Refused, Trouble

EXCHANGE = "amq.topic"
_PERSISTENT = codec.properties({"content_type": "text/plain", "delivery_mode": 2})


@dataclass(frozen=True, slots=True)
class Trial:
    """The temporary queue, and whose permissions are tried."""

    conversation: Conversation
    broker: Broker
    queue: str

    def declare(self) -> str:
        """Configure, on the queue."""
        declaration = topology.declare_queue(
            self.queue, passive=False, durable=False, exclusive=True, auto_delete=True, arguments={}
        )
        try:
            self.conversation.declare(declaration)
        except Refused as exc:
            raise self._missing(exc, "configure", self.queue) from exc
        return "configure: exclusive queue declared"

    def bind(self) -> str:
        """Write on the queue, read on the exchange."""
        try:
            self.conversation.declare(topology.bind_queue(self.queue, EXCHANGE, self.queue, {}))
        except Refused as exc:
            if f"exchange '{EXCHANGE}'" in exc.text:
                raise self._missing(exc, "read", EXCHANGE) from exc
            raise self._missing(exc, "write", self.queue) from exc
        return f"write and read: bound to {EXCHANGE}"

    def publish(self) -> str:
        """Write, on the default exchange."""
        try:
            published = self.conversation.publish([Parcel("", self.queue, _PERSISTENT, b"wsgi-messaging check")])
            if published.fault is not None:
                raise published.fault
        except Refused as exc:
            raise self._missing(exc, "write", "amq.default") from exc
        return "write: published and confirmed"

    def get(self) -> str:
        """Read, on the queue."""
        try:
            self.conversation.ask(BASIC_GET, codec.arguments("Bsb", 0, self.queue, True))
        except Refused as exc:
            if exc.code != 404:
                raise self._missing(exc, "read", self.queue) from exc
        return "read: fetched"

    def _missing(self, exc: Refused, permission: str, name: str) -> Trouble:
        if exc.code != 403:
            return Trouble(f"the broker refused it: {exc}", "See the broker's log for the reason")
        host, user = shlex.quote(self.broker.virtual_host), shlex.quote(self.broker.userid)
        return Trouble(
            f"user {self.broker.userid!r} has no {permission} permission for {name!r} in virtual host"
            f" {self.broker.virtual_host!r} ({exc.text})",
            f"Let its {permission} pattern match: 'rabbitmqctl set_permissions -p {host} {user} CONFIGURE WRITE READ'"
            f" ('rabbitmqctl list_user_permissions {user}' shows what it has); --name PREFIX tries another name",
        )
