"""RPC when the node dies that has the queues of a client and of a server: they are made on another one, at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.broker.rpc_endpoints import EXCHANGE, Endpoint
from tests.faults.test_reconnect import lines
from tests.harness.cluster import Cluster
from tests.harness.rabbitmq import RabbitMQ, script
from tests.harness.requirements import missing
from tests.harness.waiting import wait_until
from wsgi_messaging import ConnectionLost, Settings, Transport
from wsgi_messaging.connection import connecting
from wsgi_messaging.rpc import QueueFlags, RPCClient, RPCServer, Target
from wsgi_messaging.rpc.replies import replies_of

TARGET = Target(exchange=EXCHANGE, topic="cluster")


class InOrder:
    """No chance: the first broker of a URL is tried first."""

    def shuffle(self, _order: list[object]) -> None: ...

    def random(self) -> float:
        return 0.5


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    if script("rabbitmq-server") is None:
        missing("rabbitmq-server is not installed")
    monkeypatch.setattr(connecting, "_CHANCE", InOrder())
    made = Cluster(2)
    try:
        yield made.start()
    finally:
        made.stop()


def transport_to(*nodes: RabbitMQ) -> Transport:
    return Transport(settings=Settings(url=";".join(node.url for node in nodes), app="cluster"))


def home_of(node: RabbitMQ, queue: str) -> str:
    return str(node.api(f"queues/%2F/{queue}")["node"])


def test_the_queues_of_a_dead_node_are_replaced(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """Their replacement is on the node that lives; the calls that waited for a reply to the lost one are told."""
    dies, lives = cluster.nodes
    endpoint, listening = Endpoint(), Endpoint("listening")
    with (
        transport_to(lives) as served,
        transport_to(dies, lives) as listens,
        transport_to(dies, lives) as calling,
    ):
        server = RPCServer(served, TARGET(server="s1"), [endpoint], flags=QueueFlags(durable=True))
        server.start()
        # Its topic's queues are there already, on the other node; its own, for fanout, is on the one that dies.
        other = RPCServer(listens, TARGET(server="s1"), [listening], flags=QueueFlags(durable=True))
        other.start()
        client = RPCClient(calling, TARGET, timeout=20)
        assert client.call({}, "add", a=1, b=2) == 3
        replies = replies_of(calling.connections())
        before = {replies.queue, other.fanout_queue}
        assert {home_of(lives, queue) for queue in before} == {dies.node}

        failures: list[BaseException] = []
        waiting = threading.Thread(target=lambda: failures.append(_failure_of(client)))
        waiting.start()
        wait_until(lambda: endpoint.running.acquire(False) or listening.running.acquire(False), 5.0, "the call")
        dies.kill()
        wait_until(lambda: replies.queue not in before and replies.is_active, 10.0, "another reply queue")
        begun = time.monotonic()
        assert client.call({}, "add", a=3, b=4) == 7
        assert time.monotonic() - begun < 5.0, "and at once"
        waiting.join(5.0)
        assert [type(failure) for failure in failures] == [ConnectionLost]
        assert failures[0].maybe_sent  # type: ignore[attr-defined]
        endpoint.go_on.set(), listening.go_on.set()

        def told_all() -> bool:
            client.prepare(fanout=True).cast({}, "add", a=5, b=5)
            return (5, 5) in endpoint.executed and (5, 5) in listening.executed

        wait_until(told_all, 15.0, "the fanout")
        assert not before & {replies.queue, other.fanout_queue}
        assert {home_of(lives, queue) for queue in (replies.queue, other.fanout_queue)} == {lives.node}
        assert len(lines(caplog, "another one takes its place")) == 2
        queues = {replies.queue, other.fanout_queue}
        assert other.stop()
    left = {queue["name"] for queue in lives.api("queues")}
    assert not queues & left, "what took the place is deleted at the end"


def _failure_of(client: RPCClient) -> BaseException:
    try:
        client.call({}, "hold")
    except Exception as exc:  # noqa: BLE001  (the failure is the result)
        return exc
    return AssertionError("it has not failed")
