"""`make demo`, as far as it is the program that it runs: all well, and a broker that is not there."""

from __future__ import annotations

import subprocess
import sys

from tests.harness import processes
from tests.harness.rabbitmq import RabbitMQ


def demo(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=processes.ROOT,
        env=processes.environment(**environment),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_over_the_embedded_broker() -> None:
    done = demo()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GOOD" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if ":publish:" in line]
    assert len(rows) == 2
    for pid, name, beats, _received, confirmed, errors in rows:
        assert f":publish:{pid}@" in name
        assert int(beats) >= 3
        assert int(confirmed) > 0
        assert errors == "0"


def test_over_a_broker_of_ones_own(rabbitmq: RabbitMQ) -> None:
    done = demo(WSGI_MESSAGING_URL=rabbitmq.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WSGI_MESSAGING_URL" in done.stdout


def test_a_broker_that_is_away_is_the_exit_status() -> None:
    done = demo(WSGI_MESSAGING_URL=f"amqp://guest:marker-secret@127.0.0.1:{processes.free_port()}//")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BAD" in done.stdout
    assert "marker-secret" not in done.stdout + done.stderr
