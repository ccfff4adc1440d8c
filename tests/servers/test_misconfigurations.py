"""Each configuration that breaks something is named in one line, and what the line says to do makes it go away.

The remedy is not repeated here: it is read out of the line, and applied to the same configuration as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.harness.apache import Apache
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.harness.servers import HOOKS, LIVE, UWSGI, Gunicorn, Server, Werkzeug
from tests.harness.waiting import wait_until

QUEUE = "misconfigured"
PUBLISH = f"/publish?queue={QUEUE}&id=misconfigured"
PROCESSES = """\
import sys
from live_app import application
from werkzeug.serving import run_simple

run_simple("127.0.0.1", int(sys.argv[1]), application, {how})
"""


THREADED = """\
import threading
import time

threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
from live_app import application
"""


class Ini(UWSGI):
    """uWSGI with hooks/uwsgi.ini, without some of its settings and with some lines more."""

    def __init__(
        self, name: str, *, drop: tuple[str, ...] = (), add: tuple[str, ...] = (), source: str = "", **rest: Any
    ) -> None:
        super().__init__(name, **({"module": "source"} if source else {}), **rest)
        self.drop = drop
        self.add = add
        self.source = source

    def command(self) -> list[str]:
        if self.source:
            (self.folder / "source.py").write_text(self.source)
            self.env["PYTHONPATH"] += f":{self.folder}"
        text = (HOOKS / "uwsgi.ini").read_text()
        for setting in self.drop:
            text, count = re.subn(rf"^{setting} *=.*\n", "", text, flags=re.MULTILINE)
            assert count == 1, f"hooks/uwsgi.ini has no {setting}"
        self.config = self.folder / "uwsgi.ini"
        self.config.write_text("\n".join([text, *self.add, ""]))
        return super().command()


class Conf(Gunicorn):
    """gunicorn with a configuration file of these lines."""

    def __init__(self, name: str, *, lines: tuple[str, ...], **rest: Any) -> None:
        super().__init__(name, **rest)
        self.lines = lines

    def command(self) -> list[str]:
        self.config = self.folder / "gunicorn.conf.py"
        self.config.write_text("\n".join([*self.lines, ""]))
        return super().command()


class Script(Werkzeug):
    """Werkzeug's server, run in the way that is given."""

    def __init__(self, name: str, *, how: str, **rest: Any) -> None:
        super().__init__(name, **rest)
        self.how = how

    def command(self) -> list[str]:
        path = self.folder / "script.py"
        path.write_text(PROCESSES.format(how=self.how))
        self.script = str(path)
        return super().command()


@dataclass(frozen=True)
class Case:
    """How to make the server, with or without the remedy; what the line says; where in it the remedy is."""

    make: Callable[..., Server]
    line: str
    remedy: str
    workers: int = 1
    paths: tuple[str, ...] = (PUBLISH, PUBLISH, "/status")


def _uwsgi(*drop: str, add: tuple[str, ...] = (), **options: Any) -> Callable[..., Server]:
    """The remedy is a line to add."""

    def make(name: str, remedy: str | None, **rest: Any) -> Server:
        return Ini(name, drop=drop, add=(*add, *([remedy] if remedy else [])), **options, **rest)

    return make


def _uwsgi_skip_atexit(name: str, remedy: str | None, **rest: Any) -> Server:
    """The remedy is a setting to remove."""
    lines = ["skip-atexit = true"]
    return Ini(name, add=tuple(line for line in lines if remedy is None or not line.startswith(remedy)), **rest)


def _uwsgi_patched_master(name: str, remedy: str | None, **rest: Any) -> Server:
    """The remedy is a setting to remove."""
    lines = ["gevent = 10", "gevent-early-monkey-patch = true", "py-call-osafterfork = true"]
    added = tuple(line for line in lines if remedy is None or not line.startswith(remedy))
    return Ini(name, drop=("py-call-uwsgi-fork-hooks",), add=added, **rest)


def _uwsgi_harakiri(name: str, remedy: str | None, env: dict[str, str], **rest: Any) -> Server:
    """The remedy is an environment variable, and a bound that it stays below."""
    if remedy is not None:
        variable, bound = remedy.split(") below ")
        env = {**env, variable: f"{float(bound) - 1:g}"}
    return Ini(name, add=("harakiri = 5",), env=env, **rest)


def _gunicorn_without_hooks(name: str, remedy: str | None, **rest: Any) -> Server:
    return Conf(name, lines=(remedy or "",), **rest)


def _gunicorn_patched_too_late(name: str, remedy: str | None, **rest: Any) -> Server:
    shipped = (HOOKS / "gunicorn.conf.py").read_text()
    return Conf(name, lines=(remedy or "", shipped), worker_class="gevent", preload=True, **rest)


def _werkzeug(name: str, remedy: str | None, workers: int, **rest: Any) -> Server:
    return Script(name, how=remedy or "processes=2", **rest)


