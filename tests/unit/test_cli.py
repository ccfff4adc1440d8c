"""cli/: help, exit statuses, and the commands `hooks` and `serve`."""

from __future__ import annotations

import argparse
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from wsgi_messaging import ConfigurationError, __version__
from wsgi_messaging.cli import COMMANDS, _numbers, hooks, main, output, rpc_server, serve

APPLICATION = """
import os

def application(environ, start_response):
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{VERSION} {os.getpid()} {environ['wsgi.multiprocess']}".encode()]

def make():
    return application

class Endpoint:
    pass

def answer():
    return number

VERSION = "one"
number = 7
numbers = [7]
nothing = ()
"""


HASTY = """
from wsgi_messaging.servers import werkzeug

werkzeug.IDLE_SECONDS = 0.1
"""


def usage_error(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage_error("--help") == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_that_tells_its_exit_statuses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("werkzeug")
    assert usage_error(command, "--help") == 0
    assert "Exit status:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [(), ("nothing",), ("hooks",), ("hooks", "--list", "--copy", "x"), ("serve",)])
def test_wrong_usage_is_status_2(arguments: tuple[str, ...]) -> None:
    assert usage_error(*arguments) == 2


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"wsgi-messaging {__version__}\n")


def test_help_imports_no_command() -> None:
    program = (
        "import sys; from wsgi_messaging.cli import main\n"
        "try: main(['--help'])\n"
        "finally: sys.stderr.write(' '.join(name for name in sys.modules if name.startswith('wsgi_messaging.cli')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert done.stderr == "wsgi_messaging.cli"


def test_hooks_list_names_files_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hooks", "--list"]) == 0
    folder, *rows = capsys.readouterr().out.splitlines()
    files = [row.split()[1] for row in rows]
    assert len(files) == len(hooks.FILES)
    assert all((Path(folder.removeprefix("# ")) / file).is_file() for file in files)


def test_what_the_list_of_hooks_says_of_apache_is_what_the_documentation_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["hooks", "--list", "--server", "mod_wsgi"]) == 0
    assert "after the line: Define WSGI_SCRIPT " in capsys.readouterr().out
    folder = hooks.find("hooks")
    needed = set(re.findall(r"\$\{(\w+)\}", (folder / "apache-mod_wsgi.conf").read_text()))
    given = set(re.findall(r"^ *Define (\w+)", (folder / "apache-mod_wsgi.conf").read_text(), re.M))
    assert needed - given == {"WSGI_SCRIPT", "WSGI_PYTHON_HOME"}, "of which the second is only asked for where it is"
    for page in ("README.rst", "docs/servers/index.rst"):
        assert "``Define WSGI_SCRIPT PATH``, then ``Include" in (folder.parent / page).read_text()


def test_hooks_are_short_and_all_are_listed() -> None:
    shipped = {path.name: path.read_text() for path in hooks.find("hooks").iterdir() if path.is_file()}
    assert sorted(shipped) == sorted(file for file, _ in hooks.FILES.values())
    assert all(text.count("\n") <= 30 for text in shipped.values())


def test_hooks_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "place"
    assert main(["hooks", "--copy", str(target)]) == 0
    assert len(list(target.iterdir())) == len(hooks.FILES)
    assert str(target / "uwsgi.ini") in capsys.readouterr().out


def test_hooks_copy_of_one_server_overwrites_only_when_told(tmp_path: Path) -> None:
    copied = tmp_path / "uwsgi.ini"
    copied.write_text("mine")
    assert main(["hooks", "--copy", str(tmp_path), "--server", "uwsgi"]) == 1
    assert copied.read_text() == "mine"
    assert main(["hooks", "--copy", str(tmp_path), "--server", "uwsgi", "--force"]) == 0
    assert copied.read_text() != "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["uwsgi.ini"]


def test_hooks_copy_to_an_impossible_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["hooks", "--copy", str(tmp_path / "file" / "below")]) == 1
    assert "cannot copy" in capsys.readouterr().err


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "served_by_a_test.py").write_text(APPLICATION)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("served_by_a_test", None)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("served_by_no_one:Endpoint", "no module 'served_by_no_one' in "),
        ("served_by_a_test.below:Endpoint", "no module 'served_by_a_test.below' in "),
        ("served_by_a_test.py:make", "; write served_by_a_test:make"),
        ("./served_by_a_test:make", "is not module:name"),
        (":make", "is not module:name"),
    ],
)
def test_endpoints_in_a_module_that_is_not_there(project: Path, name: str, named: str) -> None:
    """Fails when a traceback of the import is all that is said."""
    with pytest.raises(ConfigurationError, match=re.escape(named)):
        rpc_server.load(name)
    assert len(rpc_server.load("served_by_a_test:Endpoint")) == 1


