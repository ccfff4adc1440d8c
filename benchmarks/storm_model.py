"""Reconnect storms in virtual time: many connections lose their broker in one instant, and come back.

Ours are the package's own `Attempts` (and with them `Hosts` and `Backoff`): only what they reach the network by, their
source of chance and their clock are put in the place of the real ones. Nothing of the back-off is written down here
again. The peers' schedules are, from their sources, which `PEERS` names.

The broker is a simple one. A node that is away refuses after one round trip. One that is there leads handshakes (TCP,
TLS, SASL, AMQP) one after the other, `rate` a second; up to `backlog` wait for their turn; to one more it does not
answer, and that attempt ends at its timeout. A handshake that would not end within the timeout is given up by the
client and costs the node nothing. All connections notice the loss in the same instant, which is the worst case.
"""

from __future__ import annotations

import heapq
import random
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from wsgi_messaging.connection import connecting
from wsgi_messaging.connection.connecting import Attempts
from wsgi_messaging.connection.hosts import Broker
from wsgi_messaging.connection.link import LinkOptions
from wsgi_messaging.errors import ConnectFailed

WINDOW = 0.1
"""Seconds; the window of tests/faults/test_storm.py, which begins at any attempt."""
GIVEN_UP_AFTER = 600.0
"""Seconds after which the simulation ends whoever is still away."""
_LONG_BEFORE = -3600.0
_PORT = 5672
_REFUSED = ConnectFailed("connection refused")
_UNANSWERED = ConnectFailed("no answer to the connect")


@dataclass(frozen=True)
class Model:
    """The fleet and the nodes."""

    workers: int = 10_000
    connections: int = 1
    """Connections of a worker: 2 where it also consumes."""
    rate: float = 1000.0
    """Handshakes a second that one node completes."""
    backlog: int = 4096
    """Connections that may wait for a node."""
    timeout: float = LinkOptions().connect_timeout
    round_trip: float = 0.001
    seed: int = 1


@dataclass(frozen=True)
class Scenario:
    """What happens at 0.0: these nodes of so many go away, for some seconds or (None) for good."""

    name: str
    nodes: int
    lost: int
    seconds: float | None

    @property
    def reachable_at(self) -> float:
        """When there is a node again that could be connected to."""
        return 0.0 if self.lost < self.nodes else self.seconds or 0.0


SCENARIOS = (
    Scenario("one broker, away 0.5 s", 1, 1, 0.5),
    Scenario("one broker, away 5 s", 1, 1, 5.0),
    Scenario("one broker, away 60 s", 1, 1, 60.0),
    Scenario("one node of three lost", 3, 1, None),
    Scenario("three nodes, all away 10 s", 3, 3, 10.0),
)


class Node:
    """One broker as the network shows it."""

    def __init__(self, model: Model, back_at: float) -> None:
        self.back_at = back_at
        self._model = model
        self._free_at = 0.0

    def approached(self, now: float) -> tuple[float, ConnectFailed | None]:
        """How long an attempt takes that begins at `now`, and why it fails; None for a connection."""
        model = self._model
        if now < 0.0:
            return 0.0, None
        if now < self.back_at:
            return model.round_trip, _REFUSED
        done_at = max(now, self._free_at) + 1.0 / model.rate
        if (self._free_at - now) * model.rate >= model.backlog or done_at - now > model.timeout:
            return model.timeout, _UNANSWERED
        self._free_at = done_at
        return done_at - now, None


@dataclass
class Network:
    """All nodes, and what time it is. It takes the place of `open_link`."""

    nodes: dict[str, Node]
    now: float = _LONG_BEFORE
    took: float = 0.0

    @property
    def brokers(self) -> list[Broker]:
        return [Broker(host, _PORT) for host in self.nodes]

    def clock(self) -> float:
        """When the attempt ends that was made last."""
        return self.now + self.took

    def approach(self, host: str) -> ConnectFailed | None:
        self.took, failure = self.nodes[host].approached(self.now)
        return failure

    def open_link(self, broker: Broker, *_rest: object) -> Opened:
        failure = self.approach(broker.host)
        if failure is not None:
            raise failure.with_traceback(None)  # the same one a million times: it must not grow
        return Opened(broker)


@dataclass(slots=True)
class Opened:
    """What an attempt gives, as far as the attempts look at it."""

    broker: Broker


class Connection(Protocol):
    """One connection of the fleet, by whichever schedule."""

    host: str
    """Where it is, or was."""

    def lost(self) -> float:
        """It broke; gives when to try first."""

    def attempt(self) -> float | None:
        """Try; gives when to try next, or None when there is a connection."""


