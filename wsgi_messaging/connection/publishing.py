"""Publisher confirms on one connection: what is written, what the answers mean, what is tried again.

Messages of all callers share one confirming channel, so an error that closes it would hit them all. Two rules keep
neighbours out of it. The first message to an exchange goes alone over a channel of its own, on trial; once it is
confirmed the exchange is proven and the main lane takes its messages. When the main lane is closed all the same (an
exchange was deleted, a property was refused), its unanswered messages go on trial one at a time, and the one that
closes its channel is the one at fault. A destination that does not answer does not hold up the others: each has a trial
of its own, so many at once (trials.py), and a main lane that refuses is left to what is in flight on it. Messages that
another one answers go over the plain lane (lanes.py).

No I/O: everything gives the bytes to write. The connection's thread alone calls it. Layer 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import partial
from struct import Struct

from ..errors import ConfirmTimeout, ConnectionLost, InvalidMessage, MessagingError, NotDelivered, Rejected, Unroutable
from . import codec, frames
from .channels import Channels, close_reason
from .frames import Inbound
from .lanes import Lane, PlainLane
from .patience import Patience
from .pending import Confirms, Outgoing
from .trials import Trial, Trials

TRIES_AFTER_REFUSALS = 3
"""How often a message is sent when the broker closes the connection on it each time."""
TRIES_AFTER_NACKS = 8
"""How often a message is sent that is answered nack; with the pauses between, for three seconds: a quorum queue that
elects a leader answers so for as long, and so does one that is full."""
NACK_PAUSES = 0.05, 0.8
"""Seconds before the second try, doubled before each other one, and their most."""
RENEW_EVERY = 0.25
"""Seconds between two renewals of a main lane that refuses: a queue that stays full has each message refused."""
RETIRED_AT_MOST = 256
"""Channels that are left to what is in flight on them."""
KEPT_FREE = 8
"""Of the channels that the broker allows, for what cannot wait."""
SWEEP_EVERY = 1.0
"""Seconds between two looks at what waits on trial."""
_NEVER = float("inf")

_ACK = Struct(">Q?")
"""What basic.ack says: by far the most frequent method, so it is not read by the general reader."""

MAIN, PLAIN = 1, 2
"""The channels of the two lanes whose messages their callers encode: with a confirm of their own, and without."""


class Publisher:
    """The publishing side of one connection."""

    def __init__(self, channels: Channels, is_held: Callable[[], bool] = bool) -> None:
        """`is_held` tells whether the broker takes no messages now."""
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
        self._renew_at = 0.0
        self._plain = PlainLane(PLAIN)
        self._retired: list[Lane] = []
        self._trials = Trials()
        self._is_held = is_held
        self._sweep_at = 0.0
        self._proven = {""}
        self._refused: list[tuple[float, Outgoing]] = []

    @property
    def _lanes(self) -> Sequence[Lane]:
        return (*self._retired, self._main, self._plain, *self._trials)

    def waiting(self) -> list[Outgoing]:
        """What was taken over and not written, or is to be written again. Any thread may ask, and for its number."""
        return [*(each for _, each in self._refused), *(each for trial in self._trials for each in list(trial.waiting))]

    @property
    def waiting_count(self) -> int:
        return len(self._refused) + sum(len(trial.waiting) for trial in tuple(self._trials.all.values()))

    @property
    def in_flight(self) -> int:
        """Messages that were written and not yet answered."""
        return sum(len(lane.confirms) for lane in self._lanes)

    @property
    def confirms(self) -> Confirms:
        """Of the main lane, where most messages go."""
        return self._main.confirms

    def told(self) -> dict[str, int]:
        """Its part of a `ConnectionStatus`."""
        return {name: getattr(self, name) for name in ("confirmed", "failed", "returned", "in_flight")}

    @property
    def is_idle(self) -> bool:
        """True when no message waits for its confirm."""
        return not (self._main.confirms.entries or self._trials or self._retired or self._refused)

    def is_awaited(self, now: float) -> bool:
        """True while somebody waits for an answer."""
        is_in_flight = any(lane.confirms.is_awaited(now) for lane in self._lanes)
        return is_in_flight or any(entry.is_wanted(now) for entry in self.waiting())

    @property
    def is_busy(self) -> bool:
        """True when `advance` may have something to do."""
        return bool(self._refused or self._trials) or self._plain.ask_at != _NEVER

    def due_at(self) -> float:
        """When `advance` has something to do."""
        if self._is_held() or not (self._refused or self._trials):
            return self._plain.ask_at
        gives_way_at = self._trials.gives_way_at() if self._may_retire else _NEVER
        return min(self._plain.ask_at, gives_way_at, self._refused[0][0] if self._refused else _NEVER)

    @property
    def _may_retire(self) -> bool:
        """True while another channel may be left to what is in flight on it."""
        return len(self._retired) < RETIRED_AT_MOST and self._channels.free > KEPT_FREE

    def advance(self, now: float) -> bytes:
        """Do what is due: ask the broker about plain messages, try again what was refused, pass by who stays silent."""
        written = [self._plain.ask()] if self._plain.ask_at <= now else []
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY
            for entry in self._trials.sweep(now):
                self.drop(entry)
        if self._is_held():
            return b"".join(written)
        if self._refused and self._refused[0][0] <= now:
            due = [entry for at, entry in self._refused if at <= now]
            self._refused = [(at, entry) for at, entry in self._refused if at > now]
            written.append(self._put_on_trial(due, now))
        for trial in self._trials.that_give_way(now):
            if self._may_retire:
                self._retired.append(trial)
                written.append(self._try(self._trials.pass_by(trial), now))
        return b"".join(written)

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
            if self.on_round_trip is not None and (self._timed is None or self._timed.is_done):
                self._timed, self._timed_at = entry, now
            return self._send(self._main, entry, now)
        trial = self._trials.of(entry)
        trial.waiting.append(entry)
        return self._try(trial, now)

    def drop(self, entry: Outgoing) -> None:
        """Settle a message that nobody wants any more."""
        if not entry.is_done:
            entry.was_dropped = True  # whoever asks is told why, which is known where they ask
            self._fail(entry, ConfirmTimeout("the message could not be sent within its time"))

    def _fail(self, entry: Outgoing, error: MessagingError, *, is_certain: bool = True) -> None:
        self.failed += 1
        if isinstance(error, NotDelivered) and entry.tries <= 1 and is_certain:
            entry.maybe_sent = False  # refused at its only try; of an earlier one nobody knows
        entry.finish(error)

    def _send(self, lane: Lane, entry: Outgoing, now: float) -> bytes:
        before, entry.maybe_sent = entry.maybe_sent, True
        if entry.abandoned:  # looked at behind that: a caller who gives up looks at `maybe_sent` behind this
            entry.maybe_sent = before
            self.drop(entry)
            return b""
        opening = b""
        if not lane.channel:
            opening = lane.opened(self._channels.take(partial(self.on_method, lane), lane.number))
        if len(entry.header) + 12 + frames.OVERHEAD > self.frame_max:
            self._fail(entry, InvalidMessage(f"headers of {len(entry.header)} bytes; a frame holds {self.frame_max}"))
            return opening
        lane.confirms.sent(entry)
        if self.patience.look_at == _NEVER:
            self.patience.watch(now)
        if lane is self._plain:
            self._plain.ask_soon(now)
        entry.tries += 1
        if entry.wire is not None and lane.number is not None:
            return opening + entry.wire if opening else entry.wire
        return opening + frames.message_frames(lane.channel, entry.method, entry.header, entry.body, self.frame_max)

    # On trial.

    def _put_on_trial(self, entries: Sequence[Outgoing], now: float) -> bytes:
        """Each with its destination's, in order, before those that wait there."""
        trials: dict[Trial, None] = {}
        for entry in reversed(entries):
            trial = self._trials.of(entry)
            trial.waiting.appendleft(entry)
            trials[trial] = None
        return b"".join(self._try(trial, now) for trial in reversed(trials))

    def _try(self, trial: Trial | None, now: float) -> bytes:
        """Send what a trial may send now. One that has nothing left ends, and the next takes its turn."""
        written: list[bytes] = []
        while trial is not None and self._trials.is_current(trial):
            if not self._trials.may_go_on(trial, has_room=self._channels.free > KEPT_FREE):
                break
            self._send_next(trial, now, written)
            if trial.confirms:
                self._trials.begin(trial)
                break
            self._trials.end(trial)
            written.append(self._end(trial))
            trial = self._trials.first_in_line()
        return b"".join(written)

    def _send_next(self, trial: Trial, now: float, written: list[bytes]) -> None:
        """What is proven meanwhile, then one message."""
        while trial.waiting and not trial.confirms:
            entry = trial.waiting.popleft()
            if not entry.is_wanted(now):
                self.drop(entry)
            elif entry.tries == 0 and entry.exchange in self._proven:
                written.append(self._send(self._main if entry.confirm else self._plain, entry, now))
            else:
                written.append(self._send(trial, entry, now))

    def _retire(self, lane: Lane) -> bytes:
        """It takes no more; its channel ends when it is answered for."""
        if not lane.confirms:
            return self._end(lane)
        self._retired.append(lane)
        return b""

    def _end(self, lane: Lane) -> bytes:
        channel = lane.channel
        self._trials.line_up(lane)
        lane.close()
        on_ended = self._on_main_ended if lane.number == MAIN else self._on_ended
        return self._channels.close(channel, on_ended) if channel else b""

    def _on_ended(self, _inbound: Inbound, now: float) -> bytes:
        """There is room for another one."""
        return self._try(self._trials.first_in_line(), now)

    def _on_main_ended(self, _inbound: Inbound | None, _now: float) -> bytes:
        """The number of the channel may be opened again."""
        substitute, self._main = self._main, Lane(MAIN)
        return self._retire(substitute)

    # Answers.

    def on_method(self, lane: Lane, inbound: Inbound, now: float) -> bytes:
        """React to a method on the channel of a lane."""
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
            return b""
        self._proven.update(entry.exchange for entry in answered)
        return self._go_on(lane, now)

    def _go_on(self, lane: Lane, now: float) -> bytes:
        """Behind an answer on it."""
        if isinstance(lane, Trial) and self._trials.is_current(lane):
            return self._try(lane, now)
        if lane in self._retired and not lane.confirms:
            self._retired.remove(lane)
            return self._end(lane)
        return b""

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
                self._fail(entry, Rejected(text), is_certain=not entry.exchange)  # a second queue may have taken it
        self._refused.sort(key=lambda waiting: waiting[0])
        if isinstance(lane, Trial) and not lane.confirms and now >= lane.renew_at:
            lane.renew_at = now + NACK_PAUSES[0]
            return self._end(lane) + self._go_on(lane, now)
        if lane is not self._main:
            return self._go_on(lane, now)
        if now < self._renew_at or not self._may_retire:
            return b""
        self._renew_at = now + RENEW_EVERY
        refusing, self._main = self._main, Lane()
        return self._retire(refusing)

    def _on_return(self, lane: Lane, inbound: Inbound) -> None:
        code, text, exchange, routing_key = codec.read_arguments("Bsss", inbound.arguments)
        entry = lane.confirms.returned(exchange, routing_key, inbound.header, inbound.body or b"")
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
        is_the_one = sum(not entry.is_done for entry in lane.confirms.entries.values()) == 1
        self._trials.line_up(lane)
        suspects = [entry for entry in lane.close() if not entry.is_done]
        if suspects and is_the_one:
            self._condemn(suspects.pop(), code, text)
        for entry in suspects:
            if not entry.may_repeat:
                self._fail(entry, ConnectionLost(f"the channel was closed ({code} {text}) while it was in flight"))
        written = b""
        if lane in self._retired:
            self._retired.remove(lane)
            written = self._on_main_ended(None, now) if lane.number == MAIN else b""
        written += self._put_on_trial([entry for entry in suspects if entry.may_repeat], now)
        return written + self._go_on(lane, now)

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
        for entry in [*(entry for lane in self._lanes for entry in lane.close()), *self.waiting()]:
            if entry.is_done:
                continue
            is_suspect = is_refusal and entry.tries >= TRIES_AFTER_REFUSALS
            if (entry.may_repeat and not is_suspect) or not entry.maybe_sent:
                again.append(entry)
            else:
                self._fail(entry, ConnectionLost(f"the connection broke before the confirm came: {cause}"))
        self._main = Lane(MAIN)
        self._retired.clear()
        self._trials.clear()
        self._refused.clear()
        return again

    def give_up(self, entries: Iterable[Outgoing], error: MessagingError) -> None:
        """Fail messages that will not be sent."""
        for entry in entries:
            if not entry.is_done:
                self._fail(entry, copy(error))
