"""A processor for each worker: the file of docs/servers/gunicorn.rst, and uWSGI's own option."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.pages import block
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.harness.servers import HOOKS, UWSGI, Gunicorn, Server
from tests.harness.waiting import wait_until


def gunicorn(folder: Path) -> Server:
    name = "one_processor.conf.py"
    config = folder / name
    config.write_text(block("servers/gunicorn.rst", name))
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


@pytest.fixture
def expected() -> list[int]:
    """A processor for each of two workers."""
    free = sorted(os.sched_getaffinity(0))
    if len(free) < 2:
        pytest.skip("with a single processor every worker has it")
    return free[:2]


@pytest.mark.parametrize("make", [gunicorn, uwsgi])
def test_each_worker_has_a_processor(
    make: Callable[[Path], Server], expected: list[int], tmp_path: Path, rabbitmq: RabbitMQ
) -> None:
    """Also the one that comes for a worker that was killed: it gets what that one had."""
    server = make(tmp_path)
    if reason := server.missing():
        missing(reason)
    server.env["WSGI_MESSAGING_URL"] = rabbitmq.url
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


def test_the_hook_can_come_with_a_reload(expected: list[int], tmp_path: Path, rabbitmq: RabbitMQ) -> None:
    """When the arbiter forks the first worker that has it, it still has those that know of no processor."""
    server = gunicorn(tmp_path)
    if reason := server.missing():
        missing(reason)
    config = tmp_path / "one_processor.conf.py"
    hook = config.read_text()
    config.write_text((HOOKS / "gunicorn.conf.py").read_text())
    server.env["WSGI_MESSAGING_URL"] = rabbitmq.url
    try:
        server.start()
        before = server.reach_workers("/pid").keys()
        config.write_text(hook)
        server.reload()
        wait_until(lambda: not before & server.pids() and len(server.pids()) == 2, what="new workers")
        assert processors(server) == expected
    finally:
        server.discard()
