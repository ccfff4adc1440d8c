"""A lone caller's own way to the socket, while the connection's thread sleeps.

Who is alone gains nothing from being gathered with others, and loses the time until the thread has woken and been
given the interpreter: up to 5 ms beside threads that compute. So it writes its message itself. The thread then stands
by for a moment: the socket does not wake it, and the next lone caller reads its answer itself, too: its confirm, or on
the connection that consumes the reply to its call. Where something may come unasked, the thread does not stand by; who
waits for that alone, for the next request, has the socket not wake the thread for just as long. Whatever else is wanted
meanwhile (another caller, a beat, an answer that takes long) ends this, and the thread does all as ever.

Rules: a caller has the thread's place from `Watch.take_turn` to `give_turn`: microseconds to write, `READ_WITHIN` at
most to read, and never beyond the thread's next duty; where somebody came who wanted the thread, nobody reads unasked
for a moment; never on the main thread, where a signal handler can come in between and stay, and with it the heartbeat
would stop; a greenlet, whose hub would stand still, never waits here; a caller that is interrupted in there costs the
connection, which nobody else then finds in the middle of a frame.

Layer 2.
"""

from __future__ import annotations

from collections.abc import Callable

from ..runtime import native
from ..runtime.waiting import waits_in_a_hub
from .channels import Refused
from .codec import MalformedValue
from .consuming import Consumers
from .frames import FrameError
from .inlet import Inlet
from .link import Link
from .outlet import Order, Outlet
from .pending import Outgoing
from .publishing import Publisher
from .pulse import Pulse
from .watch import Watch

READ_WITHIN = 0.1
"""Seconds that a caller waits for its answer in the thread's place."""
STANDBY_FOR = 0.1
"""Seconds within which the next lone message must come for the thread to stand by, and for which it does."""
STANDBY_AMID_WORK_FOR = 0.5
"""The same where the interpreter is contended: each turn of the thread's costs the callers some 10 ms."""
APART_FOR = 0.02
"""Seconds for which nobody reads unasked in the thread's place after somebody wanted the thread meanwhile."""


