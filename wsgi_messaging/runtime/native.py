"""Threads, locks, sockets, poll and clock as the operating system gives them, also under gevent and eventlet.

A monkey patch replaces the attributes of `socket`, `select`, `time`, `_thread` and (eventlet) `os`. A native thread
that meets a replaced one stops for good, or breaks the other side's hub, so everything that runs on such a thread
asks here. Rules: originals are looked up once, at import, before or after the patch; what the C modules `_socket`
and `_ssl` hold is never replaced by either library and is used as it is; nothing here calls `logging`.

The only module of this package that may import threading, socket, select or time. Layer 0.
"""

from __future__ import annotations

import _socket
import _thread
import contextlib
import encodings.idna  # noqa: F401  (the name look-up imports it; an import on the native thread takes a green lock)
import fcntl
import importlib.util
import mmap
import os
import select
import signal
import ssl
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, ModuleType
from typing import Any


def _original(module: str, name: str) -> Any:
    """The unpatched `name` of `module`, whether or not (and by whom) it was patched before this import."""
    gevent_monkey = sys.modules.get("gevent.monkey")
    if gevent_monkey is not None:
        return gevent_monkey.get_original(module, name)
    eventlet_patcher = sys.modules.get("eventlet.patcher")
    if eventlet_patcher is not None and eventlet_patcher.already_patched:
        return getattr(eventlet_patcher.original(module), name)
    return getattr(sys.modules[module], name)


allocate_lock: Callable[[], _thread.LockType] = _original("_thread", "allocate_lock")
get_ident: Callable[[], int] = _original("_thread", "get_ident")
_start_new_thread: Callable[..., int] = _original("_thread", "start_new_thread")
_local: Any = _original("_thread", "_local")
poll: Callable[[], select.poll] = _original("select", "poll")
_epoll: Callable[[], select.epoll] | None = _original("select", "epoll") if hasattr(select, "EPOLLIN") else None
POLLIN, POLLOUT, POLLERR, POLLHUP = select.POLLIN, select.POLLOUT, select.POLLERR, select.POLLHUP
monotonic = time.monotonic
wall_clock = time.time

_WIPE_ON_FORK, _NO_ADVICE = 18, -1
"""MADV_WIPEONFORK of madvise(2), Linux 4.14, which Python's mmap does not name; and what is no advice anywhere."""


def _wiped_in_a_forked_child() -> mmap.mmap | None:
    """Memory that is all zeros again in a forked child, whoever forked it; None where the kernel has no such thing."""
    if sys.platform != "linux":
        return None
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        page.madvise(_WIPE_ON_FORK)
    except (OSError, ValueError):
        return None
    try:
        page.madvise(_NO_ADVICE)
    except (OSError, ValueError):
        return page
    return None  # an emulator that says yes to everything


_is_known: mmap.mmap | bytes = _wiped_in_a_forked_child() or b"\0"
"""Begins with a 1 as long as `_pid` is this process's."""
_pid = 0


def getpid() -> int:
    """The id of this process: one system call in each, where the kernel can wipe memory in a forked child."""
    return _pid if _is_known[0] else _look_up_pid()


def _look_up_pid() -> int:
    global _pid
    _pid = os.getpid()
    if isinstance(_is_known, mmap.mmap):
        _is_known[0] = 1
    return _pid


Socket = _socket.socket


def is_patched() -> bool:
    """True when `threading` starts greenlets instead of threads in this process, now."""
    return _thread.start_new_thread is not _start_new_thread


class _NamedThread(threading.Thread):
    def _delete(self) -> None:
        # A process that is patched while the thread runs has another get_ident by its end; the thread then does not
        # find itself in threading's table and would end with a traceback on standard error.
        with contextlib.suppress(KeyError):
            super()._delete()  # type: ignore[misc]