class Ours:
    """The package's own, led as connection/loop.py leads it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        silence = cast(Any, _Silence())
        self._attempts = Attempts("worker", network.brokers, LinkOptions(), None, silence, network.clock)
        self._link: Any = None
        self.attempt()
        self.host: str = cast(Any, self._link).broker.host

    def lost(self) -> float:
        self._attempts.lost(self._link, "reset", self._network.now)
        return self._attempts.retry_at

    def attempt(self) -> float | None:
        self._link = self._attempts.attempt(_never_waits, self._network.now)
        return None if self._link is not None else self._attempts.retry_at


def _never_waits(*_arguments: object) -> None:
    """An attempt here takes no time of ours."""


class _Silence:
    """The journal of ten thousand workers in one process."""

    def info(self, _text: str) -> None:
        """Not written."""

    warning = info


@dataclass(frozen=True)
class Schedule:
    """When a peer tries again; it tries the hosts in turn."""

    name: str
    first: float
    """Seconds from the loss to the first attempt."""
    each: float
    """Seconds after each attempt that failed."""
    start: float
    """Seconds more after the first round over all hosts ..."""
    step: float
    """... and so many more after each further one ..."""
    longest: float
    """... up to these."""


PEERS = (
    Schedule("every second", 0.0, 1.0, 0.0, 0.0, 0.0),
    # kombu 5.7.0, Connection.ensure_connection: interval_start=2, interval_step=2, interval_max=30, and no jitter.
    Schedule("kombu", 0.0, 0.0, 2.0, 2.0, 30.0),
    # oslo.messaging 18.3.1, _drivers/impl_rabbit.py: rabbit_retry_interval=1, rabbit_retry_backoff=2 and
    # rabbit_interval_max=30 go to kombu; on_error sleeps kombu_reconnect_delay=1.0 at the loss and after each failure;
    # kombu_reconnect_splay=0.0.
    Schedule("oslo.messaging", 1.0, 1.0, 1.0, 2.0, 30.0),
)
OURS = "wsgi_messaging"
CONTESTANTS = (*(each.name for each in PEERS), OURS)


class Paced:
    """A peer's connection. It begins at a host of its own, as a fleet does whose URLs are shuffled."""

    def __init__(self, network: Network, schedule: Schedule, chance: random.Random) -> None:
        self._network = network
        self._schedule = schedule
        self._hosts = list(network.nodes)
        chance.shuffle(self._hosts)
        self._failures = 0
        self.host = self._hosts[0]

    def lost(self) -> float:
        self._failures = 0
        self._turn()
        return self._network.now + self._schedule.first

    def _turn(self) -> None:
        self._hosts.append(self._hosts.pop(0))

    def attempt(self) -> float | None:
        schedule, network = self._schedule, self._network
        if network.approach(self._hosts[0]) is None:
            return None
        self._turn()
        self._failures += 1
        rounds, rest = divmod(self._failures, len(self._hosts))
        pause = 0.0 if rest else min(schedule.start + schedule.step * (rounds - 1), schedule.longest)
        return network.now + network.took + schedule.each + pause


@dataclass
class Storm:
    """What came of one scenario with one schedule."""

    scenario: Scenario
    schedule: str
    affected: int
    """Workers that lost a connection."""
    attempts: array[float] = field(default_factory=lambda: array("d"))
    """When each began, in order."""
    back: list[float] = field(default_factory=list)
    """When each worker had all its connections again, in order; those that never had are missing."""
    connected: int = 0

    @property
    def busiest_share(self) -> float:
        """The largest part of all attempts that one window holds."""
        return busiest(self.attempts, WINDOW) / len(self.attempts) if self.attempts else 0.0

    @property
    def busiest_second(self) -> int:
        return busiest(self.attempts, 1.0)

    @property
    def vain(self) -> float:
        """Attempts that failed, for each worker that had lost a connection."""
        return (len(self.attempts) - self.connected) / self.affected if self.affected else 0.0

    def back_after(self, part: float) -> float:
        """Seconds, from when a node could be had, until such a part of the workers was back; infinite for never."""
        number = max(1, round(part * self.affected))
        if number > len(self.back):
            return float("inf")
        return self.back[number - 1] - self.scenario.reachable_at

    def per_window(self) -> list[int]:
        """Attempts in each window from the loss on."""
        counts = [0] * (int(self.attempts[-1] / WINDOW) + 1 if self.attempts else 0)
        for at in self.attempts:
            counts[int(at / WINDOW)] += 1
        return counts


def busiest(times: Sequence[float], seconds: float) -> int:
    """How many of the times, which are in order, the fullest window of so many seconds holds."""
    return max((bisect_left(times, at + seconds, lo=index) - index for index, at in enumerate(times)), default=0)


@contextmanager
def _in_place(network: Network, chance: random.Random) -> Iterator[None]:
    """The network and the chance of a simulation in the place of the real ones."""
    module: Any = connecting
    real = module.open_link, module._CHANCE
    module.open_link, module._CHANCE = network.open_link, chance
    try:
        yield
    finally:
        module.open_link, module._CHANCE = real


def simulate(scenario: Scenario, schedule: str, model: Model) -> Storm:
    """The scenario from the loss until everybody is back. The same arguments give the same result."""
    chance = random.Random(model.seed)
    network = Network({f"node{number}": _node(number, scenario, model) for number in range(scenario.nodes)})
    with _in_place(network, chance):
        fleet = [_connection(schedule, network, chance) for _ in range(model.workers * model.connections)]
        return _run(fleet, network, Storm(scenario, schedule, 0), model.connections)


def _node(number: int, scenario: Scenario, model: Model) -> Node:
    away = float("inf") if scenario.seconds is None else scenario.seconds
    return Node(model, away if number < scenario.lost else 0.0)


def _connection(schedule: str, network: Network, chance: random.Random) -> Connection:
    peer = next((each for each in PEERS if each.name == schedule), None)
    return Ours(network) if peer is None else Paced(network, peer, chance)


def _run(fleet: Sequence[Connection], network: Network, storm: Storm, connections: int) -> Storm:
    """The discrete events: whoever is next tries; what comes of it, a node knows at once."""
    network.now = 0.0
    due = [(each.lost(), number, each) for number, each in enumerate(fleet) if network.nodes[each.host].back_at > 0.0]
    heapq.heapify(due)
    away = Counter(number // connections for _at, number, _each in due)
    storm.affected = len(away)
    while due and due[0][0] < GIVEN_UP_AFTER:
        network.now, number, connection = due[0]
        storm.attempts.append(network.now)
        next_at = connection.attempt()
        if next_at is not None:
            heapq.heapreplace(due, (next_at, number, connection))
            continue
        heapq.heappop(due)
        storm.connected += 1
        away[number // connections] -= 1
        if not away[number // connections]:
            storm.back.append(network.now + network.took)
    storm.back.sort()
    return storm