def _apache(name: str, remedy: str | None, **rest: Any) -> Server:
    return Apache(name, mode="embedded", mpm="prefork", extra=remedy or "", **rest)


MOUNTS = ("manage-script-name = true", f"mount = /a={LIVE}/live_app.py", f"mount = /b={LIVE}/live_app.py")
# py-call-uwsgi-fork-hooks is dropped with single-interpreter: uWSGI itself hangs at the first request with several
# interpreters and that setting.
ADD = r"Add '([^']+)'"
HOOK = r"Add to the uWSGI configuration: (shared-import = \S+)"

CASES: dict[str, Case] = {
    "uwsgi-threads": Case(_uwsgi("enable-threads", debian=True), "Python threads disabled", ADD, workers=2),
    "uwsgi-threads-no-master": Case(
        _uwsgi("enable-threads", "master", debian=True), "Python threads disabled.*nothing wakes it", ADD
    ),
    "uwsgi-no-master": Case(_uwsgi("master"), "without a master", ADD, workers=2),
    "uwsgi-no-hook": Case(_uwsgi("shared-import"), "post-fork hook never ran", HOOK),
    "uwsgi-no-hook-lazy": Case(_uwsgi("shared-import", lazy=True), "post-fork hook never ran", HOOK),
    "uwsgi-interpreters": Case(
        _uwsgi("single-interpreter", "py-call-uwsgi-fork-hooks", add=MOUNTS),
        "interpreter of its own",
        ADD,
        paths=("/a/pid", "/a/status"),
    ),
    "uwsgi-interpreters-one-mount": Case(
        _uwsgi("single-interpreter", "py-call-uwsgi-fork-hooks", add=MOUNTS[:2]),
        "interpreter of its own",
        ADD,
        paths=("/a/pid", "/a/status"),
    ),
    "uwsgi-stale-threads": Case(
        _uwsgi("py-call-uwsgi-fork-hooks", source=THREADED), "Python threads when it forked", ADD
    ),
    "uwsgi-patched-master": Case(_uwsgi_patched_master, "patched by gevent before it forked", r"Remove '([^']+)'"),
    "uwsgi-skip-atexit": Case(_uwsgi_skip_atexit, "'skip-atexit' keeps", r"Remove '([^']+)'"),
    "uwsgi-harakiri": Case(_uwsgi_harakiri, "'harakiri = 5' kills", r"\((WSGI_MESSAGING_TIMEOUT\) below \d+)"),
    "gunicorn-no-hook": Case(_gunicorn_without_hooks, "never ran in it", r"Add to gunicorn\.conf\.py: (.*?) \("),
    "gunicorn-patched-too-late": Case(
        _gunicorn_patched_too_late, "imported BEFORE gevent", r"Put '([^']+)' at the very top"
    ),
    "werkzeug-processes": Case(_werkzeug, "for EVERY request", r", or (threaded=True)"),
    "apache-sub-interpreter": Case(_apache, "running in the mod_wsgi sub-interpreter", r"Prefer '([^']+)'"),
}


@dataclass
class Trial:
    """What one case wrote to its log: as it was, and with the remedy."""

    broken: str = ""
    remedied: str = ""
    remedy: str | None = None
    trouble: list[Exception] = field(default_factory=list)


@pytest.fixture(scope="module")
def trials(rabbitmq: RabbitMQ, request: pytest.FixtureRequest) -> Iterator[dict[str, Trial]]:
    """Every case that was selected: all of them as they are, then all of them with their remedies."""
    names = [item.callspec.params.get("case_name") for item in request.session.items if hasattr(item, "callspec")]
    trials = {name: Trial() for name in sorted({name for name in names if name is not None})}
    rabbitmq.declare_queue(QUEUE)
    env = {"WSGI_MESSAGING_URL": rabbitmq.url, "PYTHONWARNINGS": "ignore"}

    def make(name: str, remedy: str | None) -> Server:
        label = f"{name}-{'broken' if remedy is None else 'remedied'}"
        return CASES[name].make(label, remedy, workers=CASES[name].workers, env=env)

    present = {name: trial for name, trial in trials.items() if make(name, None).missing() is None}
    for name, text in _run({name: make(name, None) for name in present}, present).items():
        present[name].broken = text
        found = re.search(CASES[name].remedy, _lines(text))
        present[name].remedy = found[1] if found else None
    remedied = {name: make(name, trial.remedy) for name, trial in present.items() if trial.remedy}
    for name, text in _run(remedied, present).items():
        present[name].remedied = text
    yield present
    rabbitmq.delete_queue(QUEUE)


