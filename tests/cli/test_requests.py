"""`wsgi-messaging call` and `cast` against real RPC servers, on both brokers."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.broker.rpc_endpoints import Endpoint
from tests.harness import processes
from tests.harness.secret import dev_broker
from tests.harness.waiting import wait_until
from wsgi_messaging import RPCServer, Target, Transport
from wsgi_messaging.cli import _waiting, main


class Special:
    """Another interface on the same topic."""

    target = Target(namespace="special", version="2.1")

    def echo(self, ctxt: dict[str, Any], value: Any) -> Any:
        return ["special", value]

    def hostile(self, ctxt: dict[str, Any]) -> None:
        raise RuntimeError("\x1b[2Jowned")


@pytest.fixture(scope="module", params=["devbroker", "rabbitmq"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The tests that are about the way there and back, on both brokers."""
    if request.param == "rabbitmq":
        yield request.getfixturevalue("rabbitmq").url
        return
    with dev_broker() as broker:
        yield broker.url


class Servers:
    """Two servers of one topic."""

    def __init__(self, url: str, topic: str) -> None:
        self.url = url
        self.topic = topic
        self.transport = Transport(url)
        self.endpoints = {name: Endpoint(name) for name in ("h1", "h2")}
        for name, endpoint in self.endpoints.items():
            target = Target(exchange="shell", topic=topic, server=name)
            RPCServer(self.transport, target, [endpoint, Special()]).start()

    @property
    def executed(self) -> dict[str, list[Any]]:
        return {name: endpoint.executed for name, endpoint in self.endpoints.items()}


@pytest.fixture(scope="module")
def servers(url: str) -> Iterator[Servers]:
    servers = Servers(url, f"shell-{processes.RUN}")
    yield servers
    servers.transport.close()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(servers: Servers, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("call", "add", "a=1") to the servers' topic; gives status, standard output and standard error."""
    for endpoint in servers.endpoints.values():
        endpoint.executed.clear()

    def run(command: str, method: str, *arguments: str, topic: str = servers.topic) -> tuple[int, str, str]:
        status = main([command, topic, method, *arguments, "--url", servers.url, "--exchange", "shell"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("1.5", 1.5), ("true", True), ("null", None), ('{"a": [1, null]}', {"a": [1, None]}), ('"1"', "1")]
    + [(text, text) for text in ("alice", "", "NaN", "a=b", "{", "01", "żółw")],
)
def test_a_value_is_json_where_it_is_json_and_a_text_otherwise(run: Run, text: str, value: Any) -> None:
    status, out, err = run("call", "echo", f"value={text}")
    assert (status, json.loads(out), err) == (0, value, "")


def test_the_arguments_as_one_object_also_from_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("call", "add", "--json", '{"a": 1, "b": 2}') == (0, "3\n", "")
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"a": 3,\n "b": 4}\n'))
    assert run("call", "add", "--json", "-") == (0, "7\n", "")


def test_standard_input_that_is_no_text_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"a": "caf\xe9"}'), "utf-8"))
    assert main(["call", "t", "add", "--json", "-", "--url", "amqp://127.0.0.1:1"]) == 2
    assert "--json: standard input is not JSON: no utf-8 at octet 10" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [("--timeout", "10", "a=1", "b=2"), ("a=1", "--timeout", "10", "b=2"), ("a=1", "b=2", "--timeout", "10")],
)
def test_options_may_stand_anywhere_among_the_arguments(run: Run, arguments: tuple[str, ...]) -> None:
    """Fails with argparse alone, which takes no more of KEY=VALUE behind the first option."""
    assert run("call", "add", *arguments) == (0, "3\n", "")


def test_the_target_and_the_context(run: Run) -> None:
    assert [run("call", "who", "--server", name)[1] for name in ("h1", "h2")] == ['"h1"\n', '"h2"\n']
    options = ("--namespace", "special", "--version", "2.0")
    assert json.loads(run("call", "echo", "value=1", *options)[1]) == ["special", 1]
    assert json.loads(run("call", "context", "--context", '{"user_id": "alice"}')[1])["user_id"] == "alice"


@pytest.mark.parametrize(
    ("call", "text", "remedy"),
    [
        (("fail", "kind=kwargs"), "ValueError: kwargs", "See the server's log"),
        (("add", "a=1"), "TypeError: ", "Check the names and the number of the arguments"),
        (("nothing",), "NoSuchMethod: ", "Check METHOD"),
        (("add", "--version", "7.0"), "UnsupportedVersion: ", "Give a --version"),
        (("hostile", "--namespace", "special", "--version", "2.1"), "RuntimeError: ?[2Jowned", "See the server's log"),
    ],
)
def test_a_method_that_fails(run: Run, call: tuple[str, ...], text: str, remedy: str) -> None:
    status, out, err = run("call", *call)
    assert (status, out) == (3, "")
    assert err.startswith(f"wsgi-messaging call: the method failed: {text}")
    assert f"remedy: {remedy}" in err
    assert "Traceback" not in err
    assert "\x1b" not in err


def test_the_traceback_is_shown_to_who_wants_it(run: Run) -> None:
    _status, _out, err = run("call", "fail", "kind=kwargs", "--verbose")
    assert "  Traceback (most recent call last):" in err
    assert "in fail" in err


