"""A cluster of three nodes that are killed in turn, and a quorum queue: what was confirmed is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.faults.test_sets import Producers, check, received_of
from tests.harness.cluster import Cluster
from tests.harness.rabbitmq import RabbitMQ, script
from tests.harness.requirements import missing
from tests.harness.waiting import wait_until
from wsgi_messaging import Settings, Transport

pytestmark = pytest.mark.soak
TIMEOUT = 30.0
HEARTBEAT = 5.0
"""A stopped node is given up after two of these."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if script("rabbitmq-server") is None:
        missing("rabbitmq-server is not installed")
    made = Cluster()
    try:
        yield made.start()
    finally:
        made.stop()


def publish_through(cluster: Cluster, nodes: Sequence[RabbitMQ], disturb: Callable[[RabbitMQ, Producers], None]) -> str:
    """Sixteen threads publish to a quorum queue while its nodes are disturbed in turn; says what came of it."""
    cluster.nodes[0].declare_queue("quorum", **{"x-queue-type": "quorum"})
    settings = Settings(url=cluster.url, app="quorum", heartbeat=HEARTBEAT, fail_fast_after=0.0)
    with Transport(settings=settings) as transport:
        producers = Producers(transport, "quorum", TIMEOUT)
        try:
            for node in nodes:
                producers.go_on(transport)
                disturb(node, producers)
            producers.go_on(transport)
        finally:
            producers.stop()
    received = received_of(cluster.url, "quorum")
    check(producers, received, TIMEOUT)
    assert not producers.failed, producers.failed[:3]
    return f"{len(producers.confirmed)} confirmed, {sum(received.values()) - len(received)} duplicates"


def test_a_quorum_queue_through_kills_of_its_nodes(cluster: Cluster) -> None:
    def kill(node: RabbitMQ, _producers: Producers) -> None:
        node.kill()
        node.start()

    print(publish_through(cluster, cluster.nodes * 2, kill))


def test_a_quorum_queue_through_stops_of_its_nodes(cluster: Cluster) -> None:
    """SIGSTOP: a node's kernel goes on answering for it, the other nodes have to miss it."""

    def stop(node: RabbitMQ, producers: Producers) -> None:
        before = len(producers.confirmed)
        node.pause()
        try:
            wait_until(lambda: len(producers.confirmed) > before + 500, 60.0, "publishing without it")
        finally:
            node.resume()

    print(publish_through(cluster, cluster.nodes, stop))
