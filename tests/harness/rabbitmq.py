"""A real RabbitMQ of our own: free loopback ports, own node, folder, home and epmd; stopped by pid.

Ready in about five seconds. It can be killed and started again on the same ports with the same data.
What the broker knows is asked of its management API or of Erlang itself (milliseconds both); rabbitmqctl takes a
second or two of a processor.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness import processes
from tests.harness.secret import PASSWORD, USER
from tests.harness.waiting import wait_until

# Debian's own /usr/sbin wrappers insist on the user rabbitmq; the scripts below them run as anyone.
_FOLDERS = ("/usr/lib/rabbitmq/bin", "/usr/local/sbin", "/opt/homebrew/sbin", "/usr/local/opt/rabbitmq/sbin")
_ENTRY = re.compile(r"\n(?=\d{4}-\d\d-\d\d )")
_COMPLAINT = re.compile(r"client unexpectedly closed TCP connection|missed heartbeats from client|\[error\]")
_CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {http}
collect_statistics_interval = 1000
log.console = false
log.file = {log}
log.file.level = info
disk_free_limit.absolute = 10MB
default_user = {user}
default_pass = {password}
{extra}
"""


def script(name: str) -> str | None:
    """Path of one of RabbitMQ's scripts, or None where it is not installed."""
    return shutil.which(name, path=os.pathsep.join(_FOLDERS)) or processes.program(name)


@dataclass(frozen=True)
class BrokerConnection:
    """One client connection as the broker sees it."""

    name: str
    connection_name: str
    peer_port: int
    state: str
    channels: int
    heartbeat: int
    client_properties: dict[str, Any]


def _connection(row: dict[str, Any]) -> BrokerConnection:
    properties = row["client_properties"]
    return BrokerConnection(
        name=row["name"],
        connection_name=properties.get("connection_name", ""),
        peer_port=row["peer_port"],
        state=row["state"],
        channels=row["channels"],
        heartbeat=row["timeout"],
        client_properties=properties,
    )


def _erl_call() -> str:
    """A program of Erlang's own that asks a node without starting another one."""
    path = processes.program("erl_call")
    if path is None:  # not everybody links it beside erl
        beside = Path(processes.program("erl") or "erl").resolve().parent
        path = shutil.which("erl_call", path=str(beside))
    assert path is not None, "erl_call is not installed"
    return path


