"""Reconnect storms of many workers, in virtual time: the quarter of tests/faults/test_storm.py, with more of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.storm import cells, document, main, table
from benchmarks.storm_model import CONTESTANTS, OURS, SCENARIOS, WINDOW, Model, Scenario, Storm, busiest, simulate
from wsgi_messaging.connection import connecting

FLEET = Model(workers=1000)
AWAY = Scenario("one broker, away 4 s", 1, 1, 4.0)
QUARTER = 0.25
STORM_TXT = Path(__file__).resolve().parents[2] / "docs" / "storm.txt"


def turned_away(storm: Storm) -> list[float]:
    """Whom the doorkeeper of tests/faults/test_storm.py notes; in the instant of the loss he is not there yet."""
    return [at for at in storm.attempts if 0.0 < at < AWAY.reachable_at]


def share(times: list[float]) -> float:
    return busiest(times, WINDOW) / len(times)


def test_no_window_holds_a_quarter_of_the_attempts() -> None:
    storm = simulate(AWAY, OURS, FLEET)
    times = turned_away(storm)
    assert len(times) >= 3 * FLEET.workers
    assert share(times) <= QUARTER
    assert share([at for at in times if at > AWAY.reachable_at / 2]) <= QUARTER, "still spread when the pauses are long"
    assert len(storm.back) == FLEET.workers


@pytest.mark.parametrize("peer", [name for name in CONTESTANTS if name != OURS])
def test_a_schedule_without_jitter_would_not_pass(peer: str) -> None:
    assert share(turned_away(simulate(AWAY, peer, FLEET))) > QUARTER


@pytest.mark.parametrize("scenario", SCENARIOS[:2], ids=lambda scenario: scenario.name)
def test_nor_with_the_first_attempts_when_the_broker_is_soon_there_again(scenario: Scenario) -> None:
    assert simulate(scenario, OURS, FLEET).busiest_share <= QUARTER


def test_a_worker_is_back_when_all_its_connections_are() -> None:
    storm = simulate(AWAY, OURS, Model(workers=50, connections=2, rate=10.0))
    assert storm.affected == len(storm.back) == 50
    assert storm.connected == 100
    # 100 handshakes at 10 a second, those ahead of their timeout first.
    assert storm.back_after(1.0) >= 9.9


def test_only_who_was_on_a_lost_node_comes_and_finds_another_at_once() -> None:
    storm = simulate(SCENARIOS[3], OURS, FLEET)
    assert 0 < storm.affected < FLEET.workers
    assert len(storm.attempts) == storm.affected
    assert storm.vain == 0.0


def test_who_finds_the_line_full_comes_again() -> None:
    storm = simulate(AWAY, "every second", Model(workers=30, backlog=10))
    assert len(storm.back) == 30
    assert storm.back_after(0.3) < 1.0 < FLEET.timeout < storm.back_after(1.0)


def test_the_same_seed_gives_the_same_storm_and_leaves_the_real_network_in_place() -> None:
    real = connecting.__dict__["open_link"], connecting._CHANCE
    few = Model(workers=20)
    first, second = simulate(AWAY, OURS, few), simulate(AWAY, OURS, few)
    assert first.attempts == second.attempts
    assert first.attempts != simulate(AWAY, OURS, Model(workers=20, seed=2)).attempts
    assert (connecting.__dict__["open_link"], connecting._CHANCE) == real


def test_the_fullest_window_begins_at_any_attempt() -> None:
    assert busiest([0.0, 0.06, 0.12, 0.14, 0.3], WINDOW) == 3
    assert busiest([], WINDOW) == 0


def test_the_command_writes_a_table_and_everything_for_a_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "drawing", lambda: None)
    assert main(["--workers", "5", "--output", str(tmp_path)]) == 0
    lines = (tmp_path / "storm.txt").read_text()
    assert lines in capsys.readouterr().out
    assert lines.count("\n") == len(SCENARIOS) * len(CONTESTANTS) + 4
    written = document([simulate(AWAY, OURS, Model(workers=5))], Model(workers=5))
    assert sum(written["storms"][0]["attempts_per_window"]) == written["storms"][0]["attempts"]


def test_the_table_of_the_documentation_is_what_the_simulation_gives() -> None:
    """One row of it; after a change of the back-off: `make storm`, and its files to docs/."""
    there = [line.split("  ") for line in STORM_TXT.read_text().splitlines()]
    row = cells(simulate(SCENARIOS[0], OURS, Model()))
    assert [cell.strip() for cell in row] in [[cell.strip() for cell in line if cell] for line in there]
    assert next(iter(table([]))).startswith("=")
