"""The threads that execute requests, or greenlets in a patched process: as many as are needed, up to a bound.

The connection's thread cannot start a greenlet, so the workers do it: one that takes up work while nobody is left
waiting starts another first. Each one that was idle for a while ends, but for the last. Where one is ended from
outside, another takes its place.

Layer 4: imports runtime and our errors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..connection.subscription import Delivered
from ..errors import ConfigurationError, Unavailable
from ..runtime import native
from ..runtime.mailbox import Mailbox
from ..runtime.waiting import Completion, Waker, can_run_greenlets, is_exit, start_application_thread

logger = logging.getLogger("wsgi_messaging.rpc")

IDLE_FOR = 30.0
"""Seconds after which a worker that found nothing to do ends."""


def check(executor: str, pool_size: object) -> None:
    """Raises: `ConfigurationError` for an executor that this process cannot have."""
    if executor not in ("threading", "eventlet", "gevent"):
        raise ConfigurationError(f"executor: {executor!r} is neither threading nor eventlet nor gevent")
    if executor != "threading" and not native.is_patched():
        raise ConfigurationError(f"executor: {executor!r} needs a process that {executor} has patched; use threading")
    if isinstance(pool_size, bool) or not isinstance(pool_size, int) or pool_size < 1:
        raise ConfigurationError(f"pool_size: {pool_size!r} is not a number from 1 up")


class Pool:
    """Gives each delivery, and when it came, to `execute`, on a worker of its own; a sink for subscriptions."""

    def __init__(
        self,
        name: str,
        size: int,
        execute: Callable[[Delivered, float], None],
        give_back: Callable[[Delivered], None],
        reading: Callable[[], Waker] | None = None,
    ) -> None:
        """`give_back` gets what came and will not be executed, because the pool was stopped first. `reading` gives what
        a worker first waits with while nothing is executed."""
        self._name = name
        self._size = size
        self._execute = execute
        self._give_back = give_back
        self._reading = reading
        self._mailbox: Mailbox[tuple[Delivered, float]] = Mailbox()
        self._lock = native.allocate_lock()  # guards _workers, _idle and _is_stopping
        self._workers = 0
        self._idle = 0
        self._is_stopping = False
        self._over = Completion()

    @property
    def workers(self) -> int:
        """Threads, or greenlets, that there are now."""
        return self._workers

    @property
    def busy(self) -> int:
        """Those that execute a request now."""
        return max(0, self._workers - self._idle)

    def is_alone(self) -> bool:
        """True when one request is executed now, and no other, and none waits."""
        return self.busy == 1 and not self._mailbox

    def put(self, item: Delivered) -> None:
        """A delivery came. Threads: the connection's own."""
        if self._is_stopping:
            self._give_back(item)
        else:
            self._mailbox.put((item, native.monotonic()))

    def clear(self) -> None:
        """The connection is gone: what waits here will be delivered again."""
        self._mailbox.clear()

    def start(self) -> None:
        """Have the first worker. Raises: `Unavailable` when the interpreter starts no thread now."""
        with self._lock:
            self._workers = 1
        try:
            self._start_one()
        except RuntimeError as exc:
            self._leave()
            raise Unavailable(f"no thread can be started: {exc}") from exc

    def stop(self) -> None:
        """Begin no more, give back what waits; what is being executed goes on. Returns at once."""
        # Critical section: no worker is started behind this one's back.
        with self._lock:
            self._is_stopping = True
            if not self._workers:
                self._over.set()
        self._mailbox.close()
        while (item := self._mailbox.get(0.0)) is not None:
            self._give_back(item[0])

    def wait(self, timeout: float | None) -> bool:
        """Blocks: until everything that was begun is over, or `timeout`; False then."""
        return self._over.wait(timeout)

    def _start_one(self) -> None:
        start_application_thread(f"wsgi-messaging-rpc-{self._name}", self._work)

    def _start_further(self) -> None:
        try:
            self._start_one()
        except RuntimeError as exc:  # the system gives no more threads: those that there are have to do
            logger.warning("%s: no further worker could be started: %s", self._name, exc)
            self._leave()

    def _leave(self) -> None:
        # Critical section: the last one out says so.
        with self._lock:
            self._workers -= 1
            is_over = self._is_stopping and not self._workers
        if is_over:
            self._over.set()

    def _work(self) -> None:
        try:
            while self._take_up():
                pass
        except BaseException:
            if self._is_stopping or not can_run_greenlets():
                self._leave()
            else:  # it is ended from outside, and counted until another one has its place
                self._start_further()
            raise
        self._leave()

    def _take_up(self) -> bool:
        """Wait for a delivery and execute it; False when this worker is to end."""
        with self._lock:
            self._idle += 1
        try:
            item = self._mailbox.get(IDLE_FOR, self._reading() if self._reading and not self.busy else None)
        except BaseException:
            with self._lock:
                self._idle -= 1
            raise
        # Critical section: count who is left waiting.
        with self._lock:
            self._idle -= 1
            is_stopping = self._is_stopping
            is_superfluous = item is None and self._idle > 0
            is_needed = item is not None and not self._idle and self._workers < self._size and not is_stopping
            self._workers += is_needed
        if is_needed:
            self._start_further()
        if item is not None and is_stopping:
            self._give_back(item[0])
        elif item is not None:
            try:
                self._execute(*item)
            except BaseException as exc:
                if is_exit(exc):
                    raise
                logger.exception("%s: a request could not be handled", self._name)
        return not (is_stopping or is_superfluous)