class RabbitMQ:
    """One node. `start()` returns when it accepts AMQP and HTTP."""

    host = "127.0.0.1"
    user = USER

    def __init__(self, config: str = "", password: str = PASSWORD) -> None:
        self.password = password
        self.amqp_port, self.http_port, dist, self._epmd_port = (processes.free_port() for _ in range(4))
        self.node = f"wsgimessaging{self.amqp_port}@localhost"
        self.folder = Path(tempfile.mkdtemp(prefix="wsgi-messaging-rabbitmq-"))
        self.log_path = self.folder / "broker.log"
        ports = {"amqp": self.amqp_port, "http": self.http_port}
        text = _CONFIG.format(**ports, log=self.log_path, user=self.user, password=self.password, extra=config)
        (self.folder / "rabbitmq.conf").write_text(text)
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        self._env = processes.environment(
            HOME=str(self.folder),
            RABBITMQ_NODENAME=self.node,
            RABBITMQ_CONFIG_FILE=str(self.folder / "rabbitmq.conf"),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(self.folder / "enabled_plugins"),
            RABBITMQ_MNESIA_BASE=str(self.folder / "mnesia"),
            RABBITMQ_LOG_BASE=str(self.folder),
            RABBITMQ_PID_FILE=str(self.folder / "pid"),
            RABBITMQ_CONF_ENV_FILE=os.devnull,
            RABBITMQ_DIST_PORT=str(dist),
            # Idle schedulers sleep instead of spinning: tests share the machine's few cores with the broker.
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+sbwt none +sbwtdcpu none +sbwtdio none",
            ERL_EPMD_PORT=str(self._epmd_port),
            ERL_EPMD_ADDRESS=self.host,
        )
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<RabbitMQ {self.node} amqp={self.amqp_port} http={self.http_port} pid={self.pid}>"

    @property
    def url(self) -> str:
        """For kombu and for the package: virtual host "/"."""
        return f"amqp://{self.user}:{self.password}@{self.host}:{self.amqp_port}//"

    @property
    def pid(self) -> int | None:
        """The Erlang machine's pid while it runs."""
        if self._server is None or self._server.poll() is not None:
            return None
        for pid in processes.descendants(self._server.pid):
            with contextlib.suppress(OSError):  # one that has just ended
                if Path(f"/proc/{pid}/comm").read_text().startswith("beam"):
                    return pid
        return None

    def start(self, timeout: float = 60.0) -> RabbitMQ:
        """Blocks: until the node serves AMQP and HTTP, at most `timeout`."""
        if self._epmd is None:
            self._start_epmd()
        server = script("rabbitmq-server")
        if server is None:
            raise FileNotFoundError("rabbitmq-server is not installed")
        with (self.folder / "startup.log").open("ab") as output:
            self._server = processes.spawn([server], env=self._env, cwd=self.folder, output=output)
        wait_until(self._is_ready, timeout, f"{self!r} to be ready; see {self.folder}", interval=0.1)
        return self

    def _start_epmd(self) -> None:
        # Ours, on a port of its own: the node would start a daemon that outlives it and that others may come to use.
        epmd = processes.program("epmd") or "epmd"
        self._epmd = processes.spawn([epmd, "-port", str(self._epmd_port)], env=self._env, cwd=self.folder)
        wait_until(lambda: processes.is_listening(self._epmd_port), 5.0, "epmd")

    def _is_ready(self) -> bool:
        if self._server is not None and self._server.poll() is not None:
            startup = (self.folder / "startup.log").read_text(errors="replace")
            raise RuntimeError(f"rabbitmq-server ended with {self._server.returncode}:\n{startup[-3000:]}")
        if not processes.is_listening(self.amqp_port):
            return False
        try:
            return bool(self.api("overview"))
        except OSError:
            return False

    def join(self, other: RabbitMQ) -> RabbitMQ:
        """Start as a node of `other`'s cluster: by its epmd, with its cookie. Blocks: until it serves."""
        self._env["ERL_EPMD_PORT"] = other._env["ERL_EPMD_PORT"]
        self._epmd = other._epmd
        cookie = self.folder / ".erlang.cookie"
        shutil.copy(other.folder / ".erlang.cookie", cookie)
        cookie.chmod(0o400)
        self.start()
        for step in (("stop_app",), ("join_cluster", other.node), ("start_app",)):
            self.ctl(*step)
        wait_until(self._is_ready, 60.0, f"{self!r} in the cluster")
        return self

    def keep_declarations(self) -> None:
        """Have what was declared survive `kill`: Mnesia writes a while later, and a crash loses a new durable queue."""
        self.evaluate("mnesia:sync_log()")

    def kill(self) -> None:
        """SIGKILL, as a crash. `start()` brings it back on the same ports with its durable data."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: the node is silent, its kernel still acknowledges."""
        pid = self._signal_beam(signal.SIGSTOP)
        wait_until(lambda: processes.is_stopped(pid), what="the last of its threads to stop")

    def resume(self) -> None:
        """SIGCONT."""
        self._signal_beam(signal.SIGCONT)

    def restart(self) -> None:
        """An orderly stop and start."""
        self._end(signal.SIGTERM)
        self.start()

    def stop(self) -> None:
        """For good: ends the node and its epmd, removes its folder. Idempotent."""
        self._end(signal.SIGKILL)
        if self._epmd is not None:
            processes.stop(self._epmd)
            self._epmd = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal_beam(self, number: int) -> int:
        pid = self.pid
        assert pid is not None, "the broker does not run"
        processes.signal_process(pid, number)
        return pid

    def _end(self, number: int) -> None:
        if self._server is None:
            return
        pid = self.pid
        if pid is not None:
            processes.signal_process(pid, number)
        # The script waits for the node; with SIGTERM this is RabbitMQ's own orderly end.
        wait_until(lambda: pid is None or not processes.is_alive(pid), 30.0, "the end of the node")
        processes.stop(self._server)
        self._server = None

    def log_text(self) -> str:
        """All that the node has logged."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_mark(self) -> int:
        """A position in the log, for `complaints` and `log_since`."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def log_since(self, mark: int) -> str:
        """What the node has logged since `mark`."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_bytes()[mark:].decode(errors="replace")

    def complaints(self, name: str, since: int = 0) -> list[str]:
        """What the log says since a mark of connections with `name` in their names that ended without a Close, were
        dropped for missed heartbeats, or erred."""
        entries = _ENTRY.split(self.log_since(since))
        return [entry for entry in entries if name in entry and _COMPLAINT.search(entry)]

    def ctl(self, *args: str, timeout: float = 60.0) -> str:
        """Output of rabbitmqctl. Slow: one or two seconds."""
        tool = script("rabbitmqctl")
        assert tool is not None, "rabbitmqctl is not installed"
        # The scripts of Debian and of rabbitmq.com run as the current user; its cookie lies in our HOME.
        done = self._run([tool, "--silent", *args], timeout)
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(args)}: {done.stdout}{done.stderr}")
        return done.stdout

    def evaluate(self, expression: str, timeout: float = 60.0) -> None:
        """Have an Erlang expression evaluated on the node. Raises: RuntimeError when it raises."""
        cookie = (self.folder / ".erlang.cookie").read_text()
        done = self._run([_erl_call(), "-n", self.node, "-c", cookie, "-e"], timeout, f"{expression}.\n")
        if not done.stdout.startswith("{ok,"):
            raise RuntimeError(f"{expression}: {done.stdout}{done.stderr}")

    def _evaluate_json(self, expression: str) -> Any:
        """What it gives, where JSON can say that."""
        with tempfile.NamedTemporaryFile(dir=self.folder) as file:  # erl_call cuts long values
            self.evaluate(f'ok = file:write_file("{file.name}", rabbit_json:encode({expression}))')
            return json.loads(Path(file.name).read_bytes())

    def _run(self, command: list[str], timeout: float, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self._env, cwd=self.folder, input=given, capture_output=True, text=True, timeout=timeout
        )

    def api(self, path: str, method: str = "GET", body: object = None, timeout: float = 10.0) -> Any:
        """The management API's answer below /api/, decoded. Raises OSError (urllib's) when it refuses."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.host}:{self.http_port}/api/{path}", data, method=method)
        token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def connections(self, containing: str = "") -> list[BrokerConnection]:
        """Client connections open now whose connection name holds `containing`.

        Each connection is asked: the management API learns of a new one with the next statistics only, up to 5 s late.
        """
        rows = self._evaluate_json(
            "[maps:map(fun(client_properties, Table) when is_list(Table) -> rabbit_misc:amqp_table(Table);"
            "             (_, Value) -> Value end, maps:from_list(Facts))"
            " || Facts <- rabbit_networking:connection_info_all("
            "       [name, client_properties, peer_port, state, channels, timeout])]"
        )
        found = [_connection(row) for row in rows if isinstance(row["client_properties"], dict)]
        return [connection for connection in found if containing in connection.connection_name]

    def queues(self) -> set[str]:
        """The names of the queues of all virtual hosts."""
        names = "[Name || Queue <- rabbit_amqqueue:list(), {resource, _, _, Name} <- [amqqueue:get_name(Queue)]]"
        return set(self._evaluate_json(names))

    def close_connection(self, connection: BrokerConnection, reason: str = "closed by a test") -> None:
        """The broker closes that connection with 320 CONNECTION_FORCED."""
        self.evaluate(
            f'[rabbit_networking:close_connection(P, "{reason}") || '
            "[{pid, P}, {name, N}] <- rabbit_networking:connection_info_all([pid, name]), "
            f'N == <<"{connection.name}">>]'
        )

    def limit_memory(self, to: str) -> None:
        """Of so much ("0.4": a part of the machine's; "{absolute, 1000}") no more: an alarm stops publishers."""
        self.evaluate(f"vm_memory_monitor:set_vm_memory_high_watermark({to})")

    def messages(self, queue: str, count: int = 1_000_000, vhost: str = "/") -> list[dict[str, Any]]:
        """Takes up to `count` messages out of a queue; each with payload, properties, routing_key, redelivered."""
        request = {"count": count, "ackmode": "ack_requeue_false", "encoding": "auto"}
        path = f"queues/{urllib.parse.quote(vhost, safe='')}/{urllib.parse.quote(queue, safe='')}/get"
        found: list[dict[str, Any]] = self.api(path, "POST", request, timeout=60.0)
        return found

    def declare_queue(self, queue: str, vhost: str = "/", **arguments: object) -> None:
        """A durable queue."""
        path = f"queues/{urllib.parse.quote(vhost, safe='')}/{urllib.parse.quote(queue, safe='')}"
        self.api(path, "PUT", {"durable": True, "arguments": arguments})

    def delete_queue(self, queue: str, vhost: str = "/") -> None:
        """Removes the queue; none there is no error."""
        path = f"queues/{urllib.parse.quote(vhost, safe='')}/{urllib.parse.quote(queue, safe='')}"
        try:
            self.api(path, "DELETE")
        except urllib.error.HTTPError as refusal:
            if refusal.code != 404:
                raise
