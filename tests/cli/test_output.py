"""What every command does when its output cannot be written: it ends, and says so or, as other tools, nothing."""

from __future__ import annotations

import errno
import io
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