@pytest.mark.parametrize("arguments", [("serve", "shop:app"), ("rpc-server", "--topic", "orders", "shop:Endpoint")])
def test_a_folder_that_is_gone(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(arguments) == 2
    assert "does not exist any more" in capsys.readouterr().err


def test_what_a_module_of_endpoints_cannot_import_is_its_own_matter(project: Path) -> None:
    (project / "served_by_a_test.py").write_text("import no_such_module_anywhere")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        rpc_server.load("served_by_a_test:make")


@pytest.mark.parametrize(
    ("options", "app", "shown"),
    [([], "", "rpc-compute"), ([], "shop", "shop"), (["--name", "adder"], "shop", "adder")],
)
def test_an_rpc_server_has_a_name_of_its_own(
    options: list[str], app: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSGI_MESSAGING_APP", app)
    parser = argparse.ArgumentParser()
    rpc_server.add_parser(parser.add_subparsers())
    args = parser.parse_args(["rpc-server", "a:b", "--topic", "compute", "--url", "amqp://h", *options])
    assert rpc_server._settings(args).app == shown


def test_one_and_many_are_told_apart() -> None:
    assert [output.counted(number, "host") for number in (0, 1, 2)] == ["0 hosts", "1 host", "2 hosts"]


@pytest.mark.parametrize("name", ["", ":application", ":make()"])
def test_an_application_is_loaded_by_name(project: Path, name: str) -> None:
    assert serve.load(f"served_by_a_test{name}").__name__ == "application"


def test_what_is_no_application_is_refused(project: Path) -> None:
    for name in ("number", "number()", "answer()"):
        with pytest.raises(ConfigurationError, match="not a WSGI application"):
            serve.load(f"served_by_a_test:{name}")


@pytest.mark.parametrize("name", ["number", "answer", "numbers", "VERSION", "nothing"])
def test_what_is_no_endpoint_is_refused(project: Path, name: str) -> None:
    """Fails when a server is told to be ready that can answer nothing."""
    with pytest.raises(ConfigurationError, match=f"^endpoints: 'served_by_a_test:{name}' (has .* no object|is empty)"):
        rpc_server.load(f"served_by_a_test:{name}")


NOBODY = ("--url", "amqp://127.0.0.1:1//")


@pytest.mark.parametrize(
    ("option", "number", "command"),
    [
        ("--timeout", "-1", ("check", "amqp://127.0.0.1:1//")),
        ("--timeout", "0", ("check", "amqp://127.0.0.1:1//")),
        ("--timeout", "nan", ("check", "amqp://127.0.0.1:1//")),
        ("--timeout", "inf", ("check", "amqp://127.0.0.1:1//")),
        ("--timeout", "1e9", ("check", "amqp://127.0.0.1:1//")),
        ("--timeout", "soon", ("check", "amqp://127.0.0.1:1//")),
        ("--count", "-3", ("check", "amqp://127.0.0.1:1//")),
        ("--timeout", "-1", ("queues", "orders", *NOBODY)),
        ("--timeout", "0", ("dlq", "list", "orders", *NOBODY)),
        ("--limit", "0", ("dlq", "show", "orders", *NOBODY)),
        ("--limit", "-1", ("dlq", "replay", "orders", *NOBODY)),
        ("--timeout", "0", ("call", "topic", "method", *NOBODY)),
        ("--timeout", "0", ("cast", "topic", "method", *NOBODY)),
        ("--timeout", "-1", ("notify", "{}", *NOBODY)),
        ("--count", "0", ("listen", *NOBODY)),
        ("--port", "99999", ("devbroker",)),
        ("--heartbeat", "-1", ("devbroker",)),
        ("--port", "99999", ("serve", "served_by_no_one")),
        ("--grace", "-1", ("serve", "served_by_no_one")),
        ("--processes", "0", ("serve", "served_by_no_one")),
        ("--grace", "-1", ("rpc-server", "served_by:no_one", "--topic", "t", *NOBODY)),
        ("--transport-timeout", "-4", ("doctor", __file__)),
        ("--heartbeat", "-4", ("doctor", __file__)),
        ("--timeout", "0", ("doctor", __file__)),
        ("--proxy-idle-timeout", "0", ("doctor", __file__)),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused(
    option: str, number: str, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("werkzeug")
    assert usage_error(*command, option, number) == 2
    assert re.search(rf"error: argument {option}: '{number}' is not a (number|whole number) ", capsys.readouterr().err)


def test_nothing_is_a_number_where_it_has_a_meaning() -> None:
    assert (_numbers.seconds_or_none("0"), _numbers.port("0"), _numbers.whole(0, 65535)("0")) == (0.0, 0, 0)
    assert (_numbers.seconds("0.5"), _numbers.whole(1)("100")) == (0.5, 100)


class Served:
    """`wsgi-messaging serve` in a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wsgi_messaging", "serve", *arguments, "--port", "0", "--quiet"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self, having: str) -> str:
        """The next line of the master that has this in it; pytest-timeout bounds the wait."""
        assert self.process.stderr is not None
        seen = []
        for line in self.process.stderr:
            if having in line:
                return line
            seen.append(line)
        raise AssertionError(f"no {having!r} in {seen}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(15)


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., Served]]:
    pytest.importorskip("werkzeug")
    started: list[Served] = []

    def start(*arguments: str) -> Served:
        started.append(Served(project, *arguments))
        return started[-1]

    yield start
    for served in started:
        if served.process.poll() is None:
            served.process.kill()
            served.process.wait()
        assert served.process.stderr is not None
        served.process.stderr.close()


def get(line: str) -> list[str]:
    url = next(word for word in line.split() if word.startswith("http://"))
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read().decode()).split()


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at


def test_serve_reloads_replaces_and_ends(project: Path, start: Callable[..., Served]) -> None:
    served = start("served_by_a_test", "--processes", "2", "--threads")
    first = served.line("serving http://")
    workers = first.rstrip(")\n").split()[-2:]
    version, pid, multiprocess = get(first)
    assert (version, pid in workers, multiprocess) == ("one", True, "True")

    (project / "served_by_a_test.py").write_text(APPLICATION.replace("one", "two"))
    served.process.send_signal(signal.SIGHUP)
    second = served.line("serving http://")
    # The old workers may take some more requests before they end.
    wait_for(lambda: [get(second)[0] for _ in range(8)] == ["two"] * 8)

    (project / "served_by_a_test.py").write_text("raise OSError('broken')")
    served.process.send_signal(signal.SIGHUP)
    served.line("reload given up")
    assert get(second)[0] == "two"

    (project / "served_by_a_test.py").write_text(APPLICATION)
    os.kill(int(second.rstrip(")\n").split()[-1]), signal.SIGKILL)
    assert "(exit -9)" in served.line("ended unasked")
    assert served.stop() == 0


def test_serve_says_an_address_of_ipv6_as_a_url_has_it(start: Callable[..., Served]) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    served = start("served_by_a_test", "--host", "::1")
    line = served.line("serving http://")
    assert "http://[::1]:" in line and get(line)[0] == "one"
    assert served.stop() == 0


def test_serve_goes_on_when_nobody_reads_its_log(project: Path, start: Callable[..., Served]) -> None:
    """Fails without it: the line at a reload ended the master, and with it the workers."""
    served = start("served_by_a_test", "--threads")
    first = served.line("serving http://")
    assert served.process.stderr is not None
    served.process.stderr.close()
    (project / "served_by_a_test.py").write_text(APPLICATION.replace("one", "two"))
    served.process.send_signal(signal.SIGHUP)
    wait_for(lambda: get(first)[0] == "two")
    assert served.stop() == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit(2) is Linux's")
def test_serve_outlives_a_reload_for_which_there_is_no_process(start: Callable[..., Served]) -> None:
    """Fails without it: the master ended with a traceback, and the workers from before with it."""
    served = start("served_by_a_test", "--processes", "2", "--threads")
    first = served.line("serving http://")
    pid = served.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + 1, limits[1]))
    served.process.send_signal(signal.SIGHUP)
    served.line("cannot start a worker: Too many open files")
    served.line("reload given up")
    assert get(first)[1] in first.rstrip(")\n").split()

    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    served.process.send_signal(signal.SIGHUP)
    assert served.line("serving http://") != first
    assert served.stop() == 0


def test_serve_reloads_although_a_reload_hangs(project: Path, start: Callable[..., Served]) -> None:
    """Fails without it: SIGHUP was put off until the workers whose import hangs were ready."""
    served = start("served_by_a_test", "--grace", "0")
    served.line("serving http://")
    module = project / "served_by_a_test.py"
    module.write_text(f"import pathlib, signal\npathlib.Path('hangs').touch()\nsignal.pause()\n{APPLICATION}")
    served.process.send_signal(signal.SIGHUP)
    wait_for((project / "hangs").exists)
    module.write_text(APPLICATION.replace("one", "two"))
    served.process.send_signal(signal.SIGHUP)
    second = served.line("serving http://")
    wait_for(lambda: get(second)[0] == "two")  # the worker from before may take a request yet
    assert served.stop() == 0


def test_serve_without_threads_waits_for_no_silent_client(project: Path, start: Callable[..., Served]) -> None:
    """Fails without it: the one worker waits for the first client to say something, and never serves the second."""
    (project / "served_by_a_test.py").write_text(f"{HASTY}{APPLICATION}")
    served = start("served_by_a_test")
    first = served.line("serving http://")
    address = ("127.0.0.1", int(first.partition("127.0.0.1:")[2].split()[0]))
    with socket.create_connection(address):
        assert get(first)[0] == "one"
    with socket.create_connection(address) as slow:
        slow.sendall(b"POST / HTTP/1.0\r\nContent-Length: 4\r\n\r\n")
        time.sleep(0.3)  # longer than a silent client is waited for: a request that is here may take its time
        slow.sendall(b"body")
        assert b" 200 " in slow.recv(4096)
    with socket.create_connection(address):
        assert served.stop() == 0


def test_serve_ends_when_the_application_cannot_be_imported(project: Path, start: Callable[..., Served]) -> None:
    (project / "served_by_a_test.py").write_text("import no_such_module_anywhere")
    served = start("served_by_a_test")
    served.line("ModuleNotFoundError")
    served.line("did not start")
    assert served.process.wait(15) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module_anywhere:app", "no module 'no_such_module_anywhere' in "),
        ("served_by_a_test:nope", "'served_by_a_test' has no 'nope'"),
        ("served_by_a_test:number", "served_by_a_test:number is not a WSGI application"),
        ("./served_by_a_test:make()", "is not module:name"),
    ],
)
def test_serve_says_in_one_line_that_there_is_no_such_application(
    start: Callable[..., Served], name: str, said: str
) -> None:
    served = start(name)
    _output, error = served.process.communicate(timeout=60)
    assert served.process.returncode == 2
    first, second = error.splitlines()
    assert first.startswith("wsgi-messaging serve: application: ") and said in first
    assert "did not start (exit 2)" in second


def test_serve_says_why_it_cannot_listen(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails without it for a name: "Unknown error -2"."""
    pytest.importorskip("werkzeug")
    assert main(("serve", "served_by_no_one", "--host", "no.such.host.invalid")) == 1
    assert re.search(r"cannot listen on no\.such\.host\.invalid:8000: (?!Unknown)\w", capsys.readouterr().err)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(("serve", "served_by_no_one", "--port", str(taken.getsockname()[1]))) == 1
    assert capsys.readouterr().err.endswith(": Address already in use\n")


def test_serve_ends_on_ctrl_c(start: Callable[..., Served]) -> None:
    served = start("served_by_a_test")
    served.line("serving http://")
    assert served.stop(signal.SIGINT) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("queues", "NAME"),
        ("dlq", "list", "NAME"),
        ("dlq", "show", "NAME"),
        ("dlq", "replay", "NAME"),
        ("check", "--name", "NAME"),
        ("notify", "{}", "--topic", "NAME"),
        ("listen", "--exchange", "NAME"),
        ("rpc-server", "os:path", "--topic", "t", "--server", "NAME"),
        ("call", "NAME", "method"),
        ("cast", "topic", "method", "--server", "NAME"),
    ],
)
@pytest.mark.parametrize(("name", "said"), [("q\udcff", "is not UTF-8"), ("\u00e4" * 128, "octets is longer than 2")])
def test_a_name_that_amqp_cannot_carry(
    arguments: Sequence[str], name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was a traceback; what is not UTF-8 in argv comes as surrogates."""
    with pytest.raises(SystemExit) as caught:
        main([name if each == "NAME" else each for each in arguments])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("status --run-dir {folder} >&-", 1),
        ("check amqp://127.0.0.1:1 >&-", 1),
        ("call topic method --json - --url amqp://127.0.0.1:1 <&-", 2),
        ("hooks --list <&- >&- 2>&-", 0),
    ],
)
def test_a_command_whose_streams_are_closed_has_its_exit_status(command: str, expected: int, tmp_path: Path) -> None:
    """A script that wants nothing but that. Fails with a traceback, which comes with 1, too."""
    line = f"{shlex.quote(sys.executable)} -m wsgi_messaging {command.format(folder=tmp_path)}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode == expected and "Traceback" not in done.stderr, done.stderr
