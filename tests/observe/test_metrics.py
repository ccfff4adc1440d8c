"""The collector: every worker's numbers under its own pid, and nothing opened by registering it."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.harness.waiting import wait_until
from wsgi_messaging import Transport

prometheus_client = pytest.importorskip("prometheus_client")


def scrape(transport: Transport) -> dict[str, float]:
    """name -> value of this process's publishing connection, without the buckets; in the text format and back."""
    from prometheus_client.parser import text_string_to_metric_families

    from wsgi_messaging.observe.metrics import MessagingCollector

    registry = prometheus_client.CollectorRegistry()
    registry.register(MessagingCollector(transport))
    text = prometheus_client.generate_latest(registry).decode()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("le") in (None, "+Inf") and sample.labels["pid"] == str(os.getpid())
    }


@pytest.mark.parametrize("is_shared", [True, False], ids=["run directory", "this process"])
def test_the_numbers_are_those_of_the_connection(make: Callable[..., Transport], is_shared: bool) -> None:
    transport = make() if is_shared else make(run_dir=None)
    for _ in range(30):
        transport.publish(b"x", "nobody", mandatory=False)
    wait_until(lambda: scrape(transport).get("wsgi_messaging_confirmed_total") == 30, what="30 confirms")
    found = scrape(transport)
    assert found["wsgi_messaging_ready"] == 1
    assert found["wsgi_messaging_heartbeat_seconds"] == 2
    assert 0 <= found["wsgi_messaging_sent_age_seconds"] < 5
    assert "wsgi_messaging_round_trip_seconds_count" in found or not is_shared
    if is_shared:
        count = found["wsgi_messaging_round_trip_seconds_count"]
        assert 0 < count <= 30 and found["wsgi_messaging_round_trip_seconds_bucket"] == count
        assert 0 < found["wsgi_messaging_round_trip_seconds_sum"] < 30


def test_registering_opens_nothing(make: Callable[..., Transport]) -> None:
    transport = make()
    assert scrape(transport) == {}
    assert transport.status().connections == ()


def test_two_transports_of_one_name_are_told_as_one(make: Callable[..., Transport]) -> None:
    """Fails as a duplicate sample, which Prometheus refuses together with the whole scrape, when they are not."""
    first, second = make(), make()
    first.publish(b"x", "nobody", mandatory=False)
    second.publish(b"x", "nobody", mandatory=False)
    wait_until(lambda: scrape(first).get("wsgi_messaging_confirmed_total") == 2, what="the sum")
    assert scrape(second)["wsgi_messaging_ready"] == 1
