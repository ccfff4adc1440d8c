"""Every server with its own files of hooks/: one connection for each worker, alive while idle, nothing lost at the end.

The tests of one server share its run and come in this order; the last one stops it.
"""

from __future__ import annotations

import re

import pytest

from tests.harness.processes import is_alive
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.traffic import Traffic
from tests.harness.waiting import wait_until
from tests.servers.conftest import HEARTBEAT, MATRIX, Run

pytestmark = [pytest.mark.parametrize("server_name", MATRIX), pytest.mark.timeout(180)]
_NAME = re.compile(r"(?P<app>[^:]+):(?P<role>publish|consume):(?P<pid>\d+)@.+")


def test_each_worker_has_a_connection_of_its_own(run: Run) -> None:
    names = [_NAME.fullmatch(connection.connection_name) for connection in run.before]
    assert all(names), run.before
    pids = {int(name["pid"]) for name in names if name}
    assert len(run.before) == len(pids) == run.server.workers, run.before
    assert pids == set(run.answers), "the connections belong to the processes that serve"
    if run.server.workers > 1:
        assert run.server.master_pid not in pids


def test_no_other_process_holds_a_workers_socket(run: Run) -> None:
    for connection in run.before:
        name = _NAME.fullmatch(connection.connection_name)
        assert name is not None
        assert run.owners[connection.connection_name] == {int(name["pid"])}


def test_publish_is_confirmed(run: Run) -> None:
    for answer in run.answers.values():
        [connection] = answer["status"]["connections"]
        assert connection["role"] == "publish"
        assert connection["confirmed"] >= 1
        assert connection["failed"] == 0
        assert connection["heartbeat"] == HEARTBEAT
    assert all(connection.heartbeat == HEARTBEAT for connection in run.before)


def test_idle_connections_stay(run: Run) -> None:
    assert {(c.name, c.connection_name) for c in run.after} == {(c.name, c.connection_name) for c in run.before}


def test_the_first_request_after_idling_is_as_fast_as_before(run: Run) -> None:
    assert set(run.first_after) == set(run.answers), "the same workers serve"
    # A generous bound: to find a connection that was dropped meanwhile costs the peers' requests a second.
    assert max(run.first_after.values()) <= 5 * run.usual + 0.5, (run.first_after, run.usual)


def test_graceful_reload_loses_nothing(run: Run, rabbitmq: RabbitMQ) -> None:
    if run.server.reload_signal is None:
        pytest.skip(f"{run.server.name} has no reload")
    before = set(run.answers)
    with Traffic(run.server, run.queue) as traffic:
        wait_until(lambda: len(traffic.confirmed) >= 5, 10.0, f"traffic; {traffic.failures[:1]}")
        run.server.reload()
        wait_until(lambda: not [pid for pid in before if is_alive(pid)], 20.0, f"the end of {before}")
        wait_until(lambda: len(traffic.pids - before) >= run.server.workers, 20.0, "requests served by new workers")
    run.confirmed += traffic.confirmed
    assert not traffic.failures
    connected = {connection.connection_name for connection in rabbitmq.connections(run.prefix)}
    assert not [name for name in connected for pid in before if f":{pid}@" in name], "old workers are gone"


def test_stop_leaves_nothing_and_loses_nothing(run: Run, rabbitmq: RabbitMQ) -> None:
    with Traffic(run.server, run.queue) as traffic:
        wait_until(lambda: len(traffic.confirmed) >= 5, 10.0, f"traffic; {traffic.failures[:1]}")
        status = run.server.stop()
    run.confirmed += traffic.confirmed
    assert status == 0
    # Only requests that met a closed port or a closing server may have failed, none with an answer of ours.
    assert not [failure for failure in traffic.failures if "Error" not in failure]
    wait_until(lambda: not rabbitmq.connections(run.prefix), what="the end of all connections")
    arrived = {message["properties"].get("message_id") for message in rabbitmq.messages(run.queue)}
    assert not set(run.confirmed) - arrived, "confirmed messages that are not in the queue"
    assert not run.server.alarms()
    assert not rabbitmq.complaints(run.prefix, run.log_mark)
