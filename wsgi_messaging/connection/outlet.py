"""What is to be written on one connection, in order, many frames to one send.

Answers of the connection's own go before messages: an acknowledgement or a heartbeat never waits behind a backlog.

Layer 2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..runtime import native
from .pending import Outgoing
from .publishing import Publisher
from .stream import Stream

WRITE_MAX = 262144
"""How many octets of messages are gathered for one send."""
SENDS_AT_ONCE = 4
"""Then it is time to read: callers may hand over messages as fast as the socket takes them, for ever."""

Order = Callable[[float], bytes | None]
"""Something to do for a connection, at a time (`now`); gives the bytes to write, if it is open."""


class Outlet:
    """The writing side of one connection. `outbox` and `orders` are for any thread to append to, the rest for the
    connection's."""

    def __init__(self, publisher: Publisher) -> None:
        self.outbox: deque[Outgoing] = deque()
        self.orders: deque[Order] = deque()
        self._publisher = publisher
        self._answers: deque[bytes] = deque()
        self._unsent = memoryview(b"")

    @property
    def is_stuck(self) -> bool:
        """True while the socket does not take what was gathered."""
        return bool(self._unsent)

    def is_awaited(self, now: float) -> bool:
        """True while somebody waits for a message that was not sent whole."""
        return self.is_stuck or any(entry.is_wanted(now) for entry in list(self.outbox))

    @property
    def has_answers(self) -> bool:
        return bool(self._answers)

    def answer(self, written: bytes | None) -> None:
        """Have some bytes written before the next message."""
        if written:
            self._answers.append(written)

    def carry_out(self, now: float, *, is_open: bool) -> None:
        """Do what was ordered."""
        while self.orders:
            written = self.orders.popleft()(now)
            self.answer(written if is_open else None)

    def write_one(self, stream: Stream, now: float) -> bool:
        """Write a message if it is all there is to write; True when the socket took it whole. Raises: OSError."""
        if len(self.outbox) != 1 or self._unsent or self._answers:
            return False
        self._unsent = memoryview(self._publisher.admit(self.outbox.popleft(), now))
        if self._unsent:
            self._unsent = self._unsent[stream.send(self._unsent) or 0 :]
        return not self._unsent and not stream.wants_write

    @property
    def has_nothing(self) -> bool:
        """True when there is nothing to write."""
        return not self._unsent and not self._answers and not self.outbox

    def write_answers(self, stream: Stream) -> bool:
        """Write what was answered; True when the socket took it all. Raises: OSError."""
        self._unsent = memoryview(b"".join(self._answers))
        self._answers.clear()
        if self._unsent:
            self._unsent = self._unsent[stream.send(self._unsent) or 0 :]
        return not self._unsent and not stream.wants_write

    def write(self, stream: Stream, now: float, takes_messages: bool) -> bool:
        """Write as much as the socket takes; True when it took anything. Raises: OSError."""
        has_sent = False
        for _turn in range(SENDS_AT_ONCE):
            if not self._unsent:
                self._unsent = memoryview(self._gather(now, takes_messages))
                if not self._unsent:
                    break
            sent = stream.send(self._unsent)
            if sent is None:
                break
            self._unsent = self._unsent[sent:]
            has_sent = True
            if not (self._unsent or self._answers or self.outbox):
                break
        if stream.wants_write:
            stream.flush()
        return has_sent

    def _gather(self, now: float, takes_messages: bool) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self._answers:
            parts.append(self._answers.popleft())
        if takes_messages:
            outbox, admit = self.outbox, self._publisher.admit
            while outbox and size < WRITE_MAX:
                parts.append(admit(outbox.popleft(), now))
                size += len(parts[-1])
        return b"".join(parts)

    def look(self, stream: Stream, now: float, *, is_blocked: bool) -> None:
        """See to it that messages are answered. Raises: EOFError when one was not, though the broker could."""
        if now >= self._publisher.patience.look_at:
            is_on_its_way = self.is_stuck or stream.wants_write or native.unacknowledged(stream.sock) > 0
            self._publisher.look(now, is_excused=is_blocked or is_on_its_way)

    def sweep(self, now: float) -> None:
        """Drop the messages that nobody waits for any more, so that a long outage does not fill the memory."""
        kept = []
        for entry in self.take_messages():
            if entry.is_wanted(now):
                kept.append(entry)
            else:
                self._publisher.drop(entry)
        self.outbox.extendleft(reversed(kept))  # before what has come meanwhile

    def take_messages(self) -> list[Outgoing]:
        """Everything that waits to be sent; nothing stays."""
        taken = []
        while self.outbox:
            taken.append(self.outbox.popleft())
        return taken

    def take_unrepeatable(self) -> list[Outgoing]:
        """The waiting messages that get one attempt only (`retry=0`)."""
        taken = self.take_messages()
        self.outbox.extendleft(entry for entry in reversed(taken) if entry.may_repeat)  # before what has come meanwhile
        return [entry for entry in taken if not entry.may_repeat]

    def lost(self, again: list[Outgoing]) -> None:
        """The connection is gone: half-written bytes with it. `again` goes before what waits."""
        self._unsent = memoryview(b"")
        self._answers.clear()
        self.outbox.extendleft(reversed(again))