class NativeThread:
    """An operating-system thread, whatever `threading` has become.

    Unpatched it is a daemon `threading.Thread`, so that debuggers and profilers show its name; patched it is started
    through the original `_thread`. Where daemon threads are not allowed (mod_wsgi with an interpreter lock of its
    own per sub-interpreter) it is not a daemon. All signals are blocked in it: they belong to the main thread.
    """

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        self.name = name
        self._run = run
        self._running = allocate_lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. Raises: RuntimeError when the interpreter is shutting down or out of threads."""
        self._running.acquire()
        try:
            if is_patched():
                _start_new_thread(self._main, ())
            else:
                self._start_named()
        except RuntimeError:
            self._thread = None
            self._running.release()
            raise

    def _start_named(self) -> None:
        try:
            self._thread = _NamedThread(target=self._main, name=self.name, daemon=True)
        except RuntimeError:
            self._thread = _NamedThread(target=self._main, name=self.name)
        self._thread.start()

    def _main(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._run()
        finally:
            with contextlib.suppress(RuntimeError):  # `start` was interrupted behind the start, and has done so
                self._running.release()

    def join(self, timeout: float) -> bool:
        """Wait until the thread has ended; False if it has not within `timeout` seconds. Blocks the whole thread."""
        ended_at = monotonic() + timeout
        if not self._running.acquire(True, max(0.0, timeout)):
            return False
        self._running.release()
        if self._thread is not None:
            self._thread.join(max(0.1, ended_at - monotonic()))
        return True


def start_daemon(name: str, run: Callable[[], None]) -> threading.Thread:
    """A started daemon thread of an unpatched process. Raises: RuntimeError when no thread can be started."""
    thread = _NamedThread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def spawn(run: Callable[[], None]) -> None:
    """Start `run` by `_thread.start_new_thread` as it is now: in a patched process a greenlet, and no wait for it."""
    _thread.start_new_thread(run, ())


_own = _local()
"""What a thread knows of itself: whether it `is_main` in the process `pid`."""


def is_main_thread() -> bool:
    """True on the process's main thread, whatever greenlet runs there (Linux; elsewhere False)."""
    if getattr(_own, "pid", 0) != getpid():
        _own.is_main, _own.pid = _thread.get_native_id() == getpid(), getpid()
    return bool(_own.is_main)


def count_inherited_threads() -> int:
    """How many threads of the parent this forked process still takes for its own; 0 where Python was told of the fork.

    They are in threading's table and not among the system's tasks of this process (Linux; elsewhere 0).
    """
    tasks = "/proc/self/task"
    if not os.path.isdir(tasks):
        return 0
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    return sum(not os.path.exists(f"{tasks}/{thread.native_id}") for thread in others)


def stacks_of_others() -> list[str]:
    """Where every other thread is now, one `file:line in function` for each: a hint at who held the interpreter."""
    own = get_ident()
    return [
        f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_name}"
        for ident, frame in sys._current_frames().items()
        if ident != own
    ]


def is_in(code: CodeType) -> bool:
    """True while any thread is in a function, or in what that called."""
    for frame in sys._current_frames().values():
        inner: FrameType | None = frame
        while inner is not None and inner.f_code is not code:
            inner = inner.f_back
        if inner is not None:
            return True
    return False


_DRAINED = 256
"""Octets that one look takes from a wake-up, in which there is one most of the time."""


class WakeUp:
    """A file descriptor that polls readable after `send()`: from any thread, greenlet or signal handler."""

    def __init__(self) -> None:
        self._reader, self._writer = _socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self.fileno = self._reader.fileno
        self.send_octet: Callable[[bytes], int] = self._writer.send
        """As `send`, and no exception from outside comes between the call and the system's. Raises: OSError."""

    def send(self) -> None:
        """Make the descriptor readable. Never blocks; a full buffer means that it is readable already."""
        try:
            self._writer.send(b"\0")
        except OSError:
            return

    def drain(self) -> None:
        try:
            while len(self._reader.recv(_DRAINED)) == _DRAINED:
                continue
        except OSError:
            return

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


_AT_ONCE = 4
"""How many descriptors a wait tells of; epoll's `poll` makes room for a thousand unless told."""


class Poller:
    """What a thread waits for: descriptors, and the events of each.

    Where `can_change` (epoll(7)) another thread's `modify` holds at once for the one that waits, elsewhere (poll(2))
    from its next wait on. In a forked child only `close` may be called: the kernel has one list for both processes.
    """

    def __init__(self) -> None:
        waiting: Any = poll() if _epoll is None else _epoll()
        self.can_change = _epoll is not None
        self.register: Callable[[int, int], None] = waiting.register
        self.modify: Callable[[int, int], None] = waiting.modify
        self.unregister: Callable[[int], None] = waiting.unregister
        self._waiting = waiting

    def wait(self, wait_ms: int) -> list[tuple[int, int]]:
        """The descriptors that have something, and what; none after `wait_ms`."""
        found: list[tuple[int, int]] = (
            self._waiting.poll(wait_ms / 1000, _AT_ONCE) if self.can_change else self._waiting.poll(wait_ms)
        )
        return found

    def close(self) -> None:
        if self.can_change:
            self._waiting.close()


