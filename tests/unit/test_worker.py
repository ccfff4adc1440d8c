"""runtime/worker.py: marks follow the pid, members are weak, stop() is bounded and never raises."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from wsgi_messaging.runtime import worker


class FakeMember:
    def __init__(self, on_close: Callable[[float], object] | None = None) -> None:
        self.warmed = 0
        self.closed_with: list[float] = []
        self._on_close = on_close

    def warm(self) -> None:
        self.warmed += 1

    def close(self, timeout: float) -> object:
        self.closed_with.append(timeout)
        return None if self._on_close is None else self._on_close(timeout)


class FailingMember(FakeMember):
    def warm(self) -> None:
        raise OSError("no broker")

    def close(self, timeout: float) -> object:
        raise OSError("no broker")


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(worker, "_marked", None)
    monkeypatch.setattr(worker, "_members", {})
    yield


def in_fork(run: Callable[[], bool]) -> bool:
    """What `run` returns in a forked child."""
    pid = os.fork()
    if pid == 0:
        answer = 1
        try:
            answer = 0 if run() else 1
        finally:
            os._exit(answer)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_nobody_marked_nobody_known() -> None:
    assert worker.current() is None


def test_mark_tells_server_label_and_facts() -> None:
    worker.mark("gunicorn", "3", preload=True)
    known = worker.current()
    assert known is not None
    assert known.pid == os.getpid()
    assert (known.server, known.label, dict(known.facts)) == ("gunicorn", "3", {"preload": True})


def test_second_mark_of_the_same_server_adds_facts_and_keeps_the_label() -> None:
    worker.mark("gunicorn", "3", preload=True)
    worker.mark("gunicorn", patched=True)
    known = worker.current()
    assert known is not None
    assert (known.label, dict(known.facts)) == ("3", {"preload": True, "patched": True})


def test_mark_of_another_server_replaces() -> None:
    worker.mark("gunicorn", "3", preload=True)
    worker.mark("werkzeug")
    known = worker.current()
    assert known is not None
    assert (known.server, known.label, dict(known.facts)) == ("werkzeug", "", {})


def test_a_fork_does_not_inherit_the_mark() -> None:
    worker.mark("gunicorn", "3")
    assert in_fork(lambda: worker.current() is None)
    assert worker.current() is not None


def test_a_fork_warms_and_stops_what_its_parent_enlisted() -> None:
    member = FakeMember()
    worker.enlist(member)

    def child() -> bool:
        worker.warm()
        return worker.stop(1.0) and member.warmed == 1 and len(member.closed_with) == 1

    assert in_fork(child)
    assert (member.warmed, member.closed_with) == (0, [])


def test_members_are_weak() -> None:
    member = FakeMember()
    worker.enlist(member)
    assert len(worker._members) == 1
    del member
    gc.collect()
    assert worker._members == {}
    assert worker.stop(1.0)


def test_enlisting_twice_stops_once() -> None:
    member = FakeMember()
    worker.enlist(member)
    worker.enlist(member)
    worker.stop(1.0)
    assert len(member.closed_with) == 1


def test_failing_member_raises_nothing_and_the_next_one_is_served(caplog: pytest.LogCaptureFixture) -> None:
    failing, member = FailingMember(), FakeMember()
    worker.enlist(failing)
    worker.enlist(member)
    with caplog.at_level(logging.WARNING, "wsgi_messaging.servers"):
        worker.warm()
        assert not worker.stop(1.0)
    assert member.warmed == 1
    assert len(member.closed_with) == 1
    assert len(caplog.records) == 2


def test_stop_says_when_a_member_did_not_end() -> None:
    member = FakeMember(on_close=lambda timeout: False)
    worker.enlist(member)
    assert not worker.stop(1.0)


def test_last_in_is_first_out_and_each_gets_only_the_rest_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    def slow(_timeout: float) -> None:
        now[0] += 0.75

    monkeypatch.setattr(worker, "native", SimpleNamespace(monotonic=lambda: now[0]))  # not for other tests' threads
    members = [FakeMember(), FakeMember(slow), FakeMember(slow)]
    for member in members:
        worker.enlist(member)
    worker.stop(1.0)
    assert [member.closed_with for member in members] == [[0.0], [0.25], [1.0]]


def test_stop_inside_stop_returns_at_once() -> None:
    answers: list[bool] = []
    member = FakeMember(on_close=lambda timeout: answers.append(worker.stop(timeout)))
    worker.enlist(member)
    assert worker.stop(1.0)
    assert answers == [False]
    assert len(member.closed_with) == 1


def test_a_fork_in_the_middle_of_stop_can_stop() -> None:
    """Fails without the pid in the re-entrance guard: the child would be silenced by its parent's stop()."""
    seen: list[bool] = []
    worker.enlist(other := FakeMember())
    member = FakeMember(on_close=lambda timeout: seen.append(in_fork(child)))

    def child() -> bool:
        worker._members.clear()
        worker.enlist(mine := FakeMember())
        return worker.stop(1.0) and len(mine.closed_with) == 1

    worker.enlist(member)
    worker.stop(1.0)
    assert seen == [True]
    assert len(other.closed_with) == 1


PROGRAM = """
import os, sys
from wsgi_messaging.runtime import worker

class Member:
    def warm(self): pass
    def close(self, timeout):
        os.write(1, f"closed {timeout} in {'parent' if os.getpid() == parent else 'child'}\\n".encode())

parent = os.getpid()
member = Member()
worker.enlist(member)
pid = os.fork()
if pid == 0:
    worker.mark("test")
    sys.exit(0)
os.waitpid(pid, 0)
"""


def test_atexit_stops_once_in_parent_and_in_child() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    lines = [line.split(" in ") for line in done.stdout.splitlines()]
    assert [where for _, where in lines] == ["child", "parent"]
    assert all(float(what.split()[1]) <= worker.EXIT_TIMEOUT for what, _ in lines)
    assert done.stderr == ""


def test_importing_registers_nothing() -> None:
    program = (
        "import atexit, logging, wsgi_messaging.runtime.native; before = atexit._ncallbacks()\n"
        "import wsgi_messaging.runtime.worker; assert atexit._ncallbacks() == before"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
