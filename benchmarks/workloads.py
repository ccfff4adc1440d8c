"""What is measured, among whom, and the bar that each row has to clear."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Unit:
    """How a figure is shown."""

    heading: str
    digits: int
    is_less_better: bool = True


UNITS: Mapping[str, Unit] = {
    "rate": Unit("a second", 0, is_less_better=False),
    "p50_us": Unit("p50 us", 0),
    "p99_us": Unit("p99 us", 0),
    "client_us": Unit("client us", 1),
    "server_us": Unit("server us", 1),
    "broker_us": Unit("broker us", 1),
    "request_ns": Unit("ns", 0),
    "import_ms": Unit("CPU ms", 1),
    "ready_ms": Unit("ms", 1),
    "memory_mb": Unit("MB", 1),
    "loaded_mb": Unit("MB, loaded", 1),
    "threads": Unit("threads", 0),
    "connections": Unit("connections", 0),
    "gap_s": Unit("gap s", 3),
    "errors": Unit("errors", 0),
}
"""The figures by name, in the order of the table's columns. `*_us` is processor time for each operation."""


@dataclass(frozen=True)
class Bar:
    """A figure of ours that has to be reached: absolute, or as the ratio to a peer's in the same round."""

    figure: str
    relation: str
    value: float
    against: str | None = None
    reach_for: float | None = None
    subject: str = "ours"

    def is_met_by(self, result: float) -> bool:
        return result >= self.value if self.relation == ">=" else result <= self.value

    def __str__(self) -> str:
        what = f"{self.value:g}{f' x {self.against}' if self.against else ''}"
        more = "" if self.reach_for is None else f" (reach for {self.reach_for:g})"
        return f"{self.subject}: {UNITS[self.figure].heading} {self.relation} {what}{more}"


@dataclass(frozen=True)
class Contestant:
    """A peer in a workload; `server` is whose server answers its calls."""

    label: str
    peer: str
    server: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


PEERS = {
    "limit": "limit",
    "py-amqp": "py_amqp",
    "kombu": "kombu_pools",
    "oslo": "oslo",
    "pika": "pika_blocking",
    "AMQPStorm": "amqpstorm_channels",
    "aio-pika": "aio_pika_tasks",
    "ours": "ours",
}
"""Modules of `benchmarks.peers` by the names that the table shows."""


def among(labels: str) -> tuple[Contestant, ...]:
    return tuple(Contestant(label, PEERS.get(label, label)) for label in labels.split())


EVERYONE = among("limit py-amqp kombu oslo pika AMQPStorm aio-pika ours")
RPC = (
    Contestant("oslo", "oslo", server="oslo"),
    Contestant("oslo>ours", "oslo", server="ours"),
    Contestant("ours>oslo", "ours", server="oslo"),
    Contestant("ours", "ours", server="ours"),
)


@dataclass(frozen=True)
class Workload:
    """One block of the table."""

    name: str
    title: str
    contestants: tuple[Contestant, ...]
    bars: tuple[Bar, ...] = ()
    action: str = "publish"
    options: Mapping[str, Any] = field(default_factory=dict)
    figure: str = "rate"
    """What the ratio is of."""
    baseline: str = "py-amqp"
    quick: str | None = None
    """The contestants of a quick run; none: it is left out."""
    rounds: int | None = None
    """How many at most, where a round is expensive."""
    seconds: float | None = None
    """A round's length, where it is not the run's."""
    fault: str | None = None
    """What happens in the middle of a round: kill or freeze."""
    note: str = ""


def _confirmed(callers: int, *bars: Bar, quick: str | None) -> Workload:
    title = f"confirmed publish, 1 KiB persistent JSON, {callers} thread{'s' if callers > 1 else ''}"
    figure = "p50_us" if callers == 1 else "rate"
    return Workload(
        f"publish-{callers}", title, EVERYONE, bars, options={"callers": callers}, figure=figure, quick=quick
    )


