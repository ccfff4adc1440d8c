"""One consumer of one queue, as its connection knows it, and what is delivered to it.

The application makes it, the connection's thread changes it. Layer 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ..errors import MessagingError
from . import codec
from .frames import Inbound
from .position import MARK, OFFSET, Position
from .unsettled import Unsettled

_NEVER = float("inf")
ACCEPTED_WITHIN = 15.0
"""Seconds that the broker has for a consumer of a queue that can be replaced: the queue's node may hang. Doubled with
each replacement, up to `ACCEPTED_AT_MOST`: the broker may be slow, with many workers that have come back at once."""


class Delivered(NamedTuple):
    """One message for a subscription, as it came."""

    subscription: Subscription
    generation: int
    inbound: Inbound
    tag: int
    """Its number on the subscription's channel."""


class Sink(Protocol):
    """Where deliveries go, on the connection's thread: a mailbox, most of the time."""

    def put(self, item: Delivered) -> None: ...

    def clear(self) -> None:
        """The connection is gone: what was delivered and not settled will come again."""


def _always() -> bool:
    """Deliveries come when they like."""
    return True


class Subscription:
    """One consumer of one queue. The application makes it; the connection's thread changes it."""

    channel = 0
    generation = 0
    is_active = False
    is_cancelled = False
    was_active = False
    maybe_sent = False
    retry_at = 0.0
    is_unbound = False
    """True when its queue was made once more, and something that it is bound to is missing."""
    is_suspect = False
    """True when it was new and not accepted yet as the broker closed the connection for something that was sent."""
    is_replaced = False
    """True from a replacement until it was accepted."""
    is_overdue = False
    """True when the broker has not answered for it in time, and has its last call."""
    due_at = _NEVER
    """When there is something to do for it: to acknowledge, or to replace a queue that was not answered for."""
    warn_after = _NEVER
    """Seconds after which a callback that still runs is warned about."""
    error: MessagingError | None = None
    _has_begun = False

    def __init__(
        self,
        queue: str,
        *,
        tag: str,
        prefetch: int,
        mailbox: Sink,
        notify: Callable[[], None],
        declares: bool = False,
        is_awaited: Callable[[], bool] | None = None,
        exclusive: bool = False,
        arguments: dict[str, Any] | None = None,
        on_replaced: Callable[[str, str], None] | None = None,
    ) -> None:
        """With `on_replaced` the queue, PREFIX_ID, is the consumer's own alone: when it cannot be had any more, because
        its node is down or hangs, another one takes its place, and this is told both names."""
        self.queue = queue
        self.tag = tag
        self.mailbox = mailbox
        self.notify = notify
        self.on_replaced = on_replaced
        self.is_awaited = is_awaited or _always
        """Tells whether somebody waits for a delivery now; where nobody does, none comes."""
        self.qos = codec.arguments("lBb", 0, prefetch, False)
        self._exclusive, self._arguments = exclusive, arguments or {}
        self.consume = self._consume_with(self._arguments)
        self.position = Position() if OFFSET in self._arguments else None
        self.is_missing = declares
        """True when the queue is to be declared, from the topology, in one write with the consumer."""
        self.begun_at: dict[object, float] = {}
        """When the callbacks began that run now."""
        self.accepted_within = ACCEPTED_WITHIN
        self.unsettled = Unsettled()

    def _consume_with(self, arguments: dict[str, Any]) -> bytes:
        flags = False, False, self._exclusive, False
        return codec.arguments("BssbbbbF", 0, self.queue, self.tag, *flags, arguments)

    def consume_again(self) -> bytes:
        """The arguments of basic.consume; of a stream's consumer from where it was."""
        offset = None if self.position is None else self.position.resumes_at
        return self.consume if offset is None else self._consume_with({**self._arguments, OFFSET: offset})

    def delivered(self, inbound: Inbound) -> None:
        """A message has come for it."""
        if self.position is None and not self._has_begun and MARK in inbound.header:
            self.position = Position()
        self._has_begun = True
        if self.position is not None:
            self.position.delivered(inbound)
        tag = codec.read_delivery_tag(inbound.arguments)
        self.unsettled.delivered(tag)
        self.mailbox.put(Delivered(self, self.generation, inbound, tag))

    def begins_anew(self) -> None:
        """Its stream is gone, or it is none: one of that name is read from where its arguments say."""
        self.position = Position() if OFFSET in self._arguments else None

    def accepted(self) -> None:
        """The broker delivers from now on."""
        self.is_active = self.was_active = True
        self.is_missing = self.is_unbound = self.is_replaced = self.is_suspect = False
        self.retry_at = 0.0
        self.due_at = _NEVER
        self.accepted_within = ACCEPTED_WITHIN
        self.notify()

    def ended(self) -> None:
        """It has no channel any more: what was delivered over that is no longer ours to acknowledge."""
        self.channel = self.generation = 0
        self.is_active = False
        if self.position is not None:
            self.position.ended()
        self.unsettled.clear()
        self.due_at = _NEVER
