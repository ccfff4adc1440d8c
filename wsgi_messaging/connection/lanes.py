"""The channels that messages go over: confirming ones, and a plain one whose messages the broker is asked about.

A confirm for each message is most of what a small one costs the broker. Where something else will answer for it
within a moment (the reply to a request), it goes over the plain lane: `mandatory`, so that one that no queue takes
comes back, but unconfirmed. A moment later one question covers all that went before it: the broker works a channel
off in order, so its answer says that they were routed, or came back.

No I/O: everything gives the bytes to write. Layer 1.
"""

from __future__ import annotations

from . import codec, frames
from .pending import Confirms, Outgoing

ASK_AFTER = 0.05
"""Seconds after which the broker is asked whether it has what went over the plain lane."""
_NEVER = float("inf")
# The cheapest method of a channel that has an answer. It asks for what is there already: no limit.
_QUESTION_ARGUMENTS = codec.arguments("lBb", 0, 0, False)


class Lane:
    """One confirming channel."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number
        """The channel it opens; None for any that is free."""
        self.channel = 0
        self.confirms = Confirms()

    def opened(self, channel: int) -> bytes:
        """From now on it is this channel; the bytes that open it."""
        self.channel = channel
        opening = frames.method_frame(channel, frames.CHANNEL_OPEN, b"\0")
        return opening + frames.method_frame(channel, frames.CONFIRM_SELECT, b"\0")

    def close(self) -> list[Outgoing]:
        """The channel is gone; gives what it left unanswered."""
        unanswered = self.confirms.take_all()
        self.channel, self.confirms = 0, Confirms()
        return unanswered


class PlainLane(Lane):
    """A channel without confirms."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.ask_at = _NEVER
        self._asked_tag: int | None = None

    def opened(self, channel: int) -> bytes:
        self.channel = channel
        return frames.method_frame(channel, frames.CHANNEL_OPEN, b"\0")

    def ask_soon(self, now: float) -> None:
        """A message is being written."""
        if self._asked_tag is None and self.ask_at == _NEVER:
            self.ask_at = now + ASK_AFTER

    def ask(self) -> bytes:
        """Ask about everything that was written up to now."""
        self.ask_at = _NEVER
        self._asked_tag = self.confirms.last_tag
        return frames.method_frame(self.channel, frames.BASIC_QOS, _QUESTION_ARGUMENTS)

    def answered(self, now: float) -> list[Outgoing]:
        """The broker's answer came: it has these, in order of publishing."""
        if self._asked_tag is None:
            return []
        taken, self._asked_tag = self.confirms.resolve(self._asked_tag, multiple=True), None
        if self.confirms:
            self.ask_at = now + ASK_AFTER
        return taken

    def close(self) -> list[Outgoing]:
        self.ask_at, self._asked_tag = _NEVER, None
        return [entry for entry in super().close() if not entry.abandoned]
