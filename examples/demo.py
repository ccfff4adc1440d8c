"""`make demo`: the example API in gunicorn, two workers, seen working and seen idle; half a minute at most.

It starts the embedded broker (or uses the one of WSGI_MESSAGING_URL) and gunicorn with hooks/gunicorn.conf.py as
shipped, posts orders, leaves every connection idle for more than three heartbeat intervals, posts again, and prints
what each worker's transport tells of itself. Exit status 0: nothing was lost and no connection was dropped.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsgi_messaging.cli.hooks import find
from wsgi_messaging.devbroker import DevBroker

WORKERS = 2
HEARTBEAT = 2
IDLE_SECONDS = 3.5 * HEARTBEAT
ORDERS = 60  # each time


@dataclass
class Seen:
    """What the demonstration has asked and heard."""

    url: str
    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0

    def get(self, path: str, body: bytes | None = None) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", body, timeout=10) as answer:
            return json.load(answer)

    def post_orders(self) -> int:
        """Gives how many: `ORDERS`, eight at a time; the first one alone, and where it is refused no other."""
        self._count(*self._post_order(0))
        if self.refused:
            return 1
        with ThreadPoolExecutor(8) as pool:
            for seconds, error in pool.map(self._post_order, range(1, ORDERS)):
                self._count(seconds, error)
        return ORDERS

    def _count(self, seconds: float, error: str | None) -> None:
        self.slowest = max(self.slowest, seconds)
        self.accepted += error is None
        self.refused += error is not None
        if error and self.refused == 1:
            print(f"refused   {error}")

    def _post_order(self, number: int) -> tuple[float, str | None]:
        began_at = time.monotonic()
        try:
            self.get("/orders", json.dumps({"number": number}).encode())
        except urllib.error.HTTPError as exc:
            return time.monotonic() - began_at, exc.read().decode().strip()
        except OSError as exc:
            return time.monotonic() - began_at, str(exc)
        return time.monotonic() - began_at, None

    def statuses(self) -> dict[int, dict[str, Any]]:
        """The status of each worker, by pid. Which worker answers is chance, so it asks until all have."""
        found: dict[int, dict[str, Any]] = {}

        def all_answered() -> bool:
            status = self.get("/status")
            found[status["pid"]] = status
            return len(found) >= WORKERS

        wait_until(all_answered, 10.0, "an answer of every worker")
        return found


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    ends_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends_at:
            raise TimeoutError(f"no {what} within {seconds:g} s")
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def start_gunicorn(stack: ExitStack, broker_url: str, log: Any) -> str:
    """gunicorn with the shipped hooks, serving examples/api.py; its address."""
    port = free_port()
    environ = {**os.environ, "WSGI_MESSAGING_URL": broker_url, "WSGI_MESSAGING_HEARTBEAT": str(HEARTBEAT)}
    # gunicorn's control socket would be the one of another gunicorn that this user runs.
    environ["XDG_RUNTIME_DIR"] = stack.enter_context(tempfile.TemporaryDirectory())
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "-c", str(find("hooks") / "gunicorn.conf.py")),
            *("--bind", f"127.0.0.1:{port}", "--workers", str(WORKERS), "--worker-class", "gthread"),
            *("--threads", "4", "--chdir", str(Path(__file__).resolve().parent), "api:application"),
        ],
        env={"WSGI_MESSAGING_APP": "demo", **environ},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    stack.callback(stop, process)

    def is_serving() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"gunicorn ended at once, status {process.returncode}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(is_serving, 10.0, "answer from gunicorn")
    return f"http://127.0.0.1:{port}"


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def print_table(statuses: dict[int, dict[str, Any]]) -> None:
    row = "  {:>7}  {:<32} {:>10} {:>10} {:>10} {:>7}".format
    print(row("worker", "connection", "beats sent", "received", "confirmed", "errors"))
    for pid, status in sorted(statuses.items()):
        for one in status["connections"]:
            errors = one["failed"] + one["reconnects"]
            print(row(pid, one["name"][:32], one["beats_sent"], one["beats_received"], one["confirmed"], errors))


def faults(seen: Seen, before: dict[int, dict[str, Any]], after: dict[int, dict[str, Any]]) -> list[str]:
    """What went wrong, in words; empty when all went well."""
    connections = [one for status in after.values() for one in status["connections"]]
    confirmed = sum(one["confirmed"] for one in connections)
    found = []
    if seen.refused:
        found.append(f"{seen.refused} orders were refused")
    if confirmed != seen.accepted:
        found.append(f"{seen.accepted} orders were accepted, {confirmed} messages confirmed")
    if before.keys() != after.keys():
        found.append("a worker was replaced")
    if len({one["name"] for one in connections}) < WORKERS:
        found.append("a worker has no connection of its own")
    if any(one["reconnects"] for one in connections):
        found.append("a connection was dropped and made anew")
    if any(one["beats_sent"] < IDLE_SECONDS / HEARTBEAT for one in connections):
        found.append("a heartbeat stood still")
    return found


def run(stack: ExitStack, log: Any) -> list[str]:
    broker_url = os.environ.get("WSGI_MESSAGING_URL")
    if broker_url:
        print("broker    the one of WSGI_MESSAGING_URL")
    else:
        broker = stack.enter_context(DevBroker())
        broker_url = broker.url
        print(f"broker    embedded, 127.0.0.1:{broker.port} (for development and tests only)")
    seen = Seen(start_gunicorn(stack, broker_url, log))
    print(f"server    gunicorn -c hooks/gunicorn.conf.py, {WORKERS} workers, {seen.url}")
    before = seen.statuses()
    posted = seen.post_orders()
    if seen.refused:
        return [f"orders were refused: {seen.refused} of {posted}"]
    print(f"orders    {posted} posted, 8 at a time; slowest answer {seen.slowest * 1000:.0f} ms")
    print(f"idle      {IDLE_SECONDS:g} s: {IDLE_SECONDS / HEARTBEAT:g} heartbeat intervals of {HEARTBEAT} s")
    time.sleep(IDLE_SECONDS)
    seen.slowest = 0.0
    posted = seen.post_orders()
    print(f"orders    {posted} posted again; slowest answer {seen.slowest * 1000:.0f} ms\n")
    after = seen.statuses()
    print_table(after)
    return faults(seen, before, after)


def main() -> int:
    with tempfile.TemporaryFile() as log:
        try:
            with ExitStack() as stack:
                found = run(stack, log)
        except (OSError, RuntimeError) as exc:  # TimeoutError is an OSError
            found = [str(exc)]
        if found:
            log.seek(0)
            print("\nThe end of gunicorn's log:", *log.read().decode(errors="replace").splitlines()[-15:], sep="\n  ")
            print(f"\nBAD: {'; '.join(found)}.")
            return 1
    print("\nGOOD: every order was confirmed, and no connection was dropped while it was idle.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
