"""Every server and way to patch, idle together for ten heartbeat intervals and then busy together.

The servers are started when the first test of this folder begins, and idle while others run.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.harness.apache import Apache
from tests.harness.processes import ROOT
from tests.harness.rabbitmq import BrokerConnection, RabbitMQ
from tests.harness.servers import HOOKS, LIVE, UWSGI, Gunicorn, Response, Server, Werkzeug

GREEN = ROOT / "tests" / "green"
HEARTBEAT = 4.0
BRISK = 2.0
IDLE = 10 * HEARTBEAT
BUSY = 10.0
WAVES = 2
"""Not all are busy at once: with ten times as many computing as there are cores, the machine is late, not the beat."""
APP = str(GREEN / "green_app")
PATCH_FIRST = re.compile(r"^# (from gevent import monkey|monkey\.patch_all\(\))$", re.MULTILINE)
FORK_HOOKS = "py-call-uwsgi-fork-hooks"
"""With gevent-early-monkey-patch uWSGI 2.0.31 crashes of it at its start."""


class PatchedConfig(Gunicorn):
    """hooks/gunicorn.conf.py with the two lines that it has for --preload."""

    def command(self) -> list[str]:
        text, count = PATCH_FIRST.subn(r"\1", self.config.read_text())
        assert count == 2, "hooks/gunicorn.conf.py shows the two lines to patch first"
        self.config = self.folder / "gunicorn.conf.py"
        self.config.write_text(text)
        return super().command()


class Without(UWSGI):
    """uWSGI with hooks/uwsgi.ini but for one setting."""

    def __init__(self, name: str, *, setting: str, **rest: Any) -> None:
        super().__init__(name, **rest)
        self.setting = setting

    def command(self) -> list[str]:
        text, count = re.subn(rf"^{self.setting} *=.*\n", "", (HOOKS / "uwsgi.ini").read_text(), flags=re.MULTILINE)
        assert count == 1, f"hooks/uwsgi.ini has no {self.setting}"
        self.config = self.folder / "uwsgi.ini"
        self.config.write_text(text)
        return super().command()


def _gevent(cls: type[Gunicorn] = Gunicorn, *, preload: bool = False) -> Callable[..., Server]:
    return lambda name, **rest: cls(name, worker_class="gevent", preload=preload, module="green_app", **rest)


def _eventlet(*, preload: bool = False) -> Callable[..., Server]:
    options: dict[str, Any] = {"worker_class": "eventlet", "environment": ".venv-eventlet", "preload": preload}
    return lambda name, **rest: Gunicorn(name, module="green_app", **options, **rest)


def _uwsgi(*extra: str) -> Callable[..., Server]:
    return lambda name, **rest: UWSGI(name, module="green_app", extra=extra, **rest)


def _without(setting: str, **options: Any) -> Callable[..., Server]:
    return lambda name, **rest: Without(name, setting=setting, module="green_app", **options, **rest)


def _apache(mode: str, mpm: str, extra: str = "") -> Callable[..., Server]:
    return lambda name, **rest: Apache(name, module=APP, mode=mode, mpm=mpm, extra=extra, **rest)


def _werkzeug(name: str, *, workers: int, **rest: Any) -> Server:
    return Werkzeug(name, script=str(GREEN / "werkzeug_green.py"), **rest)


FLEET: dict[str, tuple[Callable[..., Server], str]] = {
    "gunicorn-gevent": (_gevent(), ""),
    "gunicorn-gevent-preload": (_gevent(preload=True), ""),
    "gunicorn-gevent-preload-patched": (_gevent(PatchedConfig, preload=True), ""),
    "gunicorn-eventlet": (_eventlet(), ""),
    "gunicorn-eventlet-preload": (_eventlet(preload=True), ""),
    "uwsgi-gevent": (_uwsgi("--gevent", "20"), ""),
    "uwsgi-gevent-monkey": (_uwsgi("--gevent", "20", "--gevent-monkey-patch"), ""),
    "uwsgi-gevent-early": (_without(FORK_HOOKS, extra=("--gevent", "20", "--gevent-early-monkey-patch")), ""),
    "uwsgi-app-gevent": (_uwsgi(), "gevent"),
    "uwsgi-app-eventlet": (_uwsgi(), "eventlet"),
    "uwsgi-threadless": (_without("enable-threads", debian=True), ""),
    "apache-daemon-gevent": (_apache("daemon", "event"), "gevent"),
    "apache-daemon-eventlet": (_apache("daemon", "event"), "eventlet"),
    # gevent itself does not work in a sub-interpreter (its sleep never returns), which embedded mode is by default.
    "apache-embedded-gevent": (_apache("embedded", "prefork", "WSGIApplicationGroup %{GLOBAL}"), "gevent"),
    "apache-embedded-eventlet": (_apache("embedded", "prefork"), "eventlet"),
    "werkzeug-gevent": (_werkzeug, "gevent"),
    "werkzeug-eventlet": (_werkzeug, "eventlet"),
}
"""How each is made, and whether the application itself patches."""


@dataclass
class Ship:
    """One server of the fleet and what was seen of it."""

    server: Server
    queue: str
    trouble: Exception | None = None
    before: list[BrokerConnection] = field(default_factory=list)
    after: list[BrokerConnection] = field(default_factory=list)
    after_idle: list[Response] = field(default_factory=list)
    after_busy: list[Response] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    busy_turns: int = 0
    broker_log: str = ""
    broker_log_of_the_end: str = ""
    server_log: str = ""

    def publish(self, transport: str = "") -> Response:
        return self.server.get(f"{transport}/publish?queue={self.queue}&id={self.server.name}&hold=0.05")


class Fleet:
    """All of them; `sail()` in a thread of its own, after `launch()` in the main one."""

    def __init__(self, rabbitmq: RabbitMQ, names: Iterable[str]) -> None:
        self._rabbitmq = rabbitmq
        self._log_mark = rabbitmq.log_mark()
        self.missing: dict[str, str] = {}
        self.ships: dict[str, Ship] = {}
        for name in names:
            make, patch = FLEET[name]
            env = {
                "WSGI_MESSAGING_URL": rabbitmq.url,
                "WSGI_MESSAGING_HEARTBEAT": f"{HEARTBEAT:g}",
                "WSGI_MESSAGING_APP": name,
                "GREEN_PATCH": patch,
                "PYTHONPATH": f"{GREEN}:{LIVE}:{ROOT}",
                "PYTHONWARNINGS": "ignore",
            }
            server = make(name, env=env, workers=1)
            reason = server.missing()
            if reason is None:
                self.ships[name] = Ship(server, f"green-{name}")
            else:
                self.missing[name] = reason
        self._thread = threading.Thread(target=self._sail_or_tell, name="fleet", daemon=True)
        self._trouble: Exception | None = None
        self._may_be_busy = threading.Event()

    def launch(self) -> None:
        """Starts the servers and everything that follows. Threads: the main one."""
        for ship in self.ships.values():
            self._rabbitmq.declare_queue(ship.queue)
            ship.server.launch()
        self._thread.start()

    def may_be_busy(self) -> None:
        """No test that measures time comes any more: the servers may compute once they have been idle."""
        self._may_be_busy.set()

    def finish(self) -> None:
        """Blocks: until the idle and the busy time are over and all has been looked at."""
        self.may_be_busy()
        self._thread.join(IDLE + WAVES * BUSY + 90.0)
        assert not self._thread.is_alive(), "the fleet has not come home"
        if self._trouble is not None:
            raise AssertionError("the journey came to nothing") from self._trouble

    def sink(self) -> None:
        self._may_be_busy.set()
        for ship in self.ships.values():
            ship.server.discard()

    def _sail_or_tell(self) -> None:
        try:
            self._sail()
        except Exception as exc:  # noqa: BLE001  (every test of the fleet raises it)
            self._trouble = exc

    def _sail(self) -> None:
        with ThreadPoolExecutor(max(1, len(self.ships))) as pool:
            self._for_all(pool, self._warm_up)
            self._look("before")
            time.sleep(IDLE)
            self._look("after")
            self._for_all(pool, lambda ship: ship.after_idle.extend([ship.publish(), ship.publish("/brisk")]))
            self._may_be_busy.wait()
            names = sorted(self.ships)
            for number in range(WAVES):
                self._for_all(pool, self._keep_busy, names[number::WAVES])
            self._for_all(pool, lambda ship: ship.after_busy.extend([ship.publish(), ship.publish("/brisk")]))
            self._for_all(pool, self._ask)
            self._look("after")
            log, mark = self._rabbitmq.log_since(self._log_mark), self._rabbitmq.log_mark()
            self._for_all(pool, lambda ship: ship.server.stop())
            for ship in self.ships.values():
                ship.broker_log = _entries_of(log, ship.server.name)
                ship.broker_log_of_the_end = _entries_of(self._rabbitmq.log_since(mark), ship.server.name)
                ship.server_log = ship.server.log_text()

    def _for_all(
        self, pool: ThreadPoolExecutor, act: Callable[[Ship], object], names: Iterable[str] | None = None
    ) -> None:
        def guarded(ship: Ship) -> None:
            if ship.trouble is None:
                try:
                    act(ship)
                except Exception as error:  # noqa: BLE001  (each test of this server raises it)
                    ship.trouble = error

        list(pool.map(guarded, [self.ships[name] for name in names or self.ships]))

    def _warm_up(self, ship: Ship) -> None:
        ship.server.await_ready(60.0)
        for answer in (ship.publish(), ship.publish("/brisk")):
            assert answer.status == 200, f"{answer.body!r}\n{ship.server.log_text()}"

    def _keep_busy(self, ship: Ship) -> None:
        answer = ship.server.get(f"/busy?seconds={BUSY}", timeout=BUSY + 30.0)
        ship.busy_turns = answer.json()["turns"]

    def _ask(self, ship: Ship) -> None:
        for path in ("/status", "/brisk/status"):
            ship.statuses += ship.server.get(path).json()["status"]["connections"]

    def _look(self, when: str) -> None:
        connections = self._rabbitmq.connections()
        for name, ship in self.ships.items():
            mine = re.compile(rf"{name}(-brisk)?:publish:\d+@")
            setattr(ship, when, [each for each in connections if mine.match(each.connection_name)])


def _entries_of(log: str, name: str) -> str:
    entries = re.split(r"\n(?=\d{4}-\d\d-\d\d )", log)
    return "\n".join(entry for entry in entries if re.search(rf"{name}(-brisk)?:publish", entry))
