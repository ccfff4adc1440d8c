"""Publisher confirms on one connection: what is written, what the answers mean, what is tried again.

Messages of all callers share one confirming channel, so an error that closes it would hit them all. Two rules keep
neighbours out of it. The first message to an exchange goes alone over a second channel, the proving lane; once it is
confirmed the exchange is proven and the main lane takes its messages. When the main lane is closed all the same (an
exchange was deleted, a property was refused), its unanswered messages go over the proving lane one at a time, and
the one that closes it again is the one at fault. Messages that another one answers go over the plain lane (lanes.py).

No I/O: everything gives the bytes to write. The connection's thread alone calls it. Layer 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from copy import copy
from struct import Struct

from ..errors import ConfirmTimeout, ConnectionLost, InvalidMessage, MessagingError, NotDelivered, Rejected, Unroutable
from . import codec, frames
from .channels import Channels, close_reason
from .frames import Inbound
from .lanes import Lane, PlainLane
from .patience import Patience
from .pending import Outgoing

TRIES_AFTER_REFUSALS = 3
"""How often a message is sent when the broker closes the connection on it each time."""
TRIES_AFTER_NACKS = 8
"""How often a message is sent that is answered nack; with the pauses between, for three seconds: a quorum queue that
elects a leader answers so for as long, and so does one that is full."""
NACK_PAUSES = 0.05, 0.8
"""Seconds before the second try, doubled before each other one, and their most."""
_NEVER = float("inf")

_ACK = Struct(">Q?")
"""What basic.ack says: by far the most frequent method, so it is not read by the general reader."""


MAIN, PLAIN = 1, 2
"""The channels of the two lanes whose messages their callers encode: with a confirm of their own, and without."""


class Publisher:
    """The publishing side of one connection."""

    def __init__(self, channels: Channels) -> None:
        self.confirmed = 0
        self.failed = 0
        self.returned = 0
        self.frame_max = 0
        self.on_round_trip: Callable[[float], None] | None = None
        """Gets the seconds from write to confirm, of one message at a time; None costs nothing."""
        self.patience = Patience()
        self._timed: Outgoing | None = None
        self._timed_at = 0.0
        self._channels = channels
        self._main = Lane(MAIN)
        self._plain = PlainLane(PLAIN)
        self._proving = Lane()
        self._lanes = (self._main, self._plain, self._proving)
        self._unproven: deque[Outgoing] = deque()
        self._proven = {""}
        self._is_main_refusing = False
        self._refused: list[tuple[float, Outgoing]] = []

    @property
    def in_flight(self) -> int:
        """Messages that were written and not yet answered, and those that wait for their turn to be proven."""
        return sum(len(lane.confirms) for lane in self._lanes) + len(self._unproven) + len(self._refused)

    def told(self) -> dict[str, int]:
        """Its part of a `ConnectionStatus`."""
        return {
            "confirmed": self.confirmed,
            "failed": self.failed,
            "returned": self.returned,
            "in_flight": self.in_flight,
        }

    @property
    def is_idle(self) -> bool:
        """True when no message waits for its confirm."""
        in_flight = self._main.confirms.entries or self._proving.confirms.entries
        return not (in_flight or self._unproven or self._refused)

    def is_awaited(self, now: float) -> bool:
        """True while somebody waits for an answer."""
        waiting = [*self._unproven, *(entry for _at, entry in self._refused)]
        is_in_flight = any(lane.confirms.is_awaited(now) for lane in self._lanes)
        return is_in_flight or any(entry.is_wanted(now) for entry in waiting)

    @property
    def is_busy(self) -> bool:
        """True when `advance` may have something to do."""
        return bool(self._refused) or self._plain.ask_at != _NEVER

    def due_at(self) -> float:
        """When a message that was answered nack is to be tried again, or the broker to be asked about others."""
        return min(self._refused[0][0] if self._refused else _NEVER, self._plain.ask_at)

    def advance(self, now: float) -> bytes:
        """Do what is due."""
        question = self._plain.ask() if self._plain.ask_at <= now else b""
        return question + self._try_refused(now)

    def _try_refused(self, now: float) -> bytes:
        """Try again what was answered nack and has waited its time."""
        due = [entry for at, entry in self._refused if at <= now]
        if not due:
            return b""
        self._refused = [(at, entry) for at, entry in self._refused if at > now]
        self._unproven.extendleft(reversed(due))
        closing = b""
        if not self._proving.confirms and self._proving.channel:
            closing = self._channels.close(self._proving.channel)
            self._proving.close()
        return closing + self._prove(now)

    def look(self, now: float, *, is_excused: bool) -> None:
        """See to it that the broker answers. Raises: EOFError when it has not, for too long."""
        self.patience.look([lane.confirms for lane in self._lanes], now, is_excused=is_excused)

    def admit(self, entry: Outgoing, now: float) -> bytes:
        """The bytes that send a message; none if nobody wants it any more or it waits for its turn."""
        if not entry.is_wanted(now):
            self.drop(entry)
            return b""
        if entry.exchange in self._proven:
            if not entry.confirm:
                return self._send(self._plain, entry, now)
            if not self._is_main_refusing:
                if self.on_round_trip is not None and (self._timed is None or self._timed.is_done):
                    self._timed, self._timed_at = entry, now
                return self._send(self._main, entry, now)
        self._unproven.append(entry)
        return self._prove(now)

    def drop(self, entry: Outgoing) -> None:
        """Settle a message that nobody wants any more."""
        if not entry.is_done:
            entry.was_dropped = True  # whoever asks is told why, which is known where they ask
            self._fail(entry, ConfirmTimeout("the message could not be sent within its time"))

    def _fail(self, entry: Outgoing, error: MessagingError) -> None:
        self.failed += 1
        if isinstance(error, NotDelivered) and entry.tries <= 1:
            entry.maybe_sent = False  # refused at its only try; of an earlier one nobody knows
        entry.finish(error)

    def _send(self, lane: Lane, entry: Outgoing, now: float) -> bytes:
        opening = b""
        if not lane.channel:
            opening = lane.opened(self._channels.take(self.on_method, lane.number))
        if len(entry.header) + 12 + frames.OVERHEAD > self.frame_max:
            self._fail(entry, InvalidMessage(f"headers of {len(entry.header)} bytes; a frame holds {self.frame_max}"))
            return opening
        lane.confirms.sent(entry)
        if self.patience.look_at == _NEVER:
            self.patience.watch(now)
        if lane is self._plain:
            self._plain.ask_soon(now)
        entry.tries += 1
        entry.maybe_sent = True
        if entry.wire is not None and lane is not self._proving:
            return opening + entry.wire if opening else entry.wire
        return opening + frames.message_frames(lane.channel, entry.method, entry.header, entry.body, self.frame_max)

    def _prove(self, now: float) -> bytes:
        """Send what the proving lane may send now: what is proven meanwhile, then one message on trial."""
        written = []
        while self._unproven and not self._proving.confirms:
            entry = self._unproven.popleft()
            if not entry.is_wanted(now):
                self.drop(entry)
            elif entry.tries == 0 and entry.exchange in self._proven:
                if self._is_main_refusing and entry.confirm:
                    self._unproven.appendleft(entry)
                    written.append(self._end_refusing_main())
                    break
                written.append(self._send(self._main if entry.confirm else self._plain, entry, now))
            else:
                written.append(self._send(self._proving, entry, now))
        return b"".join(written)

    def on_method(self, inbound: Inbound, now: float) -> bytes:
        """React to a method on one of the lanes' channels."""
        channel = inbound.channel
        lane = self._main if channel == MAIN else self._plain if channel == PLAIN else self._proving
        match inbound.method:
            case frames.BASIC_ACK:
                return self._on_ack(lane, inbound, now)
            case frames.BASIC_NACK:
                return self._on_nack(lane, inbound, now)
            case frames.BASIC_RETURN:
                self._on_return(lane, inbound)
            case frames.BASIC_QOS_OK:
                self._take_off(self._plain.answered(now), now)
            case frames.CHANNEL_CLOSE:
                return self._on_close(lane, inbound, now)
        return b""

    def _on_ack(self, lane: Lane, inbound: Inbound, now: float) -> bytes:
        if len(inbound.arguments) != _ACK.size:
            raise codec.MalformedValue("malformed basic.ack")
        tag, multiple = _ACK.unpack(inbound.arguments)
        answered = lane.confirms.resolve(tag, multiple)
        self._take_off(answered, now)
        if lane is self._main:
            return self._prove(now) if self._is_main_refusing else b""
        self._proven.update(entry.exchange for entry in answered)
        return self._prove(now)

    def _take_off(self, answered: list[Outgoing], now: float) -> None:
        """The broker has them."""
        for entry in answered:
            if not entry.is_done:
                self.confirmed += 1
                if entry is self._timed and self.on_round_trip is not None and entry.tries == 1:
                    self.on_round_trip(now - self._timed_at)
                entry.finish()

    def _on_nack(self, lane: Lane, inbound: Inbound, now: float) -> bytes:
        """Try each again on a new channel, a few times with a growing pause; and renew a main lane that refuses.

        A channel whose first message met a quorum queue in the middle of a leader election is answered nack for as
        long as it lives (RabbitMQ 3.10), and an election takes its time.
        """
        tag, multiple, _requeue = codec.read_arguments("Lbb", inbound.arguments)
        for entry in lane.confirms.resolve(tag, multiple):
            if entry.is_done:
                continue
            if entry.may_repeat and entry.tries < TRIES_AFTER_NACKS and entry.is_wanted(now):
                pause = min(NACK_PAUSES[0] * 2 ** (entry.tries - 1), NACK_PAUSES[1])
                self._refused.append((now + pause, entry))
            else:
                text = "the broker refused the message (basic.nack): its queue is full, or has no leader"
                self._fail(entry, Rejected(text))
        self._refused.sort(key=lambda waiting: waiting[0])
        self._is_main_refusing = self._is_main_refusing or lane is self._main
        return self._prove(now)

    def _end_refusing_main(self) -> bytes:
        """When it is empty, end its channel; messages wait until its number may be opened again."""
        if self._main.confirms or not self._main.channel:
            return b""
        channel = self._main.channel
        self._main.close()
        return self._channels.close(channel, self._on_main_ended)

    def _on_main_ended(self, _inbound: Inbound, now: float) -> bytes:
        self._is_main_refusing = False
        return self._prove(now)

    def _on_return(self, lane: Lane, inbound: Inbound) -> None:
        code, text, exchange, routing_key = codec.read_arguments("Bsss", inbound.arguments)
        entry = lane.confirms.returned(exchange, routing_key, inbound.body or b"")
        if entry is not None and not entry.is_done:
            self.returned += 1
            self._fail(
                entry,
                Unroutable(
                    f"no queue takes routing key {routing_key!r} of exchange {exchange!r} ({code} {text}): "
                    "declare and bind the queue, or publish with mandatory=False",
                    reply_code=code,
                ),
            )

    def _on_close(self, lane: Lane, inbound: Inbound, now: float) -> bytes:
        code, text = close_reason(inbound)
        self._is_main_refusing = self._is_main_refusing and lane is not self._main
        suspects = [entry for entry in lane.close() if not entry.is_done]
        if len(suspects) == 1:
            self._condemn(suspects.pop(), code, text)
        repeatable = [entry for entry in suspects if entry.may_repeat]
        for entry in suspects:
            if not entry.may_repeat:
                self._fail(entry, ConnectionLost(f"the channel was closed ({code} {text}) while it was in flight"))
        self._unproven.extendleft(reversed(repeatable))
        return self._prove(now)

    def _condemn(self, entry: Outgoing, code: int, text: str) -> None:
        self._proven.discard(entry.exchange or "no exchange: the default one cannot be deleted")
        self._fail(
            entry,
            Rejected(f"the broker refused the message to exchange {entry.exchange!r}: {code} {text}", reply_code=code),
        )

    def lost(self, cause: str, is_refusal: bool) -> list[Outgoing]:
        """The connection is gone. Gives the messages to send again, in order; fails those that must not be.

        What was in flight each time the broker refused to go on is suspect, and not sent for ever.
        """
        again = []
        refused = [entry for _at, entry in self._refused]
        in_flight = [entry for lane in self._lanes for entry in lane.close()]
        for entry in [*in_flight, *refused, *self._unproven]:
            if entry.is_done:
                continue
            is_suspect = is_refusal and entry.tries >= TRIES_AFTER_REFUSALS
            if (entry.may_repeat and not is_suspect) or not entry.maybe_sent:
                again.append(entry)
            else:
                self._fail(entry, ConnectionLost(f"the connection broke before the confirm came: {cause}"))
        self._unproven.clear()
        self._refused.clear()
        self._is_main_refusing = False
        return again

    def give_up(self, entries: Iterable[Outgoing], error: MessagingError) -> None:
        """Fail messages that will not be sent."""
        for entry in entries:
            if not entry.is_done:
                self._fail(entry, copy(error))
