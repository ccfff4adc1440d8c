"""A cluster of three nodes that are killed in turn, and a quorum queue: what was confirmed is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from tests.faults.test_sets import Producers, check, received_of
from tests.harness.cluster import Cluster
from tests.harness.rabbitmq import RabbitMQ, script
from tests.harness.requirements import missing
from wsgi_messaging import ConfirmTimeout, ConnectTimeout, MessagingError, Rejected, Settings, Transport

pytestmark = pytest.mark.soak
TIMEOUT = 30.0
HEARTBEAT = 5.0
"""A stopped node is given up after two of these."""
HELD_FOR = 120.0
"""Seconds for which a hung node holds up the others: net_ticktime is 60, at worst a quarter more; then the way back."""

GoesOn = Callable[..., None]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if script("rabbitmq-server") is None:
        missing("rabbitmq-server is not installed")
    made = Cluster()
    try:
        yield made.start()
    finally:
        made.stop()


@dataclass(frozen=True)
class Course:
    """What came of publishing to a quorum queue while its nodes were disturbed in turn."""

    confirmed: int
    duplicates: int
    failed: Sequence[MessagingError]


def publish_through(cluster: Cluster, nodes: Sequence[RabbitMQ], disturb: Callable[[RabbitMQ, GoesOn], None]) -> Course:
    """Sixteen threads publish; `disturb` gets what waits until they are confirmed again."""
    cluster.nodes[0].declare_queue("quorum", **{"x-queue-type": "quorum"})
    settings = Settings(url=cluster.url, app="quorum", heartbeat=HEARTBEAT, fail_fast_after=0.0)
    with Transport(settings=settings) as transport:
        producers = Producers(transport, "quorum", TIMEOUT)

        def goes_on(more: int = 100) -> None:
            producers.go_on(transport, more, within=HELD_FOR)

        try:
            for node in nodes:
                goes_on()
                disturb(node, goes_on)
            goes_on()
        finally:
            producers.stop()
    received = received_of(cluster.url, "quorum")
    check(producers, received, TIMEOUT)
    course = Course(len(producers.confirmed), sum(received.values()) - len(received), producers.failed)
    print(f"{course.confirmed} confirmed, {course.duplicates} duplicates, {len(course.failed)} failed")
    return course


def test_a_quorum_queue_through_kills_of_its_nodes(cluster: Cluster) -> None:
    def kill(node: RabbitMQ, _goes_on: GoesOn) -> None:
        node.kill()
        node.start()

    assert not publish_through(cluster, cluster.nodes * 2, kill).failed


def test_a_quorum_queue_through_stops_of_its_nodes(cluster: Cluster) -> None:
    """SIGSTOP: a node's kernel goes on answering for it, the other nodes have to miss it.

    A channel that is new to the queue waits for the stopped one for as long as the others believe in it, and may answer
    nack meanwhile. So publishes may fail, honestly; and it goes on before and after the node is back.
    """

    def stop(node: RabbitMQ, goes_on: GoesOn) -> None:
        node.pause()
        try:
            goes_on(500)
        finally:
            node.resume()

    failed = publish_through(cluster, cluster.nodes, stop).failed
    assert {type(error) for error in failed} <= {ConfirmTimeout, ConnectTimeout, Rejected}
