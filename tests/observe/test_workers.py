"""Page, command and metrics agree with what the broker lists, while workers are killed and reloaded."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.harness.servers import Gunicorn
from tests.harness.waiting import stays, wait_until
from tests.observe.fleet import by_broker, by_command, by_page, gunicorn, pids


@pytest.fixture
def server(rabbitmq: RabbitMQ, run_dir: Path, unique: Callable[[str], str]) -> Iterator[Gunicorn]:
    if importlib.util.find_spec("prometheus_client") is None:
        missing("prometheus_client is not installed: make test, or pip install prometheus_client")
    made = gunicorn(unique("observed"), rabbitmq, run_dir)
    if made.missing():
        missing(str(made.missing()))
    try:
        made.start(path="/pid")
        yield made
    finally:
        made.discard()


def agreed(server: Gunicorn, rabbitmq: RabbitMQ, run_dir: Path, count: int) -> set[str]:
    """Blocks: until the broker lists `count` connections, and page and command show exactly those."""

    def agree() -> set[str]:
        broker = by_broker(rabbitmq, server.name)
        same = broker == by_page(server) == by_command(run_dir)
        return broker if same and len(broker) == count else set()

    return wait_until(agree, 20.0, f"{count} connections, the same for broker, page and command")


def test_killed_and_reloaded_workers(server: Gunicorn, rabbitmq: RabbitMQ, run_dir: Path, queue: str) -> None:
    before = agreed(server, rabbitmq, run_dir, 2)
    assert pids(before) == server.pids()

    victim = min(pids(before))
    os.kill(victim, signal.SIGKILL)
    killed = agreed(server, rabbitmq, run_dir, 2)
    assert victim not in pids(killed) and pids(killed) == server.pids()
    assert len(list(run_dir.iterdir())) == 2, "the dead worker's file is gone"

    server.reload()
    wait_until(lambda: not pids(by_broker(rabbitmq, server.name)) & pids(killed), 20.0, "new workers")
    reloaded = agreed(server, rabbitmq, run_dir, 2)
    assert not pids(reloaded) & pids(killed)

    server.reach_workers(f"/consume?queue={queue}")
    both = agreed(server, rabbitmq, run_dir, 2 + len({name for name in by_page(server) if ":consume:" in name}))
    assert {name.split(":")[1] for name in both} == {"publish", "consume"}

    server.stop()
    assert list(run_dir.iterdir()) == [], "an orderly end leaves nothing"
    assert not server.alarms()


def test_one_scrape_tells_of_all_workers(server: Gunicorn, rabbitmq: RabbitMQ, run_dir: Path, queue: str) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    def scraped() -> dict[int, float]:
        text = server.get("/metrics").body.decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        return {int(each.labels["pid"]): each.value for each in families["wsgi_messaging_confirmed"].samples}

    agreed(server, rabbitmq, run_dir, 2)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(server.get, [f"/publish?queue={queue}"] * 40))
    served = [answer.json()["pid"] for answer in answers]
    expected = {pid: float(served.count(pid)) for pid in server.pids()}
    wait_until(lambda: scraped() == expected, what=f"the publishes of each worker: {expected}")
    stays(lambda: scraped() == expected, 0.5, "the same from whichever worker answers")


def test_the_broker_dies_and_comes_back(own_rabbitmq: RabbitMQ, run_dir: Path, unique: Callable[[str], str]) -> None:
    """The page goes on, says what is wrong, and readiness follows; liveness does not."""
    server = gunicorn(unique("observed"), own_rabbitmq, run_dir)
    if server.missing() or importlib.util.find_spec("prometheus_client") is None:
        missing("gunicorn or prometheus_client is not installed: make test")
    try:
        server.start(path="/pid")
        agreed(server, own_rabbitmq, run_dir, 2)
        wait_until(lambda: server.get("/readyz").status == 200, what="ready")
        own_rabbitmq.kill()
        wait_until(lambda: by_page(server) == set() == by_command(run_dir), 10.0, "nobody ready on page and command")
        troubles = wait_until(
            lambda: [row["trouble"] for row in server.get("/status.json").json()["connections"] if row["trouble"]],
            5.0,
            "what is wrong",
        )
        assert "refused" in troubles[0]
        assert (server.get("/readyz").status, server.get("/livez").status) == (503, 200)
        own_rabbitmq.start()
        after = agreed(server, own_rabbitmq, run_dir, 2)
        assert pids(after) == server.pids(), "the same workers"
        wait_until(lambda: server.get("/readyz").status == 200, what="ready again")
        board = server.get("/status.json").json()
        assert [row["reconnects"] for row in board["connections"]] == [1, 1]
    finally:
        server.discard()
