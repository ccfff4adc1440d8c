"""What was handed to the broker and not yet answered: messages by delivery tag, in order.

The broker numbers the messages of a confirming channel from 1 and answers with these numbers, one by one or all up
to one (`multiple`); an unroutable message comes back, without its number, before it is acked
(https://www.rabbitmq.com/docs/confirms). RabbitMQ returns in the order of publishing, so the message that came back
is the first one behind the last that did whose properties, route and body are the same.

Layer 0: imports `collections`, `itertools` and our errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from ..errors import MessagingError


def _nothing(_entry: Outgoing) -> None:
    """Whoever was to be told has been."""


class Outgoing:
    """One message on its way: what it takes to write it, again if need be, and what became of it.

    Threads: the caller makes it, the connection's thread alone changes it; `abandoned` is the caller's one word.
    """

    __slots__ = (
        "abandoned",
        "body",
        "confirm",
        "deadline",
        "error",
        "exchange",
        "header",
        "is_done",
        "mandatory",
        "maybe_sent",
        "method",
        "may_repeat",
        "on_done",
        "routing_key",
        "tries",
        "was_dropped",
        "wire",
    )

    def __init__(
        self,
        exchange: str,
        routing_key: str,
        method: bytes,
        header: bytes,
        body: bytes,
        *,
        deadline: float,
        on_done: Callable[[Outgoing], None],
        mandatory: bool,
        may_repeat: bool,
        wire: bytes | None,
        confirm: bool = True,
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.method = method
        self.header = header
        self.body = body
        self.deadline = deadline
        self.on_done = on_done
        self.mandatory = mandatory
        self.may_repeat = may_repeat
        self.wire = wire
        self.confirm = confirm
        self.maybe_sent = False
        self.tries = 0
        self.is_done = False
        self.was_dropped = False
        self.abandoned = False
        self.error: MessagingError | None = None

    def finish(self, error: MessagingError | None = None) -> None:
        """Settle what became of it, once, and wake who waits."""
        if not self.is_done:
            if error is not None and self.maybe_sent:
                error.maybe_sent = True
            self.error = error
            self.is_done = True
            on_done, self.on_done = self.on_done, _nothing  # it may know this message: no cycle is left behind
            on_done(self)

    def is_wanted(self, now: float) -> bool:
        """False when nobody waits for it any more, so that it need not be sent."""
        return not (self.abandoned or self.is_done or self.deadline <= now)


LOOKED_THROUGH = 1000
"""So many unanswered messages are looked through for one with the properties that came back when the broker has changed
those of another one: looking in vain costs time. Otherwise all are, for what was passed by is not looked at again."""


class Confirms:
    """The unanswered messages of one confirming channel."""

    def __init__(self) -> None:
        self._look_ahead: int | None = None
        self._next_tag = 1
        self._lowest_tag = 1
        self._returned_tag = 0
        self._seen_tag = 0
        self._seen_at = 0.0
        self.entries: dict[int, Outgoing] = {}
        """By delivery tag, in order; to be looked at."""

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def last_tag(self) -> int:
        """The number of the message that was written last."""
        return self._next_tag - 1

    @property
    def answered_count(self) -> int:
        """How many were written and are not unanswered any more."""
        return self._next_tag - 1 - len(self.entries)

    def is_awaited(self, now: float) -> bool:
        """True while somebody waits for the answer to one of them."""
        return any(entry.is_wanted(now) for entry in self.entries.values())

    def waited(self, now: float, *, anew: bool) -> float:
        """The seconds for which one of them has been unanswered for certain, as far as the calls of this have seen.

        `anew` has them begin now.
        """
        oldest = next(iter(self.entries), None)
        if anew or oldest is None or oldest > self._seen_tag:
            self._seen_tag, self._seen_at = self.last_tag, now
        return now - self._seen_at

    def sent(self, entry: Outgoing) -> None:
        """Number a message that is being written."""
        self.entries[self._next_tag] = entry
        self._next_tag += 1

    def resolve(self, tag: int, multiple: bool) -> list[Outgoing]:
        """Take off the messages that the broker answered for, in order of publishing; unknown tags give none."""
        if not multiple:
            entry = self.entries.pop(tag, None)
            if entry is not None and tag == self._lowest_tag:
                self._lowest_tag += 1  # and past those whose answers have overtaken this one
                while self._lowest_tag < self._next_tag and self._lowest_tag not in self.entries:
                    self._lowest_tag += 1
            return [] if entry is None else [entry]
        last = self.last_tag
        if 0 < tag < last:  # 0 stands for all so far (AMQP 0-9-1, basic.ack)
            last = tag
        first, self._lowest_tag = self._lowest_tag, max(self._lowest_tag, last + 1)
        pop = self.entries.pop
        return [entry for known in range(first, last + 1) if (entry := pop(known, None)) is not None]

    def returned(self, exchange: str, routing_key: str, header: bytes, body: bytes) -> Outgoing | None:
        """The message that came back unroutable; it stays here until its ack comes."""

        def is_like_it(entry: Outgoing) -> bool:
            return (
                entry.mandatory
                and entry.routing_key == routing_key
                and entry.exchange == exchange
                and entry.body == body
            )

        behind = range(max(self._returned_tag + 1, self._lowest_tag), self._next_tag)
        # Its properties, and so its message_id, come back as they were, unless the broker takes something out.
        unanswered = islice((tag for tag in behind if tag in self.entries), self._look_ahead)
        tag = self._first(unanswered, lambda entry: entry.header == header and is_like_it(entry))
        if not tag:
            self._look_ahead = LOOKED_THROUGH
            tag = self._first(behind, is_like_it)
        if tag:
            self._returned_tag = tag
            return self.entries[tag]
        return next((e for e in self.entries.values() if not e.is_done and is_like_it(e)), None)

    def _first(self, tags: Iterable[int], is_the_one: Callable[[Outgoing], bool]) -> int:
        """The first of these messages that is the one; 0 for none."""
        entries = self.entries
        return next((tag for tag in tags if (entry := entries.get(tag)) is not None and is_the_one(entry)), 0)

    def take_all(self) -> list[Outgoing]:
        """Everything unanswered, in order of publishing; nothing stays."""
        entries, self.entries = list(self.entries.values()), {}
        self._lowest_tag = self._next_tag
        return entries
