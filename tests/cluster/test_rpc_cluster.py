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
from tests.interop.peer import Peer
from wsgi_messaging import MessagingError, ReplyLost, Settings, Transport
from wsgi_messaging.rpc import QueueFlags, RPCClient, RPCServer, Target
from wsgi_messaging.rpc.replies import replies_of

pytestmark = pytest.mark.usefixtures("in_order")
TARGET = Target(exchange=EXCHANGE, topic="cluster")


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    if script("rabbitmq-server") is None:
        missing("rabbitmq-server is not installed")
    cluster = Cluster(2)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture
def nodes(made: Cluster) -> list[RabbitMQ]:
    """Both alive; the test may kill the first."""
    for node in made.nodes:
        if node.pid is None:
            node.kill()
            node.start()
    return made.nodes


def transport_to(*nodes: RabbitMQ) -> Transport:
    return Transport(settings=Settings(url=";".join(node.url for node in nodes), app="cluster"))


def home_of(node: RabbitMQ, queue: str) -> str:
    return str(node.api(f"queues/%2F/{queue}")["node"])


def test_the_queues_of_a_dead_node_are_replaced(nodes: list[RabbitMQ], caplog: pytest.LogCaptureFixture) -> None:
    """Their replacement is on the node that lives; the calls that waited for a reply to the lost one are told."""
    dies, lives = nodes
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
        client = RPCClient(calling, TARGET, timeout=30)
        assert client.call({}, "add", a=1, b=2) == 3
        replies = replies_of(calling.connections())
        before = {replies.queue, other.fanout_queue}
        assert {home_of(lives, queue) for queue in before} == {dies.node}

        failures: list[BaseException] = []
        waiting = threading.Thread(target=lambda: failures.append(_failure_of(client)))
        waiting.start()
        wait_until(lambda: endpoint.running.acquire(False) or listening.running.acquire(False), what="the call")
        dies.kill()
        wait_until(lambda: replies.queue not in before and replies.is_active, 30.0, "another reply queue")
        begun = time.monotonic()
        assert client.call({}, "add", a=3, b=4) == 7
        assert time.monotonic() - begun < 15.0, "and at once"
        waiting.join(20.0)
        assert [type(failure) for failure in failures] == [ReplyLost]
        assert failures[0].maybe_sent  # type: ignore[attr-defined]
        endpoint.go_on.set(), listening.go_on.set()

        def told_all() -> bool:
            client.prepare(fanout=True).cast({}, "add", a=5, b=5)
            return (5, 5) in endpoint.executed and (5, 5) in listening.executed

        wait_until(told_all, 30.0, "the fanout")
        assert not before & {replies.queue, other.fanout_queue}
        assert {home_of(lives, queue) for queue in (replies.queue, other.fanout_queue)} == {lives.node}
        assert len(lines(caplog, "another one takes its place")) == 2
        queues = {replies.queue, other.fanout_queue}
        assert other.stop()
    left = {queue["name"] for queue in lives.api("queues")}
    assert not queues & left, "what took the place is deleted at the end"


def test_a_server_on_the_dead_node_serves_on_the_other(nodes: list[RabbitMQ]) -> None:
    """Its queues are transient, as oslo.messaging's: they went with the node."""
    dies, lives = nodes
    target = Target(exchange="transient", topic="moves")
    with transport_to(dies, lives) as served, transport_to(lives) as calling:
        server = RPCServer(served, target(server="s1"), [Endpoint()])
        server.start()
        client = RPCClient(calling, target, timeout=2)
        assert client.prepare(timeout=20).call({}, "add", a=1, b=2) == 3
        assert home_of(lives, "moves") == dies.node
        dies.kill()

        def works() -> bool:
            try:
                return bool(client.call({}, "add", a=3, b=4) == 7)
            except MessagingError:  # what was under way is lost, and for a moment there is no queue
                return False

        wait_until(works, 30.0, "a call")
        assert home_of(lives, "moves") == lives.node
        assert client.prepare(server="s1").call({}, "who") == "s1"


def test_a_fanout_reaches_a_server_of_the_drivers_whose_node_died(nodes: list[RabbitMQ]) -> None:
    hosts = ",".join(f"{node.user}:{node.password}@{node.host}:{node.amqp_port}" for node in nodes)
    driver = Peer(f"wsgi+rabbit://{hosts}//")
    try:
        driver(do="serve", topic="driven", server="s1", exchange=EXCHANGE)
        [queue] = [each for each in nodes[1].api("queues") if each["name"].startswith("driven_fanout_")]
        [dies] = [node for node in nodes if node.node == queue["node"]]
        [lives] = [node for node in nodes if node is not dies]
        dies.kill()
        with transport_to(lives) as calling:
            client = RPCClient(calling, Target(exchange=EXCHANGE, topic="driven", version="1.0"), timeout=2)

            def told() -> bool:
                client.prepare(fanout=True).cast({}, "note", item="told")
                return "told" in driver(do="seen", server="s1")

            wait_until(told, 40.0, "the fanout", interval=0.5)
        driver(do="stop")
    finally:
        driver.close()
    left = [each for each in lives.api("queues") if each["name"].startswith("driven_fanout_")]
    assert [each["node"] for each in left] == [dies.node], "the lost one, and what took its place is deleted at the end"


def _failure_of(client: RPCClient) -> BaseException:
    try:
        client.call({}, "hold")
    except Exception as exc:  # noqa: BLE001  (the failure is the result)
        return exc
    return AssertionError("it has not failed")
