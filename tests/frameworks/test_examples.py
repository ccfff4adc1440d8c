"""The examples of the frameworks, each under gunicorn with two workers and the shipped hooks, on a real RabbitMQ.

All of them are started together, so that their start-up is waited for once.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.frameworks import brokerlog
from tests.harness.processes import environment
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.harness.servers import Gunicorn, Server
from tests.harness.waiting import wait_until

LIBRARIES = {"flask": "flask", "django": "django", "falcon": "falcon", "pyramid": "pyramid", "paste": "paste.deploy"}


def is_installed(name: str) -> bool:
    """Whether the library of an example can be imported (`find_spec` imports the parents of a dotted name)."""
    try:
        return importlib.util.find_spec(LIBRARIES[name]) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module")
def servers(rabbitmq: RabbitMQ, request: pytest.FixtureRequest) -> Iterator[dict[str, Server]]:
    """Those that the selected tests ask for and that are there."""
    wanted = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    env = {"WSGI_MESSAGING_URL": rabbitmq.url}
    made: dict[str, Server] = {
        name: Gunicorn(f"{name}-api", module=f"examples.{name}_api", env=env)
        for name in LIBRARIES
        if name in wanted and is_installed(name)
    }
    started = {name: server for name, server in made.items() if server.missing() is None}
    try:
        for server in started.values():
            server.launch()
        yield started
    finally:
        for server in started.values():
            server.discard()


def post(server: Server, path: str, body: object) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(server.url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return answer.status, json.load(answer)


def payloads(rabbitmq: RabbitMQ) -> list[Any]:
    return [json.loads(message["payload"]) for message in rabbitmq.messages("example-orders")]


@pytest.mark.parametrize("name", LIBRARIES)
def test_an_example_serves_and_publishes(name: str, servers: dict[str, Server], rabbitmq: RabbitMQ) -> None:
    """The hooks connect each worker before its first request; an order is answered when the broker has it."""
    if name not in servers:
        missing(f"{LIBRARIES[name]} or gunicorn is not installed: make test")
    server = servers[name]
    server.await_ready(path="/health/livez")
    wait_until(lambda: len(brokerlog.connected(rabbitmq, f"{name}-api")) >= 2, 20, "both workers connect")
    server.await_ready(path="/health/readyz")
    orders = [{"item": f"{name} {number}"} for number in range(4)]
    for order in orders:
        assert post(server, "/orders", order) == (202, {"accepted": order})
    assert payloads(rabbitmq) == orders
    assert server.stop() == 0
    assert server.alarms() == []
    assert "never ran" not in server.log_text()
    wait_until(lambda: len(brokerlog.ends(rabbitmq, f"{name}-api")) >= 2, 10, "both ends in the broker's log")
    assert all(brokerlog.ends(rabbitmq, f"{name}-api").values()), "the workers said good-bye"


def test_a_command_of_flask_publishes(rabbitmq: RabbitMQ) -> None:
    """No server, no request: the process ends when the broker has the message."""
    if not is_installed("flask"):
        missing("flask is not installed: make test")
    command = [sys.executable, "-m", "flask", "--app", "examples.flask_api", "announce", "coffee"]
    env = environment(WSGI_MESSAGING_URL=rabbitmq.url)
    mark = rabbitmq.log_mark()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert payloads(rabbitmq) == [{"item": "coffee"}]
    [end] = wait_until(lambda: brokerlog.ends(rabbitmq, "flask-api", mark).values(), 10, "its end in the broker's log")
    assert end, "the process said good-bye"
