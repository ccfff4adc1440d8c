"""Something that a native thread sets and a thread, or a greenlet, awaits; and threads of the application's kind.

A thread waits on a native lock of its own. A greenlet gives its hub away: the native thread hands the waiter to a
bridge, one for each hub, which wakes the hub by the one means that each library offers to foreign threads (gevent:
an async watcher; eventlet: a descriptor that its hub listens to) and the hub sets the library's own event. Who is
asking is decided at each wait, because one process may have both.

Rules: the native side never takes a lock that a waiter can hold while it runs; a waiter that is killed (gevent.Timeout,
GreenletExit, KeyboardInterrupt) leaves nothing behind that could be woken in its place.

Layer 1.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from . import native

_ENDLESS = -1.0
"""What a lock takes for a wait without an end."""
_FOREVER = 3600.0
"""The longest single wait on a hub: with no timer at all gevent would raise LoopExit."""


class Waker(Protocol):
    """One waiter's alarm, which is a native lock that is held, or behaves as one: `release` wakes who waits."""

    def acquire(self, blocking: bool, timeout: float, /) -> bool:
        """Sleep until `release` was called, or for `timeout` seconds; without end for -1."""

    def release(self) -> None: ...


class _HubWaker:
    """Waits on the hub library's own event; woken by way of the hub's bridge."""

    __slots__ = ("_bridge", "_greenlet", "event")

    def __init__(self, bridge: _Bridge, greenlet: Any) -> None:
        self._bridge = bridge
        self._greenlet = greenlet
        self.event = bridge.make_event()

    def acquire(self, blocking: bool, timeout: float) -> bool:
        waiting = self._bridge.waiting
        waiting.add(self._greenlet)
        try:
            return self._bridge.wait(self.event, timeout)
        finally:
            waiting.discard(self._greenlet)

    def release(self) -> None:
        self._bridge.hand_over(self.event)


class _Bridge(ABC):
    """From a native thread into one hub, in one process."""

    def __init__(self) -> None:
        self.pid = native.getpid()
        self.waiting: set[Any] = set()
        """The greenlets that wait in the hub just now."""
        self._events: deque[Any] = deque()

    def hand_over(self, event: Any) -> None:
        """Have the hub set `event`. Native threads call it; neither call blocks or takes a lock of the hub's."""
        self._events.append(event)
        self._alarm()

    def _deliver(self) -> None:
        """In the hub: set what was handed over."""
        while self._events:
            self._set(self._events.popleft())

    @abstractmethod
    def make_event(self) -> Any:
        """The library's own event."""

    @abstractmethod
    def _alarm(self) -> None:
        """From a native thread: have the hub call `_deliver`."""

    @abstractmethod
    def _set(self, event: Any) -> None:
        """In the hub: wake who waits for the event."""

    def wait(self, event: Any, timeout: float) -> bool:
        """In a greenlet: let the others run until the event is set."""
        return bool(event.wait(_FOREVER if timeout < 0 else timeout))


class _GeventBridge(_Bridge):
    """`loop.async_()` is the one watcher that another thread may send to (gevent's documentation of ILoop)."""

    def __init__(self, hub: Any) -> None:
        super().__init__()
        self._watcher = hub.loop.async_(ref=False)
        self._watcher.start(self._deliver)

    def make_event(self) -> Any:
        from gevent.event import Event

        return Event()

    def _alarm(self) -> None:
        self._watcher.send()

    def _set(self, event: Any) -> None:
        event.set()


class _EventletBridge(_Bridge):
    """A descriptor that the hub listens to for as long as the hub lives."""

    def __init__(self, hub: Any) -> None:
        super().__init__()
        self._wake_up = native.WakeUp()
        hub.add(hub.READ, self._wake_up.fileno(), self._readable, _ignore, _ignore)

    def make_event(self) -> Any:
        from eventlet.event import Event

        return Event()

    def _alarm(self) -> None:
        self._wake_up.send()

    def _readable(self, _descriptor: int) -> None:
        self._wake_up.drain()
        self._deliver()

    def _set(self, event: Any) -> None:
        if not event.ready():
            event.send(True)


def _ignore(*_args: object) -> None:
    """The hub's callbacks for a listener that is thrown into or closed; ours is neither."""


_bridges: WeakKeyDictionary[Any, _Bridge] = WeakKeyDictionary()


def _bridge(hub: Any, make: Callable[[Any], _Bridge]) -> _Bridge:
    bridge = _bridges.get(hub)
    if bridge is None or bridge.pid != native.getpid():
        bridge = _bridges[hub] = make(hub)
    return bridge


def _gevent_hub(getcurrent: Callable[[], Any]) -> Any:
    """The hub of the calling thread if it has one and the caller is a greenlet that can wait in it."""
    hub = sys.modules["gevent._hub_local"].get_hub_if_exists()
    return None if hub is None or getcurrent() is hub else hub


def _eventlet_hub(getcurrent: Callable[[], Any]) -> Any:
    hub = getattr(sys.modules["eventlet.hubs"]._threadlocal, "hub", None)
    return None if hub is None or getcurrent() is hub.greenlet else hub


_has_hubs = True


