"""What every command does when its output cannot be written: it ends, and says so or, as other tools, nothing."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from tests.harness.processes import ROOT, environment, unwritable
from tests.harness.secret import dev_broker
from wsgi_messaging import Transport
from wsgi_messaging.cli import output


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A broker with a queue that has a message in it."""
    from kombu import Queue

    with dev_broker() as broker:
        with Transport(broker.url) as transport:
            transport.declare(Queue("letters"))
            transport.publish(b"x", "letters")
        yield broker.url


def run(url: str, arguments: Sequence[str], target: str, unbuffered: str = "") -> subprocess.CompletedProcess[str]:
    with unwritable(target) as stdout:
        return subprocess.run(
            [sys.executable, "-m", "wsgi_messaging", *arguments],
            cwd=ROOT,
            env=environment(WSGI_MESSAGING_URL=url, PYTHONUNBUFFERED=unbuffered),
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=20,
            check=False,
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "--count", "1"),
        ("doctor", "hooks/uwsgi.ini"),
        ("queues", "letters"),
        ("dlq", "show", "letters"),
        ("dlq", "replay", "letters"),
        ("hooks", "--list"),
        ("--help",),
    ],
    ids=" ".join,
)
def test_a_reader_that_has_left_ends_it_quietly(url: str, arguments: Sequence[str]) -> None:
    """Fails with a traceback, with what the interpreter says at its end, or with the broker blamed for it."""
    done = run(url, arguments, "pipe")
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_an_error(url: str, unbuffered: str) -> None:
    done = run(url, ["dlq", "show", "letters"], "/dev/full", unbuffered=unbuffered)
    said = "wsgi-messaging: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


class Gone(io.StringIO):
    """A standard error whose reader has left."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_progress_that_nobody_sees_stops_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Gone())
    monkeypatch.setattr(output, "PROGRESS_EVERY", {False: 0.0})
    with output.Progress("replayed", 2, is_quiet=False) as progress:
        progress.show(1)


@pytest.mark.parametrize(
    ("encoding", "text"), [("utf-8", "a\ud800b"), ("ascii", "\u00e4\u20ac"), ("latin-1", "\u20ac")]
)
def test_what_the_output_cannot_encode_is_escaped(encoding: str, text: str) -> None:
    """JSON may hold half a surrogate pair. It ended `call`, after the method had run, and had `listen` show nothing."""
    script = f"from wsgi_messaging.cli.output import print_json; print_json([{text!r}])"
    env = environment(PYTHONIOENCODING=encoding)
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd=ROOT, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout.decode(encoding)) == [text]


def test_a_name_that_the_output_cannot_encode() -> None:
    command = [sys.executable, "-m", "wsgi_messaging", "check", "amqp://u@127.0.0.1:1/\u20ac"]
    env = environment(PYTHONIOENCODING="ascii")
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"connection refused" in done.stdout


def test_json_has_no_control_characters() -> None:
    """`\x9b` is what begins a terminal's commands in one octet. Fails with JSON's own escapes, which end at U+001F."""
    value = {"body": "\x9b2J\x1b[2J\x7f", "caf\xe9": ["\x85"]}
    text = output.as_json(value)
    assert text.isprintable() and json.loads(text) == value and "caf\xe9" in text
