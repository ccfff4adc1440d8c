"""`wsgi-messaging rpc-server`, as a user starts it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import processes
from tests.harness.secret import dev_broker
from tests.harness.waiting import wait_until
from wsgi_messaging import Transport
from wsgi_messaging.devbroker import DevBroker
from wsgi_messaging.rpc import RPCClient, Target

COMMAND = [sys.executable, "-m", "wsgi_messaging", "rpc-server"]


@pytest.fixture
def devbroker() -> Iterator[DevBroker]:
    with dev_broker() as broker:
        yield broker


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal_and_finishes(devbroker: DevBroker, tmp_path: Path, number: int) -> None:
    path = tmp_path / "output"
    with path.open("wb") as output:
        arguments = ["tests.broker.rpc_endpoints:Endpoint", "--topic", "command", "--server", "s1", "--ping"]
        process = processes.spawn(
            [*COMMAND, *arguments, "--url", devbroker.url, "--ack", "late", "--durable"],
            env=processes.environment(),
            output=output,
        )
        wait_until(lambda: "ready" in path.read_text(), 20, "the server")
        with Transport(devbroker.url) as transport:
            client = RPCClient(transport, Target(topic="command", version="1.0"), timeout=5)
            assert client.call({}, "add", a=1, b=2) == 3
            assert client.prepare(server="s1").call({}, "oslo_rpc_server_ping") == "pong"
        process.send_signal(number)
        assert process.wait(10) == 0
    assert "stopped: 2 requests executed, 0 of them failed" in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nothing", "--topic", "t"], "module:name"),
        (["tests.broker.rpc_endpoints:Nothing", "--topic", "t"], "Nothing"),
        (["tests.broker.rpc_endpoints:Endpoint"], "--topic"),
        (["tests.broker.rpc_endpoints:Endpoint", "--topic", "t", "--pool-size", "0"], "pool_size"),
        (["tests.broker.rpc_endpoints:Endpoint", "--topic", "t", "--url", "http://x"], "url"),
    ],
)
def test_wrong_usage_is_named(arguments: list[str], named: str) -> None:
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=processes.environment(),
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr
