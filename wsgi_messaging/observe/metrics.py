"""Metrics for prometheus_client (the extra `prometheus`): a collector over what the workers show.

    from prometheus_client import REGISTRY
    REGISTRY.register(MessagingCollector(transport))

With a run directory, whichever worker answers the scrape tells of all of them, each under its host and pid; so a
counter goes back with the process it belongs to only, which is what `rate()` needs, and prometheus_client's files for
several processes are not needed. Several transports of one name in a process are added up, and where one of them is
closed its part goes: give them names of their own. Without a run directory it tells of the process that answers. It
reads when it is scraped and costs nothing in between.

Layer 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ..transport import Transport
from .posting import BOUNDS
from .status import Row, board_of

Fold = Callable[[Iterable[float]], float]
Key = tuple[str, ...]

LABELS = ("app", "node", "pid", "role")
_COUNTERS: dict[str, tuple[str, Callable[[Row], float]]] = {
    "confirmed": ("Messages that the broker confirmed.", lambda row: row.connection.confirmed),
    "failed": ("Messages that were not confirmed, the returned ones among them.", lambda row: row.connection.failed),
    "returned": ("Messages that no queue took.", lambda row: row.connection.returned),
    "reconnects": ("Open connections that were lost.", lambda row: row.connection.reconnects),
    "heartbeats_sent": ("Heartbeat frames sent.", lambda row: row.connection.beats_sent),
    "heartbeats_received": ("Heartbeat frames received.", lambda row: row.connection.beats_received),
}
_GAUGES: dict[str, tuple[str, Callable[[Row], float | None], Fold]] = {
    "ready": ("1 while the connection takes messages and its thread runs.", lambda row: row.is_ready, min),
    "blocked": ("1 while the broker takes no messages.", lambda row: row.connection.blocked is not None, max),
    "in_flight": ("Messages written and not yet answered.", lambda row: row.connection.in_flight, sum),
    "queued": ("Messages accepted and not yet written.", lambda row: row.connection.queued, sum),
    "consumers": ("Consumers.", lambda row: row.connection.consumers, sum),
    "heartbeat_seconds": ("The interval agreed with the broker.", lambda row: row.connection.heartbeat, max),
    "sent_age_seconds": ("Since anything was last sent.", lambda row: row.connection.sent_age, max),
    "received_age_seconds": ("Since anything was last received.", lambda row: row.connection.received_age, max),
    "heartbeat_lateness_worst_seconds": (
        "How long after it was due a heartbeat was sent, at worst.",
        lambda row: row.connection.lateness_worst,
        max,
    ),
}


class MessagingCollector(Collector):
    """Gives the metrics `wsgi_messaging_*`. Blocks: for reading some small files, at each scrape."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def describe(self) -> list[Metric]:
        """Their names, without a look at any worker: registering must not open anything."""
        return list(_families({}))

    def collect(self) -> Iterator[Metric]:
        """All metrics, now."""
        groups: dict[Key, list[Row]] = {}
        for row in board_of(self._transport).rows:
            groups.setdefault((row.app, row.node, str(row.pid), row.connection.role), []).append(row)
        yield from _families(groups)


def _families(groups: dict[Key, list[Row]]) -> Iterator[Metric]:
    """Rows of one key are several transports of a process under one name; they are told as one."""
    for name, (text, value) in _COUNTERS.items():
        counter = CounterMetricFamily(f"wsgi_messaging_{name}", text, labels=LABELS)
        for key, rows in groups.items():
            counter.add_metric(key, sum(value(row) for row in rows))
        yield counter
    for name, (text, measure, fold) in _GAUGES.items():
        gauge = GaugeMetricFamily(f"wsgi_messaging_{name}", text, labels=LABELS)
        for key, rows in groups.items():
            known = [float(found) for row in rows if (found := measure(row)) is not None]
            if known:
                gauge.add_metric(key, fold(known))
        yield gauge
    yield _round_trips(groups)


def _round_trips(groups: dict[Key, list[Row]]) -> Metric:
    text = "From a publish to its confirm; one message at a time is measured."
    family = HistogramMetricFamily("wsgi_messaging_round_trip_seconds", text, labels=LABELS)
    for key, rows in groups.items():
        measured = [row.round_trips for row in rows if row.round_trips.count]
        if not measured:
            continue
        sofar, buckets = 0, []
        for position, bound in enumerate([*(str(bound) for bound in BOUNDS), "+Inf"]):
            sofar += sum(trips.buckets[position] for trips in measured)
            buckets.append((bound, sofar))
        family.add_metric(key, buckets, sum_value=sum(trips.total for trips in measured))
    return family
