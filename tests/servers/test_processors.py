"""A processor for each worker: the file of docs/servers/gunicorn.rst, and uWSGI's own option."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.processes import ROOT
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.harness.servers import UWSGI, Gunicorn, Server
from tests.harness.waiting import wait_until

NAME = "one_processor.conf.py"


def gunicorn(folder: Path) -> Server:
    page = (ROOT / "docs" / "servers" / "gunicorn.rst").read_text()
    found = re.search(rf"   :caption: {re.escape(NAME)}\n\n((?:    ?.*\n|\n)+)", page)
    assert found, f"the page has no block {NAME}"
    config = folder / NAME
    config.write_text(re.sub(r"^   ", "", found[1], flags=re.MULTILINE))
    return Gunicorn("bound-gunicorn", worker_class="gthread", config=config, workers=2)


def uwsgi(_folder: Path) -> Server:
    return UWSGI("bound-uwsgi", extra=("--cpu-affinity", "1"), workers=2)


def processors(server: Server) -> list[int]:
    """What the workers' threads may use: one entry for each worker and processor."""
    return sorted(
        processor
        for pid in server.reach_workers("/pid")
        for processor in {each for task in os.listdir(f"/proc/{pid}/task") for each in os.sched_getaffinity(int(task))}
    )


@pytest.mark.parametrize("make", [gunicorn, uwsgi])
def test_each_worker_has_a_processor(make: Callable[[Path], Server], tmp_path: Path, rabbitmq: RabbitMQ) -> None:
    """Also the one that comes for a worker that was killed: it gets what that one had."""
    server = make(tmp_path)
    if reason := server.missing():
        missing(reason)
    server.env["WSGI_MESSAGING_URL"] = rabbitmq.url
    free = sorted(os.sched_getaffinity(0))
    expected = sorted((free * 2)[:2])
    try:
        server.start()
        before = server.reach_workers("/pid")
        assert processors(server) == expected
        for pid in before:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda gone=pid: gone not in server.pids(), what="its end")  # type: ignore[misc]
            assert processors(server) == expected
    finally:
        server.discard()
