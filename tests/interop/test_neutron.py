"""examples/neutron_*.py as they stand, with our agent and with one that speaks oslo.messaging."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import processes
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import wait_until
from tests.interop.peer import Peer, PeerError

HOST = "controller-1"


@pytest.fixture
def environment(rabbitmq: RabbitMQ) -> dict[str, str]:
    return processes.environment(WSGI_MESSAGING_URL=rabbitmq.url)


@pytest.fixture
def server_output(environment: dict[str, str], tmp_path: Path) -> Iterator[Path]:
    """What a running neutron server prints."""
    path = tmp_path / "server"
    with path.open("wb") as output:
        command = [sys.executable, "-m", "examples.neutron_server", "--host", HOST]
        process = processes.spawn(command, env=environment, output=output)
        try:
            wait_until(lambda: "serving" in path.read_text(), 20, "the server")
            yield path
        finally:
            assert processes.stop(process) == 0
    assert "executed=" in path.read_text()


def report(peer: Peer, host: str, **how: Any) -> Any:
    state = {"agent_type": "L3 agent", "host": host}
    return peer(
        do="send",
        kind="call",
        topic="q-plugin",
        exchange="neutron",
        method="report_state",
        args={"agent_state": state, "time": "now"},
        context={"is_admin": True},
        timeout=10,
        **how,
    )


def test_neutrons_topology(
    rabbitmq: RabbitMQ, environment: dict[str, str], server_output: Path, tmp_path: Path
) -> None:
    queues = {queue["name"]: queue for queue in rabbitmq.api("queues/%2F")}
    assert {"q-plugin", f"q-plugin.{HOST}"} <= queues.keys()
    assert len([name for name in queues if name.startswith("q-plugin_fanout_")]) == 1
    bindings = {
        (binding["source"], binding["destination"], binding["routing_key"])
        for binding in rabbitmq.api("bindings/%2F")
        if binding["source"]
    }
    assert {("neutron", name, name) for name in ("q-plugin", f"q-plugin.{HOST}")} <= bindings
    assert any(source == "q-plugin_fanout" and key == "q-plugin" for source, _queue, key in bindings)
    assert rabbitmq.api("exchanges/%2F/neutron")["type"] == "topic"
    assert rabbitmq.api("exchanges/%2F/q-plugin_fanout")["type"] == "fanout"

    agent_output = tmp_path / "agent"
    with agent_output.open("wb") as output:
        command = [sys.executable, "-m", "examples.neutron_agent", "--host", "compute-1", "--interval", "0.1"]
        agent = processes.spawn(command, env=environment, output=output)
        assert agent.wait(30) == 0
    assert agent_output.read_text().split("\n")[:3] == ["report 1: new", "report 2: alive", "report 3: alive"]

    with Peer(rabbitmq.url) as peer:
        assert report(peer, "compute-2", version="1.1") == "new"
        assert report(peer, "compute-2", version="1.1", server=HOST) == "alive"
        with pytest.raises(PeerError) as caught:
            report(peer, "compute-2", version="2.0")
        assert caught.value.exc_type == "UnsupportedVersion"
