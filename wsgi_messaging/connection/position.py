"""Where in a stream a consumer is.

RabbitMQ keeps no position for who consumes a stream over AMQP: a consumer that is made again begins where its arguments
say, at what comes next if they say nothing, and would miss what came while there was no connection, or begin at the
first message once more. So it is made again for the first message that was delivered to it and not settled.

Layer 2.
"""

from __future__ import annotations

from . import codec
from .frames import Inbound

OFFSET = "x-stream-offset"
"""The header of what is delivered from a stream, and the argument of its consumer."""
MARK = b"\x0fx-stream-offsetl"
"""The header as RabbitMQ adds it, a 64-bit integer: its name and type as they come."""


class Position:
    """Of one consumer of a stream. The connection's thread alone uses it."""

    def __init__(self) -> None:
        self._unsettled: dict[int, None] = {}
        self._next: int | None = None

    @property
    def resumes_at(self) -> int | None:
        """The offset to be delivered next if the consumer began now; None when it has had no message."""
        return next(iter(self._unsettled), self._next)

    def delivered(self, inbound: Inbound) -> None:
        """A message has come; offsets only grow."""
        offset = _offset(inbound)
        if offset is not None:
            self._unsettled[offset] = None
            self._next = offset + 1

    def settled(self, inbound: Inbound) -> None:
        """A message is done."""
        offset = _offset(inbound)
        if offset is not None:
            self._unsettled.pop(offset, None)

    def ended(self) -> None:
        """What is not settled will be delivered again."""
        self._next = self.resumes_at
        self._unsettled.clear()


def _offset(inbound: Inbound) -> int | None:
    """None where the headers cannot be decoded: such a message is rejected, and once more if it comes again."""
    try:
        found = codec.read_properties(inbound.header).get("headers", {}).get(OFFSET)
    except codec.MalformedValue:
        return None
    return found if type(found) is int else None