def close_inherited(sock: Socket | None) -> None:
    """Close this process's copy of a descriptor that was inherited over a fork: no shutdown(2), not one byte."""
    if sock is not None:
        descriptor = sock.detach()
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def addresses(host: str, port: int) -> list[tuple[int, Any]]:
    """(family, address) of every TCP address of `host`. Blocks for as long as the system's resolver does."""
    found = _socket.getaddrinfo(host, port, _socket.AF_UNSPEC, _socket.SOCK_STREAM)
    return [(family, address) for family, _kind, _protocol, _canonical, address in found]


def tcp_socket(family: int, *, unacknowledged_ms: int) -> Socket:
    """A non-blocking TCP socket, tuned for AMQP.

    Small frames go at once; keepalive probes find a peer that vanished while nothing was in flight; data that stays
    unacknowledged for `unacknowledged_ms` ends the connection (py-amqp chooses 1 s, which one hiccup exceeds).
    """
    sock = Socket(family, _socket.SOCK_STREAM | getattr(_socket, "SOCK_CLOEXEC", 0))
    sock.setblocking(False)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        _set_option(sock, name, value)
    limit_unacknowledged(sock, unacknowledged_ms)
    return sock


def limit_unacknowledged(sock: Socket, milliseconds: int) -> None:
    """Have data that stays unacknowledged for so long end the connection; 0: as long as the peer's kernel answers.

    Data that the peer does not read is unacknowledged, too (tcp(7), TCP_USER_TIMEOUT).
    """
    _set_option(sock, "TCP_USER_TIMEOUT", milliseconds)


def _set_option(sock: Socket, name: str, value: int) -> None:
    option = getattr(_socket, name, None)
    if option is not None:
        sock.setsockopt(_socket.IPPROTO_TCP, option, value)


def socket_error(sock: Socket) -> int:
    """The pending error number of a socket whose connect was in progress; 0 when it is connected."""
    return sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)


def unacknowledged(sock: Socket) -> int:
    """Octets that were sent, and that the peer's kernel has not acknowledged (tcp(7), SIOCOUTQ); 0 where unknown."""
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def tls_module() -> ModuleType:
    """The `ssl` module with its own classes; a private copy of it where a monkey patch has replaced them.

    Setting an attribute of the original SSLContext recurses for ever once gevent has put its own class in `ssl`.
    Call it on the application's side: it may import.
    """
    if ssl.SSLContext.__module__ == "ssl":
        return ssl
    name = f"{__package__}.unpatched_ssl"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ssl.__file__)
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot load a private copy of {ssl.__file__}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # its enums look themselves up there while the module runs
        spec.loader.exec_module(module)
    return sys.modules[name]


_quiet: dict[tuple[int, int], bool] = {}
"""The threads that are in `quiet_logger`, by process and identifier, those of the parent at the fork included; and
whether the logger was disabled before."""


def _is_disabled(logger: Any) -> bool:
    """By the application, and not by a thread of ours, or of the process that this one was forked from."""
    return next(iter(list(_quiet.values())), bool(logger.disabled))


@contextlib.contextmanager
def quiet_logger(logger: Any) -> Iterator[None]:
    """Nothing that this thread has a library do is logged within the block; in a patched process, nothing at all.

    A native thread must not wait for what a handler waits for; and in a patched process `logging` takes a green lock
    before it asks any filter.
    """
    own = getpid(), get_ident()

    def is_of_another(_record: object) -> bool:
        return (getpid(), get_ident()) != own  # a forked child has the filter, and may have the number

    _quiet[own] = _is_disabled(logger)
    logger.addFilter(is_of_another)
    logger.disabled = logger.disabled or is_patched()
    try:
        yield
    finally:
        logger.removeFilter(is_of_another)
        was_disabled = _quiet.pop(own)
        for inherited in [key for key in list(_quiet) if key[0] != own[0]]:
            _quiet.pop(inherited, None)
        if not _quiet:
            logger.disabled = was_disabled
