"""From a fresh Flask application to one that publishes under gunicorn and uWSGI: the lines of docs/frameworks.rst.

The steps are those of a reader: `wsgi-messaging hooks --copy DIR`, three lines, the server started with the copy.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frameworks import brokerlog
from tests.harness.processes import ROOT, environment
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.harness.servers import UWSGI, Gunicorn, Server
from tests.harness.waiting import wait_until

FRESH = """\
from flask import Flask

application = Flask(__name__)


@application.get("/")
def hello():
    {publishing}
    return "hello"
"""
ADDED = """
from wsgi_messaging.frameworks.flask import Messaging

messaging = Messaging(application)
"""
PUBLISHING = 'messaging.transport.publish("hello", "{queue}")'


def deployed(folder: Path, queue: str) -> Path:
    """The folder of the application, with the hooks beside it."""
    (folder / "fresh.py").write_text(FRESH.format(publishing=PUBLISHING.format(queue=queue)) + ADDED)
    command = [sys.executable, "-m", "wsgi_messaging", "hooks", "--copy", str(folder)]
    subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=60)
    return folder


@pytest.mark.parametrize(("server_type", "hook"), [(Gunicorn, "gunicorn.conf.py"), (UWSGI, "uwsgi.ini")])
def test_a_fresh_application_is_deployed(
    server_type: type[Gunicorn] | type[UWSGI], hook: str, rabbitmq: RabbitMQ, queue: str, tmp_path: Path
) -> None:
    if importlib.util.find_spec("flask") is None:
        missing("flask is not installed: make test")
    folder = deployed(tmp_path, queue)
    label = f"fresh-{server_type.__name__.lower()}"
    env = {"WSGI_MESSAGING_URL": rabbitmq.url, "WSGI_MESSAGING_APP": label, "PYTHONPATH": f"{folder}:{ROOT}"}
    server: Server = server_type(label, module="fresh", config=folder / hook, env=env)
    if (reason := server.missing()) is not None:
        missing(reason)
    try:
        server.launch()
        wait_until(lambda: len(brokerlog.connected(rabbitmq, label)) == 2, 30, "both workers, before any request")
        assert [server.get("/").body for _ in range(4)] == [b"hello"] * 4
        assert [message["payload"] for message in rabbitmq.messages(queue)] == ["hello"] * 4
        assert server.stop() == 0
        ends = wait_until(lambda: len(now := brokerlog.ends(rabbitmq, label)) == 2 and now, 10, "their ends")
        assert all(ends.values()), "the workers said good-bye"
        assert server.alarms() == []
        assert "never ran" not in server.log_text()
    finally:
        server.discard()
