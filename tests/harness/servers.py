"""The real WSGI servers, each with the files of hooks/ as they stand, serving one live application.

A server is started in a folder of its own on a free loopback port, is ready when it answers, and is reloaded and
stopped the way its documentation says. It is found beside this Python, in .venv, or on the PATH.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.harness import processes
from tests.harness.processes import ROOT
from tests.harness.secret import assert_kept
from tests.harness.waiting import wait_until

HOOKS = ROOT / "hooks"
LIVE = ROOT / "tests" / "servers"


@dataclass(frozen=True)
class Response:
    """One answer of a server, and how long it took."""

    status: int
    headers: dict[str, str]
    body: bytes
    elapsed: float

    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


def find(name: str, environment: str = ".venv") -> str | None:
    """A program beside this Python, in the environment that `make test` makes for it, or on the PATH."""
    if environment != ".venv":
        path = ROOT / environment / "bin" / name
        return str(path) if path.exists() else None
    return processes.program(name, str(ROOT / environment / "bin"))


class Server:
    """What the servers have in common. Subclasses say what to run, and how to reload and stop."""

    stop_signal = signal.SIGTERM
    reload_signal: signal.Signals | None = signal.SIGHUP
    # What a healthy server never writes to its log.
    alarming = re.compile(
        r"Traceback|Segmentation [Ff]ault|exit signal|NO MERCY|Fatal Python error|WORKER TIMEOUT|\[CRITICAL\]"
    )

    def __init__(self, name: str, *, workers: int = 2, module: str = "live_app", env: dict[str, str] | None = None):
        self.name = name
        self.workers = workers
        self.module = module
        self.port = processes.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = processes.environment(**{"PYTHONPATH": f"{LIVE}:{ROOT}", "PYTHONUNBUFFERED": "1"} | (env or {}))
        self.process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.url}>"

    @cached_property
    def folder(self) -> Path:
        """Its own, made at first use and removed by `discard()`."""
        folder = Path(tempfile.mkdtemp(prefix=f"wsgi-messaging-{self.name}-"))
        # Apache's children run as another user and must be able to reach their socket here.
        folder.chmod(0o755)
        return folder

    def missing(self) -> str | None:
        """Why it cannot be started here, or None."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """What to run, in the foreground."""
        raise NotImplementedError

    @property
    def master_pid(self) -> int:
        """The process that was started; with a single process it is the worker as well."""
        assert self.process is not None, "not started"
        return self.process.pid

    def start(self, timeout: float = 30.0, path: str = "/pid") -> Server:
        """Blocks: until `path` is answered with 200. Threads: see `launch`."""
        self.launch()
        self.await_ready(timeout, path)
        return self

    def launch(self) -> None:
        """Starts it. Threads: one that outlives the server (the main one), for its end ends the server."""
        with (self.folder / "server.log").open("ab") as output:
            self.process = processes.spawn(self.command(), env=self.env, cwd=LIVE, output=output)

    def await_ready(self, timeout: float = 30.0, path: str = "/pid") -> None:
        """Blocks: until `path` is answered with 200."""
        try:
            wait_until(lambda: self._answers(path), timeout, f"an answer of {self!r}", interval=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_text()}") from error

    def _answers(self, path: str) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self!r} ended with {self.process.returncode}:\n{self.log_text()}")
        try:
            answer = self.get(path, timeout=5.0)
        except OSError:
            return False
        assert answer.status == 200, f"{answer.status} {answer.body!r}\n{self.log_text()}"
        return True

    def get(self, path: str, timeout: float = 20.0) -> Response:
        """One GET over a connection of its own. Raises OSError when there is no complete answer."""
        began_at = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()
        return Response(answer.status, dict(answer.getheaders()), body, time.monotonic() - began_at)

    def pids(self) -> set[int]:
        """All processes of the server below the one that was started."""
        return set(processes.descendants(self.master_pid))

    def reach_workers(self, path: str, count: int | None = None, timeout: float = 20.0) -> dict[int, Any]:
        """Asks for `path`, whose answer is JSON with a pid, until `count` workers have answered; the last of each."""
        answers: dict[int, Any] = {}
        wanted = count or self.workers

        def ask_all() -> bool:
            with ThreadPoolExecutor(wanted * 2) as pool:
                for answer in pool.map(self.get, [path] * wanted * 2):
                    assert answer.status == 200, f"{self!r}: {answer.status} {answer.body!r}\n{self.log_text()}"
                    answers[answer.json()["pid"]] = answer.json()
            return len(answers) >= wanted

        wait_until(ask_all, timeout, f"answers of {wanted} workers of {self!r}")
        return answers

    def reload(self) -> None:
        """Tells the server to replace its workers gracefully; returns at once."""
        assert self.reload_signal is not None, f"{self!r} has no reload"
        processes.signal_process(self.master_pid, self.reload_signal)

    def stop(self, timeout: float = 15.0) -> int:
        """Ends it the documented way; the exit status. Idempotent; the log stays until `discard()`."""
        if self.process is None:
            return 0
        return processes.stop(self.process, self.stop_signal, timeout)

    def discard(self) -> None:
        """Stops it and removes its folder. Fails the test if the server has written the broker's password."""
        self.stop()
        if "folder" in self.__dict__:
            assert_kept(self.log_text(), f"the log of {self!r}")
            shutil.rmtree(self.folder, ignore_errors=True)

    def log_text(self) -> str:
        """All that the server has written."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def alarms(self) -> list[str]:
        """Lines of the log that a healthy server does not write."""
        return [line for line in self.log_text().splitlines() if self.alarming.search(line)]


class Gunicorn(Server):
    """gunicorn with hooks/gunicorn.conf.py."""

    def __init__(
        self,
        name: str,
        *,
        worker_class: str = "sync",
        preload: bool = False,
        extra: tuple[str, ...] = (),
        environment: str = ".venv",
        config: Path = HOOKS / "gunicorn.conf.py",
        **rest: Any,
    ) -> None:
        super().__init__(name, **rest)
        self.worker_class = worker_class
        self.preload = preload
        self.extra = extra
        self.config = config
        self.program = find("gunicorn", environment)

    def missing(self) -> str | None:
        return None if self.program else "gunicorn is not installed: make test, or pip install gunicorn"

    def command(self) -> list[str]:
        assert self.program is not None
        # The control socket (25.1 and later) has one path for all instances of a user.
        done = subprocess.run([self.program, "--help"], capture_output=True, text=True, check=False)
        control = ["--no-control-socket"] if "--no-control-socket" in done.stdout else []
        threads = ["--threads", "4"] if self.worker_class == "gthread" else []
        return [
            *(self.program, "-c", str(self.config), "--bind", f"127.0.0.1:{self.port}", *control),
            *("--workers", str(self.workers), "--worker-class", self.worker_class, *threads),
            *(["--preload"] if self.preload else []),
            *(*self.extra, f"{self.module}:application"),
        ]


class UWSGI(Server):
    """uWSGI with hooks/uwsgi.ini: the one of PyPI, or Debian's 2.0.21 (threads off unless asked for)."""

    def __init__(
        self,
        name: str,
        *,
        lazy: bool = False,
        debian: bool = False,
        extra: tuple[str, ...] = (),
        config: Path | None = HOOKS / "uwsgi.ini",
        **rest: Any,
    ) -> None:
        super().__init__(name, **rest)
        self.lazy = lazy
        self.debian = debian
        self.extra = extra
        self.config = config
        self.program = "/usr/bin/uwsgi-core" if debian else find("uwsgi")

    def missing(self) -> str | None:
        if self.debian:
            parts = (Path("/usr/bin/uwsgi-core"), Path("/usr/lib/uwsgi/plugins/python3_plugin.so"))
            if not all(part.exists() for part in (*parts, ROOT / ".venv-debian")):
                return "Debian's uWSGI is not there: apt-get install uwsgi-core uwsgi-plugin-python3, make test"
        return None if self.program else "uWSGI is not installed: make test, or pip install uWSGI"

    def command(self) -> list[str]:
        assert self.program is not None
        home = ROOT / ".venv-debian" if self.debian else Path(self.program).parent.parent
        return [
            *(self.program, *(["--plugin", "python3"] if self.debian else [])),
            *(["--ini", str(self.config)] if self.config else ["--master", "--need-app"]),
            *("--http-socket", f"127.0.0.1:{self.port}", "--home", str(home), "--module", f"{self.module}:application"),
            *("--processes", str(self.workers), *(["--lazy-apps"] if self.lazy else []), *self.extra),
        ]


