"""`wsgi-messaging status`, as somebody types it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kombu import Queue

from tests.harness.processes import ROOT, environment
from tests.harness.waiting import wait_until
from wsgi_messaging import Transport
from wsgi_messaging.devbroker import DevBroker

COMMAND = [sys.executable, "-m", "wsgi_messaging", "status"]


def call(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def shown(make: Callable[..., Transport], run_dir: Path, **changes: Any) -> Transport:
    """A transport with one confirmed message that the command shows."""
    transport = make(run_dir=str(run_dir), **changes)
    transport.publish(b"x", "nobody", mandatory=False)
    wait_until(lambda: confirmed(run_dir) == [1], what="the confirm in the table")
    return transport


def confirmed(run_dir: Path) -> list[int]:
    found = json.loads(call("--json", "--run-dir", str(run_dir)).stdout)
    return [row["confirmed"] for row in found["connections"]]


def test_the_table(make: Callable[..., Transport], run_dir: Path) -> None:
    shown(make, run_dir)
    done = call("--run-dir", str(run_dir))
    head, row, *_rest, summary = done.stdout.splitlines()
    assert done.returncode == 0 and head.split()[:4] == ["app", "pid", "server", "role"]
    assert row.split()[:4] == ["seen", str(os.getpid()), "publish", "ready"]
    assert summary == "1 connection of 1 worker, all ready."
    assert "last sent  last received  " in head
    assert "\x1b" not in done.stdout, "no colour where nobody looks"
    assert call(WSGI_MESSAGING_RUN_DIR=str(run_dir)).stdout.splitlines()[0] == head


def test_json(make: Callable[..., Transport], run_dir: Path) -> None:
    shown(make, run_dir)
    found = json.loads(call("--json", "--run-dir", str(run_dir)).stdout)
    assert (found["scope"], found["workers"]) == ("all", 1)
    (row,) = found["connections"]
    assert (row["pid"], row["role"], row["state"], row["confirmed"]) == (os.getpid(), "publish", "ready", 1)


def test_the_automatic_directories_of_all_applications(make: Callable[..., Transport], tmp_path: Path) -> None:
    own = tmp_path / "wsgi_messaging-shop"
    shown(make, own, app="shop")
    other = tmp_path / "wsgi_messaging-depot"
    shown(make, other, app="depot")
    found = json.loads(call("--json", XDG_RUNTIME_DIR=str(tmp_path)).stdout)
    assert [row["app"] for row in found["connections"]] == ["depot", "shop"]


def test_what_is_none_of_ours_hides_nobody(make: Callable[..., Transport], tmp_path: Path) -> None:
    """In the folder for temporary files anybody may make a directory with such a name."""
    (tmp_path / "wsgi_messaging-a\x1bfile").touch()
    (tmp_path / "wsgi_messaging-gone").symlink_to(tmp_path / "nowhere")
    others = tmp_path / "wsgi_messaging-others"
    others.mkdir()
    others.chmod(0o777)
    assert "may be written to by others" in call(XDG_RUNTIME_DIR=str(tmp_path)).stdout
    shown(make, tmp_path / "wsgi_messaging-shop", app="shop")
    done = call(XDG_RUNTIME_DIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    *_table, summary = done.stdout.splitlines()
    assert summary.startswith("1 connection of 1 worker, all ready. Left out: ")
    assert f"{tmp_path}/wsgi_messaging-a?file: Not a directory; " in summary
    assert f"{others}: may be written to by others (mode 0777); chmod 0700." in summary


def test_nobody_there_and_wrong_directories(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    empty = call("--run-dir", str(tmp_path))
    assert empty.returncode == 1 and "no worker shows itself: set WSGI_MESSAGING_RUN_DIR=auto" in empty.stdout
    none = call("--run-dir", str(tmp_path / "none"))
    assert none.returncode == 2 and "no directory" in none.stderr and "Traceback" not in none.stderr
    tmp_path.chmod(0o777)
    unsafe = call("--run-dir", str(tmp_path))
    assert unsafe.returncode == 2 and "may be written to by others" in unsafe.stderr


def test_a_connection_that_is_not_ready_is_exit_status_1(make: Callable[..., Transport], run_dir: Path) -> None:
    make(url="amqp://user:hunter2@127.0.0.1:1").warm()
    wait_until(lambda: run_dir.exists() and "refused" in call("--run-dir", str(run_dir)).stdout, 10.0, "the failure")
    done = call("--run-dir", str(run_dir))
    assert done.returncode == 1 and "NOT ready" in done.stdout and "hunter2" not in done.stdout


def test_two_connections_of_one_worker(make: Callable[..., Transport], run_dir: Path) -> None:
    transport = make()
    transport.warm()
    transport.declare(Queue("private", exclusive=True))
    wait_until(lambda: "all ready" in call("--run-dir", str(run_dir)).stdout, 10.0, "both connections")
    assert "2 connections of 1 worker, all ready." in call("--run-dir", str(run_dir)).stdout


FROZEN = """
import sys, time
from wsgi_messaging import Settings, Transport
transport = Transport(settings=Settings(url=sys.argv[1], run_dir=sys.argv[2], heartbeat=1))
transport.publish(b"x", "nobody", mandatory=False)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_worker_that_stands_still_is_not_ready(broker: DevBroker, run_dir: Path) -> None:
    """As one of uWSGI without threads. Fails when the state alone counts, which nobody corrects any more."""
    command = [sys.executable, "-c", FROZEN, broker.url, str(run_dir)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            assert call("--run-dir", str(run_dir)).returncode == 0
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: call("--run-dir", str(run_dir)).returncode == 1, 10.0, "what the worker cannot say")
            done = call("--run-dir", str(run_dir))
        finally:
            process.kill()
    assert " stalled " in done.stdout and "1 NOT ready" in done.stdout
    assert "(due every 1 s): stopped, or its threads do not run" in done.stdout


def test_watch_on_a_terminal_until_it_is_interrupted(make: Callable[..., Transport], run_dir: Path) -> None:
    shown(make, run_dir)
    for extra, is_coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        ours, its = pty.openpty()
        command = [*COMMAND, "--watch", "--run-dir", str(run_dir)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment(**extra), stdout=its, start_new_session=True)
        os.close(its)
        seen = b""
        try:
            while seen.count(b"\x1b[H\x1b[2J") < 3:
                seen += os.read(ours, 65536)
            process.send_signal(signal.SIGINT)
            assert process.wait(5.0) == 130
        finally:
            process.kill()
            process.wait(5.0)
            os.close(ours)
        assert (b"\x1b[32m" in seen) == is_coloured
        assert b"publish" in seen
