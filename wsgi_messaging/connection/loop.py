"""The native thread that owns one connection's socket: it reads, writes, beats and reconnects.

Application threads append to `outbox` and `orders` and wake it; it polls the socket, its wake-up and the next point
in time. Only while it sleeps may a caller take its place, for one message and its confirm (shortcut.py), and never
beyond the thread's next duty, so nothing that a request does, or holds, can stop the heartbeat. Rules:
nothing here waits without a bound but the resolver; a message is encoded by its caller, numbered here; the thread
never logs (it has a journal), never imports, never meets a green primitive.

Layer 2.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import Closed, MessagingError
from ..runtime import native
from ..runtime.journal import Journal
from ..runtime.waiting import Completion
from . import codec, frames
from .channels import Channels, Refused, closed_by_broker
from .connecting import Attempts
from .consuming import Consumers
from .control import Control
from .crowd import GATHERS_FOR, Crowd
from .frames import FrameError, Inbound
from .hosts import Broker
from .inlet import Inlet
from .link import Interrupted, Link, LinkOptions
from .outlet import Order, Outlet
from .pending import Outgoing
from .publishing import Publisher
from .pulse import Pulse
from .shortcut import Shortcut
from .start import Start
from .state import Event, State, after
from .status import ConnectionStatus
from .timing import remaining
from .topology import Topology
from .watch import Watch

CLOSE_OK_WITHIN = 1.0
"""Seconds that the broker has for its close-ok; a silent one is left without."""
SWEEP_EVERY = 0.5
"""Seconds between two looks for messages whose time is over, while there is no connection."""

_GOOD_BYE = frames.method_frame(0, frames.CONNECTION_CLOSE, b"\0\xc8\x04done\0\0\0\0")


class Loop:
    """One connection and its thread, in one process.

    Threads: the methods down to `status` are for any thread, greenlet or signal handler; they take no lock and never
    wait, except `join` and `attend`. The rest is the thread's own.
    """

    def __init__(
        self,
        role: str,
        name: str,
        thread_name: str,
        brokers: Sequence[Broker],
        options: LinkOptions,
        context: tuple[ssl.SSLContext, Any] | None,
        topology: Topology,
        journal: Journal,
    ) -> None:
        self.role = role
        self.name = name
        self.state = State.NEW
        self.publisher = Publisher(channels := Channels(), lambda: self.blocked is not None)
        self.control = Control(channels)
        self.consumers = Consumers(channels, self.control, topology, self._warn)
        self.attempts = Attempts(name, brokers, options, context, journal)
        self.frame_max = options.frame_max
        self.blocked: str | None = None
        self.reconnects = 0
        self.ended = Completion()
        self._outlet = Outlet(self.publisher)
        self.outbox = self._outlet.outbox
        self._pulse = Pulse(self._warn)
        self._channels = channels
        self.journal = journal
        self._close_by: float | None = None
        self._link: Link | None = None
        self.watch = Watch()
        self._inlet = Inlet(channels, self._outlet, self._pulse, self._on_connection)
        self._shortcut = Shortcut(self.watch, self._outlet, self._inlet, self.publisher, self.consumers, self._pulse)
        self._crowd = Crowd(self._outlet, self.publisher, self._inlet, self._shortcut)
        self._opening: native.Socket | None = None
        self._own_ident = -1
        self._thread = native.NativeThread(thread_name, self._run)
        self.start = Start(self.watch, self._thread)

    # For any thread.

    def publish(self, entry: Outgoing, *, is_alone: bool = False) -> None:
        """Have a message sent; a caller that is alone writes it itself if it can."""
        if not self._crowd.hand_over(entry, is_alone=is_alone):
            self.watch.wake()
        if self.state is State.CLOSED:  # nobody will look at the outbox any more
            self.publisher.give_up(self._outlet.take_messages(), Closed("the transport was closed"))

    def order(self, order: Order, *, is_alone: bool = False) -> None:
        """Have something done on the thread; a caller that is alone does it itself if it can."""
        if not (is_alone and not self._outlet.orders and self._shortcut.carry_out(order)):
            self._outlet.orders.append(order)
            self.watch.wake()

    def attend(self, is_there: Callable[[], object], until: float, *, is_alone: bool) -> None:
        """Somebody begins to wait for a delivery: who is alone reads until it `is_there`, if it can."""
        if not (is_alone and self._shortcut.read_answer(is_there, until)) and self.watch.is_on_standby:
            self.watch.wake()

    def attend_unasked(self, is_there: Callable[[], object], until: float) -> None:
        """As `attend`, for who is alone and waits for what may come at any time."""
        self._shortcut.read_next(is_there, until)

    def open(self) -> None:
        """Start the thread, which connects. Raises: `Unavailable`, as `Start.open`."""
        self.start.open()

    def close(self, close_by: float) -> None:
        """Have the thread finish what was accepted, until `close_by`, and end. Returns at once."""
        self._close_by = close_by
        if self.start.forgo():
            self.state = State.CLOSED
            self.journal.close()
            self.ended.set()
        else:
            self.watch.rouse()

    def join(self, timeout: float) -> bool:
        """Wait until the thread has ended, as the caller can: a greenlet gives its hub away. False: it has not."""
        ended_at = native.monotonic() + timeout
        return self.ended.wait(timeout) and self._thread.join(max(0.2, ended_at - native.monotonic()))

    def forget(self) -> None:
        """In a forked child: let go of what the parent owns, without a byte, a lock or a wait."""
        link, self._link = self._link, None
        if link is not None:
            link.forget()
        native.close_inherited(self._opening)
        self.watch.close()

    def is_own_thread(self) -> bool:
        """True on the connection's thread, and on one that has its place: neither may wait for itself."""
        return native.get_ident() in (self._own_ident, self.watch.deputy)

    def status(self, now: float) -> ConnectionStatus:
        """What is known of the connection now."""
        link = self._link
        return ConnectionStatus(
            role=self.role,
            state=self.state.value,
            name=self.name,
            broker=link.broker.address if link else None,
            queued=len(self.outbox) + self.publisher.waiting_count,
            reconnects=self.reconnects,
            blocked=self.blocked,
            consumers=len(self.consumers),
            last_failure=str(self.attempts.last_failure) if self.attempts.last_failure else None,
            **self._pulse.told(now if link else None),
            **self.publisher.told(),
        )

    # The thread.

    def _run(self) -> None:
        if not self.start.begin():
            return
        self._own_ident = native.get_ident()
        try:
            self._step(Event.OPEN)
            while self.state is not State.CLOSED:
                if self._link is not None:
                    self._serve(self._link)
                elif self.state is State.CONNECTING:
                    self._connect()
                else:
                    self._rest()
        except Exception as exc:  # noqa: BLE001  (the top of the loop: a defect must not leave callers waiting
            self.journal.error(f"{self.name}: the connection's thread failed: {type(exc).__name__}: {exc}")
            self._end(Closed(f"the connection's thread failed: {type(exc).__name__}: {exc}"))
        finally:
            self._end(Closed("the transport was closed"))
            self.watch.close()

    def _step(self, event: Event) -> None:
        self.state = after(self.state, event)
        self._shortcut.link = self._link if self.state is State.READY else None

    def _end(self, error: MessagingError) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        self.state = State.CLOSED
        self._outlet.carry_out(native.monotonic(), is_open=False)
        again = self.publisher.lost("closed", is_refusal=False)
        self.publisher.give_up([*again, *self._outlet.take_messages()], error)
        self.control.give_up(error)
        self.consumers.give_up(error)
        self.journal.close()
        self.ended.set()

    # Connecting.

    def _connect(self) -> None:
        try:
            link = self.attempts.attempt(self._wait_for, native.monotonic())
        except Interrupted:
            self._step(Event.CLOSE)
            return
        if link is not None:
            self._on_link(link)
            return
        self._step(Event.FAILED)
        if self.attempts.is_round_over and self.attempts.last_failure is not None:
            self._tell_waiting(self.attempts.last_failure)

    def _wait_for(self, sock: native.Socket, events: int, deadline: float) -> None:
        """The handshake's waits: for the socket, the deadline, or the wish to close."""
        self.watch.add(sock, events)
        self._opening = sock
        try:
            while True:
                if self._is_to_stop(native.monotonic()):
                    raise Interrupted
                if self._sleep_until(deadline):
                    return
                if native.monotonic() >= deadline:
                    raise TimeoutError("no answer in time")
        finally:
            self._opening = None
            self.watch.remove(sock)

    def _is_to_stop(self, now: float) -> bool:
        """True when closing was asked for and there is nothing left to do, or no time."""
        return self._close_by is not None and (now >= self._close_by or not self._outlet.is_awaited(now))

    def _sleep_until(self, point: float) -> bool:
        point = min(point, self._close_by or point)
        return self.watch.sleep(int(max(0.0, min(point - native.monotonic(), SWEEP_EVERY)) * 1000) + 1)

    def _tell_waiting(self, failure: MessagingError) -> None:
        """No broker could be had: what gets one try only fails; all, when it needs mending and not waiting."""
        self.publisher.give_up(self._outlet.take_unrepeatable(), failure)
        if not self.attempts.is_hopeless:
            return
        self.publisher.give_up(self._outlet.take_messages(), failure)
        self._outlet.carry_out(native.monotonic(), is_open=False)
        self.control.give_up(failure)
        self.consumers.refuse_new(failure)

    def _on_link(self, link: Link) -> None:
        self._link = link
        self.frame_max = self.publisher.frame_max = link.frame_max
        self._channels.most = link.channel_max
        self._pulse.begin(link.heartbeat, native.monotonic())
        self.watch.add(link.stream.sock, native.POLLIN)
        self._step(Event.OPENED)

    def _rest(self) -> None:
        """No connection, and not yet time for the next attempt."""
        now = native.monotonic()
        if self._is_to_stop(now):
            self._step(Event.CLOSE)
            return
        self._outlet.carry_out(now, is_open=False)
        self._outlet.sweep(now)
        self.control.sweep(now)
        if now >= self.attempts.retry_at:
            self._step(Event.OPEN)
        else:
            self._sleep_until(self.attempts.retry_at)

    # Serving.

    def _serve(self, link: Link) -> None:
        """One turn with an open connection: write, poll, read, beat."""
        try:
            now = native.monotonic()
            self._shortcut.raise_fault(link)
            self._write(link, now)
            if self.state is State.CLOSED:
                return
            if self._pause(link, now):
                self._crowd.read(link)
            now = native.monotonic()
            self._outlet.answer(self._pulse.keep_alive(now))
            self._outlet.look(link.stream, now, is_blocked=self.blocked is not None)
            self.attempts.say_if_due(now)
        except (OSError, EOFError) as exc:
            self._lose(f"{exc}" or type(exc).__name__)
        except (FrameError, codec.MalformedValue, Refused) as exc:
            self._lose(f"{exc}", exc)
        except Exception as exc:  # noqa: BLE001  (a defect costs the connection, not the thread)
            cause = f"{type(exc).__name__}: {exc}"
            self.journal.error(f"{self.name}: {cause}; a defect of wsgi_messaging, please report it")
            self._lose(cause, exc)

    def _write(self, link: Link, now: float) -> None:
        self._outlet.carry_out(now, is_open=True)
        for part in (self.control, self.consumers, self.publisher):
            if part.is_busy:
                self._outlet.answer(part.advance(now))
        if self._close_by is not None:
            self._leave(now, self._close_by)
        if self._outlet.write(link.stream, now, self.state is State.READY and not self._crowd.is_gathering):
            self._pulse.wrote(now)

    def _pause(self, link: Link, now: float) -> bool:
        """Sleep until the socket, a caller or the clock wants something; True when there is something to read."""
        wants_write = self._outlet.is_stuck or link.stream.wants_write
        self.watch.await_writing(wants_write)
        until = min(self._pulse.next_at, self.control.due_at(), self.consumers.due_at(), self.publisher.due_at())
        until = min(until, self.attempts.say_at, self.publisher.patience.look_at, self._close_by or now + 60)
        until = min(until, now + GATHERS_FOR) if self._crowd.is_gathering else until
        if self.state is State.BLOCKED:
            self._outlet.sweep(now)
            until = min(until, now + SWEEP_EVERY)
        stands_by = self._shortcut.is_hot(now) and not wants_write and self._awaits_nothing
        self.watch.fall_asleep(until, on_standby=stands_by)
        if stands_by and not self._awaits_nothing:  # somebody has begun to wait, and did not see it stand by
            stands_by = self.watch.is_on_standby = False
        until = min(until, now + self._shortcut.stands_by_for(link)) if stands_by else until
        has_messages = self.outbox and self.state is State.READY and not self._crowd.is_awaited
        has_work = self._outlet.has_answers or has_messages
        is_busy = self._outlet.orders or link.has_early or link.stream.has_pending or (has_work and not wants_write)
        wait_ms = 0 if is_busy else int(remaining(until, now) * 1000) + 1
        has_socket = self.watch.sleep(wait_ms)
        if self._crowd.is_gathering:
            self._crowd.disperse(is_answered=has_socket)
        return has_socket or link.has_early or link.stream.has_pending

    @property
    def _awaits_nothing(self) -> bool:
        """True when the broker owes nobody an answer or a delivery."""
        is_open = self.state is State.READY and self._close_by is None and not self._crowd.is_gathering
        return is_open and not (self.publisher.in_flight or self.control.is_busy or self.consumers.are_awaited)

    def _on_connection(self, link: Link, inbound: Inbound) -> bytes:
        """React to a method on channel 0."""
        match inbound.method:
            case frames.CONNECTION_CLOSE:
                link.stream.send(memoryview(frames.method_frame(0, frames.CONNECTION_CLOSE_OK)))
                raise closed_by_broker(inbound)
            case frames.CONNECTION_CLOSE_OK:
                raise EOFError("closed")
            case frames.CONNECTION_BLOCKED:
                self.blocked = inbound.arguments[1:].decode("utf-8", "replace") or "no reason given"
                self._warn(f"the broker takes no messages: {self.blocked}")
                self._step(Event.ALARM)
            case frames.CONNECTION_UNBLOCKED if self.blocked is not None:
                self.blocked = None
                self._warn("the broker takes messages again")
                self._step(Event.ALL_CLEAR)
        link.await_reading(is_blocked=self.blocked is not None)
        return b""

    # Ending.

    def _leave(self, now: float, close_by: float) -> None:
        """Closing was asked for: finish what was accepted, then say good-bye."""
        if self.state is not State.CLOSING:
            is_idle = not (self._outlet.is_awaited(now) or self.publisher.is_awaited(now))
            if is_idle or now >= close_by:
                self._step(Event.CLOSE)
                self._outlet.answer(_GOOD_BYE)
                self._close_by = now + min(CLOSE_OK_WITHIN, max(0.1, close_by - now))
        elif now >= close_by:
            self._step(Event.ENDED)

    def _lose(self, cause: str, fault: Exception | None = None) -> None:
        """The connection is gone, or finished; a `fault` says that something that was sent may have ended it."""
        link, self._link = self._link, None
        if link is not None:
            self.watch.remove(link.stream.sock)
            link.close()
        was_closing = self.state is State.CLOSING
        self._step(Event.LOST)
        self.blocked = None
        self._channels.lost()
        is_request = self.control.lost(fault)
        self.consumers.lost(None if is_request else fault)
        self._outlet.lost(self.publisher.lost(cause, fault is not None))
        if not was_closing and link is not None:
            self.reconnects += 1
            self.attempts.lost(link, cause, native.monotonic())

    def _warn(self, text: str) -> None:
        self.journal.warning(f"{self.name}: {text}")