def _rpc(callers: int, *bars: Bar, quick: str | None) -> Workload:
    return Workload(
        f"rpc-{callers}",
        f"RPC call, {callers} thread{'s' if callers > 1 else ''}, oslo.messaging's wire format (client>server)",
        RPC,
        bars,
        action="call",
        options={"callers": callers},
        figure="p50_us" if callers == 1 else "rate",
        baseline="oslo",
        quick=quick,
    )


MAIN = "limit py-amqp oslo ours"

_FREE: tuple[Workload, ...] = (
    _confirmed(1, Bar("p50_us", "<=", 0.9, "py-amqp", 0.8), quick="limit py-amqp ours"),
    _confirmed(4, Bar("rate", ">=", 0.95, "py-amqp", 1.2), quick="limit py-amqp ours"),
    _confirmed(16, Bar("rate", ">=", 1.5, "py-amqp", 2.0), quick="limit py-amqp ours"),
    _confirmed(
        64,
        Bar("rate", ">=", 2.0, "py-amqp", 2.6),
        Bar("rate", ">=", 4.0, "oslo"),
        Bar("client_us", "<=", 60, reach_for=35),
        Bar("broker_us", "<=", 85, reach_for=70),
        quick=MAIN,
    ),
    Workload(
        "transient-64",
        "confirmed publish, 1 KiB transient JSON, 64 threads",
        EVERYONE,
        (Bar("rate", ">=", 2.4, "py-amqp", 3.5),),
        options={"callers": 64, "is_persistent": False},
        quick="limit py-amqp ours",
        note="oslo.messaging has no transient messages: its queue is transient",
    ),
    Workload(
        "publish-many",
        "publish_many, 2000 messages a batch, one caller",
        among("limit ours"),
        (Bar("rate", ">=", 0.75, "limit", 0.9),),
        action="publish_many",
        options={"batch": 2000},
        baseline="limit",
        quick="limit ours",
    ),
    Workload(
        "busy",
        "confirmed publish, 1 thread beside 2 threads that compute in pure Python",
        among("py-amqp kombu oslo ours"),
        (Bar("rate", ">=", 1.0, "py-amqp", 1.5),),
        options={"burners": 2},
        quick="py-amqp ours",
    ),
    Workload(
        "greenlets-200",
        "confirmed publish, 200 greenlets (gevent) and 200 threads",
        (
            Contestant("threads", "ours", options={"callers": 200}),
            Contestant("ours", "ours", options={"callers": 200, "is_green": True}),
        ),
        (Bar("rate", ">=", 1 / 1.5, "threads", 1 / 1.1),),
        baseline="threads",
        quick="threads ours",
    ),
    _rpc(1, Bar("p50_us", "<=", 0.3, "oslo", 0.2), quick="oslo ours"),
    _rpc(8, quick=None),
    _rpc(
        64,
        Bar("rate", ">=", 10, "oslo", 16),
        Bar("rate", ">=", 1.2, "oslo", subject="ours>oslo"),
        Bar("server_us", "<=", 120, reach_for=60),
        quick="oslo ours>oslo ours",
    ),
    Workload(
        "cast-16",
        "cast, confirmed, small arguments, 16 threads",
        among("oslo ours"),
        (Bar("rate", ">=", 6, "oslo", 9),),
        action="cast",
        options={"callers": 16},
        baseline="oslo",
        quick="oslo ours",
        note="the queue is transient, as oslo.messaging's servers declare theirs by default",
    ),
    Workload(
        "notify-16",
        "notification (messagingv2), 1 KiB, 16 threads",
        among("oslo ours"),
        action="notify",
        options={"callers": 16},
        baseline="oslo",
    ),
    Workload(
        "listen",
        "notification listener, a full queue emptied",
        among("oslo ours"),
        action="listen",
        baseline="oslo",
        rounds=5,
    ),
    Workload(
        "consume",
        "consumer, JSON decoded and acknowledged, prefetch 100, a full queue emptied",
        among("py-amqp kombu ours"),
        action="consume",
        rounds=5,
    ),
    Workload(
        "middleware",
        "middleware, for each request",
        among("proxy_fix ours"),
        (Bar("request_ns", "<=", 300, reach_for=150), Bar("request_ns", "<=", 0.1, "proxy_fix")),
        action="middleware",
        figure="request_ns",
        baseline="proxy_fix",
        quick="proxy_fix ours",
        note="proxy_fix is werkzeug's ProxyFix",
    ),
    Workload(
        "import",
        "import, processor time over the bare interpreter's",
        among("py-amqp kombu oslo pika AMQPStorm aio-pika ours"),
        (Bar("import_ms", "<=", 1.3, "kombu", 1.0),),
        action="import",
        figure="import_ms",
        baseline="kombu",
        quick="kombu ours",
    ),
    Workload(
        "worker",
        "a worker's memory, threads, connections; 64 request threads publish and (oslo, ours) call",
        (
            Contestant("py-amqp", "py_amqp"),
            Contestant("kombu", "kombu_pools"),
            Contestant("oslo", "oslo", server="oslo"),
            Contestant("ours", "ours", server="ours"),
        ),
        (
            Bar("memory_mb", "<=", 11, reach_for=8),
            Bar("threads", "<=", 2),
            Bar("connections", "<=", 2),
        ),
        action="footprint",
        options={"callers": 64},
        figure="memory_mb",
        baseline="kombu",
        quick="kombu ours",
        rounds=1,
        note="MB: after the first message; loaded: after all threads have worked",
    ),
    Workload(
        "fork",
        "from a worker's fork to its first confirmed message",
        among("py-amqp kombu oslo ours"),
        action="fork",
        figure="ready_ms",
        quick="py-amqp ours",
    ),
    Workload(
        "failover",
        "kill -9 of the node in use, a second one there: seconds between two confirmed messages",
        among("py-amqp kombu oslo ours"),
        (Bar("gap_s", "<=", 0.3, reach_for=0.1), Bar("errors", "<=", 0)),
        action="outage",
        figure="gap_s",
        rounds=5,
        seconds=2.5,
        quick="ours",
        fault="kill",
        note="the kernel of a killed node resets its connections and refuses new ones; py-amqp reconnects by hand",
    ),
    Workload(
        "black-hole",
        "the node in use falls silent, heartbeat 10 s: seconds between two confirmed messages",
        among("oslo ours"),
        (Bar("gap_s", "<=", 21),),
        action="outage",
        options={"heartbeat": 10},
        figure="gap_s",
        baseline="oslo",
        rounds=1,
        seconds=30.0,
        fault="freeze",
        note="an error here is a call that ended at its own deadline (10 s), as it has to",
    ),
)


def _run_otherwise(name: str, how: str, title: str, option: str) -> Workload:
    """The same workload among processes that are run in another way."""
    [usual] = (each for each in _FREE if each.name == name)
    return replace(
        usual,
        name=f"{how}-{name}",
        title=f"{usual.title}; {title}",
        contestants=tuple(each for each in usual.contestants if each.label in ("py-amqp", "oslo", "ours")),
        options={**usual.options, option: True},
        bars=(),
        quick=None,
    )


WORKLOADS = (
    *_FREE,
    *(
        _run_otherwise(name, "bound", "each process bound to one processor", "is_bound")
        for name in ("publish-16", "publish-64", "rpc-64")
    ),
    *(
        _run_otherwise(name, "batch", "each process scheduled by SCHED_BATCH", "is_patient")
        for name in ("publish-64", "rpc-64")
    ),
)


def chosen(wanted: Callable[[str], bool], is_quick: bool) -> list[Workload]:
    """The workloads to run, by name."""
    return [each for each in WORKLOADS if wanted(each.name) and (each.quick is not None or not is_quick)]
