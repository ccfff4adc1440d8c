"""`tools/test` gives a few failed tests a second look, and never calls one good that failed twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.processes import ROOT, environment

TESTS = """
import pathlib

def test_good():
    pass

def test_once():
    mark = pathlib.Path("mark")
    was_there = mark.exists()
    mark.touch()
    assert was_there

def test_bad():
    assert False, "each time"
"""


def look(folder: Path, *chosen: str, jobs: int = 0) -> tuple[int, str]:
    """Exit status and output for a suite of these tests."""
    (folder / "test_it.py").write_text(TESTS)
    command = ["sh", str(ROOT / "tools" / "test"), sys.executable, "-q", "-n", f"{jobs}", *chosen]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_all_good(tmp_path: Path) -> None:
    status, output = look(tmp_path, "test_it.py::test_good")
    assert status == 0 and "second look" not in output


def test_one_that_passes_alone_is_named(tmp_path: Path) -> None:
    status, output = look(tmp_path, "test_it.py::test_good", "test_it.py::test_once", jobs=2)
    assert status == 0
    assert output.splitlines()[-2:] == ["UNSTEADY, passed at the second look only:", "test_it.py::test_once"]


def test_one_that_fails_twice_is_a_failure(tmp_path: Path) -> None:
    status, output = look(tmp_path, "test_it.py::test_good", "test_it.py::test_bad")
    assert status == 1 and "UNSTEADY" not in output


def test_one_of_both(tmp_path: Path) -> None:
    status, output = look(tmp_path, "test_it.py")
    assert status == 1 and "UNSTEADY" not in output


@pytest.mark.parametrize(("count", "is_looked_at"), [(3, True), (4, False)])
def test_many_are_no_accident(tmp_path: Path, count: int, is_looked_at: bool) -> None:
    (tmp_path / "test_many.py").write_text("\n".join(f"def test_{n}(): assert False" for n in range(count)))
    status, output = look(tmp_path, "test_many.py")
    assert status == 1
    assert ("A second look" in output) is is_looked_at


def test_no_tests_is_no_success(tmp_path: Path) -> None:
    status, _output = look(tmp_path, "-k", "nothing")
    assert status == 5
