"""Beats every 50 ms against publishing greenlets (tests/green/stress.py): half a minute here, ten in `make soak`.

The shape that froze py-amqp's own lock within seconds: a thread that beats, greenlets that publish, one socket.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.green.conftest import LIBRARIES, Storms

SOAK = 600.0


def check(report: dict[str, Any], seconds: float) -> None:
    assert report["errors"] == []
    assert report["reconnects"] == 0
    assert report["in_flight"] == 0
    assert report["slow"] == 0, "a publish took half of its timeout"
    assert report["cancelled"]
    assert report["confirmed"] >= 50 * seconds
    assert report["killed"] > 0
    # A beat is due after 50 ms of silence. What the machine itself held up, the watcher's own thread felt as well.
    for role in ("publish", "consume"):
        assert report["silence"][role] <= 0.2 + report["longest_pause"], report
    assert report["beats"]["consume"] >= 0.3 * seconds / 0.05, report
    assert report["beats"]["publish"] >= 0.05 * seconds / 0.05, report


@pytest.mark.parametrize("library", LIBRARIES)
def test_no_stall_in_half_a_minute(library: str, storms: Storms | None) -> None:
    assert storms is not None
    check(storms.report(library), storms.seconds)


@pytest.mark.soak
@pytest.mark.timeout(SOAK + 120)
def test_no_stall_in_ten_minutes(make_storms: Any) -> None:
    storms = make_storms(SOAK)
    for library in LIBRARIES:
        check(storms.report(library), SOAK)
