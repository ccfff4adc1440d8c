"""Consumers on one connection: subscribed, delivered, settled, and subscribed again.

Each subscription has a channel of its own, so that a refused acknowledgement of one cannot end another, and so that
its declarations, its prefetch and its consume go out in one write, in order. What was delivered over a connection
that is gone is no longer ours to acknowledge: `generation` tells the two apart.

No I/O: everything gives the bytes to write. The connection's thread alone calls it. Layer 2.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from uuid import uuid4

from ..errors import DeclarationRefused, MessagingError
from . import codec, frames, topology
from .channels import Channels, Refused, close_reason
from .control import Control, unattended
from .frames import Inbound
from .subscription import Delivered, Subscription
from .topology import Topology, with_queue

_NEVER = float("inf")
RETRY_AFTER = 1.0
"""Seconds until a queue that is missing or refused is tried again."""
TURN_AFTER = 0.05
"""Seconds until a consumer is tried again that may have ended the connection, while another such one is tried."""
ACK_WITHIN = 0.05
"""Seconds for which deliveries may wait to be acknowledged together, where nobody hurries."""
ACK_AT_MOST = 100
"""How many do."""
ACCEPTED_AT_MOST = 240.0
"""The most seconds that `ACCEPTED_WITHIN` is doubled to."""
RENEWED_WITHIN = 10.0
"""Seconds for making once more what a queue's messages come by."""
LAST_CALL = 1.0
"""Seconds more, with the thread awake: the answer may lie in the socket of a process that was stopped."""


