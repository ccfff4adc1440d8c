"""The documentation is true: its examples run, what it names exists, and what is made from the source is complete.

A Python block of a page in docs/ is run when its `:class:` has `runnable`, from top to bottom with the others of its
page, in one namespace, with an embedded broker as WSGI_MESSAGING_URL (and in the place of the default URL). With a
`:caption:` that ends in .py it is a file beside the others of its page and is imported; files named as tests are given
to pytest. `needs-NAME` says that the block wants a library that may be missing. The tutorial's shop.py is there for
every page.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import wsgi_messaging
from docs._ext import commands, measured, remedies, source, statechart
from tests.harness.processes import environment, free_port, is_listening, spawn, stop
from tests.harness.requirements import missing
from tests.harness.secret import dev_broker
from tests.harness.waiting import wait_until
from wsgi_messaging import MessagingMiddleware, Settings, Transport, connections, errors, lifetime
from wsgi_messaging.cli import COMMANDS
from wsgi_messaging.cli._findings import Facts
from wsgi_messaging.cli.doctor_rules import proxies
from wsgi_messaging.connection import connecting, state, timing
from wsgi_messaging.devbroker import DevBroker
from wsgi_messaging.frameworks.configuration import OPTIONS
from wsgi_messaging.observe.options import SHORTEST_TOKEN
from wsgi_messaging.rpc import QueueFlags
from wsgi_messaging.runtime import worker

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.rst"))
DEFAULT_URL = "amqp://guest:guest@127.0.0.1:5672//"
_OPTION = re.compile(r"\s*:(\w+):\s*(.*)")


@dataclass(frozen=True)
class Block:
    """A code block: where it stands, what it is, and its text."""

    page: str
    line: int
    language: str
    classes: tuple[str, ...]
    caption: str
    code: str

    @property
    def needs(self) -> str:
        return next((each.removeprefix("needs-") for each in self.classes if each.startswith("needs-")), "")

    @property
    def is_file(self) -> bool:
        return self.caption.endswith(".py")


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def blocks(path: Path) -> Iterator[Block]:
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        found = re.match(r"(\s*)\.\. code-block:: (\w+)$", line)
        if not found:
            continue
        inside = []
        for each in lines[number + 1 :]:
            if each.strip() and indent_of(each) <= len(found[1]):
                break
            inside.append(each)
        options = {}
        while inside and (option := _OPTION.match(inside[0])):
            options[option[1]] = option[2]
            inside.pop(0)
        first = number + 2 + len(options)
        yield Block(
            str(path.relative_to(DOCS)),
            first,
            found[2],
            tuple(options.get("class", "").split()),
            options.get("caption", ""),
            dedent("\n".join(inside)).strip("\n") + "\n",
        )


ALL = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in ALL if block.language == "python"]
RUNNABLE = [block for block in PYTHON if "runnable" in block.classes]
RUNS = sorted({(block.page, "") for block in RUNNABLE} | {(block.page, block.needs) for block in RUNNABLE})


def prose() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        yield str(page.relative_to(DOCS)), page.read_text()
    yield "_ext/remedies.py", "\n".join(remedies.REMEDIES.values())


# The examples.


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[DevBroker]:
    for variable in ("AMQP_URL", "RABBITMQ_URL", "CLOUDAMQP_URL"):
        monkeypatch.delenv(variable, raising=False)
    with dev_broker() as broker:
        monkeypatch.setenv("WSGI_MESSAGING_URL", broker.url)
        yield broker


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a page's files are; what was imported from it is forgotten, and whose worker a page said that this is."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(worker, "_marked", worker._marked)
    before = set(sys.modules)
    write(next(block for block in RUNNABLE if block.caption == "shop.py"), tmp_path, "")
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            close_all(vars(sys.modules.pop(name)))


def write(block: Block, folder: Path, url: str) -> None:
    (folder / block.caption).write_text(block.code.replace(DEFAULT_URL, url) if url else block.code)


def close_all(names: dict[str, Any]) -> None:
    for value in list(names.values()):
        if issubclass(type(value), MessagingMiddleware):  # the type: asking a framework's proxy for its class raises
            value.transport.close()
        elif issubclass(type(value), Transport):
            value.close()


def run(block: Block, names: dict[str, Any], url: str) -> None:
    padding = "\n" * (block.line - 1)  # a traceback names the line of the page
    exec(compile(padding + block.code.replace(DEFAULT_URL, url), str(DOCS / block.page), "exec"), names)


@pytest.mark.parametrize(("page", "library"), RUNS, ids=lambda value: value or "plain")
def test_the_examples_run(page: str, library: str, broker: DevBroker, folder: Path) -> None:
    if library and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    names: dict[str, Any] = {"__name__": "example"}
    tests = False
    try:
        for block in RUNNABLE:
            if block.page != page or block.needs not in ("", library):
                continue
            if not block.is_file:
                run(block, names, broker.url)
                continue
            write(block, folder, broker.url)
            if block.caption.startswith(("test_", "conftest")):
                tests = True
            else:
                importlib.invalidate_caches()
                importlib.import_module(block.caption.removesuffix(".py"))
    finally:
        close_all(names)
    if tests:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
        done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page}:{block.line}")
def test_every_python_block_is_python(block: Block) -> None:
    ast.parse(block.code)


def test_the_flask_application_answers(broker: DevBroker, folder: Path) -> None:
    if importlib.util.find_spec("flask") is None:
        pytest.skip("flask is not installed")
    write(next(block for block in RUNNABLE if block.caption == "flask_shop.py"), folder, "")
    app = importlib.import_module("flask_shop").app
    try:
        answer = app.test_client().post("/orders", json={"item": "tea"})
        assert (answer.status_code, answer.get_json()) == (202, {"accepted": {"item": "tea"}})
        broker.stop()
        refused = app.test_client().post("/orders", json={"item": "tea"})
        assert refused.status_code == 503
        assert refused.get_json().keys() == {"error", "maybe_sent"}
    finally:
        app.wsgi_app.transport.close()


def test_the_tutorial_under_gunicorn(broker: DevBroker, folder: Path) -> None:
    """As a reader does it: the hooks copied, two workers, an order posted, the consumer started."""
    if importlib.util.find_spec("gunicorn") is None:
        missing("gunicorn is not installed")
    write(next(block for block in RUNNABLE if block.caption == "worker.py"), folder, "")
    said = [block.code for block in ALL if block.page == "tutorial.rst" and block.language == "console"]
    assert any("$ wsgi-messaging hooks --copy . --server gunicorn\n" in each for each in said)
    assert any("$ gunicorn -c gunicorn.conf.py --workers 2 shop:application\n" in each for each in said)
    env = environment(WSGI_MESSAGING_URL=broker.url, XDG_RUNTIME_DIR=str(folder), PYTHONPATH=str(ROOT))
    hooks = [sys.executable, "-m", "wsgi_messaging", "hooks", "--copy", ".", "--server", "gunicorn"]
    subprocess.run(hooks, cwd=folder, env=env, check=True, capture_output=True)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "--workers", "2"]
    command += ["--bind", f"127.0.0.1:{port}", "shop:application"]
    with (folder / "log").open("wb") as log:
        server = spawn(command, env=env, cwd=folder, output=log)
    try:
        wait_until(lambda: is_listening(port), 20, "gunicorn listens")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", b'{"item": "tea"}', timeout=20) as answer:
            assert json.load(answer) == {"accepted": {"item": "tea"}}
        with (folder / "heard").open("wb") as heard:
            consumer = spawn([sys.executable, "worker.py"], env=env, cwd=folder, output=heard)
        try:
            wait_until(lambda: "order.new {'item': 'tea'}" in (folder / "heard").read_text(), 20, "the order is heard")
            consumer.send_signal(signal.SIGINT)
            assert consumer.wait(10) == 0
        finally:
            stop(consumer)
    finally:
        stop(server)
    assert "never ran" not in (folder / "log").read_text()
    assert not broker.abrupt_closes


# What the pages name.


def test_every_file_that_is_named_exists() -> None:
    for page, text in prose():
        for path in re.findall(
            r"(?<![\w/.-])((?:hooks|tests|examples|tools|benchmarks|wsgi_messaging)/[\w./-]*\w)", text
        ):
            assert (ROOT / path).exists(), f"{page}: {path}"


def test_every_command_that_is_named_exists_with_its_options() -> None:
    known = {name: commands.help_of(name) for name in commands.names()}
    for page, text in prose():
        for line in re.findall(
            r"(?:(?<=``)|(?<=\$ )|(?<=`))(?:python -m wsgi_messaging|wsgi-messaging) ([^`\n]*)", text
        ):
            name, *words = line.split()
            if not re.fullmatch(r"[a-z-]+", name):
                continue
            assert name in known, f"{page}: wsgi-messaging {name}"
            for option in (word.partition("=")[0] for word in words if word.startswith("--")):
                assert option in known[name], f"{page}: wsgi-messaging {name} {option}"


def test_every_line_for_uwsgi_says_where_to_listen() -> None:
    """Without it uWSGI ends at once: "The -s/--socket option is missing"."""
    pages = [*prose(), ("README.rst", (ROOT / "README.rst").read_text())]
    lines = [(page, line) for page, text in pages for line in re.findall(r"(?:``|\$ )(uwsgi --ini [^`\n]*)", text)]
    assert {"README.rst", "servers/index.rst", "servers/uwsgi.rst"} == {page for page, _line in lines}
    for page, line in lines:
        assert " --http-socket 127.0.0.1:8000 " in line, f"{page}: {line}"


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {(page, target) for page, text in prose() for target in re.findall(r"(?:``|^ +)make ([a-z-]+)", text, re.M)}
    assert ("measurements.rst", "bench") in named
    unknown = {target for _page, target in named} - targets
    assert unknown <= {"docs"}, f"no such target: {unknown}"  # `docs` is the rule that builds these pages


def test_every_setting_that_is_named_exists() -> None:
    fields = {each.name for each in dataclasses.fields(Settings) if each.init}
    for page, text in prose():
        for variable in re.findall(r"WSGI_MESSAGING_([A-Z_]*[A-Z])", text):
            known = {*fields, *OPTIONS, "transport"}
            assert variable.lower() in known, f"{page}: WSGI_MESSAGING_{variable}"
        for setting in re.findall(r"\bsettings? ``(\w+)``", text):
            assert setting in fields, f"{page}: the setting {setting}"


def test_every_module_and_name_of_ours_exists() -> None:
    fields = {each.name for each in dataclasses.fields(Settings)}
    loggers = {
        name for path in source.PACKAGE.rglob("*.py") for name in re.findall(r'getLogger\("([\w.]+)"', path.read_text())
    }
    for page, text in prose():
        for name in re.findall(r"(?<![\w/@-])(wsgi_messaging(?:\.[a-zA-Z_]\w*)+)", text):
            if name in loggers or name.endswith((".transport",)) or name.partition(".")[2] in fields:  # Pyramid's keys
                continue
            assert resolves(name), f"{page}: {name}"
    told = re.findall(r"^(wsgi_messaging\.\w+) ", (DOCS / "operations.rst").read_text(), re.MULTILINE)
    assert set(told) == {name for name in loggers if name.startswith("wsgi_messaging.")}


def resolves(name: str) -> bool:
    """Whether there is such a module, or such a name in one; a module may want a library that is missing here."""
    module, found = name, []
    while module:
        path = ROOT / module.replace(".", "/")
        if path.is_dir() or path.with_suffix(".py").exists():
            break
        module, _dot, last = module.rpartition(".")
        found.insert(0, last)
    try:
        here: Any = importlib.import_module(module)
    except ImportError:
        names = {each.name for each in source.classes(f"{module.partition('.')[2].replace('.', '/')}.py")}
        return not found or found[0] in names
    return all((here := getattr(here, each, None)) is not None for each in found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_no_page_is_wider_than_the_house(page: Path) -> None:
    for number, line in enumerate(page.read_text().splitlines(), 1):
        assert len(line) <= 120, f"{page.name}:{number}"
        assert not re.search(r"/(work|tmp|root|home)/", line), f"{page.name}:{number}: {line}"


def test_log_lines_that_are_quoted_are_in_the_source() -> None:
    text = " ".join((DOCS / "operations.rst").read_text().split())
    package = " ".join("".join(path.read_text() for path in source.PACKAGE.rglob("*.py")).split())
    for quoted in (
        "s a short stall ends the connection",
        "something held the interpreter",
        "threads now at:",
        "the broker takes no messages:",
        "the broker takes messages again",
    ):
        assert quoted in text
        assert quoted in package


def test_numbers_in_the_prose_are_those_of_the_source() -> None:
    pages = {page: " ".join(text.split()) for page, text in prose()}
    operations, concepts = pages["operations.rst"], pages["concepts.rst"]
    backoff = timing.Backoff()
    assert f"doubles from {backoff.shortest:g} s to {backoff.longest:g} s" in concepts
    assert f"doubles from {backoff.shortest:g} s to at most {backoff.longest:g} s" in operations
    assert backoff.failed(0.0) == backoff.shortest / 4
    for page in (operations, concepts):
        assert f"at random within {connecting.FIRST_WITHIN:g} s" in page
    assert (connecting.STABLE_AFTER, connecting.FLAPPING_FROM) == (1.0, 2)
    assert "lost within a second of being opened, twice in a row" in operations
    assert (timing.BEATS_PER_INTERVAL, timing.SILENT_INTERVALS) == (3, 2)
    settings = Settings()
    assert f"``heartbeat`` ({settings.heartbeat:g} s)" in operations
    assert f"within {settings.heartbeat * timing.SILENT_INTERVALS:g} s at the default" in operations
    assert f"``fail_fast_after`` ({settings.fail_fast_after:g} s)" in operations
    assert f"``max_queued`` messages ({settings.max_queued:,}) and" in operations
    assert f"``max_queued_bytes`` ({settings.max_queued_bytes // 2**20} MiB)" in operations
    assert f"``prefetch`` ({settings.prefetch})" in operations
    assert f"below {lifetime.SHORT_HEARTBEAT:g} s a short stall" in operations
    assert f"runs for {connections._PATIENCE:.0%} of it".replace("%", " %") in operations
    assert f"the setting of that name ({settings.timeout:g} s)" in concepts
    assert f"healthy connections are cut, with the default at {settings.heartbeat / 2:g} s" in operations
    assert f"at least {SHORTEST_TOKEN} characters, printable ASCII" in pages["observing.rst"]


def test_a_proxys_idle_timeout_is_judged_as_the_pages_say() -> None:
    def said(seconds: float, heartbeat: float = 20.0) -> list[str]:
        return [each.severity for each in proxies.idle_timeout(seconds, Facts(heartbeat=heartbeat), "it", "more")]

    assert [said(10), said(10.1), said(20), said(20.1)] == [["error"], ["warning"], ["warning"], []]


# What is made from the source.


def test_the_settings_are_those_of_the_dataclass() -> None:
    read = {each.name: each for each in source.fields("settings.py", "Settings")}
    fields = {each.name: each for each in dataclasses.fields(Settings) if each.init}
    assert list(read) == list(fields)
    for name, field in fields.items():
        if field.default is not dataclasses.MISSING:
            assert read[name].default == str(field.default), name
        assert read[name].text or name == "tls_key_file", f"{name} has no docstring"
    assert ".. settings-reference::" in (DOCS / "settings.rst").read_text()


def test_the_errors_are_all_there_each_with_a_remedy() -> None:
    read = [each.name for each in source.classes("errors.py")]
    known = [
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    ]
    assert read == known
    assert remedies.REMEDIES.keys() == set(read)
    assert all(each.text for each in source.classes("errors.py"))
    public = {name for name in wsgi_messaging.__all__ if name in known}
    assert public == set(known)


def test_the_states_and_their_transitions_are_all_in_the_drawing() -> None:
    found = [(before.name, event.name, after.name) for before, event, after in state.transitions()]
    drawing = statechart.svg(found)
    assert all(f">{each.name}</text>" in drawing for each in state.State)
    labels = " ".join(re.findall(r'paint-order="stroke">([^<]*)<', drawing)).replace(",", "")
    for event in state.Event:
        assert event.name.lower().replace("_", " ") in labels
    assert drawing.count("marker-end") == len({(before, after) for before, _event, after in found})
    assert {each.name for each in source.fields("connection/state.py", "State")} == state.State.__members__.keys()
    assert {each.name for each in source.fields("connection/state.py", "Event")} == state.Event.__members__.keys()


def test_a_state_without_a_place_is_an_error() -> None:
    with pytest.raises(ValueError, match="DREAMING"):
        statechart.svg([("NEW", "OPEN", "DREAMING")])


def test_the_flags_are_those_of_the_dataclass() -> None:
    read = {each.name: each.default for each in source.fields("rpc/flags.py", "QueueFlags")}
    flags = QueueFlags()
    assert read == {each.name: str(getattr(flags, each.name)) for each in dataclasses.fields(QueueFlags)}


def test_the_commands_are_those_that_there_are() -> None:
    there = {name for name in COMMANDS if (source.PACKAGE / "cli" / f"{name.replace('-', '_')}.py").exists()}
    assert commands.names().keys() == there
    text = commands.help_of("hooks")
    assert text.startswith("usage: wsgi-messaging hooks")
    assert commands.parts_of(text) == []
    assert commands.parts_of("usage: wsgi-messaging dlq [-h] list|show|replay ...") == ["list", "show", "replay"]


def test_measurements_are_shown_where_there_are_some(tmp_path: Path) -> None:
    assert measured.results(tmp_path / "none.json") is None
    (tmp_path / "bad.json").write_text("{")
    assert measured.results(tmp_path / "bad.json") is None
    workload = {
        "name": "publish-1",
        "title": "one",
        "baseline": "raw",
        "figure": "rate",
        "rounds": {"raw": [{"rate": 100.0}, {"rate": 200.0}], "ours": [{"rate": 150.0}, {"rate": 400.0}]},
        "missing": {"pika": "not installed"},
        "machine": {"additions_ms": 4.04, "fsync_ms": 0.3, "stolen_percent": 2.4},
    }
    slower = workload | {"machine": {"additions_ms": 8.0, "fsync_ms": 1.0, "stolen_percent": 40.0}}
    about = {"broker": "RabbitMQ 3", "python": "3.11", "versions": {"amqp": "5"}, "rounds": 2, "seconds": 0.5}
    (tmp_path / "good.json").write_text(
        json.dumps({"circumstances": about, "bars": [], "workloads": [workload, slower]})
    )
    found = measured.results(tmp_path / "good.json")
    assert found is not None
    assert measured.rows(workload) == [("raw", "150", "1.00"), ("ours", "275", "1.75"), ("pika", "-", "not installed")]
    told = measured.circumstances(found)
    assert "RabbitMQ 3" in told
    assert "took 4.0 to 8.0 ms, an fsync 0.30 to 1.00 ms, and 2 to 40 % of" in told
    before = {**found, "workloads": [{key: value for key, value in workload.items() if key != "machine"}]}
    assert "Meanwhile" not in measured.circumstances(before)


def test_no_number_of_a_measurement_is_in_the_pages() -> None:
    for page in ("comparison.rst", "measurements.rst", "migration.rst"):
        assert not re.search(r"\d (?:us|ms|x|times)\b|per second|a second\b", (DOCS / page).read_text()), page


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    program = ROOT / ".venv-docs" / "bin" / "sphinx-build"
    found = str(program) if program.exists() else shutil.which("sphinx-build")
    if found is None:
        missing("Sphinx is not installed: make docs")
    command = [
        found,
        "-q",
        "-W",
        "-n",
        "--keep-going",
        "-d",
        str(tmp_path / "trees"),
        str(DOCS),
        str(tmp_path / "html"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    concepts = (tmp_path / "html" / "concepts.html").read_text()
    assert "<svg" in concepts
    assert all(member.name in concepts for member in state.State)
    errors_page = (tmp_path / "html" / "errors.html").read_text()
    assert all(each in errors_page for each in remedies.REMEDIES)
