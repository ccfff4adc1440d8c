"""The reply queue: one for each process, over which the replies to all its calls come.

It is durable with `x-expires` (RabbitMQ refuses transient shared queues from 4.3 on), deleted at a clean end unless a
reply is still owed (a server of oslo.messaging's tries for 60 s to reply to a queue that is gone), declared and
consumed again after a reconnect, a cancel or a deletion; when its node is down, another takes its place. The
connection's thread decodes small replies, many at a time, which costs less than callers do who have just been woken,
each for its own. Of a large one it only finds out whose it is, by a look at the end of the body; the caller decodes it.
A reply that nobody waits for is counted and dropped. When a call ended without its reply, a probe goes to the queue,
and if that does not come either the subscription is made anew, so a process does not stay deaf.

Layer 4.
"""

from __future__ import annotations

import re
from collections import deque
from contextlib import suppress
from copy import copy
from uuid import uuid4

from ..connection.frames import Inbound
from ..connection.pending import Outgoing
from ..connection.subscription import Delivered
from ..connection.topology import declare_queue
from ..connections import Connections
from ..errors import Closed, ConnectTimeout, MessagingError, ReplyLost, Unavailable, Unroutable
from ..lifetime import CONSUME, PUBLISH
from ..oslo import envelope
from ..runtime import native
from ..runtime.mailbox import Mailbox
from ..runtime.waiting import Completion
from . import wire
from .flags import EXPIRES_MS

PREFETCH = 500
PROBE_WITHIN = 5.0
"""Seconds that a probe may take to come back."""
_RETRY_EVERY = 0.05
"""Seconds between two looks whether the connection has failed, where a call must not wait for a reconnect."""

_SMALL = 4096
"""Bodies up to here are decoded by the connection's thread."""
_TAIL = 400
_MSG_ID = re.compile(rb'\\?"_msg_id\\?": ?\\?"([0-9A-Za-z_-]{1,64})\\?"')

Inbox = Mailbox["envelope.Reply | Inbound | MessagingError"]
"""What a call waits for: its replies, decoded or not, or why its request was not delivered."""


def _id_at_the_end(body: bytes) -> str | None:
    """None for a reply whose keys stand in another order than usual, or whose end looks like a reply in it."""
    found = _MSG_ID.findall(body, max(0, len(body) - _TAIL))
    return found[0].decode() if len(found) == 1 else None


def replies_of(connections: Connections, expires_ms: int = EXPIRES_MS) -> Replies:
    """The one of this process. It belongs to its connections, so a fork or a new start has another.

    `expires_ms`, at the first use, is how long the broker keeps its queue while nobody consumes it; 0: for ever.
    """
    return connections.extension("rpc replies", lambda: Replies(connections, expires_ms))