class Shortcut:
    """One connection's. `write`, `read` and `carry_out` are for any thread, the rest for the connection's."""

    def __init__(
        self, watch: Watch, outlet: Outlet, inlet: Inlet, publisher: Publisher, consumers: Consumers, pulse: Pulse
    ) -> None:
        self.link: Link | None = None
        """Over which, while the connection takes messages."""
        self._fault: tuple[Link | None, Exception] | None = None
        self._tried_at = self._is_hot_until = self._reads_from = float("-inf")
        self._watch = watch
        watch.taken_in = Shortcut._in_its_place.__code__
        self._outlet = outlet
        self._inlet = inlet
        self._publisher = publisher
        self._consumers = consumers
        self._pulse = pulse

    def write(self, entry: Outgoing) -> bool:
        """Write the message, which waits in the outbox, and read its answer if the thread stands by.

        False when there is something to do for the connection's thread.
        """
        if native.is_main_thread():
            return False
        self._look_out_for_more()
        return bool(self._in_its_place(self._write_message, entry))

    def write_all(self) -> bool:
        """Write what waits in the outbox. False when there is something to do for the connection's thread."""
        return not native.is_main_thread() and bool(self._in_its_place(self._write_outbox))

    def read_answer(self, is_there: Callable[[], object], until: float) -> bool:
        """Read what comes until `is_there()`, if the thread stands by.

        False when it has not come by `until`, or left something to do for the connection's thread.
        """
        if native.is_main_thread() or waits_in_a_hub():
            return False
        self._look_out_for_more()
        return bool(self._in_its_place(self._read_on_standby, is_there, until))

    def read_next(self, is_there: Callable[[], object], until: float) -> None:
        """Read what comes unasked until `is_there()`, or `until`, or for a moment. It wakes the thread if need be."""
        if native.is_main_thread() or waits_in_a_hub() or native.monotonic() < self._reads_from:
            return
        if self._in_its_place(self._read, is_there, until) is False:
            self._watch.wake()

    def carry_out(self, order: Order) -> bool:
        """Do it, and write what it gives; False when it was not done."""
        if native.is_main_thread():
            return False
        return bool(self._in_its_place(self._write_answer, order))

    def stands_by_for(self, link: Link) -> float:
        """Seconds for which the thread need not look at the socket, while callers read what comes."""
        return STANDBY_AMID_WORK_FOR if link.stream.octets.is_contended else STANDBY_FOR

    def is_hot(self, now: float) -> bool:
        """True when two lone callers came a moment ago, be it that the thread was awake: the next one is near."""
        return now < self._is_hot_until

    def raise_fault(self, link: Link) -> None:
        """Raises: what a caller has met on this link in the thread's place."""
        if self._fault is not None:
            (where, fault), self._fault = self._fault, None
            if where is link:
                raise fault

    def _look_out_for_more(self) -> None:
        now = native.monotonic()
        if now - self._tried_at < STANDBY_FOR:
            self._is_hot_until = now + STANDBY_FOR
        self._tried_at = now

    def _in_its_place(self, work: Callable[..., bool], *arguments: object) -> bool | None:
        """What the work gives, False when it met a fault; None when the place is not to be had, or nothing is open."""
        if not self._watch.take_turn():
            return None
        link = self.link
        try:
            return None if link is None else work(link, native.monotonic(), *arguments)
        except (OSError, EOFError, FrameError, MalformedValue, Refused) as exc:
            self._fault = link, exc  # the thread raises it, and knows what follows
            return False
        except BaseException:
            self._fault = link, EOFError("given up: a caller was interrupted in the thread's place")
            self._watch.rouse()
            raise
        finally:
            self._watch.give_turn()

    def _write_message(self, link: Link, now: float, entry: Outgoing) -> bool:
        if not self._outlet.write_one(link.stream, now):
            return False
        self._pulse.wrote(now)
        if self._publisher.due_at() < self._watch.sleeps_until:
            return False
        if not self._watch.is_on_standby:
            return True
        if not entry.confirm or waits_in_a_hub():
            return False
        return self._read_on_standby(link, now, lambda: entry.is_done, entry.deadline)

    def _write_outbox(self, link: Link, now: float) -> bool:
        if self._outlet.write(link.stream, now, takes_messages=True):
            self._pulse.wrote(now)
        is_out = self._outlet.has_nothing and not link.stream.wants_write
        is_watched = not self._watch.is_on_standby and self._publisher.due_at() >= self._watch.sleeps_until
        return is_out and is_watched

    def _read_on_standby(self, link: Link, now: float, is_there: Callable[[], object], until: float) -> bool:
        """As `read_answer`, in the thread's place."""
        return self._watch.is_on_standby and self._read(link, now, is_there, until) and bool(is_there())

    def _read(self, link: Link, now: float, is_there: Callable[[], object], until: float) -> bool:
        """As `read_next`, in the thread's place. False when the thread is wanted for what was read."""
        until = min(now + READ_WITHIN, self._watch.sleeps_until, until)
        while not is_there() and self._has_something(link, until):
            self._inlet.read(link)
        is_all_read = self._outlet.has_nothing and not (link.stream.has_pending or link.stream.wants_write)
        return is_all_read and self._consumers.due_at() >= self._watch.sleeps_until

    def _has_something(self, link: Link, until: float) -> bool:
        """In the thread's place: wait until there is something to read; False when that is over."""
        wait_ms = int((until - native.monotonic()) * 1000)
        if wait_ms <= 0:
            return False
        if link.stream.has_pending:
            return True
        has_socket = self._watch.wait_for_socket(wait_ms)
        if has_socket is False:
            self._reads_from = native.monotonic() + APART_FOR
        return bool(has_socket)

    def _write_answer(self, link: Link, now: float, order: Order) -> bool:
        if not self._outlet.has_nothing:
            return False
        self._outlet.answer(order(now))
        try:
            is_out = self._outlet.write_answers(link.stream)
        except OSError:
            is_out = False  # the thread finds the same; the order was carried out
        if is_out:
            self._pulse.wrote(now)
        else:
            self._watch.rouse()
        return True
