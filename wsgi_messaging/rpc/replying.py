"""The server's replies: published and forgotten by the worker, seen to their end here.

A reply to one of our clients, whose queue is durable, is transient: it lives for a millisecond, for which the broker
need not write it to its disk. One that is confirmed, behind which the request is gone, is persistent, and so is one to
oslo.messaging's. It is `mandatory`; when the caller's queue is not there (it may come back after a failover) it is
tried again for as long as the caller waits, at most a minute, and then counted. A queue that was given up is not tried
again for the next replies. What JSON cannot hold becomes a failure reply: the caller is told, and does not wait.

Layer 4.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ..connection.pending import Outgoing
from ..connections import Connections
from ..errors import InvalidMessage, MessagingError, Unavailable, Unroutable
from ..oslo import envelope, failure
from ..oslo.envelope import Request
from ..runtime import native
from ..runtime.ids import new_id
from ..runtime.waiting import Completion
from ..transport import Transport
from . import wire
from .timer import Timer

logger = logging.getLogger("wsgi_messaging.rpc")

WITHIN = 60.0
"""Seconds until an undeliverable reply is given up; oslo.messaging's kombu_missing_consumer_retry_timeout."""
RETRY_EVERY = 0.25
_GONE_KEPT = 200
_GONE_FOR = 60.0


def _nothing() -> None:
    """What is to be done behind a sign of life."""


class Replier:
    """Publishes the replies of one server. Threads: any; nothing blocks but `wait`.

    `confirm`: each reply has a confirm of its own, for a server that acknowledges the request behind it.
    `is_alone` tells that no other request is being executed, so that nobody gains from gathering replies.
    """

    def __init__(
        self,
        transport: Transport,
        connections: Connections,
        timer: Timer,
        *,
        is_alone: Callable[[], bool] | None = None,
        with_traceback: bool = True,
        confirm: bool = False,
    ) -> None:
        self.sent = 0
        self.undeliverable = 0
        """Replies whose caller was gone, or that the broker did not take in time."""
        self._transport = transport
        self._connections = connections
        self._timer = timer
        self._with_traceback = with_traceback
        self._confirm = confirm
        self._is_alone = is_alone
        self._gone: OrderedDict[str, float] = OrderedDict()  # the publishing connection's thread's own
        self.is_ending = False
        self._open = 0
        self._drained: Completion | None = None
        self._lock = native.allocate_lock()  # guards _open and _drained

    def reply(self, request: Request, result: Any, until: float | None, done: Callable[[], None] = _nothing) -> None:
        """Send a result; `done` is called, on any thread, when the reply is confirmed or given up."""
        try:
            self._send(request, self._body(request, result, None), until, done)
        except InvalidMessage as exc:
            logger.warning("the result of %.60s cannot be sent: %s", request.method, exc)
            self.fail(request, exc, until, done)

    def fail(self, request: Request, error: BaseException, until: float | None, done: Callable[[], None]) -> None:
        """Send an exception."""
        text = failure.encode(error, with_traceback=self._with_traceback)
        try:
            self._send(request, self._body(request, None, text), until, done)
        except InvalidMessage as exc:
            text = failure.encode(InvalidMessage(f"the exception cannot be sent: {exc}"), with_traceback=False)
            self._send(request, self._body(request, None, text), until, done)

    def beat(self, request: Request) -> None:
        """Send a sign of life."""
        body = envelope.reply(str(request.msg_id), new_id(), None, is_last=False)
        self._send(request, body, native.monotonic(), _nothing, is_counted=False)

    def wait(self, timeout: float) -> bool:
        """Have no reply tried again, and see those that are on their way through.

        Blocks: until every reply was confirmed or given up, or `timeout`; False then.
        """
        self.is_ending = True
        # Critical section: either replies are open, and the last one sets it, or none is.
        with self._lock:
            self._drained = drained = self._drained or Completion()
            if not self._open:
                drained.set()
        return drained.wait(timeout)

    def _body(self, request: Request, result: Any, failed: str | None) -> bytes:
        body = envelope.reply(str(request.msg_id), new_id(), result, failed)
        most = self._transport.settings.max_message_bytes
        if len(body) > most:
            raise InvalidMessage(f"a reply of {len(body)} bytes; max_message_bytes is {most}")
        return body

    def _send(
        self, request: Request, body: bytes, until: float | None, done: Callable[[], None], is_counted: bool = True
    ) -> None:
        latest = native.monotonic() + WITHIN
        header = envelope.header(persistent=self._confirm or request.expires_at is None)
        until = min(latest, until or latest)
        sending = _Sending(self, str(request.reply_to), header, body, until, latest, done, is_counted)
        with self._lock:
            self._open += 1
        sending.publish()

    def publish(self, sending: _Sending) -> None:
        """Hand a reply to the connection."""
        wire.publish(
            self._connections,
            ("", sending.queue),
            sending.header,
            sending.body,
            deadline=sending.latest,
            on_done=sending.settled,
            mandatory=True,
            confirm=self._confirm,
            is_alone=self._is_alone is not None and self._is_alone(),
        )

    def again(self, sending: _Sending) -> None:
        """Try once more, later."""
        self._timer.at(native.monotonic() + RETRY_EVERY, sending.publish)

    def finished(self, sending: _Sending, error: MessagingError | None) -> None:
        """A reply is confirmed or given up."""
        if sending.is_counted:
            self.sent += error is None
            self.undeliverable += error is not None
        # Critical section: the last one says so.
        with self._lock:
            self._open -= 1
            drained = self._drained if not self._open else None
        if drained is not None:
            drained.set()
        sending.done()

    def is_gone(self, queue: str) -> bool:
        """True when a reply to this queue was given up a moment ago."""
        gone_at = self._gone.get(queue)
        return gone_at is not None and native.monotonic() - gone_at < _GONE_FOR

    def gone(self, queue: str) -> None:
        """Remember a caller's queue that does not exist any more."""
        self._gone[queue] = native.monotonic()
        if len(self._gone) > _GONE_KEPT:
            self._gone.popitem(last=False)


class _Sending:
    """One reply on its way."""

    __slots__ = ("_replier", "_until", "body", "done", "header", "is_counted", "latest", "queue")

    def __init__(
        self,
        replier: Replier,
        queue: str,
        header: bytes,
        body: bytes,
        until: float,
        latest: float,
        done: Callable[[], None],
        is_counted: bool,
    ) -> None:
        self._replier = replier
        self._until = until
        self.queue = queue
        self.header = header
        self.body = body
        self.latest = latest
        self.done = done
        self.is_counted = is_counted

    def publish(self) -> None:
        """Hand it over; too many messages waiting is one more reason to try later."""
        try:
            self._replier.publish(self)
        except Unavailable as exc:
            self._failed(exc, native.monotonic() < self._until)
        except MessagingError as exc:
            self._failed(exc, False)

    def settled(self, entry: Outgoing) -> None:
        """The broker has answered, on the connection's thread."""
        if entry.error is None:
            self._replier.finished(self, None)
            return
        is_away = isinstance(entry.error, Unroutable)
        is_in_time = native.monotonic() < self._until and not self._replier.is_ending
        may_come = is_away and is_in_time and not self._replier.is_gone(self.queue)
        if is_away and not may_come and self.is_counted:
            self._replier.gone(self.queue)
        self._failed(entry.error, may_come)

    def _failed(self, error: MessagingError, is_to_repeat: bool) -> None:
        if is_to_repeat:
            self._replier.again(self)
        else:
            self._replier.finished(self, error)