def _run(servers: dict[str, Server], trials: dict[str, Trial]) -> dict[str, str]:
    """Start all, ask each, stop all; what they wrote. Threads: starts them, so the main one."""

    def ask(name: str) -> None:
        try:
            servers[name].await_ready(20.0, CASES[name].paths[0])
            for path in CASES[name].paths * 2:
                answer = servers[name].get(path)
                assert answer.status == 200, f"{path}: {answer.body!r}\n{servers[name].log_text()}"
            servers[name].stop()
        except Exception as error:  # noqa: BLE001  (the tests of the case raise it)
            trials[name].trouble.append(error)

    try:
        for server in servers.values():
            server.launch()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, servers))
        return {name: server.log_text() for name, server in servers.items()}
    finally:
        for server in servers.values():
            server.discard()


def _lines(text: str) -> str:
    """What this package wrote."""
    return "\n".join(line for line in text.splitlines() if "wsgi_messaging: " in line)


def _trial(trials: dict[str, Trial], name: str) -> Trial:
    if name not in trials:
        missing(CASES[name].make(name, None, workers=1).missing() or name)
    if trials[name].trouble:
        raise trials[name].trouble[0]
    return trials[name]


@pytest.mark.parametrize("case_name", CASES)
def test_it_is_said_in_one_line(trials: dict[str, Trial], case_name: str) -> None:
    trial = _trial(trials, case_name)
    said = [line for line in _lines(trial.broken).splitlines() if re.search(CASES[case_name].line, line)]
    assert len(said) == 1, trial.broken
    assert len(_lines(trial.broken).splitlines()) == 1, "and nothing else is said"


@pytest.mark.parametrize("case_name", CASES)
def test_its_remedy_makes_it_go_away(trials: dict[str, Trial], case_name: str) -> None:
    trial = _trial(trials, case_name)
    assert trial.remedy, f"no remedy in {_lines(trial.broken)!r}"
    assert _lines(trial.remedied) == "", f"with {trial.remedy!r}"


SMALL: dict[str, tuple[int, tuple[str, ...]]] = {
    "muled": (1, ("mule = true", "spooler = %d/spool")),
    "cheap": (2, ("cheaper = 1", "cheaper-initial = 2")),
    "killed": (1, ("harakiri = 1",)),
}
"""Settings that are harmless, if the connection follows them: how many workers, which lines."""


@pytest.fixture(scope="module")
def small(rabbitmq: RabbitMQ) -> Iterator[dict[str, Server]]:
    """A running uWSGI for each of them, with the shipped file; its transport gives up within 0.9 s."""
    env = {"WSGI_MESSAGING_URL": rabbitmq.url, "WSGI_MESSAGING_TIMEOUT": "0.9"}
    servers: dict[str, Server] = {}
    rabbitmq.declare_queue(QUEUE)
    try:
        for name, (workers, add) in SMALL.items():
            servers[name] = Ini(name, add=add, workers=workers, env={**env, "WSGI_MESSAGING_APP": name})
            reason = servers[name].missing()
            if reason is not None:
                missing(reason)
            (servers[name].folder / "spool").mkdir()
            servers[name].launch()
        for server in servers.values():
            server.await_ready()
        with pytest.raises(OSError):  # harakiri comes while the others settle
            servers["killed"].get("/slow?seconds=10")
        yield servers
    finally:
        for server in servers.values():
            server.discard()
        rabbitmq.delete_queue(QUEUE)


def _pids(rabbitmq: RabbitMQ, name: str) -> set[int]:
    found = (re.search(r":publish:(\d+)@", each.connection_name) for each in rabbitmq.connections(f"{name}:"))
    return {int(match[1]) for match in found if match}


def test_a_mule_and_a_spooler_open_nothing(rabbitmq: RabbitMQ, small: dict[str, Server]) -> None:
    server = small["muled"]
    worker = server.get(PUBLISH).json()["pid"]
    wait_until(lambda: len(server.pids()) == 3, what="worker, mule, spooler")
    assert _pids(rabbitmq, "muled") == {worker}
    assert _lines(server.log_text()) == ""


def test_a_worker_that_cheaper_takes_away_closes_its_connection(rabbitmq: RabbitMQ, small: dict[str, Server]) -> None:
    server = small["cheap"]
    wait_until(lambda: len(_pids(rabbitmq, "cheap")) == 1, 20.0, "one worker of two")
    assert server.get(PUBLISH).status == 200
    server.stop()
    cut = [line for line in rabbitmq.log_text().splitlines() if "unexpectedly" in line and "cheap:" in line]
    assert not cut
    assert _lines(server.log_text()) == ""


def test_the_worker_after_harakiri_is_connected(rabbitmq: RabbitMQ, small: dict[str, Server]) -> None:
    server = small["killed"]
    after = server.get(PUBLISH)
    assert after.status == 200
    assert "HARAKIRI" in server.log_text()
    wait_until(lambda: _pids(rabbitmq, "killed") == {after.json()["pid"]}, what="the connection of the new worker")
    assert _lines(server.log_text()) == ""
