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

from ..runtime import native
from .outlet import Outlet
from .publishing import Publisher
from .pulse import Pulse
from .stream import Stream
from .watch import Watch


class Shortcut:
    """One connection's. `write` is for any thread."""

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
        if native.is_main_thread() or not self._watch.take_turn():
            return False
        stream = self.stream
        try:
            if stream is None or not self._outlet.has_one_message:
                return False
            now = native.monotonic()
            if not self._outlet.write_one(stream, now):
                return False
            self._pulse.wrote(now)
            return self._publisher.due_at() >= self._watch.sleeps_until
        except OSError:
            return False  # the thread finds the same
        except BaseException:
            self.torn = stream
            self._watch.rouse()
            raise
        finally:
            self._watch.give_turn()
