"""After a fork each process has connections of its own, and the parent's carry no byte of a child.

Each test is one subprocess, which forks (tests/fork/scenarios.py says how) and reports. Its connections go through a
proxy that records every byte of every socket.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.processes import ROOT, environment, free_port, spawn, stop
from tests.harness.proxy import DOWN, UP, FaultProxy, Pair
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.harness.secret import PASSWORD, USER
from tests.harness.waiting import wait_until

WITHIN = 60.0


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[FaultProxy]:
    with FaultProxy((rabbitmq.host, rabbitmq.amqp_port), record=True) as recording:
        yield recording


class Run:
    """One scenario in a process of its own."""

    def __init__(self, name: str, url: str, queue: str, folder: Path) -> None:
        self._output = folder / "output"
        self._looked = folder / "looked"
        command = [sys.executable, "-X", "dev", "-m", "tests.fork.scenarios", name, url, queue]
        with self._output.open("wb") as output:
            self._process = spawn(command, env=environment(LOOKED=str(self._looked)), cwd=ROOT, output=output)

    @property
    def text(self) -> str:
        return self._output.read_text()

    def objects(self) -> list[dict[str, Any]]:
        lines = self.text.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def children(self, count: int) -> list[str]:
        """The connection names of `count` children, once all are open; the children wait."""

        def names() -> list[str]:
            return [each["open"] for each in self.objects() if "open" in each]

        wait_until(lambda: len(names()) == count, WITHIN, "the children's connections")
        return names()

    def go_on(self) -> None:
        self._looked.touch()

    def stop(self) -> None:
        stop(self._process)

    def report(self) -> dict[str, Any]:
        """What the parent reported; every process must have ended well."""
        try:
            wait_until(lambda: self._process.poll() is not None, WITHIN, f"the end of the run:\n{self.text}")
        finally:
            self.stop()
        assert self._process.returncode == 0, self.text
        [report] = [each for each in self.objects() if "codes" in each]
        assert set(report["codes"]) == {0}, self.text
        assert "Warning" not in self.text, self.text
        return report


@pytest.fixture
def started(queue: str, proxy: FaultProxy, tmp_path: Path) -> Iterator[Any]:
    runs: list[Run] = []

    def start(name: str) -> Run:
        runs.append(Run(name, proxy.url(), queue, tmp_path))
        return runs[-1]

    yield start
    for run in runs:
        run.stop()


HEARTBEAT_FRAME = 8


def said(pair: Pair, text: str) -> bool:
    return text.encode() in bytes(pair.traffic[UP].recorded)


def bodies(rabbitmq: RabbitMQ, queue: str) -> list[str]:
    return [message["payload"] for message in rabbitmq.messages(queue)]


@pytest.mark.parametrize(
    ("scenario", "children"),
    [
        ("after_use", 2),
        ("after_use_without_close", 1),
        ("with_multiprocessing", 1),
        ("without_hooks", 1),
    ],
)
def test_child_has_a_connection_of_its_own(
    started: Any, proxy: FaultProxy, rabbitmq: RabbitMQ, queue: str, scenario: str, children: int
) -> None:
    run = started(scenario)
    names = run.children(children)
    [parents] = [pair for pair in proxy.pairs if said(pair, "parent before")]
    sent, received = (parents.traffic[way].octets for way in (UP, DOWN))

    def at_broker() -> set[str]:
        return {each.connection_name for each in rabbitmq.connections("forking:publish")}

    # rabbitmqctl asks each connection, and leaves out those that take long to answer.
    found = wait_until(lambda: (names_there := at_broker()) > set(names) and names_there, 30.0, "all connections")
    assert len(found) == 1 + children
    run.go_on()
    report = run.report()
    assert report["reconnects"] == 0
    assert report["confirmed"] == 2
    assert not said(parents, "child"), "a child's byte on the parent's socket"
    after = bytes(parents.traffic[UP].recorded)[sent:]
    assert after.count(b"parent after") == 1
    assert parents.traffic[DOWN].octets > received
    assert len(proxy.pairs) == 1 + children
    # What follows the fork on the parent's socket is one publish and the good-bye: the frames, to the byte.
    assert _frames_since(parents, sent) == 3 + 1
    assert sorted(bodies(rabbitmq, queue))[-2:] == ["parent after", "parent before"]


def _frames_since(pair: Pair, position: int) -> int:
    """How many frames were sent behind the first bytes; without the beats, which a slow machine has the time for."""
    data = bytes(pair.traffic[UP].recorded)[position:]
    count = 0
    while data:
        size = int.from_bytes(data[3:7], "big") + 8
        data, count = data[size:], count + (data[0] != HEARTBEAT_FRAME)
    return count


def test_child_of_child(started: Any, proxy: FaultProxy, rabbitmq: RabbitMQ, queue: str) -> None:
    run = started("child_of_child")
    run.children(1)
    assert len({each.connection_name for each in rabbitmq.connections("forking:publish")}) == 3
    run.go_on()
    assert run.report()["reconnects"] == 0
    assert len(proxy.pairs) == 3
    [parents] = [pair for pair in proxy.pairs if said(pair, "parent before")]
    assert not said(parents, "child")
    assert len(bodies(rabbitmq, queue)) == 5


def test_closing_what_was_inherited_does_nothing(started: Any, proxy: FaultProxy) -> None:
    report = started("closing_what_was_inherited").report()
    assert report["reconnects"] == 0
    assert report["confirmed"] == 2
    assert len(proxy.pairs) == 1


def test_fork_amid_publish(started: Any, proxy: FaultProxy, rabbitmq: RabbitMQ, queue: str) -> None:
    report = started("amid_publish").report()
    assert report["failures"] == []
    assert report["hanging"] == 0
    assert report["reconnects"] == 0
    assert len(proxy.pairs) == 1 + 8
    [parents] = [pair for pair in proxy.pairs if said(pair, "parent ")]
    assert not said(parents, "child")
    received = bodies(rabbitmq, queue)
    assert len(received) == len(set(received)) == report["sent"] + 8


def test_many_forks_leave_the_parent_as_it_was(started: Any, proxy: FaultProxy) -> None:
    report = started("many_forks").report()
    assert report["reconnects"] == 0
    assert report["before"] == report["after"]
    assert len(proxy.pairs) == 1


def test_a_child_that_never_uses_it_has_no_thread_and_no_socket(started: Any) -> None:
    started("children_inherit_nothing").report()


def test_fork_amid_the_handshake(started: Any, proxy: FaultProxy) -> None:
    proxy.silent()
    started("amid_handshake").report()


def test_a_process_that_never_uses_it_has_no_thread_and_no_socket(started: Any, proxy: FaultProxy) -> None:
    report = started("never_used").report()
    assert report["before"] == report["after"] == [[], 1]
    assert proxy.pairs == []


def test_a_consumer_stays_with_its_process(started: Any) -> None:
    report = started("consumer_stays_with_its_process").report()
    assert report["received"] == ["from the child", "from the parent"]
    assert report["all_in_parent"]


def test_a_confirm_stays_with_its_process(started: Any) -> None:
    report = started("a_confirm_stays_with_its_process").report()
    assert report["codes"] == [0]
    assert report["is_open"]


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[RabbitMQ, int, Path]]:
    """A RabbitMQ with a TLS port, and the authority to trust."""
    try:
        import trustme
    except ImportError:
        missing("trustme is not installed")
    authority, port, ca_file = trustme.CA(), free_port(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    broker = RabbitMQ(
        f"listeners.ssl.1 = 127.0.0.1:{port}\n"
        f"ssl_options.cacertfile = {ca_file}\n"
        f"ssl_options.certfile = {tmp_path}/cert.pem\n"
        f"ssl_options.keyfile = {tmp_path}/key.pem\n"
    )
    try:
        yield broker.start(), port, ca_file
    finally:
        broker.stop()


def test_over_tls(tls: tuple[RabbitMQ, int, Path], tmp_path: Path, unique: Callable[[str], str]) -> None:
    """A child that said good-bye over the inherited session would end the parent's: a TLS alert is a byte, too."""
    broker, port, ca_file = tls
    queue = unique("tls")
    broker.declare_queue(queue)
    with FaultProxy((broker.host, port), record=True) as proxy:
        url = f"amqps://{USER}:{PASSWORD}@localhost:{proxy.port}//?cacertfile={ca_file}"
        run = Run("after_use", url, queue, tmp_path)
        try:
            run.children(2)
            parents = proxy.pairs[0]
            before = parents.traffic[UP].octets
            assert len({each.connection_name for each in broker.connections("forking:publish")}) == 3
            assert parents.traffic[UP].octets == before, "not one byte while the children work"
            run.go_on()
            assert run.report()["reconnects"] == 0
        finally:
            run.stop()
        assert len(proxy.pairs) == 3
    assert len(bodies(broker, queue)) == 4
