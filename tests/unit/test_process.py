"""One value per process, by the pid."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from wsgi_messaging.runtime import process
from wsgi_messaging.runtime.process import PerProcess


class Maker:
    """Makes numbered values and remembers which were forgotten."""

    def __init__(self) -> None:
        self.made = 0
        self.forgotten: list[str] = []

    def make(self) -> str:
        self.made += 1
        return f"value {self.made}"


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def per_process(maker: Maker) -> PerProcess[str]:
    return PerProcess(maker.make, maker.forgotten.append)


class Pid:
    """Says which process this is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100
        monkeypatch.setattr(process.native, "getpid", lambda: self.now)


@pytest.fixture
def pid(monkeypatch: pytest.MonkeyPatch) -> Pid:
    return Pid(monkeypatch)


def test_made_at_first_use_and_kept(per_process: PerProcess[str], maker: Maker) -> None:
    assert per_process.peek() is None
    assert maker.made == 0
    assert per_process.get() == per_process.get() == per_process.peek() == "value 1"
    assert maker.made == 1


def test_another_pid_has_another_and_forgets_the_parents_once(
    per_process: PerProcess[str], maker: Maker, pid: Pid
) -> None:
    assert per_process.get() == "value 1"
    pid.now = 101
    assert per_process.peek() is None, "looking is not using"
    assert maker.forgotten == []
    assert per_process.get() == "value 2"
    assert per_process.get() == "value 2"
    assert maker.forgotten == ["value 1"]
    pid.now = 102
    assert per_process.get() == "value 3"
    assert maker.forgotten == ["value 1", "value 2"]


def test_forget_inherited_keeps_ones_own(per_process: PerProcess[str], maker: Maker, pid: Pid) -> None:
    per_process.get()
    per_process.forget_inherited()
    assert (per_process.peek(), maker.forgotten) == ("value 1", [])
    pid.now = 101
    per_process.forget_inherited()
    per_process.forget_inherited()
    assert (per_process.peek(), maker.forgotten) == (None, ["value 1"])


def test_take_out(per_process: PerProcess[str], maker: Maker) -> None:
    assert per_process.take_out() == "value 1"
    assert per_process.peek() is None
    assert per_process.get() == "value 2"
    assert maker.forgotten == []


def test_those_that_race_for_the_first_use_get_one_value(maker: Maker) -> None:
    start = threading.Barrier(2)

    def make() -> str:
        start.wait(5.0)
        return maker.make()

    per_process: PerProcess[str] = PerProcess(make, maker.forgotten.append)
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(per_process.get())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert maker.made == 2
    assert len(set(got)) == 1
    assert maker.forgotten == [], "the loser's was never opened: there is nothing to let go of"


def test_the_fork_hook_lets_go_early(per_process: PerProcess[str], maker: Maker) -> None:
    per_process.get()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, ",".join(maker.forgotten).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write_end)
    assert os.read(read_end, 100) == b"value 1"
    os.close(read_end)
    assert maker.forgotten == []


def test_a_holder_is_held_by_nobody() -> None:
    before = len(process._all)
    holder: PerProcess[str] = PerProcess(str, lambda value: None)
    assert len(process._all) == before + 1
    del holder
    gc.collect()
    assert len(process._all) <= before
