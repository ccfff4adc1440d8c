"""A lone caller's own way to the socket, while the connection's thread sleeps.

Who is alone gains nothing from being gathered with others, and loses the time until the thread has woken and been
given the interpreter: up to 5 ms beside threads that compute. So it writes its message itself; the thread goes on
sleeping, and reads the answer.

Rules: a caller has the thread's place from `Watch.take_turn` to `give_turn`, microseconds in which nothing waits; never
on the main thread, where a signal handler can come in between and stay, and with it the heartbeat would stop; a
caller that is interrupted in there costs the connection, which nobody else then finds in the middle of a frame.

Layer 2.
"""

from __future__ import annotations

from collections.abc import Callable

from ..runtime import native
from .outlet import Outlet
from .publishing import Publisher
from .pulse import Pulse
from .stream import Stream
from .watch import Watch

Order = Callable[[float], bytes | None]
"""Something to do for a connection, at a time (`now`); gives the bytes to write, if it is open."""


class Shortcut:
    """One connection's. `write` and `carry_out` are for any thread."""

    def __init__(self, watch: Watch, outlet: Outlet, publisher: Publisher, pulse: Pulse) -> None:
        self.stream: Stream | None = None
        """Where to, while the connection takes messages."""
        self.torn: Stream | None = None
        """The one on which a caller was interrupted: nobody knows what of its message is out."""
        self._watch = watch
        self._outlet = outlet
        self._publisher = publisher
        self._pulse = pulse

    def write(self) -> bool:
        """Write the one message that waits; False when there is something to do for the connection's thread."""
        return self._in_its_place(self._write_message)

    def carry_out(self, order: Order) -> bool:
        """Do it, and write what it gives; False when it was not done."""
        return self._in_its_place(lambda stream, now: self._write_answer(stream, now, order))

    def _in_its_place(self, work: Callable[[Stream, float], bool]) -> bool:
        if native.is_main_thread() or not self._watch.take_turn():
            return False
        stream = self.stream
        try:
            return stream is not None and work(stream, native.monotonic())
        except OSError:
            return False  # the thread finds the same
        except BaseException:
            self.torn = stream
            self._watch.rouse()
            raise
        finally:
            self._watch.give_turn()

    def _write_message(self, stream: Stream, now: float) -> bool:
        if not self._outlet.has_one_message or not self._outlet.write_one(stream, now):
            return False
        self._pulse.wrote(now)
        return self._publisher.due_at() >= self._watch.sleeps_until

    def _write_answer(self, stream: Stream, now: float, order: Order) -> bool:
        if not self._outlet.has_nothing:
            return False
        self._outlet.answer(order(now))
        try:
            is_out = self._outlet.write_answers(stream)
        except OSError:
            is_out = False  # the thread finds the same; the order was carried out
        if is_out:
            self._pulse.wrote(now)
        else:
            self._watch.rouse()
        return True
