"""The files of examples/deploy are right: they parse, agree with each other, and the commands in them serve."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import processes
from tests.harness.processes import ROOT
from tests.harness.requirements import missing
from tests.harness.secret import dev_broker
from tests.harness.servers import find
from tests.harness.waiting import wait_until
from wsgi_messaging import Transport
from wsgi_messaging.observe import status
from wsgi_messaging.observe.health import HealthEndpoints
from wsgi_messaging.servers.gunicorn import EXIT_SECONDS

DEPLOY = ROOT / "examples" / "deploy"
FOLDER = "/srv/shop"
GRACEFUL_TIMEOUT = 30
"""gunicorn's default, which the samples leave as it is."""
SHOP = """\
from wsgi_messaging import MessagingMiddleware, Transport


def shop(environ, start_response):
    start_response("204 No Content", [])
    return []


application = MessagingMiddleware(shop, Transport(name="shop"), health_path="")
"""


def unit() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string((DEPLOY / "shop.service").read_text())
    return parsed


def instructions() -> list[tuple[str, str]]:
    """Of the Containerfile."""
    lines = [line for line in (DEPLOY / "Containerfile").read_text().splitlines() if line and line[0] != "#"]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    """What the Deployment's pods are."""
    yaml = pytest.importorskip("yaml")
    deployment, service = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    found: dict[str, Any] = template["spec"]
    return found


def test_the_pods_have_the_probes_that_the_middleware_answers(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    (port,) = container["ports"]
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness")]
    with Transport() as transport:
        assert tuple(probe["path"] for probe in probes) == HealthEndpoints(transport, "").paths
    assert {probe["port"] for probe in probes} == {port["name"]}
    (command,) = [text for name, text in instructions() if name == "CMD"]
    assert f"0.0.0.0:{port['containerPort']}" in json.loads(command), "the probes must reach it from outside"
    assert ("EXPOSE", str(port["containerPort"])) in instructions()
    assert "command" not in container, "process 1 is the image's"


def test_the_grace_is_longer_than_what_ends_within_it(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    assert pod["terminationGracePeriodSeconds"] > int(seconds) + GRACEFUL_TIMEOUT + EXIT_SECONDS
    assert float(unit()["Service"]["TimeoutStopSec"]) > GRACEFUL_TIMEOUT + EXIT_SECONDS


def test_the_secret_is_nowhere_but_in_the_environment(pod: dict[str, Any]) -> None:
    (variable,) = pod["containers"][0]["env"]
    assert variable["name"] == "WSGI_MESSAGING_URL" and "secretKeyRef" in variable["valueFrom"]
    assert not [text for name, text in instructions() if name in ("ENV", "ARG")]
    assert dict(instructions())["USER"].isdigit(), "runAsNonRoot can check a number only"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What /srv/shop is on a host: the application, the virtual environment, the hook."""
    gunicorn = find("gunicorn")
    if gunicorn is None:
        missing("gunicorn is not installed: make test, or pip install gunicorn")
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "gunicorn").symlink_to(gunicorn)
    hooks = [sys.executable, "-m", "wsgi_messaging", "hooks", "--copy", str(tmp_path), "--server", "gunicorn"]
    subprocess.run(hooks, cwd=ROOT, check=True, capture_output=True)
    return tmp_path


def test_systemd_finds_nothing_to_say(folder: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = folder / "shop.service"
    path.write_text((DEPLOY / "shop.service").read_text().replace(FOLDER, str(folder)))
    command = ["systemd-analyze", "verify", "--man=no", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    # It also speaks of the units of this machine, which are none of ours.
    assert not [line for line in (done.stdout + done.stderr).splitlines() if "shop" in line]


class Notified:
    """The socket on which systemd is told that a service of Type=notify is ready."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(20)

    def message(self) -> str:
        return self._socket.recv(4096).decode()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def notified(folder: Path) -> Iterator[Notified]:
    notified = Notified(folder)
    yield notified
    notified.close()


@pytest.mark.parametrize("sample", ["shop.service", "Containerfile"])
def test_the_command_serves_and_ends_in_order(sample: str, folder: Path, notified: Notified) -> None:
    """With the notification, the probes, and a good-bye to the broker at SIGTERM."""
    text = unit()["Service"]["ExecStart"] if sample == "shop.service" else dict(instructions())["CMD"]
    command = json.loads(text) if text.startswith("[") else shlex.split(text)
    command[0] = str(folder / "venv" / "bin" / "gunicorn")
    port = processes.free_port()
    command = [re.sub(r"^(127.0.0.1|0.0.0.0):8000$", f"127.0.0.1:{port}", word) for word in command]
    assert f"127.0.0.1:{port}" in command
    workers = int(command[command.index("--workers") + 1])
    changes = {"NOTIFY_SOCKET": notified.path, "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    name, _sign, run_dir = unit()["Service"]["Environment"].partition("=")
    assert (name, run_dir) == ("WSGI_MESSAGING_RUN_DIR", f"/run/{unit()['Service']['RuntimeDirectory']}")
    with dev_broker() as broker, (folder / "log").open("wb") as log:
        env = processes.environment(WSGI_MESSAGING_URL=broker.url, **changes, **{name: str(folder / "run")})
        server = processes.spawn(command, env=env, cwd=folder, output=log)
        try:
            assert "READY=1" in notified.message()
            wait_until(lambda: probe(port, "/livez") == 200, 20, "alive")
            wait_until(lambda: probe(port, "/readyz") == 200, 20, "ready")
            # All of them: a worker that is stopped while it connects cannot say good-bye.
            wait_until(lambda: ready(folder / "run") == workers, 20, "every worker shows itself, connected")
        finally:
            assert processes.stop(server, signal.SIGTERM) == 0
        assert broker.abrupt_closes == 0
    assert "never ran" not in (folder / "log").read_text()


def ready(run_dir: Path) -> int:
    """How many workers' connections are ready; what `wsgi-messaging status` reads."""
    return sum(row.is_ready for row in status.read(run_dir)) if run_dir.exists() else 0


def probe(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code
    except OSError:
        return 0
