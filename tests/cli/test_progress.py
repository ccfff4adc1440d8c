"""Long work says how far it is, where that is of use; interrupted it finishes its step and says what was done."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from typing import TextIO

import pytest
from kombu import Exchange, Queue

from tests.harness import processes
from tests.harness.secret import dev_broker
from tests.harness.waiting import wait_until
from wsgi_messaging import Message, Settings, Transport
from wsgi_messaging.cli import main, output
from wsgi_messaging.cli.output import Progress
from wsgi_messaging.cli.queues import ask
from wsgi_messaging.devbroker import DevBroker

COUNT = 60
LINE = r"replayed: \d+ of 60 \(\d+ %, \d+/s(, \d+ s left)?\)"


class Terminal:
    """A pseudo-terminal of some width; `stream` writes to it."""

    def __init__(self, columns: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream: TextIO = os.fdopen(slave, "w")

    def text(self) -> str:
        """What was written; nothing more can be."""
        self.stream.close()
        found = b""
        try:
            while data := os.read(self._master, 65536):
                found += data
        except OSError:  # Linux: the other end was closed
            pass
        os.close(self._master)
        return found.decode()


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is shown at each step, whatever time it takes."""
    for is_terminal in (True, False):
        monkeypatch.setitem(output.PROGRESS_EVERY, is_terminal, 0.0)


@pytest.mark.parametrize("columns", [0, 30, 120])
def test_one_line_that_is_rewritten_on_a_terminal(always: None, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    terminal = Terminal(columns)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("replayed", 60, is_quiet=False) as progress:
        for done in (1, 59, 60):
            progress.show(done)
    text = terminal.text()
    assert "\n" not in text
    assert "\x1b" not in text, "it needs no colour, so NO_COLOR has nothing to take away"
    _nothing, *shown, wiped, end = text.split("\r")
    assert [line.split()[1] for line in shown] == ["1", "59", "60"]
    assert all(len(line) < (columns or 80) for line in shown), "a line that wraps cannot be rewritten"
    assert (wiped.strip(), end) == ("", "")
    if columns != 30:
        assert all(re.fullmatch(LINE, line.rstrip()) for line in shown)


@pytest.mark.parametrize("where", ["file", "dumb terminal"])
def test_plain_lines_elsewhere(
    always: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    terminal = Terminal(80)
    if where == "dumb terminal":
        monkeypatch.setattr(sys, "stderr", terminal.stream)
        monkeypatch.setenv("TERM", "dumb")
    with Progress("replayed", 60, is_quiet=False) as progress:
        progress.show(10)
        progress.show(60)
    text = terminal.text().replace("\r\n", "\n") + capsys.readouterr().err
    assert "\r" not in text
    assert [bool(re.fullmatch(LINE, line)) for line in text.splitlines()] == [True, True]


def test_not_more_often_than_is_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("replayed", 60, is_quiet=False) as progress:
        for done in range(60):
            progress.show(done)
    assert capsys.readouterr().err == ""


class Dead:
    """A queue with `COUNT` dead letters of the queue `work`."""

    def __init__(self, broker: DevBroker, unique: Callable[[str], str]) -> None:
        self.url = broker.url
        self.work, self.name = unique("work"), unique("dead")
        graveyard = Exchange(unique("graveyard"), "fanout")
        with Transport(broker.url) as transport:
            transport.declare(Queue(self.name, graveyard))
            dead_lettering = {"x-dead-letter-exchange": graveyard.name}
            transport.declare(Queue(self.work, Exchange(unique("x"), "topic"), queue_arguments=dead_lettering))
            messages = [Message(body={"id": number}, routing_key=self.work) for number in range(COUNT)]
            assert transport.publish_many(messages) == [None] * COUNT
            transport.consume(self.work, lambda delivery: delivery.reject(), 0)
            wait_until(lambda: self.depths() == [0, COUNT], 20.0, "the deaths")

    def depths(self) -> list[int]:
        """Messages in `work`, and in the dead-letter queue."""
        return [int(row["messages"]) for row in ask([self.work, self.name], Settings(url=self.url), 5.0)]

    def replay(self, *arguments: str) -> subprocess.Popen[str]:
        """The command in a process of its own, with a broker that does not confirm it is in its first batch."""
        command = [sys.executable, "-m", "wsgi_messaging", "dlq", "replay", self.name, "--url", self.url, *arguments]
        process = subprocess.Popen(
            command, cwd=processes.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: self.depths()[0] > 0, 20.0, "the first batch")
        return process


@pytest.fixture
def broker() -> Iterator[DevBroker]:
    with dev_broker() as broker:
        yield broker


@pytest.fixture
def dead(broker: DevBroker, unique: Callable[[str], str]) -> Dead:
    return Dead(broker, unique)


def test_a_replay_shows_progress(always: None, dead: Dead, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dlq", "replay", dead.name, "--url", dead.url]) == 0
    captured = capsys.readouterr()
    assert [int(line.split()[1]) for line in captured.err.splitlines()] == [10, 60], "one line for each batch"
    assert all(re.fullmatch(LINE, line) for line in captured.err.splitlines())
    assert captured.out.splitlines()[-1] == f"60 of 60 replayed, 0 kept in {dead.name}"


@pytest.mark.parametrize("action", ["show", "replay"])
@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_no_progress_for_who_wants_none(
    always: None, dead: Dead, capsys: pytest.CaptureFixture[str], action: str, option: str
) -> None:
    assert main(["dlq", action, dead.name, option, "--limit", "60", "--url", dead.url]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_finishes_the_batch(broker: DevBroker, dead: Dead, number: int) -> None:
    broker.hold_confirms()
    with dead.replay() as process:
        process.send_signal(number)
        assert process.stderr is not None
        assert process.stderr.readline() == "\n"
        assert "ending after this step" in process.stderr.readline()
        broker.release_confirms()
        text, _rest = process.communicate(timeout=20)
    assert process.returncode == 130
    assert text.splitlines()[-1] == f"10 of 60 replayed, 0 kept in {dead.name}; interrupted, 50 left as they were"
    wait_until(lambda: dead.depths() == [10, 50], what="each message in one place")


def test_interrupted_it_says_so_to_a_program_too(broker: DevBroker, dead: Dead) -> None:
    broker.hold_confirms()
    with dead.replay("--json") as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        process.stderr.readline()
        broker.release_confirms()
        text, _rest = process.communicate(timeout=20)
    found = json.loads(text)
    assert (found["interrupted"], found["examined"], found["replayed"]) == (True, 10, 10)


def test_interrupted_twice_it_ends_at_once_and_loses_nothing(broker: DevBroker, dead: Dead) -> None:
    broker.hold_confirms()
    with dead.replay("--timeout", "60") as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        text, _rest = process.communicate(timeout=20)
    assert process.returncode == 130
    assert text.splitlines()[-1].startswith("0 of 60 replayed")
    wait_until(lambda: dead.depths()[1] == 60, what="what was not confirmed is back")
    broker.release_confirms()
