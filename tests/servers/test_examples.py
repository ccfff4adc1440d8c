"""The systems of the examples, as they are deployed: nova's API under Apache mod_wsgi, aodh's under Werkzeug."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import processes
from tests.harness.apache import Apache
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.harness.servers import Serve, Server
from tests.harness.waiting import wait_until
from wsgi_messaging import RPCServer, Target, Transport

HEARTBEAT = 2
IDLE_INTERVALS = 5
UNPATCHED = {"EXAMPLE_PATCH": "none"}


def ask(server: Server, method: str, path: str, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request(method, path, headers={"Connection": "close", **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


class Compute:
    """nova-compute, as far as the API calls it."""

    target = Target(version="5.0")

    def __init__(self) -> None:
        self.built: list[tuple[str, str]] = []
        self.may_answer = threading.Event()

    def build_instance(self, ctxt: dict[str, Any], instance: str) -> None:
        self.built.append((instance, ctxt["user_id"]))

    def get_diagnostics(self, ctxt: dict[str, Any], instance: str) -> dict[str, Any]:
        if instance == "slow":
            self.may_answer.wait(20.0)
        return {"instance": instance, "state": "running", "for": ctxt["user_id"]}


@pytest.fixture
def compute(rabbitmq: RabbitMQ) -> Iterator[Compute]:
    endpoint = Compute()
    with Transport(rabbitmq.url, name="nova-compute") as transport:
        server = RPCServer(transport, Target(exchange="nova", topic="compute", server="host1"), [endpoint])
        server.start()
        yield endpoint
        endpoint.may_answer.set()
        server.stop()


@pytest.mark.parametrize(("mode", "mpm"), [("embedded", "prefork"), ("daemon", "event")])
def test_novas_api_under_mod_wsgi(rabbitmq: RabbitMQ, compute: Compute, mode: str, mpm: str) -> None:
    """eventlet-patched, idle for intervals in which a green heartbeat would never beat, then asked again."""
    server = Apache(
        f"nova-{mode}",
        mode=mode,
        mpm=mpm,
        module="../../examples/nova_api",
        env={"WSGI_MESSAGING_URL": rabbitmq.url, "WSGI_MESSAGING_HEARTBEAT": str(HEARTBEAT)},
    )
    if (reason := server.missing()) is not None:
        missing(reason)
    mark = rabbitmq.log_mark()
    try:
        server.start(path="/status")
        status, created = ask(server, "POST", "/servers", **{"X-User-Id": "alice"})
        assert status == 202
        wait_until(lambda: (created["id"], "alice") in compute.built, 10, "the instance is built")
        for _ in range(4):
            assert ask(server, "GET", "/servers/one/diagnostics")[0] == 200
        time.sleep(HEARTBEAT * IDLE_INTERVALS)
        for _ in range(4):
            assert ask(server, "GET", "/servers/two/diagnostics", **{"X-User-Id": "bob"}) == (
                200,
                {"instance": "two", "state": "running", "for": "bob"},
            )
        begun = time.monotonic()
        status, answer = ask(server, "GET", "/servers/slow/diagnostics", **{"X-Timeout": "0.5"})
        assert (status, answer["maybe_sent"]) == (504, True)
        assert time.monotonic() - begun < 8.0, "the request's own deadline ended the call"
        assert "missed heartbeats" not in rabbitmq.log_since(mark)
        assert server.alarms() == []
    finally:
        server.discard()


def test_novas_api_without_a_compute_service_says_so_at_once(rabbitmq: RabbitMQ) -> None:
    server = Serve("nova-alone", module="examples.nova_api", env={"WSGI_MESSAGING_URL": rabbitmq.url} | UNPATCHED)
    if (reason := server.missing()) is not None:
        missing(reason)
    try:
        server.start(path="/status")
        rabbitmq.delete_queue("compute")
        begun = time.monotonic()
        status, answer = ask(server, "GET", "/servers/one/diagnostics")
        assert (status, "no compute service" in answer["error"]) == (503, True)
        assert time.monotonic() - begun < 5.0, "in vain, it is 10 s and more"
    finally:
        server.discard()


def test_aodhs_api_and_listener(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    """Werkzeug's server with processes and threads publishes, a listener with threads takes."""
    printed = tmp_path / "listener"
    with printed.open("wb") as output:
        listener = processes.spawn(
            [sys.executable, "-m", "examples.aodh_listener"],
            env=processes.environment(WSGI_MESSAGING_URL=rabbitmq.url),
            output=output,
        )
    server = Serve("aodh", module="examples.aodh_api", env={"WSGI_MESSAGING_URL": rabbitmq.url})
    if (reason := server.missing()) is not None:
        missing(reason)
    try:
        wait_until(lambda: "listening" in printed.read_text(), 20, "the listener")
        server.launch()
        wait_until(lambda: "serving" in server.log_text(), 20, "the server")
        alarms = [ask(server, "POST", "/alarms") for _ in range(20)]
        assert {status for status, _alarm in alarms} == {202}
        wait_until(lambda: all(alarm["alarm_id"] in printed.read_text() for _, alarm in alarms), 10, "all alarms")
        assert printed.read_text().count("alarm.creation") == 20
        assert server.stop() == 0
        assert server.alarms() == []
    finally:
        server.discard()
        assert processes.stop(listener) == 0
