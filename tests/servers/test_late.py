"""A request that outlives what mod_wsgi's shutdown waits for, and is the first to publish, in a sub-interpreter."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.apache import Apache
from tests.harness.processes import is_alive
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.harness.waiting import wait_until

# Daemon processes whose requests may take longer than our part of the end, with the hook's alias as it stands.
GROUP = """\
WSGIDaemonProcess late processes=1 threads=3 shutdown-timeout=8
WSGIProcessGroup late
WSGIApplicationGroup late
"""


@pytest.fixture
def server(rabbitmq: RabbitMQ) -> Iterator[Apache]:
    env = {"WSGI_MESSAGING_URL": rabbitmq.url, "WSGI_MESSAGING_APP": "late"}
    server = Apache("late", mode="embedded", workers=1, env=env, extra=GROUP)
    if (reason := server.missing()) is not None:
        missing(reason)
    yield server
    server.discard()


def test_a_first_publish_behind_the_shutdown_is_refused_and_crashes_nothing(server: Apache, rabbitmq: RabbitMQ) -> None:
    """Red without `prepare`: its thread is alive in an interpreter that is destroyed, a segmentation fault."""
    rabbitmq.declare_queue("late")
    server.start()
    pid = server.get("/pid").json()["pid"]
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(server.get, "/slow?seconds=3&queue=late&id=1")
        time.sleep(0.5)  # for the request to begin
        os.kill(pid, signal.SIGTERM)
        answer = late.result()
    assert answer.status == 503 and "this process is ending" in answer.json()["error"], answer
    wait_until(lambda: not is_alive(pid), 15.0, "the end of the process")
    assert server.reach_workers("/publish?queue=late&id=2").keys() != {pid}
    assert server.stop() == 0
    assert server.alarms() == []
