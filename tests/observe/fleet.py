"""gunicorn with the shipped hooks, whose workers show themselves, on a real RabbitMQ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.harness.processes import ROOT, environment
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.servers import Gunicorn

HERE = ROOT / "tests" / "observe"


def gunicorn(name: str, rabbitmq: RabbitMQ, run_dir: Path, *, workers: int = 2) -> Gunicorn:
    """Not started yet. With threads: a sync worker waits half a minute for a browser's speculative connection."""
    return Gunicorn(
        name,
        worker_class="gthread",
        workers=workers,
        module="observed_app",
        env={
            "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}",
            "WSGI_MESSAGING_URL": rabbitmq.url,
            "WSGI_MESSAGING_APP": name,
            "WSGI_MESSAGING_HEARTBEAT": "5",
            "WSGI_MESSAGING_RUN_DIR": str(run_dir),
        },
    )


def by_broker(rabbitmq: RabbitMQ, name: str) -> set[str]:
    """The names of the connections that RabbitMQ knows."""
    return {each.connection_name for each in rabbitmq.connections(f"{name}:")}


def by_page(server: Gunicorn) -> set[str]:
    """Those that the page's JSON shows as ready."""
    return _ready(server.get("/status.json").json())


def by_command(run_dir: Path) -> set[str]:
    """Those that `wsgi-messaging status` shows as ready."""
    done = subprocess.run(
        [sys.executable, "-m", "wsgi_messaging", "status", "--json", "--run-dir", str(run_dir)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return _ready(json.loads(done.stdout))


def _ready(board: dict[str, Any]) -> set[str]:
    return {row["name"] for row in board["connections"] if row["is_ready"]}


def pids(names: set[str]) -> set[int]:
    """The pids in connections' names (app:role:pid@host)."""
    return {int(name.split(":")[2].split("@")[0]) for name in names}
