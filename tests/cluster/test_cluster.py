"""A cluster of three nodes that are killed in turn, and a quorum queue: what was confirmed is there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.test_sets import Producers, check, received_of
from tests.harness.cluster import Cluster
from tests.harness.rabbitmq import script
from tests.harness.requirements import missing
from tests.harness.waiting import wait_until
from wsgi_messaging import Settings, Transport

pytestmark = pytest.mark.soak
TIMEOUT = 20.0


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if script("rabbitmq-server") is None:
        missing("rabbitmq-server is not installed")
    made = Cluster()
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.mark.parametrize("rounds", [2])
def test_a_quorum_queue_through_kills_of_its_nodes(cluster: Cluster, rounds: int) -> None:
    cluster.nodes[0].declare_queue("quorum", **{"x-queue-type": "quorum"})
    with Transport(settings=Settings(url=cluster.url, app="quorum", fail_fast_after=0.0)) as transport:
        producers = Producers(transport, "quorum", TIMEOUT)
        try:
            for node in cluster.nodes * rounds:
                before = len(producers.confirmed)
                wait_until(lambda before=before: len(producers.confirmed) > before + 100, 60.0, "publishing goes on")
                node.kill()
                node.start()
        finally:
            producers.stop()
    received = received_of(cluster.url, "quorum")
    check(producers, received, TIMEOUT)
    print(
        f"{3 * rounds} kills: {len(producers.confirmed)} confirmed, {len(producers.failed)} failed, "
        f"{sum(received.values()) - len(received)} duplicates"
    )
    assert not producers.failed, producers.failed[:3]
