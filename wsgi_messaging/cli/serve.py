"""`wsgi-messaging serve`: N lasting processes of Werkzeug's server on one listening socket.

The master opens the socket, forks, and watches; it never imports the application. Each worker imports it
after the fork, so SIGHUP brings in new code: new workers are started, and only when all of them are ready the
old ones finish their requests and end. A reload that fails leaves the old workers serving; another one takes the
place of one that is not through.

Layer 5: imports servers.werkzeug, errors.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import ConfigurationError
from ..servers.werkzeug import STOP_SECONDS, Application, Serving, serve_worker
from ._numbers import port, seconds_or_none, whole
from ._objects import imported, is_module_name, look_here

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
WRONG_USAGE = 2
"""Exit status of a worker that finds no application, and of a master whose first workers find none."""
RESPAWN_SECONDS = 1.0  # a worker that died younger than this is replaced only when this long has passed


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "serve",
        description="Serve a WSGI application with Werkzeug's server: N lasting processes on one port,"
        " each with its own transport. SIGHUP reloads the application, SIGTERM and SIGINT end; requests in"
        " flight are finished in both cases.",
        epilog="Exit status: 0 stopped by a signal, 1 could not start, 2 wrong usage.",
    )
    parser.add_argument("application", metavar="MODULE:NAME", help="as app:application or app:make_app()")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=port, default=8000, help="0 takes a free one (default %(default)s)")
    parser.add_argument("--processes", type=whole(1), default=1, metavar="N", help="workers (default %(default)s)")
    parser.add_argument("--threads", action="store_true", help="a thread for each connection in each worker")
    parser.add_argument(
        "--grace",
        type=seconds_or_none,
        default=10.0,
        metavar="SECONDS",
        help="for requests in flight (default %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no line for each request")


def run(args: argparse.Namespace) -> int:
    try:
        importlib.import_module("werkzeug.serving")
    except ImportError as exc:
        raise ConfigurationError("Werkzeug is missing: pip install 'wsgi-messaging[werkzeug]'") from exc
    look_here()
    try:
        listener = _listen(args.host, args.port)
    except OSError as exc:
        say(f"cannot listen on {_address(args.host, args.port)}: {_reason(exc)}")
        return 1
    with listener:
        shared = Serving(
            args.host,
            listener.getsockname()[1],
            listener.fileno(),
            args.threads,
            args.processes,
            args.grace,
            args.quiet,
        )
        return Master(shared, lambda: load(args.application)).run()


def _address(host: str, port: int) -> str:
    """As a URL has it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: OSError) -> str:
    """The system's numbers are above 0, the resolver's below: those have their text with them only."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


class NoApplication(ConfigurationError):
    """There is no such application; nothing of it was run."""


def load(name: str) -> Application:
    """The application that `module:attribute` or `module:factory()` names. Raises: `NoApplication`."""
    module_name, _, attribute = name.partition(":")
    calls_it = attribute.endswith("()")
    if not is_module_name(module_name):
        raise NoApplication(f"application: {name!r} is not module:name, such as app:application or app:make_app()")
    try:
        found = imported("application", module_name, attribute.removesuffix("()") or "application")
    except ConfigurationError as exc:
        raise NoApplication(str(exc)) from exc
    if not callable(found) or (calls_it and not callable(found := found())):
        raise NoApplication(f"application: {name} is not a WSGI application: it cannot be called")
    application: Application = found
    return application


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk, or a log whose reader has left: no reason to end the workers
        print(f"wsgi-messaging serve: {text}", file=sys.stderr, flush=True)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=1024)
    os.set_blocking(listener.fileno(), False)  # every worker wakes for a connection; those too late must not wait
    return listener


@dataclass(slots=True)
class Child:
    """A worker as its master sees it; `ready_pipe` gets a byte when it begins to take requests."""

    pid: int
    label: str
    ready_pipe: int
    started_at: float
    kill_at: float | None = None


class Master:
    """Keeps `shared.processes` workers serving until a signal ends it.

    Each worker is in one of three groups: incoming (not all of its generation are ready), serving, outgoing.
    """

    def __init__(self, shared: Serving, load_application: Callable[[], Application]) -> None:
        self._shared = shared
        self._load = load_application
        self._incoming: dict[str, Child] = {}
        self._serving: dict[str, Child] = {}
        self._outgoing: list[Child] = []
        self._respawn_at: dict[str, float] = {}
        self._ready: set[int] = set()
        self._signals: list[int] = []
        self._status = 1
        self._wake_reader, self._wake_writer = os.pipe()

    def run(self) -> int:
        """Blocks: until SIGTERM or SIGINT, or until the first workers fail to start. The exit status."""
        for descriptor in (self._wake_reader, self._wake_writer):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        for number in WATCHED:
            signal.signal(number, lambda received, _frame: self._signals.append(received))
        self._start_generation()
        while self._incoming or self._serving or self._respawn_at:
            self._wait()
            self._reap()
            self._promote()
            if signal.SIGTERM in self._signals or signal.SIGINT in self._signals:
                return self._end()
            if signal.SIGHUP in self._signals:
                self._reload()
            self._respawn()
            self._kill_late()
        self._end()
        return self._status

    def _reload(self) -> None:
        """Start anew, also where the generation before is not ready: what hangs at its import never will be."""
        while signal.SIGHUP in self._signals:
            self._signals.remove(signal.SIGHUP)
        say("reloading")
        self._retire(self._incoming)
        self._start_generation()

    def _start_generation(self) -> None:
        for label in map(str, range(1, self._shared.processes + 1)):
            child = self._fork(label)
            if child is None:
                self._give_up()
                return
            self._incoming[label] = child

    def _fork(self, label: str) -> Child | None:
        """A new worker; None where the system has none to give (memory, descriptors, a limit on processes)."""
        pipe: tuple[int, ...] = ()
        signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
        try:
            pipe = reader, writer = os.pipe()
            pid = os.fork()
        except OSError as exc:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
            for descriptor in pipe:
                os.close(descriptor)
            say(f"cannot start a worker: {os.strerror(exc.errno or 0)}")
            return None
        if pid == 0:
            os.close(reader)
            self._work(label, writer)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        os.close(writer)
        return Child(pid, label, reader, time.monotonic())

    def _work(self, label: str, ready_pipe: int) -> NoReturn:
        """The worker's life; it leaves by an exception, so that its atexit functions run."""
        signal.set_wakeup_fd(-1)
        for number in WATCHED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)

        def ready() -> None:
            os.write(ready_pipe, b"1")
            os.close(ready_pipe)

        try:
            serve_worker(self._load, self._shared, label, ready)
        except NoApplication as exc:
            say(str(exc))
            sys.exit(WRONG_USAGE)
        sys.exit(0)

    def _wait(self) -> None:
        """Until a signal, a worker's ready byte, or the next moment at which something is due."""
        poll = select.poll()
        poll.register(self._wake_reader, select.POLLIN)
        for child in self._incoming.values():
            if child.pid not in self._ready:
                poll.register(child.ready_pipe, select.POLLIN)
        due = [*self._respawn_at.values(), *(child.kill_at for child in self._outgoing if child.kill_at)]
        poll.poll(max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_reader, 4096)

    def _reap(self) -> None:
        for child in [*self._incoming.values(), *self._serving.values(), *self._outgoing]:
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, code: int) -> None:
        os.close(child.ready_pipe)
        self._ready.discard(child.pid)
        if self._incoming.get(child.label) is child:
            del self._incoming[child.label]
            say(f"worker {child.pid} did not start (exit {code})")
            if not self._serving and code == WRONG_USAGE:
                self._status = WRONG_USAGE
            self._give_up()
        elif self._serving.get(child.label) is child:
            del self._serving[child.label]
            say(f"worker {child.pid} ended unasked (exit {code}); it is replaced")
            self._respawn_at[child.label] = max(time.monotonic(), child.started_at + RESPAWN_SECONDS)
        else:
            self._outgoing.remove(child)

    def _give_up(self) -> None:
        if self._serving:
            say("reload given up: the workers from before go on serving")
        self._retire(self._incoming)

    def _promote(self) -> None:
        """When every incoming worker is ready they serve, and those from before are told to finish."""
        for child in self._incoming.values():
            if child.pid not in self._ready and _can_read(child.ready_pipe) and os.read(child.ready_pipe, 1):
                self._ready.add(child.pid)
        if self._incoming and all(child.pid in self._ready for child in self._incoming.values()):
            before, self._serving, self._incoming = self._serving, self._incoming, {}
            self._respawn_at.clear()
            self._retire(before)
            pids = " ".join(str(child.pid) for child in self._serving.values())
            where = _address(self._shared.host, self._shared.port)
            say(f"serving http://{where} (master {os.getpid()}, workers {pids})")

    def _retire(self, children: dict[str, Child]) -> None:
        for child in children.values():
            child.kill_at = time.monotonic() + self._shared.grace + STOP_SECONDS + 1.0
            os.kill(child.pid, signal.SIGTERM)
        self._outgoing.extend(children.values())
        children.clear()

    def _respawn(self) -> None:
        now = time.monotonic()
        for label in [label for label, due in self._respawn_at.items() if due <= now]:
            child = self._fork(label)
            if child is None:
                self._respawn_at[label] = now + RESPAWN_SECONDS
            else:
                del self._respawn_at[label]
                self._serving[label] = child

    def _kill_late(self) -> None:
        for child in self._outgoing:
            if child.kill_at is not None and child.kill_at <= time.monotonic():
                say(f"worker {child.pid} did not end in time: killed")
                child.kill_at = None
                os.kill(child.pid, signal.SIGKILL)

    def _end(self) -> int:
        """Tell all to finish, wait for them; a second signal kills what is left."""
        self._signals.clear()
        self._retire(self._incoming)
        self._retire(self._serving)
        while self._outgoing:
            if {signal.SIGTERM, signal.SIGINT} & set(self._signals):
                self._signals.clear()
                for child in self._outgoing:
                    child.kill_at = time.monotonic()
            self._kill_late()
            self._wait()
            self._reap()
        return 0


def _can_read(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return any(event & select.POLLIN for _, event in poll.poll(0))
