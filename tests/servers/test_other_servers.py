"""The recipes of docs/servers for waitress, cheroot and mod_wsgi-express, as they stand, with the example API.

They are idle together, so that the heartbeat intervals are waited for once.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.harness import apache, processes
from tests.harness.pages import block
from tests.harness.processes import ROOT
from tests.harness.rabbitmq import BrokerConnection, RabbitMQ
from tests.harness.requirements import missing
from tests.harness.servers import Server, find
from tests.harness.waiting import wait_until

HEARTBEAT = 2
IDLE_INTERVALS = 3
QUEUE = "example-orders"
ORDERS_BEFORE = 8


def recipe(page: str, caption: str) -> str:
    """A block of a page of docs/servers, with the example API for the shop."""
    code = block(f"servers/{page}", caption)
    assert code.count("from shop import application") == 1
    return code.replace("from shop import application", "from examples.api import application")


class Program(Server):
    """The program of docs/servers/others.rst that starts the server."""

    reload_signal = None

    def __init__(self, name: str, **rest: Any) -> None:
        super().__init__(name, workers=1, module="examples.api", **rest)

    def missing(self) -> str | None:
        return None if find(self.tool) else f"{self.name} is not installed: make test, or pip install {self.name}"

    @property
    def tool(self) -> str:
        return {"waitress": "waitress-serve", "cheroot": "cheroot"}[self.name]

    def command(self) -> list[str]:
        code = recipe("others.rst", f"serve_{self.name}.py")
        assert code.count("8000") == 1
        path = self.folder / f"serve_{self.name}.py"
        path.write_text(code.replace("8000", str(self.port)))
        return [str(find("python")), str(path)]


class Express(Server):
    """`mod_wsgi-express start-server`, as docs/servers/mod_wsgi.rst has it."""

    reload_signal = None

    def __init__(self, name: str, **rest: Any) -> None:
        super().__init__(name, workers=2, **rest)

    def missing(self) -> str | None:
        return apache.Apache(self.name).missing()

    def command(self) -> list[str]:
        page = (ROOT / "docs" / "servers" / "mod_wsgi.rst").read_text()
        assert "$ mod_wsgi-express start-server shop_wsgi.py --processes 4 --threads 15\n" in page
        script = self.folder / "shop_wsgi.py"
        script.write_text("from examples.api import application\n")
        environment = apache.home()
        assert environment is not None
        user = apache._user()
        identity = ["--user", user.pw_name, "--group", f"#{user.pw_gid}"] if os.geteuid() == 0 else []
        return [
            *(str(environment / "bin" / "mod_wsgi-express"), "start-server", str(script)),
            *("--processes", str(self.workers), "--threads", "4", "--port", str(self.port), "--log-to-terminal"),
            *("--server-root", str(self.folder / "root"), "--python-path", str(ROOT), *identity),
        ]


SERVERS: dict[str, Callable[..., Server]] = {"waitress": Program, "cheroot": Program, "mod_wsgi-express": Express}


@dataclass
class Run:
    """One server, and what was seen of it up to the end of the idle time."""

    server: Server
    log_mark: int
    trouble: Exception | None = None
    ordered: list[str] = field(default_factory=list)
    before: list[BrokerConnection] = field(default_factory=list)
    after: list[BrokerConnection] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        return f"{self.server.name}:"

    def order(self) -> None:
        """One order; the API answers 202 when the broker has confirmed it."""
        item = f"{self.server.name}-{processes.RUN}-{len(self.ordered)}"
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        try:
            connection.request("POST", "/orders", json.dumps({"item": item}), {"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        assert answer.status == 202, body
        self.ordered.append(item)

    def warm_up(self) -> None:
        self.server.await_ready(path="/status")
        for _ in range(ORDERS_BEFORE):
            self.order()


@pytest.fixture(scope="module")
def runs(rabbitmq: RabbitMQ) -> Iterator[dict[str, Run]]:
    """The servers that are installed, after orders and an idle time."""
    settings = {"WSGI_MESSAGING_URL": rabbitmq.url, "WSGI_MESSAGING_HEARTBEAT": str(HEARTBEAT)}
    made = [make(name, env={**settings, "WSGI_MESSAGING_APP": name}) for name, make in SERVERS.items()]
    runs = {each.name: Run(each, rabbitmq.log_mark()) for each in made if each.missing() is None}
    try:
        for run in runs.values():
            run.server.launch()
        for run in runs.values():
            try:
                run.warm_up()
                run.before = rabbitmq.connections(run.prefix)
            except Exception as error:  # noqa: BLE001  (the test of this server raises it)
                run.trouble = error
        time.sleep(HEARTBEAT * IDLE_INTERVALS)
        for run in runs.values():
            run.after = rabbitmq.connections(run.prefix)
        yield runs
    finally:
        for run in runs.values():
            run.server.discard()


@pytest.mark.parametrize("name", SERVERS)
def test_the_recipe(name: str, runs: dict[str, Run], rabbitmq: RabbitMQ) -> None:
    """Confirmed before and after an idle time on the same connections, which SIGTERM closes with a good-bye."""
    if name not in runs:
        missing(SERVERS[name](name).missing() or f"{name} is not there")
    run = runs[name]
    if run.trouble is not None:
        raise run.trouble
    assert 1 <= len(run.before) <= run.server.workers
    assert all(connection.heartbeat == HEARTBEAT for connection in run.before)
    assert {each.name for each in run.before} <= {each.name for each in run.after}, "a connection was made again"
    for _ in range(4):
        run.order()
    assert run.server.stop() == 0
    wait_until(lambda: not rabbitmq.connections(run.prefix), what="the end of the connections")
    assert not rabbitmq.complaints(run.prefix, run.log_mark)
    assert not run.server.alarms()
    arrived = {json.loads(message["payload"]).get("item") for message in rabbitmq.api(*peek())}
    assert set(run.ordered) <= arrived


def peek() -> tuple[str, str, dict[str, object]]:
    """A look at the queue that leaves its messages, also those of the other servers, where they are."""
    request = {"count": 1000, "ackmode": "ack_requeue_true", "encoding": "auto"}
    return f"queues/%2F/{QUEUE}/get", "POST", request
