"""What a benchmark says of the machine that it ran on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.machine import Machine

STAT = """\
cpu  {user} 7 20 900 10 0 3 {steal} 5 5
cpu0 1 1 1 1 1 1 1 1 1 1
"""


@pytest.fixture
def stat(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What /proc/stat says, one look after the other; the last one for good."""
    said: list[str] = []
    original = Path.read_text

    def read_text(path: Path) -> str:
        if str(path) != "/proc/stat":
            return original(path)
        return said.pop(0) if len(said) > 1 else said[0]

    monkeypatch.setattr(Path, "read_text", read_text)
    return said


def test_what_was_stolen_since_the_last_look(stat: list[str], tmp_path: Path) -> None:
    stat += [STAT.format(user=100, steal=50), STAT.format(user=175, steal=75)]
    looked_at = Machine(tmp_path)
    assert looked_at.look()["stolen_percent"] == 25.0
    assert looked_at.look()["stolen_percent"] == 0.0


def test_what_it_takes_is_measured_where_the_broker_writes(tmp_path: Path) -> None:
    seen = Machine(tmp_path).look()
    assert seen["additions_ms"] > 0 and seen["fsync_ms"] > 0
    assert machine.told({"additions_ms": 4.04, "fsync_ms": 0.306, "stolen_percent": 2.4}) == (
        "100,000 additions 4.0 ms, fsync 0.31 ms, 2 % stolen"
    )
    with pytest.raises(FileNotFoundError):
        Machine(tmp_path / "gone").look()
