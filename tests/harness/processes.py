"""Processes that end with the test run, and ports that nobody else is given.

A child gets PR_SET_PDEATHSIG: it is terminated even when pytest itself is killed and runs no tear-down. Linux means
the parent THREAD's death by that, so a child that is to last is started by the main thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


_given: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """A free port below the ephemeral range, so that no outgoing connection takes it before its server does.

    No port is given twice; test processes that run at the same time have a part of the range each.
    """
    first = 20000 + 3000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4)
    for _attempt in range(500):
        port = random.randrange(first, first + 3000)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise RuntimeError(f"no free port found on {host}")


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts connections there now."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def spawn(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | str = ROOT,
    output: IO[bytes] | int = subprocess.DEVNULL,
    die_with_us: bool = True,
) -> subprocess.Popen[bytes]:
    """A child in a session of its own, with no standard input."""

    def before_exec() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(
        list(command),
        env=None if env is None else dict(env),
        cwd=str(cwd),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=before_exec if die_with_us else None,
    )


def signal_process(pid: int, number: int) -> bool:
    """Whether the process was there to get the signal."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def is_alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def is_stopped(pid: int) -> bool:
    """Whether no thread of it runs: behind SIGSTOP each stops for itself, and may answer somebody before it does."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


def descendants(pid: int) -> list[int]:
    """Pids of all children of `pid` and theirs, alive now."""
    found: list[int] = []
    tasks = Path(f"/proc/{pid}/task")
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for task in os.listdir(tasks):
            for child in _children(tasks / task):
                found.append(child)
                found.extend(descendants(child))
    return found


def _children(task: Path) -> list[int]:
    try:
        return [int(child) for child in (task / "children").read_text().split()]
    except OSError:
        return []


def stop(process: subprocess.Popen[bytes], number: int = signal.SIGTERM, timeout: float = 10.0) -> int:
    """End a child and whatever it started; the exit status. SIGKILL for those that are left after `timeout`."""
    family = descendants(process.pid)
    if process.poll() is None:
        signal_process(process.pid, number)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            family = sorted({*family, *descendants(process.pid)})
            process.kill()
            process.wait()
    for pid in family:
        if is_alive(pid) and _started_by_us(pid):
            signal_process(pid, signal.SIGKILL)
    wait_until(lambda: not [pid for pid in family if is_alive(pid)], 5.0, f"the end of {process.args!r}")
    return process.returncode


def _started_by_us(pid: int) -> bool:
    """Guards against a pid that was used again: those of our children have an environment we gave them."""
    try:
        return b"SUITE_RUN=" + RUN.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


RUN = f"{os.getpid()}-{random.randrange(10**6)}"


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment without what would steer a broker or server, marked as ours, plus `changes`."""
    steering = ("RABBITMQ_", "WSGI_MESSAGING_", "AMQP_URL", "CLOUDAMQP_URL", "GUNICORN_", "PYTEST_", "COVERAGE_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    env["SUITE_RUN"] = RUN
    for name, value in changes.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


def unwritable(name: str) -> IO[bytes]:
    """A standard output to which a child cannot write: a "pipe" whose reader has left, or a file's name."""
    if name != "pipe":
        return open(name, "wb", buffering=0)
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "wb", buffering=0)


def program(name: str, *more_folders: str) -> str | None:
    """Path of a program, looked for beside this Python first."""
    folders = [str(Path(sys.executable).parent), *more_folders, os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]
    return shutil.which(name, path=os.pathsep.join(folders))


def socket_owners(local_port: int, remote_port: int) -> set[int]:
    """Pids that hold the loopback TCP connection from `local_port` to `remote_port`: after a fork, maybe several."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _slot, local, remote, _state, *rest = line.split()
        if (int(local.split(":")[1], 16), int(remote.split(":")[1], 16)) == (local_port, remote_port):
            inodes.add(f"socket:[{rest[5]}]")
    owners = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) in inodes:
                owners.add(int(link.parts[2]))
        except OSError:
            continue
    return owners