class Consumers:
    """All subscriptions of one connection."""

    def __init__(self, channels: Channels, control: Control, topology: Topology, warn: Callable[[str], None]) -> None:
        self.delivered = 0
        self._channels = channels
        self._control = control
        self._topology = topology
        self._warn = warn
        self._subscriptions: dict[int, Subscription] = {}
        self._waiting: list[Subscription] = []
        self._generation = 0

    def __len__(self) -> int:
        return len(self._subscriptions) + len(self._waiting)

    @property
    def are_awaited(self) -> bool:
        """True while a delivery may come to one of them, or its consumer is not there yet."""
        if self._waiting:
            return True
        return any(not each.is_active or each.is_awaited() for each in self._subscriptions.values())

    def add(self, subscription: Subscription, _now: float) -> None:
        """Have a subscription; `advance` makes it."""
        self._waiting.append(subscription)

    @property
    def is_busy(self) -> bool:
        """True when `advance` may have something to do."""
        return bool(self._waiting) or bool(self._subscriptions)

    def due_at(self) -> float:
        """When a refused subscription is to be tried again, deliveries acknowledged, or a queue replaced."""
        if not self._subscriptions and not self._waiting:
            return _NEVER
        due_at = min([subscription.due_at for subscription in self._subscriptions.values()], default=_NEVER)
        if self._waiting:
            due_at = min(due_at, *(waiting.retry_at for waiting in self._waiting))
        return due_at

    def advance(self, now: float) -> bytes:
        """Subscribe and acknowledge what is due; warn about callbacks that the broker will soon lose patience with."""
        written = b""
        for subscription in list(self._subscriptions.values()):
            if subscription.begun_at:
                self._look_at_callbacks(subscription, now)
            if subscription.due_at > now:
                continue
            if subscription.is_active:
                written += self._acknowledge(subscription)
            elif subscription.is_overdue:
                written += self._leave(subscription, now)
            else:
                subscription.is_overdue, subscription.due_at = True, now + LAST_CALL
        return written + b"".join(self._subscribe(subscription, now) for subscription in self._take_due(now))

    def _take_due(self, now: float) -> list[Subscription]:
        """Those whose turn has come; of those that may have ended a connection one at a time."""
        due = [waiting for waiting in self._waiting if waiting.retry_at <= now]
        if not due:
            return due
        suspects = [each for each in [*self._subscriptions.values(), *due] if each.is_suspect]
        for subscription in suspects[1:]:
            if subscription in due:
                due.remove(subscription)
                subscription.retry_at = now + TURN_AFTER
        self._waiting = [waiting for waiting in self._waiting if waiting not in due]
        return due

    def acknowledge(self, delivered: Delivered, now: float, within: float = 0.0) -> None:
        """Acknowledge a delivery, if it is still ours, within so many seconds and together with what else is settled
        until then. Zero: in this turn of the thread.

        What was not acknowledged when a connection breaks comes again.
        """
        subscription = delivered.subscription
        if delivered.generation != subscription.generation:
            return
        if subscription.position is not None:
            subscription.position.settled(delivered.inbound)
        waiting = subscription.unsettled.acknowledge(delivered.tag)
        subscription.due_at = min(subscription.due_at, now if waiting >= ACK_AT_MOST else now + within)

    def _acknowledge(self, subscription: Subscription) -> bytes:
        subscription.due_at = _NEVER
        return subscription.unsettled.written(subscription.channel)

    def _look_at_callbacks(self, subscription: Subscription, now: float) -> None:
        begun_at = min(list(subscription.begun_at.values()), default=now)
        if now - begun_at > subscription.warn_after:
            subscription.warn_after = float("inf")
            self._warn(
                f"a callback of the consumer of queue {subscription.queue!r} has run for {now - begun_at:.0f} s; soon "
                "the broker ends the consumer and delivers its messages again (consumer_timeout)"
            )

    def _subscribe(self, subscription: Subscription, now: float) -> bytes:
        if self._channels.free < 1:
            self._wait_for_a_channel(subscription, now)
            return b""
        channel = self._channels.take(self.on_method)
        self._subscriptions[channel] = subscription
        self._generation += 1
        subscription.channel, subscription.generation = channel, self._generation
        subscription.maybe_sent = True
        subscription.is_overdue = False
        if subscription.on_replaced is not None:
            subscription.due_at = now + subscription.accepted_within
        methods = [(frames.CHANNEL_OPEN, b"\0")]
        consume = subscription.consume_again()
        if subscription.is_missing:
            makes_queue, name = self._topology.once_more(subscription.queue)
            if subscription.is_unbound and not name:  # the one that was made will not be used: another is made now
                methods.append(topology.deletion(subscription.queue))
            methods += makes_queue
            consume = with_queue(consume, name)
        methods.append((frames.BASIC_QOS, subscription.qos))
        methods.append((frames.BASIC_CONSUME, consume))
        return b"".join(frames.method_frame(channel, method, arguments) for method, arguments in methods)

    def _wait_for_a_channel(self, subscription: Subscription, now: float) -> None:
        """One too many would end the connection, and with it all others: who is new is told so."""
        if subscription.was_active:
            subscription.retry_at = now + RETRY_AFTER
            self._waiting.append(subscription)
            return
        allowed = f"the broker allows {self._channels.most} channels (channel_max), and each consumer has one"
        self._refuse(subscription, allowed, 530)

    def on_method(self, inbound: Inbound, now: float) -> bytes:
        """React to a method on one of the subscriptions' channels."""
        subscription = self._subscriptions.get(inbound.channel)
        if subscription is None:
            return b""
        match inbound.method:
            case frames.BASIC_DELIVER:
                self.delivered += 1
                subscription.delivered(inbound)
            case topology.QUEUE_DECLARE_OK:
                self._on_named(subscription.queue, codec.read_arguments("sll", inbound.arguments)[0])
            case frames.BASIC_CONSUME_OK:
                if subscription.was_active and not subscription.is_missing:
                    self._renew(subscription.queue, now)
                subscription.accepted()
                self._topology.wake(subscription.queue)
            case frames.BASIC_CANCEL:
                return self._on_cancelled(subscription, now)
            case frames.CHANNEL_CLOSE:
                return self._on_close(subscription, inbound, now)
        return b""

    def _renew(self, queue: str, now: float) -> None:
        """Its consumer is back, and what it got its messages by may be gone."""
        for declaration in self._topology.not_outlasting(queue):
            request = unattended(
                declaration.method,
                declaration.arguments,
                what=declaration.what,
                deadline=now + RENEWED_WITHIN,
                on_error=partial(self._not_renewed, queue),
            )
            self._control.add(request, now)

    def _not_renewed(self, queue: str, error: MessagingError) -> None:
        if isinstance(error, DeclarationRefused):
            self._warn(f"queue {queue!r} may get nothing any more: {error}")

    def _on_named(self, queue: str, name: str) -> None:
        """A queue was declared; the broker has named it anew if it had named the one that is gone."""
        if name != queue:
            self._rename(queue, name)

    def _rename(self, queue: str, name: str) -> None:
        self._topology.rename(queue, name)
        for subscription in self._of_queue(queue):
            subscription.queue = name
            subscription.consume = with_queue(subscription.consume, name)

    def _of_queue(self, queue: str) -> list[Subscription]:
        everyone = [*self._subscriptions.values(), *self._waiting]
        return [subscription for subscription in everyone if subscription.queue == queue]

    def _on_cancelled(self, subscription: Subscription, now: float) -> bytes:
        """The broker ended the consumer: queue or node went, or (from 4.3 on) a quorum queue's consumer timed out.

        Source: "RabbitMQ 4.3 Highlights", https://www.rabbitmq.com/blog
        """
        closing = self._channels.close(subscription.channel)
        self._detach(subscription)
        if not subscription.is_cancelled:
            cause = "its queue was deleted, its node went down, or a message was not acknowledged in time"
            self._try_again(subscription, now, f"cancelled by the broker: {cause}")
        return closing + self.advance(now)

    def _on_close(self, subscription: Subscription, inbound: Inbound, now: float) -> bytes:
        code, text = close_reason(inbound)
        if code in (404, 406) and not subscription.is_active:
            subscription.begins_anew()
        self._detach(subscription)
        if subscription.is_cancelled:
            return b""
        if code == 404 and not subscription.is_missing and self._topology.of_queue(subscription.queue):
            others = self._of_queue(subscription.queue) if self._topology.is_named_by_broker(subscription.queue) else ()
            is_being_made = any(other.is_missing for other in others)
            subscription.is_missing = not is_being_made
            subscription.retry_at = now + RETRY_AFTER if is_being_made else subscription.retry_at or now
            self._waiting.append(subscription)
        elif subscription.on_replaced is not None and code == 404:
            self._replace(subscription, subscription.on_replaced, now, f"{code} {text}")
        elif subscription.was_active:
            # It could be consumed now, and nothing would come.
            subscription.is_unbound = code == 404 and subscription.is_missing
            self._try_again(subscription, now, f"ended: {code} {text}")
        else:
            self._refuse(subscription, f"{code} {text}", code)
        return self.advance(now)

    def _try_again(self, subscription: Subscription, now: float, cause: str) -> None:
        """At once the first time, then every `RETRY_AFTER`; said once, not at every attempt."""
        is_first = not subscription.retry_at
        if is_first:
            self._warn(f"the consumer of queue {subscription.queue!r} was {cause}; it will be tried again")
        subscription.is_missing = subscription.is_unbound
        subscription.retry_at = now if is_first else now + RETRY_AFTER
        self._waiting.append(subscription)

    def _leave(self, subscription: Subscription, now: float) -> bytes:
        """The broker does not answer for a consumer whose queue can be replaced."""
        closing = self._channels.close(subscription.channel)
        self._detach(subscription)
        if subscription.on_replaced is not None and not subscription.is_cancelled:
            cause = f"no answer for {subscription.accepted_within:g} s"
            subscription.accepted_within = min(subscription.accepted_within * 2, ACCEPTED_AT_MOST)
            self._replace(subscription, subscription.on_replaced, now, cause)
        return closing

    def _replace(
        self, subscription: Subscription, on_replaced: Callable[[str, str], None], now: float, cause: str
    ) -> None:
        """At once the first time, then every `RETRY_AFTER`; said once, not at every attempt."""
        queue = subscription.queue
        name = f"{queue.rpartition('_')[0]}_{uuid4().hex}"
        if not subscription.is_replaced:
            self._warn(f"queue {queue!r} cannot be had ({cause}); another one takes its place")
        subscription.retry_at = now + RETRY_AFTER if subscription.is_replaced else now
        subscription.is_replaced = subscription.is_missing = True
        self._waiting.append(subscription)
        self._rename(queue, name)
        on_replaced(queue, name)

    def _detach(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription.channel, None)
        subscription.ended()

    def settle(self, delivered: Delivered, method: int, requeue: bool, _now: float) -> bytes:
        """Acknowledge or reject (and requeue) a delivery by itself, if it is still ours to settle."""
        subscription, generation, inbound, tag = delivered
        if generation != subscription.generation:
            return b""
        if subscription.position is not None:
            subscription.position.settled(inbound)
        subscription.unsettled.settled(tag)
        return frames.settlement_frame(inbound.channel, method, tag, requeue)

    def stop(self, subscription: Subscription) -> bytes:
        """Have no more delivered; what was delivered can still be settled."""
        subscription.is_cancelled = True
        if subscription in self._waiting:
            self._waiting.remove(subscription)
        if subscription.was_active and all(each.is_cancelled for each in self._of_queue(subscription.queue)):
            self._topology.rest(subscription.queue)
        if not subscription.channel:
            return b""
        arguments = codec.arguments("sb", subscription.tag, False)
        return frames.method_frame(subscription.channel, frames.BASIC_CANCEL, arguments)

    def remove(self, subscription: Subscription) -> bytes:
        """End it: what it has not settled goes back to the queue."""
        channel = subscription.channel
        written = self._acknowledge(subscription)
        self._detach(subscription)
        return written + self._channels.close(channel) if channel else b""

    def lost(self, fault: Exception | None = None) -> None:
        """The connection is gone: subscribe again on the next one, but for what was the one new consumer each time.

        RabbitMQ answers some of them by closing the connection: an `x-stream-offset` that it does not know, for one.
        """
        new = [each for each in self._subscriptions.values() if not (each.was_active or each.is_cancelled)]
        for subscription in list(self._subscriptions.values()):
            self._detach(subscription)
            subscription.mailbox.clear()
            if isinstance(fault, Refused) and new == [subscription] and subscription.is_suspect:
                self._refuse(subscription, f"{fault}", fault.code)
            elif not subscription.is_cancelled:
                subscription.is_suspect = isinstance(fault, Refused) and subscription in new
                subscription.retry_at = 0.0
                self._waiting.append(subscription)

    def _refuse(self, subscription: Subscription, cause: str, code: int) -> None:
        """It was never active: its caller is waiting."""
        subscription.error = DeclarationRefused(f"consumer of queue {subscription.queue!r}: {cause}", reply_code=code)
        subscription.notify()

    def refuse_new(self, error: MessagingError) -> None:
        """Fail the subscriptions that were never active; their callers are waiting."""
        for subscription in [waiting for waiting in self._waiting if not waiting.was_active]:
            self._waiting.remove(subscription)
            subscription.error = copy(error)
            subscription.notify()

    def give_up(self, error: MessagingError) -> None:
        """End them all; fail those that were never active."""
        for subscription in [*self._subscriptions.values(), *self._waiting]:
            subscription.error = subscription.error or copy(error)
            subscription.is_cancelled = True
            subscription.notify()
        self._subscriptions.clear()
        self._waiting.clear()
