"""What a library costs beside its messages: import, memory, threads, connections, the way to the first message.

Everything is taken from /proc and getrusage of a process that does nothing else.
"""

from __future__ import annotations

import gc
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from benchmarks.plan import Figures, NotOffered, Plan
from benchmarks.sessions import Operation

TOGETHER = 200
"""Requests that are timed together: few enough for their environs to stay in the processor's cache."""

STATEMENTS = {
    "ours": "import wsgi_messaging",
    "kombu_pools": "from kombu import Connection, Exchange, Producer, Queue, pools",
    "py_amqp": "import amqp",
    "oslo": "import oslo_messaging",
    "pika_blocking": "import pika",
    "amqpstorm_channels": "import amqpstorm",
    "aio_pika_tasks": "import aio_pika",
}
"""What an application that publishes has to import."""


class ImportCost:
    """Processor time of a fresh interpreter with the import, less one without."""

    def __init__(self, plan: Plan) -> None:
        self._statement = STATEMENTS[plan.peer]
        if _interpreter(self._statement)[1]:
            raise NotOffered(f"{self._statement!r} fails")

    def run(self, _seconds: float) -> Figures:
        with_it, without = _interpreter(self._statement)[0], _interpreter("pass")[0]
        return {"operations": 1, "import_ms": (with_it - without) * 1000}


def _interpreter(statement: str) -> tuple[float, int]:
    # The packages of the peers were compiled when pip installed them; what is not installed is compiled once, here.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen([sys.executable, "-c", statement], stderr=subprocess.DEVNULL, env=environment)
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime, process.returncode


def resident_bytes() -> int:
    """The resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def broker_connections(ports: Sequence[int]) -> int:
    """Established TCP connections of this process to any of the broker's ports."""
    own = {os.readlink(link) for link in Path("/proc/self/fd").glob("*") if link.is_symlink() and link.exists()}
    found = 0
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        _slot, _local, remote, state, *rest = line.split()
        is_ours = f"socket:[{rest[5]}]" in own
        found += is_ours and state == "01" and int(remote.split(":")[1], 16) in ports
    return found


class Footprint:
    """A worker's memory, threads and connections, over those of the bare server with its request threads."""

    def __init__(self, plan: Plan, operations: Callable[[str], list[Operation]]) -> None:
        _become_a_server()
        self._plan = plan
        self._crew = Crew(plan.callers)
        self._crew.run([lambda: None] * plan.callers)
        gc.collect()
        before, threads_before = resident_bytes(), len(os.listdir("/proc/self/task"))
        publishers = operations("publish")
        publishers[0]()
        gc.collect()
        memory = resident_bytes() - before
        self._crew.run(publishers * (1 if len(publishers) == plan.callers else plan.callers))
        self._also_call(operations)
        gc.collect()
        self._figures = {
            "operations": 1,
            "memory_mb": memory / 1e6,
            "loaded_mb": (resident_bytes() - before) / 1e6,
            "threads": len(os.listdir("/proc/self/task")) - threads_before,
            "connections": broker_connections(plan.ports),
        }

    def _also_call(self, operations: Callable[[str], list[Operation]]) -> None:
        try:
            calls = operations("call")
        except (ImportError, NotOffered):
            return
        self._crew.run(calls)

    def run(self, _seconds: float) -> Figures:
        return self._figures


class Crew:
    """The request threads of a worker: they stay."""

    def __init__(self, size: int) -> None:
        self._jobs: list[Operation | None] = [None] * size
        self._go = [threading.Event() for _ in range(size)]
        self._done = threading.Semaphore(0)
        for number in range(size):
            threading.Thread(target=self._work, args=(number,), daemon=True).start()

    def _work(self, number: int) -> None:
        while True:
            self._go[number].wait()
            self._go[number].clear()
            job = self._jobs[number]
            try:
                for _ in range(20 if job else 0):
                    job and job()
            finally:
                self._done.release()

    def run(self, jobs: Sequence[Operation]) -> None:
        """Each thread does its job twenty times."""
        for number, job in enumerate(jobs):
            self._jobs[number] = job
            self._go[number].set()
        for _ in jobs:
            self._done.acquire()


def _become_a_server() -> None:
    """Load what a gunicorn worker has loaded anyway, or the standard library's WSGI server where there is none."""
    try:
        import gunicorn.app.wsgiapp
        import gunicorn.workers.gthread
    except ImportError:
        import logging.config
        import ssl
        import wsgiref.simple_server

        _loaded: tuple[Any, ...] = (logging.config, ssl, wsgiref.simple_server)
    else:
        _loaded = (gunicorn.app.wsgiapp, gunicorn.workers.gthread)


class ForkToReady:
    """Seconds from a worker's fork to its first confirmed message; the library was imported before the fork."""

    def __init__(self, module: ModuleType, plan: Plan) -> None:
        self._operation: Operation = module.operations(plan, "publish")[0]

    def run(self, _seconds: float) -> Figures:
        reader, writer = os.pipe()
        begun = time.perf_counter()
        pid = os.fork()
        if not pid:
            try:
                self._operation()
                os.write(writer, f"{time.perf_counter() - begun}".encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            text = answer.read()
        os.waitpid(pid, 0)
        if not re.fullmatch(r"[0-9.e-]+", text):
            raise RuntimeError("the child could not publish")
        return {"operations": 1, "ready_ms": float(text) * 1000}


class MiddlewareCost:
    """What one request pays for the middleware: the wrapped application's processor time less the bare one's."""

    def __init__(self, plan: Plan) -> None:
        self._bare: Callable[..., Any] = _application
        if plan.peer == "ours":
            from wsgi_messaging import MessagingMiddleware, Transport

            self._wrapped: Callable[..., Any] = MessagingMiddleware(_application, Transport(plan.urls()))
        elif plan.peer == "proxy_fix":
            from werkzeug.middleware.proxy_fix import ProxyFix

            self._wrapped = ProxyFix(cast(Any, _application))
        else:
            raise NotOffered("no middleware")
        self._wrapped(_environ(), cast(Any, _start_response))

    def run(self, seconds: float) -> Figures:
        times = max(20, int(seconds * 500))
        # In turns, so that a change of the processor's speed meets both.
        pairs = [(_per_call(self._bare), _per_call(self._wrapped)) for _ in range(times)]
        bare, wrapped = (sorted(values)[times // 2] for values in zip(*pairs, strict=True))
        return {"operations": times * TOGETHER, "request_ns": (wrapped - bare) * 1e9}


def _application(_environ: dict[str, Any], _start_response: Callable[..., Any]) -> list[bytes]:
    return []


def _start_response(*_args: object) -> None:
    """What the server gives."""


def _environ() -> dict[str, Any]:
    """A request as it comes from behind a proxy."""
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/orders",
        "REMOTE_ADDR": "10.0.0.1",
        "SERVER_NAME": "app",
        "SERVER_PORT": "8000",
        "HTTP_HOST": "app:8000",
        "HTTP_X_FORWARDED_FOR": "203.0.113.9",
        "HTTP_X_FORWARDED_PROTO": "https",
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
    }


def _per_call(application: Callable[..., Any]) -> float:
    environs = [_environ() for _ in range(TOGETHER)]
    gc.disable()
    begun = time.thread_time()
    for environ in environs:
        application(environ, _start_response)
    taken = time.thread_time() - begun
    gc.enable()
    return taken / TOGETHER
