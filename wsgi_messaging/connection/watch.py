"""Where a connection's thread sleeps: until the socket, another thread or the clock wants something.

`wake` costs a system call only while the thread is asleep. The order on both sides is what loses no wake-up: the
thread says that it sleeps and then looks for work, a caller leaves work and then looks whether the thread sleeps.
While it sleeps one caller at a time may take its turn; the thread waits for it to be given back, and for nothing else.
While a caller waits for the socket in its place, the socket does not end the thread's sleep; any wake-up ends both. On
standby it does not end it in between either: who comes next finds it so, without a system call for that.

Layer 1.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Protocol

from ..runtime import native

GIVEN_WITHIN = 0.5
"""Seconds after which the thread looks whether anybody is there who has its turn. Nobody keeps it for that long."""


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
        self._poller: native.Poller
        self._standby_poller = native.poll()
        self._deputy_poller = native.poll()
        self._wake_up: native.WakeUp | None = None
        self._descriptor = -1
        self._events = 0
        self._is_relieved = False
        self._turn = native.allocate_lock()
        self._turn.acquire()
        self.is_asleep = False
        self.sleeps_until = 0.0
        self.is_on_standby = False
        self.deputy = 0
        """The thread, by its identifier, that has taken this one's turn."""
        self.taken_in: CodeType | None = None
        """The function that a turn is taken and given in."""

    def open(self) -> None:
        """Make the wake-up; nothing is open before, nor after `close`. On the application's side. Raises: OSError."""
        made = native.Poller()
        try:
            self._wake_up = native.WakeUp()
        except OSError:
            made.close()
            raise
        self._poller, self._standby_poller, self._deputy_poller = made, native.poll(), native.poll()
        for poller in (self._poller, self._standby_poller, self._deputy_poller):
            poller.register(self._wake_up.fileno(), native.POLLIN)
        if self.make_posting is not None:
            self._posting = self.make_posting()

    def close(self) -> None:
        """Close what `open` made; in a forked child, this process's copy of it."""
        if self._wake_up is not None:
            self._wake_up.close()
            self._poller.close()
        posting, self._posting = self._posting, None
        if posting is not None:
            posting.close()

    def wake(self) -> None:
        """Have the thread look for work, if it sleeps."""
        if self.is_asleep and self._wake_up is not None:
            send = self._wake_up.send_octet
            # Who comes behind the first takes the thread for awake. Before the second no exception comes in from
            # outside (a signal handler's, for one), for CPython from 3.11 on looks for none there.
            try:
                self.is_asleep = False
                send(b"\0")
            except OSError:  # it is full: readable already
                return

    def rouse(self) -> None:
        """Have its next sleep end at once, whatever it does now."""
        if self._wake_up is not None:
            self._wake_up.send()

    def add(self, sock: native.Socket, events: int) -> None:
        self._descriptor, self._events = sock.fileno(), events
        self._poller.register(self._descriptor, events)
        self._deputy_poller.register(self._descriptor, native.POLLIN)

    def await_writing(self, wanted: bool) -> None:
        """Whether the sleep is to end when the socket can be written."""
        events = native.POLLIN | (native.POLLOUT if wanted else 0)
        if events != self._events:
            self._events = events
            self._poller.modify(self._descriptor, events)

    def remove(self, sock: native.Socket) -> None:
        self._poller.unregister(sock.fileno())
        self._deputy_poller.unregister(sock.fileno())

    def fall_asleep(self, until: float, *, on_standby: bool = False) -> None:
        """From now on callers wake the thread; look for work between this and `sleep`.

        `on_standby`: the socket does not wake it, for a caller reads.
        """
        self.sleeps_until = until
        self.is_on_standby = on_standby
        self.is_asleep = True

    def take_turn(self) -> bool:
        """Take the place of the thread while it sleeps, until `give_turn`; False when it does not."""
        if not (self.is_asleep and self._turn.acquire(False)):
            return False
        self.deputy = native.get_ident()
        return True

    def wait_for_socket(self, wait_ms: int) -> bool | None:
        """In the thread's place: True when there is something to read, False when somebody wants the thread, None when
        the time is over, or the thread has woken by itself, or nobody but the thread can wait (there is no epoll)."""
        if not (self.is_on_standby or self._relieves()):
            return None
        ready = self._deputy_poller.poll(wait_ms)
        return len(ready) == 1 and ready[0][0] == self._descriptor if ready else None

    def _relieves(self) -> bool:
        """Have the socket not wake the thread, until `give_turn`."""
        if not self._is_relieved and self._poller.can_change:
            self._is_relieved = True
            self._poller.modify(self._descriptor, self._events & ~native.POLLIN)
        return self._is_relieved and self.is_asleep

    def give_turn(self) -> None:
        """Let the thread have its place again."""
        self.deputy = 0
        if self._is_relieved:
            self._is_relieved = False
            self._poller.modify(self._descriptor, self._events)
        self._turn.release()

    def _take_back(self) -> None:
        """Wait for the turn. Whoever had it may have been ended from outside in the moment of taking or giving it."""
        while not self._turn.acquire(True, GIVEN_WITHIN):
            if self.taken_in is None or not native.is_in(self.taken_in):
                self._turn.acquire(False)  # given just now; or never, and ours all the same
                self.deputy = 0
                if self._is_relieved:
                    self._is_relieved = False
                    self._poller.modify(self._descriptor, self._events)
                return

    def sleep(self, wait_ms: int) -> bool:
        """True when the socket has something, after `wait_ms` at the latest.

        A wake-up is taken whenever it is there: it may come after what it woke us for.
        """
        if self._posting is not None:
            wait_ms = self._posting.before_sleep(wait_ms)
        on_standby = self.is_on_standby
        wait = self._standby_poller.poll if on_standby else self._poller.wait
        self._turn.release()
        try:
            ready = wait(wait_ms)
        finally:
            self.is_asleep = self.is_on_standby = False
            if not self._turn.acquire(False):
                if on_standby or self._is_relieved:
                    self.rouse()  # whoever has it, and may wait for the socket, is not to wait any longer
                self._take_back()
        has_socket = False
        for descriptor, _events in ready:
            if self._wake_up is not None and descriptor == self._wake_up.fileno():
                self._wake_up.drain()
            else:
                has_socket = True
        return has_socket
