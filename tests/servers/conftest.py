"""The matrix of real servers: started together, idle together, so that ten heartbeat intervals are waited for once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.harness.apache import Apache
from tests.harness.processes import socket_owners
from tests.harness.rabbitmq import BrokerConnection, RabbitMQ
from tests.harness.requirements import missing
from tests.harness.servers import UWSGI, Gunicorn, Serve, Server, Werkzeug

HEARTBEAT = 2
IDLE_INTERVALS = 10

MATRIX: dict[str, Callable[..., Server]] = {
    "gunicorn-sync": Gunicorn,
    "gunicorn-sync-preload": lambda name, **rest: Gunicorn(name, preload=True, **rest),
    "gunicorn-gthread": lambda name, **rest: Gunicorn(name, worker_class="gthread", **rest),
    "gunicorn-gthread-preload": lambda name, **rest: Gunicorn(name, worker_class="gthread", preload=True, **rest),
    "uwsgi": UWSGI,
    "uwsgi-lazy": lambda name, **rest: UWSGI(name, lazy=True, **rest),
    "apache-embedded": lambda name, **rest: Apache(name, mode="embedded", mpm="prefork", **rest),
    "apache-daemon": lambda name, **rest: Apache(name, mode="daemon", mpm="event", **rest),
    "werkzeug-threaded": Werkzeug,
    "serve": Serve,
}


@dataclass
class Run:
    """One server of the matrix and what was seen of it up to the end of the idle time."""

    server: Server
    queue: str
    log_mark: int
    trouble: Exception | None = None
    answers: dict[int, Any] = field(default_factory=dict)
    before: list[BrokerConnection] = field(default_factory=list)
    owners: dict[str, set[int]] = field(default_factory=dict)
    usual: float = 0.0
    after: list[BrokerConnection] = field(default_factory=list)
    first_after: dict[int, float] = field(default_factory=dict)
    confirmed: list[str] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        """How the names of this server's connections begin."""
        return f"{self.server.name}:"

    def publish_everywhere(self, label: str) -> dict[int, Any]:
        """A confirmed message by every worker; each worker's last answer."""
        name = f"{self.server.name}-{label}"
        answers = self.server.reach_workers(f"/publish?queue={self.queue}&id={name}&hold=0.1")
        self.confirmed.append(name)
        return answers


@pytest.fixture(scope="session")
def matrix(rabbitmq: RabbitMQ, request: pytest.FixtureRequest) -> Iterator[dict[str, Run]]:
    """Every server that the selected tests ask for, warmed up and idle for ten heartbeat intervals."""
    runs = {}
    for name in sorted({n for item in request.session.items if (n := _wanted(item)) is not None}):
        server = MATRIX[name](
            name,
            env={
                "WSGI_MESSAGING_URL": rabbitmq.url,
                "WSGI_MESSAGING_HEARTBEAT": str(HEARTBEAT),
                "WSGI_MESSAGING_APP": name,
                "LIVE_LOG": "DEBUG",  # the harness looks for the broker's password in it
            },
        )
        if server.missing() is None:
            rabbitmq.declare_queue(f"matrix-{name}")
            runs[name] = Run(server, f"matrix-{name}", rabbitmq.log_mark())
    try:
        for run in runs.values():
            run.server.launch()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(_warm_up, runs.values()))
        _observe(rabbitmq, runs)
        time.sleep(HEARTBEAT * IDLE_INTERVALS)
        for run in runs.values():
            run.after = rabbitmq.connections(run.prefix)
            _first_requests(run)
        yield runs
    finally:
        for run in runs.values():
            run.server.discard()


def _wanted(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get("server_name")


@pytest.fixture
def run(matrix: dict[str, Run], server_name: str) -> Run:
    """The run of the server that the test is about."""
    if server_name not in matrix:
        missing(MATRIX[server_name](server_name).missing() or f"{server_name} is not there")
    found = matrix[server_name]
    if found.trouble is not None:
        raise found.trouble
    return found


def _warm_up(run: Run) -> None:
    try:
        run.server.await_ready()
        run.answers = run.publish_everywhere("first")
    except Exception as error:  # noqa: BLE001  (each test of this server raises it)
        run.trouble = error


def _observe(rabbitmq: RabbitMQ, runs: dict[str, Run]) -> None:
    """Who is connected, who holds the sockets, how long a request takes."""
    for run in runs.values():
        if run.trouble is None:
            run.before = rabbitmq.connections(run.prefix)
            run.owners = {c.connection_name: socket_owners(c.peer_port, rabbitmq.amqp_port) for c in run.before}
            answers = [run.server.get(f"/publish?queue={run.queue}&id={run.server.name}-usual") for _ in range(15)]
            run.usual = statistics.median(answer.elapsed for answer in answers)


def _first_requests(run: Run) -> None:
    """The time in the transport of each worker's first publish after the idle time."""
    deadline = time.monotonic() + 10.0
    while run.trouble is None and len(run.first_after) < run.server.workers and time.monotonic() < deadline:
        with ThreadPoolExecutor(run.server.workers) as pool:
            path = f"/publish?queue={run.queue}&id={run.server.name}-after&hold=0.05"
            for answer in pool.map(run.server.get, [path] * run.server.workers):
                if answer.status == 200:
                    run.first_after.setdefault(answer.json()["pid"], answer.json()["elapsed"])
                else:
                    run.trouble = AssertionError(f"first request after the idle time: {answer.body!r}")
