"""README.rst is true: its code runs as it stands, its files and folders exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from wsgiref.util import setup_testing_defaults

import pytest

from tests.harness.secret import dev_broker
from tests.harness.waiting import wait_until
from wsgi_messaging import Transport
from wsgi_messaging.devbroker import DevBroker

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.rst").read_text()


@pytest.fixture
def broker() -> Iterator[DevBroker]:
    with dev_broker() as broker:
        yield broker


def code_blocks() -> list[str]:
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", README)
    return [dedent(block) for block in blocks]


def test_the_first_screen_serves_a_request(broker: DevBroker) -> None:
    source = code_blocks()[0].replace("amqp://guest:guest@127.0.0.1:5672//", broker.url)
    assert broker.url in source
    names: dict[str, object] = {}
    exec(compile(source, "README.rst", "exec"), names)
    environ: dict[str, object] = {}
    setup_testing_defaults(environ)
    answered: list[str] = []
    body = names["application"](environ, lambda status, headers: answered.append(status))  # type: ignore[operator]
    assert list(body) == [b"ordered\n"]
    assert answered == ["200 OK"]
    transport = names["transport"]
    assert isinstance(transport, Transport)
    assert transport.status().connections[0].confirmed == 1
    transport.close()


def test_the_first_screen_is_twelve_lines_and_the_two_commands() -> None:
    lines = [line for line in code_blocks()[0].splitlines() if line.strip()]
    assert len(lines) <= 12
    first_screen = README[: README.index("In which server")]
    assert "make demo" in first_screen
    assert "make test" in first_screen
    assert "does **not** do" in first_screen


def test_the_second_example_runs(
    broker: DevBroker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WSGI_MESSAGING_URL", broker.url)
    printed = ""

    def has_consumed() -> bool:
        nonlocal printed
        printed += capsys.readouterr().out
        return printed.count("{'id':") >= 100

    source = code_blocks()[1] + "    wait_until(has_consumed, 10, 'the consumer got the messages')\n"
    exec(compile(source, "README.rst", "exec"), {"wait_until": wait_until, "has_consumed": has_consumed})
    assert "no queue takes routing key 'nobody.wants.this'" in printed


def test_the_rpc_example_runs(broker: DevBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSGI_MESSAGING_URL", broker.url)
    source = code_blocks()[2]
    assert "RPCServer" in source
    exec(compile(source, "README.rst", "exec"), {})


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:hooks|tests|examples)/[\w.-]+", README))))
def test_what_it_names_exists(path: str) -> None:
    assert (ROOT / path).exists()
