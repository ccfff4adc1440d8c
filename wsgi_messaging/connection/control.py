"""Declarations and the like: one request at a time on a channel of their own, each with its answer.

A request that the broker refuses closes the channel, which harms nobody else; a request whose caller has stopped
waiting must not stop the next one (a half-dead cluster can leave queue.bind unanswered for a minute), so the next
goes over a new channel.

No I/O: everything gives the bytes to write. The connection's thread alone calls it. Layer 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from copy import copy

from ..errors import DeclarationRefused, MessagingError
from . import frames
from .channels import Channels, Refused, close_reason
from .frames import Inbound

_NEVER = float("inf")


class Request:
    """One method that has an answer. It may be repeated after a reconnect: every one of them is idempotent."""

    __slots__ = (
        "abandoned",
        "answer",
        "arguments",
        "deadline",
        "error",
        "is_done",
        "maybe_sent",
        "method",
        "notify",
        "was_refused",
        "what",
    )

    def __init__(
        self, method: int, arguments: bytes, *, what: str, deadline: float, notify: Callable[[], None]
    ) -> None:
        self.method = method
        self.arguments = arguments
        self.what = what
        self.deadline = deadline
        self.notify = notify
        self.answer: Inbound | None = None
        self.error: MessagingError | None = None
        self.is_done = False
        self.maybe_sent = False
        self.was_refused = False
        self.abandoned = False

    def finish(self, answer: Inbound | None, error: MessagingError | None = None) -> None:
        if not self.is_done:
            self.answer, self.error = answer, error
            self.is_done = True
            self.notify()

    def is_wanted(self, now: float) -> bool:
        return not (self.abandoned or self.is_done or self.deadline <= now)


def unattended(
    method: int, arguments: bytes, *, what: str, deadline: float, on_error: Callable[[MessagingError], None]
) -> Request:
    """A request that nobody waits for; `on_error` is told, on the connection's thread, when it fails."""

    def answered() -> None:
        if request.error is not None:
            on_error(request.error)

    request = Request(method, arguments, what=what, deadline=deadline, notify=answered)
    return request


class Control:
    """The control channel of one connection."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._channel = 0
        self._waiting: deque[Request] = deque()
        self._current: Request | None = None

    def __len__(self) -> int:
        return len(self._waiting) + (self._current is not None)

    @property
    def is_busy(self) -> bool:
        """True when `advance` may have something to do."""
        return self._current is not None or bool(self._waiting)

    def due_at(self) -> float:
        """When the request that is under way is no longer waited for."""
        return _NEVER if self._current is None else self._current.deadline

    def sweep(self, now: float) -> None:
        """Drop the requests that nobody waits for any more, so that a long outage does not fill the memory."""
        self._waiting = deque(request for request in self._waiting if request.is_wanted(now))

    def add(self, request: Request, _now: float) -> None:
        """Put a request in line; `advance` sends it."""
        self._waiting.append(request)

    def advance(self, now: float) -> bytes:
        """Send the next request if its turn has come."""
        written = b""
        if self._current is not None and not self._current.is_wanted(now):
            self._current = None
            written = self._channels.close(self._channel)
            self._channel = 0
        while self._current is None and self._waiting:
            request = self._waiting.popleft()
            if not request.is_wanted(now):
                continue
            if not self._channel and self._channels.are_all_taken:
                self._refuse(request)
                continue
            if not self._channel and self._channels.free < 1:  # one is being closed, and its number free in a moment
                self._waiting.appendleft(request)
                break
            self._current = request
            written += self._send(request)
        return written

    def _refuse(self, request: Request) -> None:
        """One channel too many would end the connection, and with it all consumers."""
        allowed = f"the broker allows {self._channels.most} channels (channel_max), and each consumer has one"
        request.finish(None, DeclarationRefused(f"{request.what}: {allowed}", reply_code=530))

    def _send(self, request: Request) -> bytes:
        opening = b""
        request.maybe_sent = True
        if not self._channel:
            self._channel = self._channels.take(self.on_method)
            opening = frames.method_frame(self._channel, frames.CHANNEL_OPEN, b"\0")
        return opening + frames.method_frame(self._channel, request.method, request.arguments)

    def on_method(self, inbound: Inbound, now: float) -> bytes:
        """React to an answer, or to the broker closing the channel."""
        if inbound.method == frames.CHANNEL_OPEN_OK:
            return b""
        request, self._current = self._current, None
        if inbound.method == frames.CHANNEL_CLOSE:
            self._channel = 0
            if request is not None:
                code, text = close_reason(inbound)
                request.finish(None, DeclarationRefused(f"{request.what}: {code} {text}", reply_code=code))
        elif request is not None:
            request.finish(inbound)
        return self.advance(now)

    def lost(self, fault: Exception | None) -> bool:
        """The connection is gone: what was under way is asked again on the next one, unless it may be what ended it.

        RabbitMQ answers some declarations by closing the connection: a transient shared queue from 4.3 on, for one.
        True when something was under way.
        """
        is_under_way = self._current is not None
        if self._current is not None and isinstance(fault, Refused) and self._current.was_refused:
            self._current.finish(None, DeclarationRefused(f"{self._current.what}: {fault}", reply_code=fault.code))
        elif self._current is not None:
            self._current.was_refused = isinstance(fault, Refused)  # once it may have been a neighbour's message
            self._waiting.appendleft(self._current)
        self._current, self._channel = None, 0
        return is_under_way

    def give_up(self, error: MessagingError) -> None:
        """Fail everything that waits."""
        for request in [self._current, *self._waiting]:
            if request is not None:
                request.finish(None, copy(error))
        self._current = None
        self._waiting.clear()