def leave_hubs() -> None:
    """From now on nothing waits in a hub: the process ends, and greenlets do not run any more.

    Where uWSGI calls its exit hooks even the look whether the caller is a greenlet would be a segmentation fault.
    """
    global _has_hubs
    _has_hubs = False


def can_run_greenlets() -> bool:
    """False when what the application would do next, in a patched process, will not be done any more."""
    return _has_hubs or not native.is_patched()


def is_application_side() -> bool:
    """True where a greenlet that is started will run: on the main thread, or on one that has a hub."""
    if not _has_hubs:
        return False
    return native.is_main_thread() or isinstance(make_waker(), _HubWaker)


def make_waker() -> Waker:
    """The alarm that fits the caller: its hub's if it is a greenlet of one, a native lock otherwise.

    A hub's own greenlet, which cannot wait in itself, gets the native lock: it stalls its hub for the time of the
    wait, but nothing dead-locks, because whoever wakes it is a native thread. So does a signal handler that came in
    the middle of a wait: its greenlet is on the hub's books already.
    """
    greenlet = sys.modules.get("greenlet") if _has_hubs else None
    waker = None if greenlet is None else _waker_in_a_hub(greenlet.getcurrent)
    if waker is not None:
        return waker
    lock = native.allocate_lock()
    lock.acquire()
    return lock


def waits_in_a_hub() -> bool:
    """True when the caller is a greenlet, whose hub would stand still while its thread waits."""
    return "greenlet" in sys.modules and isinstance(make_waker(), _HubWaker)


def _waker_in_a_hub(getcurrent: Callable[[], Any]) -> Waker | None:
    """None for a caller that cannot wait in a hub."""
    if "gevent._hub_local" in sys.modules and (hub := _gevent_hub(getcurrent)) is not None:
        return _hub_waker(_bridge(hub, _GeventBridge), getcurrent())
    if "eventlet.hubs" in sys.modules and (hub := _eventlet_hub(getcurrent)) is not None:
        return _hub_waker(_bridge(hub, _EventletBridge), getcurrent())
    return None


def _hub_waker(bridge: _Bridge, caller: Any) -> Waker | None:
    """None for a greenlet that is on the hub's books already."""
    return None if caller in bridge.waiting else _HubWaker(bridge, caller)


def is_exit(error: BaseException) -> bool:
    """True for what ends a thread or a greenlet on purpose, and is let through. Whatever else the application raises is
    a failure of it: gevent.Timeout, eventlet.Timeout and asyncio.CancelledError, which are no `Exception`, too."""
    killed = getattr(sys.modules.get("greenlet"), "GreenletExit", ())
    return isinstance(error, (KeyboardInterrupt, GeneratorExit, killed))


class Completion:
    """Set once; then every wait, begun before or after, returns True at once.

    Threads: `set()` from any thread (a second call does nothing), `wait()` from any thread or greenlet.
    """

    __slots__ = ("_wakers", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._wakers: list[Waker] = []

    def set(self, _cause: object = None) -> None:
        """Wake who waits. It may be given as a callback, whatever that is called with."""
        self.is_set = True
        while self._wakers:
            try:
                waker = self._wakers.pop()
            except IndexError:  # a waiter took itself off the list in between
                return
            waker.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks: the calling thread or greenlet, until set or for `timeout` seconds. True when it is set."""
        return self.wait_until(None if timeout is None else native.monotonic() + timeout)

    def wait_until(self, deadline: float | None) -> bool:
        """As `wait`, to a point in time (monotonic)."""
        while not self.is_set:
            left = _ENDLESS if deadline is None else deadline - native.monotonic()
            if left <= 0 and deadline is not None:
                return False
            # Once more when it was woken for nothing: by somebody who switched to its greenlet, for one.
            self._sleep(left)
        return True

    def _sleep(self, timeout: float) -> None:
        waker = make_waker()
        self._wakers.append(waker)
        # The waker was put on the list first, and the flag is looked at second; `set` does it the other way round, so
        # one of the two sees the other.
        if self.is_set:
            return
        try:
            waker.acquire(True, timeout)
        finally:
            if not self.is_set:
                with suppress(ValueError):  # `set` took it off in between
                    self._wakers.remove(waker)


class ApplicationThread(Protocol):
    """A thread of the application's kind: a thread, or a greenlet in a patched process."""

    def join(self, timeout: float) -> None: ...


class _Spawned:
    """A greenlet, started by way of the patched `_thread`: `threading.Thread.start` would wait for its hub, which
    dead-locks in the hub itself and lets a kill come out in the middle of the start."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run
        self._ended = Completion()
        native.spawn(self._main)

    def _main(self) -> None:
        try:
            self._run()
        finally:
            self._ended.set()

    def join(self, timeout: float) -> None:
        if can_run_greenlets():
            self._ended.wait(timeout)


def start_application_thread(name: str, run: Callable[[], None]) -> ApplicationThread:
    """Run `run` as the application's own threads run: a daemon thread, or a greenlet in a patched process.

    It begins with an empty context: the deadline, say, of the request that happened to need it is not its own.
    Raises: RuntimeError when no thread can be started.
    """
    run = partial(Context().run, run)
    return _Spawned(run) if native.is_patched() else native.start_daemon(name, run)
