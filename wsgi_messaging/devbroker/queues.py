"""A queue: its messages in order, its consumers in turn, and the limits that drop or expire messages.

Rules: nothing here knows of frames or sockets; time comes in as `now` (seconds, monotonic); a consumer is
spoken to through `Receiver` and never calls back from there. What leaves the queue unwanted goes to
`on_dead`, which dead-letters it. As in RabbitMQ only the head of a queue expires.

Layer 5, part of the embedded broker: pure.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from .arguments import QueuePolicy
from .messages import Message

_NEVER = float("inf")


class Stored:
    """A message in one queue: where it stands, until when, and how often it was tried."""

    __slots__ = ("expires_at", "message", "position", "priority", "redelivered", "returns")

    def __init__(self, message: Message, position: int, priority: int, expires_at: float) -> None:
        self.message = message
        self.position = position
        self.priority = priority
        self.expires_at = expires_at
        self.redelivered = False
        self.returns = 0


class Receiver(Protocol):
    """The channel that a consumer lives on."""

    def has_room(self, consumer: Consumer) -> bool: ...

    def deliver(self, consumer: Consumer, stored: Stored) -> None: ...

    def cancelled(self, consumer: Consumer) -> None:
        """The queue is gone; the consumer with it."""


class Consumer:
    """A subscription; `prefetch` 0 is no limit."""

    def __init__(
        self,
        tag: str,
        queue: Queue,
        receiver: Receiver,
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        priority: int = 0,
        prefetch: int = 0,
    ) -> None:
        self.tag = tag
        self.queue = queue
        self.receiver = receiver
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.priority = priority
        self.prefetch = prefetch
        self.unacked = 0


OnDead = Callable[["Queue", Stored, str, float], None]


class Queue:
    """One queue; see the module."""

    def __init__(
        self,
        name: str,
        policy: QueuePolicy,
        on_dead: OnDead,
        now: float,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        owner: object | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.policy = policy
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        self.arguments = dict(arguments or {})
        self.consumers: list[Consumer] = []
        self.unacked: dict[int, Stored] = {}
        self.used_at = now
        self.is_gone = False
        self.ready = 0
        self.ready_bytes = 0
        self._on_dead = on_dead
        self._positions = itertools.count()
        self._bands: list[deque[Stored]] = [deque() for _ in range(policy.max_priority + 1)]

    def __repr__(self) -> str:
        return f"<Queue {self.name} ready={self.ready} unacked={len(self.unacked)} consumers={len(self.consumers)}>"

    def publish(self, message: Message, now: float) -> bool:
        """Take the message and hand out what can be handed out; False if the queue is full and rejects."""
        limited = self.policy.max_length is not None or self.policy.max_bytes is not None
        if limited and self.policy.overflow != "drop-head" and self._is_full(len(message.body)):
            if self.policy.overflow == "reject-publish-dlx":
                self._on_dead(self, self._store(message, now), "maxlen", now)
            return False
        self._append(self._store(message, now))
        self.pump(now)
        if limited:
            self._drop_head(now)
        self.expire(now)
        return True

    def _drop_head(self, now: float) -> None:
        while self.ready and self._is_full(0, over=True):
            self._on_dead(self, self._pop(), "maxlen", now)

    def _store(self, message: Message, now: float) -> Stored:
        ttl, own = self.policy.message_ttl, message.expiration
        if own is not None:
            ttl = own if ttl is None else min(ttl, own)
        priority = min(message.priority, self.policy.max_priority) if self.policy.max_priority else 0
        return Stored(message, next(self._positions), priority, _NEVER if ttl is None else now + ttl)

    def _is_full(self, size: int, *, over: bool = False) -> bool:
        length, allowed, max_bytes = self.ready + (not over), self.policy.max_length, self.policy.max_bytes
        if allowed is not None and length > allowed:
            return True
        return max_bytes is not None and self.ready_bytes + size > max_bytes

    def _append(self, stored: Stored) -> None:
        self._bands[stored.priority].append(stored)
        self.ready += 1
        self.ready_bytes += len(stored.message.body)

    def _head(self) -> deque[Stored] | None:
        return next((band for band in reversed(self._bands) if band), None)

    def _pop(self) -> Stored:
        band = self._head()
        if band is None:
            raise IndexError(f"queue {self.name} is empty")
        stored = band.popleft()
        self.ready -= 1
        self.ready_bytes -= len(stored.message.body)
        return stored

    def expire(self, now: float) -> None:
        """Dead-letter what stands at the head and is out of time."""
        while (band := self._head()) is not None and band[0].expires_at <= now:
            self._on_dead(self, self._pop(), "expired", now)

    def due_at(self) -> float:
        """When `expire` or the end of an unused queue is next due; infinity for never."""
        band = self._head()
        due = _NEVER if band is None else band[0].expires_at
        if self.policy.expires is not None and not self.consumers:
            due = min(due, self.used_at + self.policy.expires)
        return due

    def is_unused(self, now: float) -> bool:
        """True when an `x-expires` has passed without consumer, declaration or get."""
        expires = self.policy.expires
        return expires is not None and not self.consumers and now >= self.used_at + expires

    def pump(self, now: float) -> None:
        """Deliver while there are messages and consumers with room."""
        while self.ready and self.consumers:
            band = self._head()
            if band is not None and band[0].expires_at < now:
                self.expire(now)
                continue
            consumer = self._next_consumer()
            if consumer is None:
                return
            stored = self._pop()
            if not consumer.no_ack:
                self.unacked[stored.position] = stored
            consumer.receiver.deliver(consumer, stored)

    def _next_consumer(self) -> Consumer | None:
        candidates = self.consumers[:1] if self.policy.single_active_consumer else self.consumers
        for consumer in candidates:
            if consumer.receiver.has_room(consumer):
                if len(candidates) > 1:
                    self.consumers.remove(consumer)
                    self._enlist(consumer)
                return consumer
        return None

    def _enlist(self, consumer: Consumer) -> None:
        behind = [index for index, other in enumerate(self.consumers) if other.priority < consumer.priority]
        self.consumers.insert(behind[0] if behind else len(self.consumers), consumer)

    def subscribe(self, consumer: Consumer, now: float) -> None:
        if self.policy.single_active_consumer:
            self.consumers.append(consumer)
        else:
            self._enlist(consumer)
        self.used_at = now

    def unsubscribe(self, consumer: Consumer, now: float) -> None:
        """Messages that the consumer has not acknowledged stay with its channel."""
        if consumer in self.consumers:
            self.consumers.remove(consumer)
            self.used_at = now

    def get(self, now: float, *, no_ack: bool) -> Stored | None:
        """The head of the queue, or None when it is empty."""
        self.used_at = now
        self.expire(now)
        if not self.ready:
            return None
        stored = self._pop()
        if not no_ack:
            self.unacked[stored.position] = stored
        return stored

    def settle(self, stored: Stored, now: float, *, rejected: bool = False) -> None:
        """The message is done with: acknowledged, or refused for good."""
        if self.unacked.pop(stored.position, None) is not None and rejected and not self.is_gone:
            self._on_dead(self, stored, "rejected", now)

    def requeue(self, returned: Iterable[Stored], now: float) -> None:
        """Put messages back where they stood, marked as redelivered; beyond a delivery limit they are dead."""
        if self.is_gone:
            return
        for stored in sorted(returned, key=lambda stored: stored.position, reverse=True):
            self.unacked.pop(stored.position, None)
            stored.redelivered = True
            stored.returns += 1
            limit = self.policy.delivery_limit
            if limit is not None and stored.returns > limit:
                self._on_dead(self, stored, "delivery_limit", now)
            else:
                self._put_back(stored)
        if self.policy.overflow == "drop-head":
            self._drop_head(now)
        self.pump(now)
        self.expire(now)

    def _put_back(self, stored: Stored) -> None:
        band = self._bands[stored.priority]
        at = 0
        while at < len(band) and band[at].position < stored.position:
            at += 1
        band.insert(at, stored)
        self.ready += 1
        self.ready_bytes += len(stored.message.body)

    def purge(self) -> int:
        """Drop what is ready; the number of messages."""
        count = self.ready
        for band in self._bands:
            band.clear()
        self.ready = self.ready_bytes = 0
        return count

    def restart(self) -> None:
        """What a broker's restart leaves: persistent messages, in order, nothing handed out."""
        for stored in self.unacked.values():
            stored.redelivered = True
        kept = [stored for band in self._bands for stored in band] + list(self.unacked.values())
        self.unacked.clear()
        self.consumers.clear()
        self.purge()
        for stored in sorted(kept, key=lambda stored: stored.position):
            if stored.message.is_persistent:
                self._append(stored)
