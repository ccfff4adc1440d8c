"""`wsgi-messaging rpc-server`, as a user starts it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.harness import processes
from tests.harness.requirements import missing
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
        wait_until(lambda: "rpc-server ready" in path.read_text(), 20, "the server")
        with Transport(devbroker.url) as transport:
            client = RPCClient(transport, Target(topic="command", version="1.0"), timeout=5)
            assert client.call({}, "add", a=1, b=2) == 3
            assert client.prepare(server="s1").call({}, "oslo_rpc_server_ping") == "pong"
        process.send_signal(number)
        assert process.wait(10) == 0
    assert "stopped: 2 requests executed, 0 of them failed" in path.read_text()


@contextmanager
def serving(broker: DevBroker, folder: Path, endpoints: str) -> Iterator[RPCClient]:
    """The command with the endpoints of a module; a client of it."""
    (folder / "endpoints.py").write_text(endpoints)
    path = folder / "output"
    with path.open("wb") as output:
        process = processes.spawn(
            [*COMMAND, "endpoints:Endpoint", "--topic", "command", "--url", broker.url],
            env=processes.environment(PYTHONPATH=str(folder)),
            output=output,
        )
        try:
            wait_until(lambda: "rpc-server ready" in path.read_text(), 20, "the server")
            with Transport(broker.url) as transport:
                yield RPCClient(transport, Target(topic="command"), timeout=5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            processes.stop(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_a_broker(tmp_path: Path, number: int) -> None:
    """Fails when it is looked at only when the wait is over; the wait would be that of the setting `timeout`."""
    path = tmp_path / "output"
    with path.open("wb") as output:
        process = processes.spawn(
            [*COMMAND, "tests.broker.rpc_endpoints:Endpoint", "--topic", "command", "--url", "amqp://127.0.0.1:1//"],
            env=processes.environment(WSGI_MESSAGING_TIMEOUT="600"),
            output=output,
        )
        try:
            wait_until(lambda: "waiting for amqp://127.0.0.1:1: connection refused" in path.read_text(), 20, "the wait")
            process.send_signal(number)
            assert process.wait(30) == 0
        finally:
            processes.stop(process)
    assert "stopped: 0 requests executed" in path.read_text() and "Traceback" not in path.read_text()


CHILD = """
import subprocess


class Endpoint:
    def run(self, ctxt):
        child = subprocess.Popen(["sleep", "20"])
        child.terminate()
        try:
            return child.wait(3)
        finally:
            child.kill()
"""


def test_what_a_method_starts_can_be_ended(devbroker: DevBroker, tmp_path: Path) -> None:
    """Fails when the server has its ending signals blocked: its children inherit that."""
    with serving(devbroker, tmp_path, CHILD) as client:
        assert client.call({}, "run") == -signal.SIGTERM


PATCHED = """
{patch}


class Endpoint:
    def add(self, ctxt, a, b):
        return a + b
"""


@pytest.mark.parametrize(
    ("library", "patch"),
    [
        ("gevent", "from gevent import monkey; monkey.patch_all()"),
        ("eventlet", "import eventlet; eventlet.monkey_patch()"),
    ],
)
def test_endpoints_of_a_patched_module_are_served(
    devbroker: DevBroker, tmp_path: Path, library: str, patch: str
) -> None:
    """Fails when the wait for a signal keeps the hub's thread: it says that it is ready, and answers nothing."""
    if find_spec(library) is None:
        missing(f"{library} is not installed: make test")
    with serving(devbroker, tmp_path, PATCHED.format(patch=patch)) as client:
        assert client.call({}, "add", a=1, b=2) == 3


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