class Replies:
    """The reply queue of one process and who waits for what. Making it opens and declares nothing."""

    def __init__(self, connections: Connections, expires_ms: int) -> None:
        self.queue = f"reply_{uuid4().hex}"
        self.received = 0
        self.unknown = 0
        """Replies that nobody waited for: late ones, mostly."""
        self.malformed = 0
        self._connections = connections
        self._expires_ms = expires_ms
        self._max_bytes = connections.settings.max_message_bytes
        self._calls: dict[str, Inbox] = {}
        self._waiting: deque[Completion] = deque()
        self._feed: wire.Feed | None = None
        self._is_enlisted = False
        self._is_closed = False
        self._owed_until = 0.0
        """Until when a reply may come to a call that has ended without it."""
        self._lock = native.allocate_lock()  # guards _feed, _is_enlisted and the start of _probe
        self._probe: tuple[str, float] | None = None

    def __repr__(self) -> str:
        state = "active" if self.is_active else "waiting"
        return f"<Replies {self.queue} {state} calls={len(self._calls)} unknown={self.unknown}>"

    @property
    def is_active(self) -> bool:
        return self._feed is not None and self._feed.is_active

    @property
    def is_one_awaited(self) -> bool:
        """True when a single call waits for its reply."""
        return len(self._calls) == 1

    # For callers.

    def ready(self, deadline: float, is_patient: bool) -> None:
        """Return when replies can come.

        Blocks: until the deadline; when not `is_patient`, only until the broker proves unreachable.
        Raises: `ConnectFailed`, `ConnectTimeout`, `DeclarationRefused`, `Closed`.
        """
        while True:
            feed = self._subscribed()
            if feed.is_active:
                return
            changed = Completion()
            self._waiting.append(changed)
            try:
                if not feed.is_settled:
                    self._wait(changed, deadline, is_patient)
            finally:
                with suppress(ValueError):  # the connection's thread took it off
                    self._waiting.remove(changed)
            if feed.error is not None:
                raise copy(feed.error)

    def _wait(self, changed: Completion, deadline: float, is_patient: bool) -> None:
        while not changed.is_set:
            now = native.monotonic()
            if (loop := self._connections.peek(CONSUME)) is not None:
                self._connections.check_patience(loop)
            failure = self._connections.failure(CONSUME)
            if failure is not None and not is_patient:
                raise failure
            if now >= deadline:
                why = failure or "the broker does not answer; it may be overloaded or hung"
                raise ConnectTimeout(f"not sent: the queue for the reply could not be had in time: {why}")
            changed.wait(deadline - now if is_patient else min(_RETRY_EVERY, deadline - now))

    def expect(self, msg_id: str) -> Inbox:
        """Where the replies to a call will be put."""
        inbox: Inbox = Mailbox()
        self._calls[msg_id] = inbox
        return inbox

    def attend(self, inbox: Inbox, until: float) -> None:
        """Before a call waits for its first reply. Blocks: not beyond `until`."""
        feed = self._feed
        if feed is not None:
            feed.attend(inbox.__len__, until, is_alone=self.is_one_awaited)

    def disturb(self) -> None:
        """Something else than a reply was put into an inbox, whose owner may be reading."""
        feed = self._feed
        if feed is not None:
            feed.disturb()

    def _is_one_missing(self) -> bool:
        """True while a call waits, or its probe does."""
        return self._probe is not None or not all(map(len, list(self._calls.values())))

    def forget(self, msg_id: str) -> None:
        """Nobody waits for it any more."""
        self._calls.pop(msg_id, None)

    def decoded(self, msg_id: str, item: envelope.Reply | Inbound) -> envelope.Reply | None:
        """The reply; None when it cannot be read or is another call's, which then gets it."""
        reply = item if isinstance(item, envelope.Reply) else self._read(item)
        if reply is not None and reply.msg_id != msg_id:
            self._hand_over(reply.msg_id, reply)
            return None
        return reply

    # The subscription.

    def _subscribed(self) -> wire.Feed:
        feed = self._feed
        if self._is_closed:
            raise Closed("the transport was closed in this process; make a new one")
        loop = self._connections.peek(CONSUME)
        if loop is not None and loop.is_own_thread():  # in `__del__`, for one
            raise Unavailable("called from the connection's own thread, which cannot wait for itself")
        if feed is not None and feed.error is None and self._probe is None:
            return feed
        self._connections.loop(PUBLISH)  # both connect at the same time
        self._connections.loop(CONSUME)
        # Critical section: one caller makes the subscription, or makes it anew; nothing in it waits.
        with self._lock:
            if self._feed is not None and self._probe is not None and self._is_probe_overdue():
                self._feed.stop()
                self._feed.remove()
                self._feed = self._probe = None
            if self._feed is None or self._feed.error is not None:
                self._feed = self._subscription()
                self._feed.start()  # behind that: what comes is acknowledged by way of it
            return self._feed

    def _subscription(self) -> wire.Feed:
        if not self._is_enlisted:
            self._is_enlisted = True
            self._connections.enlist(self, turn=1)  # after the servers, whose endpoints may still make calls
        declaration = declare_queue(
            self.queue,
            passive=False,
            durable=True,
            exclusive=False,
            auto_delete=False,
            arguments={"x-expires": self._expires_ms} if self._expires_ms else {},
        )
        self._connections.topology.record(declaration)
        return wire.Feed(
            self._connections,
            self.queue,
            self,
            prefetch=PREFETCH,
            on_change=self._changed,
            is_awaited=self._is_one_missing,
            declares=True,
            on_replaced=self._replaced,
        )

    def _changed(self) -> None:
        while self._waiting:
            with suppress(IndexError):
                self._waiting.popleft().set()

    def _replaced(self, _queue: str, name: str) -> None:
        """The node that has the queue is down, or hangs: what was to come there will not come."""
        self.queue = name
        self._probe = None
        text = "no reply will come: the node that has the queue for it is down, or hangs"
        for inbox in list(self._calls.values()):
            inbox.put(ReplyLost(text, maybe_sent=True))

    def cancel(self, timeout: float) -> None:
        """End: the queue is deleted, and calls that still wait are told. Blocks: up to `timeout`."""
        feed, self._is_closed = self._feed, True
        is_owed = self._expires_ms > 0 and (bool(self._calls) or native.monotonic() < self._owed_until)
        for inbox in list(self._calls.values()):
            inbox.put(Closed("the transport was closed while the call waited for its reply", maybe_sent=True))
        self._changed()
        if feed is not None:
            feed.stop()
            feed.remove()
            if not is_owed:  # otherwise its time runs out
                wire.forget_queue(self._connections, self.queue, timeout)

    # Deliveries, on the connection's thread.

    def put(self, item: Delivered) -> None:
        """Take a delivery."""
        self.received += 1
        feed, inbound = self._feed, item.inbound
        if feed is not None:
            feed.acknowledge_soon(item)
        if inbound.body is None:
            self.malformed += 1
            return
        msg_id = None if len(inbound.body) <= _SMALL else _id_at_the_end(inbound.body)
        if msg_id is not None:
            self._hand_over(msg_id, inbound)
        elif (reply := self._read(inbound)) is not None:
            self._hand_over(reply.msg_id, reply)

    def _read(self, inbound: Inbound) -> envelope.Reply | None:
        try:
            return envelope.read_reply(envelope.read(inbound.header, inbound.body or b"", self._max_bytes))
        except envelope.MalformedMessage:
            self.malformed += 1
            return None

    def _hand_over(self, msg_id: str, item: envelope.Reply | Inbound) -> None:
        inbox = self._calls.get(msg_id)
        if inbox is not None:
            inbox.put(item)
        elif self._probe is not None and self._probe[0] == msg_id:
            self._probe = None
        else:
            self.unknown += 1

    def clear(self) -> None:
        """The connection is gone; replies that were not acknowledged come again."""

    # Deafness.

    def probe(self) -> None:
        """A call ended without its reply: see whether replies come at all. Returns at once."""
        self._owed_until = native.monotonic() + self._expires_ms / 1000
        # Critical section: one probe at a time.
        with self._lock:
            if self._probe is not None or not self.is_active:
                return
            probe_id = uuid4().hex
            deadline = native.monotonic() + PROBE_WITHIN
            self._probe = (probe_id, deadline)

        def answered(entry: Outgoing) -> None:
            if isinstance(entry.error, Unroutable):
                self._probe = (probe_id, 0.0)  # there is no such queue any more
            elif entry.error is not None:
                self._probe = None

        body = envelope.reply(probe_id, probe_id, None)
        try:
            wire.publish(
                self._connections,
                ("", self.queue),
                envelope.header(),
                body,
                deadline=deadline,
                on_done=answered,
                mandatory=True,
            )
        except MessagingError:
            self._probe = None

    def _is_probe_overdue(self) -> bool:
        return self._probe is not None and native.monotonic() >= self._probe[1] and self.is_active