class Werkzeug(Server):
    """`run_simple(threaded=True)`: one process, no reload. SIGTERM would end it without any clean-up."""

    stop_signal = signal.SIGINT
    reload_signal: signal.Signals | None = None

    def __init__(self, name: str, *, script: str = "werkzeug_threaded.py", **rest: Any) -> None:
        super().__init__(name, workers=1, **rest)
        self.script = script
        self.python = find("python")

    def missing(self) -> str | None:
        done = subprocess.run([str(self.python), "-c", "import werkzeug"], capture_output=True, check=False)
        return None if done.returncode == 0 else "Werkzeug is not installed: make test, or pip install Werkzeug"

    def command(self) -> list[str]:
        return [str(self.python), str(LIVE / self.script), str(self.port)]


class Serve(Werkzeug):
    """hooks/werkzeug-serve.sh, which is `wsgi-messaging serve --processes N --threads`."""

    stop_signal = signal.SIGTERM
    reload_signal = signal.SIGHUP

    def __init__(self, name: str, *, workers: int = 2, **rest: Any) -> None:
        super().__init__(name, **rest)
        self.workers = workers
        self.program = find("wsgi-messaging")

    def missing(self) -> str | None:
        return super().missing() if self.program else "wsgi-messaging is not installed: make test"

    def command(self) -> list[str]:
        assert self.program is not None
        folder = str(Path(self.program).parent)
        self.env |= {"PORT": str(self.port), "WEB_CONCURRENCY": str(self.workers)}
        self.env["PATH"] = f"{folder}:{self.env.get('PATH', '')}"
        return ["/bin/sh", str(HOOKS / "werkzeug-serve.sh"), f"{self.module}:application"]