def test_nobody_serves_the_topic(run: Run, unique: Callable[[str], str]) -> None:
    nobody = unique("nobody")
    for command, *options in (["call"], ["cast"], ["cast", "--fanout"], ["call", "--server", "h1"]):
        status, out, err = run(command, "add", *options, topic=nobody)
        assert (status, out) == (5, "")
        assert f"not delivered: no queue takes a request for <Target exchange=shell, topic={nobody}" in err
        assert "remedy: Start a server" in err
    assert run("cast", "add", "--server", "h3")[0] == 5


def test_no_reply_in_time(run: Run, servers: Servers) -> None:
    status, out, err = run("call", "hold", "--server", "h1", "--timeout", "0.3")
    servers.endpoints["h1"].go_on.set()
    wait_until(lambda: servers.executed["h1"] == ["held"], 10.0, "the end of the method")
    assert (status, out) == (4, "")
    assert "no reply of <Target" in err
    assert f"'wsgi-messaging queues {servers.topic}.h1' shows" in err
    assert "It may have run" in " ".join(err.split())


def test_a_cast_to_one_and_to_all(run: Run, servers: Servers) -> None:
    status, out, _err = run("cast", "add", "a=1", "b=2", "--server", "h2")
    assert (status, out) == (0, f"confirmed: add to server h2 of topic {servers.topic}\n")
    wait_until(lambda: servers.executed == {"h1": [], "h2": [(1, 2)]}, 10.0, "the cast")
    assert run("cast", "add", "a=3", "b=4", "--fanout")[1].startswith("confirmed: add to all servers")
    wait_until(lambda: servers.executed == {"h1": [(3, 4)], "h2": [(1, 2), (3, 4)]}, 10.0, "the cast to all")


def test_a_deleted_exchange_does_not_hide_who_still_listens(run: Run, servers: Servers) -> None:
    """As the library's: the request goes to the queue itself."""
    import kombu

    with kombu.Connection(servers.url) as connection:
        connection.channel().exchange_delete("shell")
    assert run("cast", "add", "a=1", "b=2", "--server", "h1")[0] == 0
    wait_until(lambda: servers.executed["h1"] == [(1, 2)], 10.0, "the cast")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("call", "t", "m", "value"), "'value' is not KEY=VALUE"),
        (("call", "t", "m", "=1"), "'=1' is not KEY=VALUE"),
        (("call", "t", "m", "a=1", "a=2"), "'a' is given twice"),
        (("call", "t", "m", "a=1", "--json", "{}"), "--json"),
        (("call", "t", "m", "--json", "[]"), "object is wanted"),
        (("call", "t", "m", "--json", '{"a": NaN}'), "NaN is not JSON"),
        (("call", "t", "m", "--context", "alice"), "--context"),
        (("cast", "t", "m", "method=1"), "'method'"),
        (("call", "t", "m", "--version", "one"), "version"),
        (("cast", "t", "m", "--fanout", "--server", "s"), "--fanout"),
    ],
)
def test_wrong_usage_is_named(
    arguments: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSGI_MESSAGING_URL", "amqp://127.0.0.1:1//")
    assert main(arguments) == 2
    assert named in capsys.readouterr().err


def test_an_option_that_there_is_not_is_named_with_the_commands_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["call", "t", "m", "--timeot", "a=1"])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert "usage: wsgi-messaging call " in error and error.endswith("unrecognized arguments: --timeot\n")


@pytest.mark.parametrize(
    "command", [("call", "t", "m", "--timeout", "1"), ("notify", "1", "--timeout", "1"), ("listen",)]
)
def test_what_is_waited_for_is_said_once_and_leads_the_error(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_waiting, "PATIENCE", 0.4)
    monkeypatch.setenv("WSGI_MESSAGING_TIMEOUT", "1")
    port = processes.free_port()
    assert main([*command, "--url", f"amqp://u:s3cret@127.0.0.1:{port}//"]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("wsgi-messaging ")]
    broker = f"amqp://127.0.0.1:{port}: connection refused"
    assert [line.partition(";")[0] for line in said] == [
        f"wsgi-messaging {command[0]}: waiting for {broker}",
        f"wsgi-messaging {command[0]}: {broker}",
    ]
    assert "s3cret" not in "".join(said)


def test_a_broker_that_takes_no_messages_is_waited_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_waiting, "PATIENCE", 0.4)
    with dev_broker() as broker:
        broker.block("low on memory")
        assert main(["cast", "t", "m", "--timeout", "1", "--url", broker.url]) == 1
    assert "the broker takes no messages (low on memory)" in capsys.readouterr().err


def test_a_long_method_is_no_reason_to_say_anything(
    run: Run, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_waiting, "PATIENCE", 0.2)
    timer = threading.Timer(0.6, servers.endpoints["h1"].go_on.set)
    timer.start()
    assert run("call", "hold", "--server", "h1")[2] == ""
    timer.join()


@pytest.mark.parametrize("command", ["call", "cast"])
def test_a_broker_that_is_not_there(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wsgi_messaging", command, "t", "m", "--timeout", "0.5"],
        env=processes.environment(WSGI_MESSAGING_URL=f"amqp://u:s3cret@127.0.0.1:{processes.free_port()}//"),
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "remedy: 'wsgi-messaging check' goes the way to the broker" in done.stderr
    assert "s3cret" not in done.stderr
    assert "Traceback" not in done.stderr
