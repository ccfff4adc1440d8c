"""`wsgi-messaging notify` and `listen`, together over the embedded broker."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.harness.processes import ROOT, environment, unwritable
from wsgi_messaging import ConfigurationError
from wsgi_messaging.cli import listen, notify
from wsgi_messaging.devbroker import DevBroker


def run(command: ModuleType, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    command.add_parser(subparsers)
    name = command.__name__.rpartition(".")[2]
    return int(command.run(parser.parse_args([name, *arguments])))


LISTEN = """
import argparse, sys
from wsgi_messaging.cli import listen
parser = argparse.ArgumentParser()
listen.add_parser(parser.add_subparsers())
sys.exit(listen.run(parser.parse_args(["listen", *sys.argv[1:]])))
"""


@pytest.mark.parametrize("ending", ["count", "SIGTERM"])
def test_what_notify_sends_listen_shows(ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    with DevBroker() as broker:
        options = ["--url", broker.url, "--topic", "t", "--exchange", "x"]
        count = ["--count", "2"] if ending == "count" else []
        listening = subprocess.Popen(
            [sys.executable, "-c", LISTEN, *options, *count, "--event-type", "image"],
            env=environment(PYTHONPATH=str(ROOT)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert listening.stdout is not None and listening.stderr is not None
            assert "listening" in listening.stderr.readline()
            for event_type, payload, extra in (
                ("server.create", "0", []),
                ("image.create", '{"id": "é"}', ["--priority", "error"]),
                ("image.delete", '{"__type__": "decimal", "__value__": "2"}', ["--format", "1.0"]),  # kombu's notation
            ):
                assert run(notify, payload, *options, "--event-type", event_type, *extra) == 0
            shown = [json.loads(listening.stdout.readline()) for _ in range(2)]
            if ending == "SIGTERM":
                listening.terminate()
            assert listening.wait(10.0) == 0
        finally:
            if listening.poll() is None:
                listening.kill()
            listening.communicate()
    assert sorted((each["priority"], each["event_type"], str(each["payload"])) for each in shown) == [
        ("error", "image.create", "{'id': 'é'}"),
        ("info", "image.delete", "2"),
    ]
    assert "confirmed: image.create to t.error of exchange x" in capsys.readouterr().out


@pytest.mark.parametrize(("output", "status", "said"), [("pipe", 141, ""), ("/dev/full", 1, "No space left on device")])
def test_listen_ends_when_nobody_takes_its_lines(output: str, status: int, said: str) -> None:
    """As `| head -1`, and on a full disk. Fails when the error stays with the consumer, and listen listens on."""
    with DevBroker() as broker:
        options = ["--url", broker.url, "--topic", "t", "--exchange", "x"]
        command = [sys.executable, "-m", "wsgi_messaging", "listen", *options]
        with (
            unwritable(output) as stdout,
            subprocess.Popen(
                command, cwd=ROOT, env=environment(), stdout=stdout, stderr=subprocess.PIPE, text=True
            ) as listening,
        ):
            try:
                assert listening.stderr is not None
                assert "listening" in listening.stderr.readline()
                assert run(notify, "1", *options) == 0
                assert listening.wait(10.0) == status
                rest = listening.stderr.read()
            finally:
                listening.kill()
    assert said in rest and rest.count("\n") == (1 if said else 0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: run(notify, "{", "--url", "amqp://127.0.0.1"),
        lambda: run(notify, "NaN", "--url", "amqp://127.0.0.1"),
        lambda: run(notify, "[" * 100_000, "--url", "amqp://127.0.0.1"),
        lambda: run(listen, "--event-type", "(", "--url", "amqp://127.0.0.1"),
    ],
)
def test_wrong_arguments_are_said(wrong: Callable[[], int]) -> None:
    with pytest.raises(ConfigurationError):
        wrong()
