"""RPC and publishing while a cluster falls apart, and while its nodes are restarted in turn."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.broker.rpc_endpoints import EXCHANGE, Endpoint
from tests.faults.test_sets import Producers, check, received_of
from tests.harness.cluster import Cluster
from tests.harness.processes import is_listening
from tests.harness.rabbitmq import script
from tests.harness.requirements import missing
from tests.harness.waiting import wait_until
from wsgi_messaging import MessagingError, Settings, Transport
from wsgi_messaging.rpc import QueueFlags, RPCClient, RPCServer, Target

pytestmark = pytest.mark.soak
CALLERS = 4
CALL_TIMEOUT = 10.0
PUBLISH_TIMEOUT = 30.0
ENDS_WITHIN = 90.0
"""Seconds for what the cluster has to make up its mind about."""


class Callers:
    """Threads that call until told to stop, each with a number of its own at a time."""

    def __init__(self, client: RPCClient) -> None:
        self.replied: list[tuple[int, float]] = []
        """The numbers whose reply came, and when."""
        self.failed: list[MessagingError] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(client, number)) for number in range(0, 10**9 * CALLERS, 10**9)
        ]
        for thread in self._threads:
            thread.start()

    def _call(self, client: RPCClient, number: int) -> None:
        while not self._over.wait(0.01):  # not to be all that two cores do
            number += 1
            try:
                assert client.call({}, "add", a=number, b=1) == number + 1
            except MessagingError as exc:
                self.failed.append(exc)
            else:
                self.replied.append((number, time.monotonic()))

    def go_on(self, more: int = 200) -> None:
        before, failed = len(self.replied), len(self.failed)
        try:
            wait_until(lambda: len(self.replied) >= before + more, ENDS_WITHIN, "calls go on")
        except AssertionError as exc:
            raise AssertionError(f"{Counter(str(error) for error in self.failed[failed:]).most_common(5)}") from exc

    def longest_gap(self) -> float:
        """The longest time without a reply, in seconds."""
        times = sorted(at for _number, at in self.replied)
        return max(after - before for before, after in zip(times, times[1:], strict=False))

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(CALL_TIMEOUT + 5.0)
            assert not thread.is_alive(), "a call hangs"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if script("rabbitmq-server") is None:
        missing("rabbitmq-server is not installed")
    made = Cluster(config="cluster_partition_handling = pause_minority")
    try:
        yield made.start()
    finally:
        made.stop()


class Load:
    """Two servers, a client with several callers, and publishers; topic and queue are quorum queues."""

    def __init__(self, cluster: Cluster) -> None:
        cluster.nodes[0].declare_queue("quorum", **{"x-queue-type": "quorum"})
        self._cluster = cluster
        self._transports = [
            Transport(settings=Settings(url=cluster.url, app=app, heartbeat=5.0, fail_fast_after=0.0))
            for app in ("one", "two", "client", "publisher")
        ]
        *served, calling, self._publishing = self._transports
        self._endpoints = [Endpoint() for _ in served]
        target = Target(exchange=EXCHANGE, topic="disturbed")
        for number, (transport, endpoint) in enumerate(zip(served, self._endpoints, strict=True)):
            RPCServer(transport, target(server=f"s{number}"), [endpoint], flags=QueueFlags(quorum=True)).start()
        self.callers = Callers(RPCClient(calling, target, timeout=CALL_TIMEOUT, confirm=True))
        self._producers = Producers(self._publishing, "quorum", PUBLISH_TIMEOUT)

    def go_on(self) -> None:
        """Wait until calls and publishing have gone on."""
        self.callers.go_on()
        self._producers.go_on(self._publishing, within=ENDS_WITHIN)

    def end(self) -> None:
        """Stop, and compare what was told with what there is."""
        self.callers.stop()
        self._producers.stop()
        for transport in self._transports:
            transport.close()

    def check(self) -> None:
        executed = {a for endpoint in self._endpoints for a, _b in endpoint.executed}
        assert {number for number, _at in self.callers.replied} <= executed
        check(self._producers, received_of(self._cluster.url, "quorum"), PUBLISH_TIMEOUT)
        failed = Counter(type(error).__name__ for error in [*self.callers.failed, *self._producers.failed])
        print(
            f"{len(self.callers.replied)} replies, longest time without one {self.callers.longest_gap():.2f} s; "
            f"{len(self._producers.confirmed)} confirmed; failed: {dict(failed)}"
        )
        assert set(failed) <= {"ReplyLost", "ReplyTimeout"}, "publishing is tried again until it is through"
        assert len(self.callers.failed) < 5 * CALLERS


@pytest.mark.usefixtures("in_order")
def test_a_partition(cluster: Cluster) -> None:
    """The node that all are connected to is cut off, and pauses; everything goes on with the others, and when it is
    back."""
    load = Load(cluster)
    node = cluster.nodes[0]
    try:
        load.go_on()
        cluster.cut_off(node)
        wait_until(lambda: not is_listening(node.amqp_port), ENDS_WITHIN, "the pause of the minority")
        load.go_on()
        cluster.bring_back(node)
        wait_until(lambda: is_listening(node.amqp_port), ENDS_WITHIN, "the node's return")
        load.go_on()
    finally:
        load.end()
    load.check()


def test_a_rolling_restart(cluster: Cluster) -> None:
    load = Load(cluster)
    try:
        for node in cluster.nodes:
            load.go_on()
            node.restart()
        load.go_on()
    finally:
        load.end()
    load.check()
