"""A channel's end of its connection: what the parts of a channel send through and look up with.

Layer 5, part of the embedded broker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .methods import content_frames, method_frame
from .queues import Queue
from .refusals import Refusal
from .vhost import VirtualHost

Arguments = list[Any]
"""A method's arguments as they came off the wire, `codec.arguments` says which."""

Handlers = dict[str, Callable[[Arguments], None]]
"""What answers each method, by its name."""


class Carrier(Protocol):
    """The connection, as a channel sees it."""

    now: float
    frame_max: int
    user: str
    published: int

    @property
    def is_congested(self) -> bool:
        """True when the client reads too slowly for more deliveries."""

    def write(self, data: bytes) -> None: ...

    def announced(self, capability: str) -> bool:
        """True when the client's properties list the capability."""


class Port:
    """Sends on one channel and finds its queues."""

    def __init__(self, number: int, carrier: Carrier, vhost: VirtualHost) -> None:
        self.number = number
        self.carrier = carrier
        self.vhost = vhost
        self.last_queue = ""
        """The queue that an empty name stands for (AMQP 0-9-1 section 1.7.2)."""

    @property
    def now(self) -> float:
        return self.carrier.now

    def send(self, method: str, *values: Any) -> None:
        self.carrier.write(method_frame(self.number, method, *values))

    def send_content(self, method: str, values: tuple[Any, ...], header: bytes, body: bytes) -> None:
        self.carrier.write(
            method_frame(self.number, method, *values)
            + content_frames(self.number, header, body, self.carrier.frame_max)
        )

    def queue_name(self, name: str) -> str:
        """`name`, or the last declared queue. Raises: `Refusal` 404 if there is neither."""
        if name or self.last_queue:
            return name or self.last_queue
        raise Refusal(404, "no previously declared queue")

    def queue(self, name: str) -> Queue:
        """Raises: `Refusal` 404 or 405."""
        return self.vhost.queue(self.queue_name(name), self.carrier)
