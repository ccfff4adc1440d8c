"""Where a connection's thread sleeps: until the socket, another thread or the clock wants something.

`wake` costs a system call only while the thread is asleep. The order on both sides is what loses no wake-up: the
thread says that it sleeps and then looks for work, a caller leaves work and then looks whether the thread sleeps.
While it sleeps one caller at a time may take its turn; the thread waits for it to be given back, and for nothing else.
On standby the socket does not end its sleep: who has its turn waits for that, and any wake-up ends that wait, too.

Layer 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..runtime import native


class Posting(Protocol):
    """Shows to others what the connection does (`wsgi_messaging.observe.posting`). Neither method may raise."""

    def before_sleep(self, wait_ms: int) -> int:
        """The thread is about to sleep for so long; gives how long it may at most."""

    def close(self) -> None:
        """The thread has ended, or this is a forked child."""


class Watch:
    """A poll over one socket and a wake-up. `wake` and `rouse` are for any thread, the rest for the connection's."""

    def __init__(self) -> None:
        self.make_posting: Callable[[], Posting | None] | None = None
        self._posting: Posting | None = None
        self._poller = native.poll()
        self._standby_poller = native.poll()
        self._deputy_poller = native.poll()
        self._wake_up: native.WakeUp | None = None
        self._is_asleep = False
        self._awaits_writing = False
        self._turn = native.allocate_lock()
        self._turn.acquire()
        self.sleeps_until = 0.0
        self.is_on_standby = False
        self.deputy = 0
        """The thread, by its identifier, that has taken this one's turn."""

    def open(self) -> None:
        """Make the wake-up; nothing is open before, nor after `close`. On the application's side."""
        self._poller, self._standby_poller, self._deputy_poller = (native.poll() for _ in range(3))
        self._wake_up = native.WakeUp()
        for poller in (self._poller, self._standby_poller, self._deputy_poller):
            poller.register(self._wake_up.fileno(), native.POLLIN)
        if self.make_posting is not None:
            self._posting = self.make_posting()

    def close(self) -> None:
        """Close the wake-up; in a forked child, this process's copy of it."""
        if self._wake_up is not None:
            self._wake_up.close()
        posting, self._posting = self._posting, None
        if posting is not None:
            posting.close()

    def wake(self) -> None:
        """Have the thread look for work, if it sleeps."""
        if self._is_asleep:
            self._is_asleep = False
            self.rouse()

    def rouse(self) -> None:
        """Have its next sleep end at once, whatever it does now."""
        if self._wake_up is not None:
            self._wake_up.send()

    def add(self, sock: native.Socket, events: int) -> None:
        self._poller.register(sock.fileno(), events)
        self._deputy_poller.register(sock.fileno(), native.POLLIN)

    def await_writing(self, sock: native.Socket, wanted: bool) -> None:
        """Whether the sleep is to end when the socket can be written."""
        if wanted is not self._awaits_writing:
            self._awaits_writing = wanted
            self._poller.modify(sock.fileno(), native.POLLIN | (native.POLLOUT if wanted else 0))

    def remove(self, sock: native.Socket) -> None:
        self._poller.unregister(sock.fileno())
        self._deputy_poller.unregister(sock.fileno())
        self._awaits_writing = False

    def fall_asleep(self, until: float, *, on_standby: bool = False) -> None:
        """From now on callers wake the thread; look for work between this and `sleep`.

        `on_standby`: the socket does not wake it, for a caller reads.
        """
        self.sleeps_until = until
        self.is_on_standby = on_standby
        self._is_asleep = True

    def take_turn(self) -> bool:
        """Take the place of the thread while it sleeps, until `give_turn`; False when it does not."""
        if not (self._is_asleep and self._turn.acquire(False)):
            return False
        self.deputy = native.get_ident()
        return True

    def wait_for_socket(self, wait_ms: int) -> bool:
        """In the thread's place: True when there is something to read; False when the thread is wanted, or the time is
        over."""
        ready = self._deputy_poller.poll(wait_ms)
        return len(ready) == 1 and (self._wake_up is None or ready[0][0] != self._wake_up.fileno())

    def give_turn(self) -> None:
        """Let the thread have its place again."""
        self.deputy = 0
        self._turn.release()

    def sleep(self, wait_ms: int) -> bool:
        """True when the socket has something, after `wait_ms` at the latest.

        A wake-up is taken whenever it is there: it may come after what it woke us for.
        """
        if self._posting is not None:
            wait_ms = self._posting.before_sleep(wait_ms)
        poller = self._standby_poller if self.is_on_standby else self._poller
        self._turn.release()
        try:
            ready = poller.poll(wait_ms)
        finally:
            self._is_asleep = self.is_on_standby = False
            self._turn.acquire()
        has_socket = False
        for descriptor, _events in ready:
            if self._wake_up is not None and descriptor == self._wake_up.fileno():
                self._wake_up.drain()
            else:
                has_socket = True
        return has_socket
