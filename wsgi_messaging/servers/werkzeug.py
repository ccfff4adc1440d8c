"""Werkzeug's server as a worker that lasts: a shared listening socket, and an end that loses no request.

`run_simple(processes=N)` forks for each request, which leaves no place for a connection; `wsgi-messaging
serve` forks N processes that each run `serve_worker` on the socket they inherited, so that each has a
transport of its own.

Layer 5: imports runtime.worker, runtime.native; Werkzeug when called.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..runtime import native, worker

POLL_SECONDS = 0.25  # how soon a worker sees that it shall stop, or that its master is gone
SETTLE_MS = 100  # after the last accept: until the requests already accepted have been read
STOP_SECONDS = 3.0
IDLE_SECONDS = 5.0  # that a connection may say nothing before its request is there, where it keeps the others waiting

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Serving:
    """What the workers of one `serve` have in common."""

    host: str
    port: int
    listener: int  # file descriptor, non-blocking: several workers wake for one connection, one gets it
    threads: bool
    processes: int
    grace: float  # seconds that requests in flight get at the end
    quiet: bool


def serve_worker(load: Callable[[], Application], shared: Serving, label: str, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM, SIGINT, or the master's end; then finish the requests in flight and close.

    `load` imports the application, here in the worker; `ready` is called when requests are about to be taken.
    Blocks: until then, and `grace` + 3 s at most. Threads: the main one only (it sets signal handlers).
    """
    master = os.getppid()
    ending: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: ending.append(received))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    worker.mark("werkzeug", label, processes=shared.processes)
    application = load()
    worker.warm()
    in_flight: set[object] = set()
    server = _server(application, shared, in_flight, ending)
    ready()
    while not ending and os.getppid() == master:
        server.handle_request()
    ending.append(0)
    server.socket.close()
    _drain(in_flight, shared.grace)
    worker.stop(STOP_SECONDS)


def _drain(in_flight: set[object], grace: float) -> None:
    ends_at = native.monotonic() + grace
    waiting = native.poll()
    waiting.poll(SETTLE_MS)
    while in_flight and native.monotonic() < ends_at:
        waiting.poll(20)


def _server(application: Application, shared: Serving, in_flight: set[object], ending: list[int]) -> Any:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        """Counts itself while it runs a request, and keeps no connection open once the worker is ending.

        Without threads a client that connects and says nothing (a browser's spare connection, a balancer's look at the
        port) would have the worker to itself for as long as it likes, and keep it from ending.
        """

        timeout = None if shared.threads else IDLE_SECONDS

        def run_wsgi(self) -> None:
            self.connection.settimeout(None)  # the request is here, and takes its time
            in_flight.add(self)
            try:
                super().run_wsgi()
            finally:
                in_flight.discard(self)
            if ending:
                self.close_connection = True

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            if not shared.quiet:
                super().log_request(code, size)

    server = make_server(
        shared.host,
        shared.port,
        application,
        threaded=shared.threads,
        request_handler=Handler,
        fd=shared.listener,
    )
    server.timeout = POLL_SECONDS
    server.multiprocess = shared.processes > 1
    return server
