"""Fixtures of the observation tests: a run directory, the embedded broker, transports that show themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.secret import dev_broker
from wsgi_messaging import Settings, Transport
from wsgi_messaging.devbroker import DevBroker
from wsgi_messaging.runtime import worker


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory that does not exist yet."""
    return tmp_path / "run"


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with dev_broker() as started:
        yield started


@pytest.fixture
def make(broker: DevBroker, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Transport]]:
    """make(app="x", ...) gives a transport on the embedded broker that shows itself; closed after the test.

    The process knows of no others, and is no server's: another file's tests may have left one, or marked it.
    """
    monkeypatch.setattr(worker, "_members", {})
    monkeypatch.setattr(worker, "_marked", None)
    made: list[Transport] = []

    def build(**changes: Any) -> Transport:
        settings = Settings(**{"url": broker.url, "app": "seen", "run_dir": str(run_dir), "heartbeat": 2} | changes)
        made.append(Transport(settings=settings))
        return made[-1]

    yield build
    for each in made:
        each.close()
