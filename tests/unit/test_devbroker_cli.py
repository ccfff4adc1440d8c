"""`wsgi-messaging devbroker`: ready line, warning, clean end."""

from __future__ import annotations

import signal
import subprocess
import sys

import amqp
import pytest

from wsgi_messaging import cli
from wsgi_messaging.devbroker import DevBroker


def test_serves_until_a_signal_comes() -> None:
    command = [
        sys.executable,
        "-m",
        "wsgi_messaging",
        "devbroker",
        "--port",
        "0",
        "--user",
        "me:secret",
        "--vhost",
        "v",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            ready = process.stdout.readline()
            assert "for development and tests only, not for production" in ready
            host = ready.split("@")[1].split("/")[0]
            connection = amqp.Connection(host, userid="me", password="secret", virtual_host="v")
            connection.connect()
            connection.collect()
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "devbroker stopped: 1 connection served\n"
        assert process.wait(5) == 0


def test_a_taken_port_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with DevBroker() as broker:
        assert cli.main(["devbroker", "--port", str(broker.port)]) == 1
    assert f"127.0.0.1:{broker.port}: Address already in use" in capfd.readouterr().err


@pytest.mark.parametrize("wrong", [["--host", "0.0.0.0"], ["--user", "no-password"]])
def test_wrong_settings_are_named(wrong: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devbroker", *wrong]) == 2
    assert wrong[0].lstrip("-") in capfd.readouterr().err
