"""servers/gunicorn.py: hooks that gunicorn accepts, that never raise, and that know which process they run in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from wsgi_messaging import ConfigurationError
from wsgi_messaging.runtime import worker as process
from wsgi_messaging.servers import diagnosis, gunicorn

HOOKS = ("post_fork", "post_worker_init", "worker_int", "worker_abort", "worker_exit")


@dataclass
class GunicornWorker:
    """What our hooks look at in gunicorn's worker."""

    age: int = 3
    pid: int = field(default_factory=os.getpid)
    cfg: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(preload_app=False))


class Member:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def warm(self) -> None:
        self.calls.append("warm")

    def close(self, timeout: float) -> None:
        self.calls.append(f"close <= {timeout:.1f}")


@pytest.fixture
def member(monkeypatch: pytest.MonkeyPatch) -> Iterator[Member]:
    monkeypatch.setattr(process, "_marked", None)
    monkeypatch.setattr(process, "_members", {})
    member = Member()
    process.enlist(member)
    yield member


@pytest.mark.parametrize("name", HOOKS)
def test_gunicorn_accepts_the_hook(name: str) -> None:
    """It counts arguments, and refuses to start for a wrong number."""
    config = pytest.importorskip("gunicorn.config").Config()
    config.set(name, getattr(gunicorn, name))
    config.set(name, gunicorn.chain(getattr(gunicorn, name), getattr(gunicorn, name)))


def test_no_other_name_of_the_module_is_a_setting() -> None:
    """`-c python:wsgi_messaging.servers.gunicorn` takes every module attribute whose name is a setting as one."""
    settings = pytest.importorskip("gunicorn.config").Config().settings
    assert sorted(name for name in vars(gunicorn) if name.lower() in settings) == sorted(HOOKS)


def test_post_fork_only_marks(member: Member) -> None:
    gunicorn.post_fork(None, GunicornWorker())
    marked = process.current()
    assert marked is not None
    assert (marked.server, marked.label, marked.facts["age"]) == ("gunicorn", "3", 3)
    assert member.calls == []


def test_post_worker_init_warms(member: Member) -> None:
    gunicorn.post_fork(None, GunicornWorker())
    gunicorn.post_worker_init(GunicornWorker())
    assert member.calls == ["warm"]


@pytest.mark.parametrize(
    ("preload", "at_fork", "now", "says"),
    [
        (True, False, True, True),
        (True, True, True, False),  # patched at the top of gunicorn.conf.py
        (False, False, True, False),  # the application is imported after the patch
        (True, False, False, False),
    ],
)
def test_an_application_imported_before_gevent_patched_is_told(
    member: Member, monkeypatch: pytest.MonkeyPatch, preload: bool, at_fork: bool, now: bool, says: bool
) -> None:
    said: list[str] = []
    monkeypatch.setattr(diagnosis, "say", said.append)
    worker = GunicornWorker(cfg=SimpleNamespace(preload_app=preload))
    monkeypatch.setattr(gunicorn, "_is_patched", lambda: at_fork)
    gunicorn.post_fork(None, worker)
    monkeypatch.setattr(gunicorn, "_is_patched", lambda: now)
    gunicorn.post_worker_init(worker)
    assert said == ([diagnosis.PATCHED_TOO_LATE] if says else [])


def test_worker_exit_closes(member: Member) -> None:
    gunicorn.worker_exit(None, GunicornWorker())
    assert member.calls == ["close <= 3.0"]


def test_worker_abort_closes_at_once(member: Member) -> None:
    gunicorn.worker_abort(GunicornWorker())
    assert member.calls == ["close <= 0.5"]


def test_worker_exit_in_the_master_closes_nothing(member: Member) -> None:
    """Fails without the pid guard: gunicorn's Arbiter.kill_worker() calls it there for a worker that is gone."""
    gunicorn.worker_exit(None, GunicornWorker(pid=os.getpid() + 1))
    gunicorn.worker_abort(GunicornWorker(pid=os.getpid() + 1))
    assert member.calls == []


def test_worker_int_does_nothing(member: Member) -> None:
    gunicorn.worker_int(GunicornWorker())
    assert member.calls == []


def test_chain_calls_all_in_order_with_the_arguments() -> None:
    calls: list[tuple[str, object, object]] = []
    first = gunicorn.chain(
        lambda server, worker: calls.append(("a", server, worker)),
        lambda server, worker: calls.append(("b", server, worker)),
    )
    first("server", "worker")
    assert calls == [("a", "server", "worker"), ("b", "server", "worker")]


def test_chain_calls_ours_although_the_deployers_raised() -> None:
    calls: list[str] = []

    def failing(worker: object) -> None:
        raise OSError("theirs")

    with pytest.raises(OSError, match="theirs"):
        gunicorn.chain(failing, lambda worker: calls.append("ours"))("worker")
    assert calls == ["ours"]


def test_chain_refuses_hooks_of_different_settings() -> None:
    with pytest.raises(ConfigurationError, match="one argument"):
        gunicorn.chain(gunicorn.post_fork, gunicorn.post_worker_init)
    with pytest.raises(ConfigurationError, match="one argument"):
        gunicorn.chain()
