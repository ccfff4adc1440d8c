"""`wsgi-messaging check`: each thing that can be wrong on the way is named with cause and remedy, exit status 1."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.peers import Handle, Peer, broker_of, saying, silent, tls_end
from tests.harness.processes import free_port
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.harness.secret import dev_broker
from wsgi_messaging.cli import main
from wsgi_messaging.devbroker import DevBroker

try:
    import trustme
except ImportError:
    trustme = None

SECRET = "s3cret/?#"
ENCODED = "s3cret%2F%3F%23"


@pytest.fixture
def broker() -> Iterator[DevBroker]:
    with DevBroker(users={"shop": SECRET}, vhosts=["/", "live"]) as broker:
        yield broker


class Checked:
    """What the command said, and did."""

    def __init__(self, status: int, text: str) -> None:
        assert "s3cret" not in text, "a password was shown"
        self.status = status
        self.text = text
        found = json.loads(text)
        self.is_ok: bool = found["ok"]
        self.brokers: list[dict[str, Any]] = found["brokers"]

    def step(self, name: str, broker: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = next(step for step in self.brokers[broker]["steps"] if step["name"] == name)
        return found

    @property
    def failed(self) -> list[str]:
        return [step["name"] for broker in self.brokers for step in broker["steps"] if step["status"] == "failed"]


Check = Callable[..., Checked]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    def check(url: str, *arguments: str) -> Checked:
        status = main(["check", url, "--json", "--timeout", "2", *arguments])
        captured = capsys.readouterr()
        assert captured.err == ""
        return Checked(status, captured.out)

    return check


def url_of(port: int, *, user: str = f"shop:{ENCODED}", scheme: str = "amqp", host: str = "127.0.0.1") -> str:
    return f"{scheme}://{user}@{host}:{port}/"


def test_a_good_deployment(broker: DevBroker, check: Check) -> None:
    found = check(url_of(broker.port) + "live")
    assert (found.status, found.is_ok, found.failed) == (0, True, [])
    names = [step["name"] for step in found.brokers[0]["steps"]]
    reached = ["DNS", "TCP", "AMQP", "version", "login", "virtual host", "heartbeat", "frame_max"]
    assert names == [*reached, "declare", "bind", "publish", "get", "confirm"]
    assert all(step["ms"] is not None for step in found.brokers[0]["steps"] if step["name"] in ("TCP", "login", "get"))
    assert "20 s agreed; the broker proposes 60 s" in found.step("heartbeat")["detail"]
    assert "median" in found.step("confirm")["detail"]
    assert broker.connections() == []


def test_a_good_deployment_on_rabbitmq(rabbitmq: RabbitMQ, check: Check) -> None:
    mark = rabbitmq.log_mark()
    found = check(rabbitmq.url + "?heartbeat=7")
    assert (found.status, found.failed) == (0, [])
    assert found.step("version")["detail"].startswith("RabbitMQ 3.")
    assert "7 s agreed" in found.step("heartbeat")["detail"]
    # What was computed from two proposals is what a connection of the transport really got.
    assert "heartbeat 7 s" in found.step("confirm")["detail"]
    assert not rabbitmq.complaints("wsgi-messaging-", mark)
    assert not any("wsgi-messaging-check" in name for name in rabbitmq.queues())


BROKEN: dict[str, tuple[Handle, str, str, str]] = {
    "a web server": (saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "AMQP", "is a web server", "5672"),
    "ssh": (saying(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n"), "AMQP", "SSH-2.0", "Correct the port"),
    "TLS": (saying(b"\x15\x03\x01\x00\x02\x02\x46"), "AMQP", "the port speaks TLS", "Write amqps://"),
    "silence": (silent, "AMQP", "says nothing", "hangs"),
    "AMQP 1.0": (saying(b"AMQP\x00\x01\x00\x00"), "AMQP", "another AMQP", "AMQP 0-9-1"),
    "nobody behind it": (saying(b""), "AMQP", "hung up without a word", "a proxy without a broker"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_that_is_not_amqp(name: str, check: Check) -> None:
    handle, step, cause, remedy = BROKEN[name]
    with Peer(handle) as peer:
        found = check(url_of(peer.port))
    assert (found.status, found.failed) == (1, [step])
    assert cause in found.step(step)["cause"]
    assert remedy in found.step(step)["remedy"]


def test_nobody_listens(check: Check) -> None:
    found = check(url_of(free_port()))
    assert (found.status, found.failed) == (1, ["TCP"])
    assert "connection refused" in found.step("TCP")["cause"]
    assert "rabbitmq-diagnostics listeners" in found.step("TCP")["remedy"]


def test_no_such_host(check: Check) -> None:
    found = check("amqp://shop:s3cret@no-such-host.invalid//")
    assert (found.status, found.failed) == (1, ["DNS"])
    assert "no-such-host.invalid" in found.step("DNS")["cause"]
    assert [step["name"] for step in found.brokers[0]["steps"]] == ["DNS"]


def test_a_host_that_answers_nothing_is_given_up_in_time(check: Check) -> None:
    # A full backlog: the kernel drops further connects, as a firewall does.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _number in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        started_at = time.monotonic()
        found = check(url_of(listener.getsockname()[1]), "--timeout", "0.5")
        assert time.monotonic() - started_at < 4.0, "without --timeout, a step has 5 s"
        for filler in fillers:
            filler.close()
    assert found.failed == ["TCP"]
    assert "a firewall drops the packets" in found.step("TCP")["cause"]


@pytest.mark.parametrize("user", ["shop:s3cret", "nobody:s3cret"])
def test_wrong_credentials(broker: DevBroker, check: Check, user: str) -> None:
    found = check(url_of(broker.port, user=user))
    assert (found.status, found.failed) == (1, ["login"])
    assert f"login refused for user {user.partition(':')[0]!r}" in found.step("login")["cause"]
    assert "percent-encoded" in found.step("login")["remedy"]


def test_a_login_method_that_the_broker_does_not_offer(broker: DevBroker, check: Check) -> None:
    found = check(url_of(broker.port) + "?login_method=EXTERNAL")
    assert (found.status, found.failed) == (1, ["login"])
    assert "not EXTERNAL" in found.step("login")["cause"]
    assert "rabbitmq_auth_mechanism_ssl" in found.step("login")["remedy"]


def test_no_such_virtual_host(broker: DevBroker, check: Check) -> None:
    found = check(url_of(broker.port) + "staging")
    assert (found.status, found.failed) == (1, ["virtual host"])
    assert "staging" in found.step("virtual host")["cause"]
    assert "rabbitmqctl add_vhost staging" in found.step("virtual host")["remedy"]


def test_a_virtual_host_that_is_closed_to_the_user(
    rabbitmq: RabbitMQ, check: Check, unique: Callable[[str], str]
) -> None:
    user = unique("stranger")
    rabbitmq.api(f"users/{user}", "PUT", {"password": "s3cret", "tags": ""})
    found = check(url_of(rabbitmq.amqp_port, user=f"{user}:s3cret"))
    rabbitmq.api(f"users/{user}", "DELETE")
    assert (found.status, found.failed) == (1, ["virtual host"])
    assert "may not enter virtual host '/'" in found.step("virtual host")["cause"]
    assert "set_permissions -p / " + user in found.step("virtual host")["remedy"]


PERMISSIONS = [
    (("^$", ".*", ".*"), {"declare": "configure"}),
    ((".*", "^$", ".*"), {"bind": "write", "publish": "write"}),
    ((".*", ".*", "^$"), {"bind": "read", "get": "read"}),
    (("^$", "^$", "^$"), {"declare": "configure", "publish": "write", "get": "read"}),
    (("^shop-", ".*", ".*"), {"declare": "configure"}),
]


@pytest.mark.parametrize(("permissions", "lacking"), PERMISSIONS)
def test_the_missing_permission_is_named(
    rabbitmq: RabbitMQ,
    check: Check,
    unique: Callable[[str], str],
    permissions: tuple[str, ...],
    lacking: dict[str, str],
) -> None:
    user = unique("limited")
    rabbitmq.api(f"users/{user}", "PUT", {"password": "s3cret", "tags": ""})
    given = dict(zip(("configure", "write", "read"), permissions, strict=True))
    rabbitmq.api(f"permissions/%2F/{user}", "PUT", given)
    found = check(url_of(rabbitmq.amqp_port, user=f"{user}:s3cret"))
    renamed = check(url_of(rabbitmq.amqp_port, user=f"{user}:s3cret"), "--name", "shop-check")
    rabbitmq.api(f"users/{user}", "DELETE")
    assert (found.status, found.failed) == (1, list(lacking))
    for step, permission in lacking.items():
        assert f"has no {permission} permission" in found.step(step)["cause"]
        assert f"Let its {permission} pattern match" in found.step(step)["remedy"]
    assert found.step("confirm")["status"] == ("skipped" if "publish" in lacking else "ok")
    assert (renamed.status == 0) == (permissions[0] == "^shop-")


def test_an_alarm_is_named_and_does_not_hang(broker: DevBroker, check: Check) -> None:
    broker.block("low on disk")
    started_at = time.monotonic()
    found = check(url_of(broker.port))
    assert time.monotonic() - started_at < 15.0
    assert found.status == 1
    assert "low on disk" in found.step("publish")["cause"]
    assert "rabbitmq-diagnostics alarms" in found.step("publish")["remedy"]


@pytest.mark.parametrize(("asked", "proposed", "agreed"), [(20, 60, 20), (20, 7, 7), (0, 60, 0), (20, 0, 20)])
def test_what_becomes_of_two_heartbeats(check: Check, asked: int, proposed: int, agreed: int) -> None:
    with dev_broker(heartbeat=proposed) as broker:
        found = check(f"{broker.url}?heartbeat={asked}")
    assert found.step("heartbeat")["detail"].startswith(f"{agreed} s agreed")
    # What was computed from two proposals is what a connection of the transport really got.
    assert f"heartbeat {agreed} s" in found.step("confirm")["detail"]


@pytest.mark.parametrize(("asked", "proposed", "text"), [(0, 0, "no heartbeats"), (2, 60, "ends the connection")])
def test_a_bad_heartbeat_is_a_warning(check: Check, asked: int, proposed: int, text: str) -> None:
    with dev_broker(heartbeat=proposed) as broker:
        found = check(f"{broker.url}?heartbeat={asked}")
    assert found.status == 0
    assert found.step("heartbeat")["status"] == "warning"
    assert text in found.step("heartbeat")["cause"]
    assert "heartbeat" in found.step("heartbeat")["remedy"].lower()


@pytest.mark.parametrize(
    ("version", "meaning"),
    [
        ("4.3.1", "refuses transient queues that are not exclusive"),
        ("4.0.5", "more than 16 MiB"),
        ("3.13.7", "more than 128 MiB"),
        ("3.7.2", "no quorum queues"),
    ],
)
def test_what_a_version_means(check: Check, version: str, meaning: str) -> None:
    with Peer(broker_of(version)) as peer:
        found = check(url_of(peer.port))
    assert found.step("version")["detail"] == f"RabbitMQ {version}"
    assert any(meaning in note for note in found.step("version")["notes"])


def test_every_host_is_checked(broker: DevBroker, check: Check) -> None:
    dead = free_port()
    found = check(f"{url_of(dead)};{url_of(broker.port)}")
    assert found.status == 1
    assert [each["ok"] for each in found.brokers] == [False, True]
    assert "connection refused" in found.step("TCP", 0)["cause"]


def test_a_url_that_is_none_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "amqp://shop:s3cret/x@host:5672//"]) == 2
    captured = capsys.readouterr()
    assert "percent-encoded" in captured.err
    assert "s3cret" not in captured.out + captured.err


class Authority:
    """Certificates of one authority, and a TLS end in front of a broker."""

    def __init__(self, folder: Path, port: int) -> None:
        self.authority = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        self.authority.cert_pem.write_to_path(self.ca_file)
        self._port = port

    def handle(self, *names: str, wants_certificate: bool = False, **options: object) -> Handle:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*names, **options).configure_cert(context)
        if wants_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
            self.authority.configure_trust(context)
        return tls_end(context, self._port)


@pytest.fixture
def authority(tmp_path: Path, broker: DevBroker) -> Authority:
    if trustme is None:
        missing("trustme is not installed")
    return Authority(tmp_path, broker.port)


def tls_url(peer: Peer, ca_file: str, host: str = "127.0.0.1") -> str:
    return f"amqps://shop:{ENCODED}@{host}:{peer.port}/?cacertfile={ca_file}"


def test_tls(authority: Authority, check: Check) -> None:
    with Peer(authority.handle("127.0.0.1")) as peer:
        found = check(tls_url(peer, authority.ca_file))
    assert (found.status, found.failed) == (0, [])
    assert "TLSv1.3, certificate for '127.0.0.1'" in found.step("TLS")["detail"]


def test_a_certificate_for_another_host(authority: Authority, check: Check) -> None:
    with Peer(authority.handle("rabbit.example")) as peer:
        found = check(tls_url(peer, authority.ca_file))
        named = check(tls_url(peer, authority.ca_file) + "&tls_server_name=rabbit.example")
    assert (found.status, found.failed) == (1, ["TLS"])
    assert "the certificate is not for '127.0.0.1'" in found.step("TLS")["cause"]
    assert "tls_server_name" in found.step("TLS")["remedy"]
    assert named.status == 0


def test_an_authority_that_is_not_trusted(authority: Authority, check: Check) -> None:
    with Peer(authority.handle("127.0.0.1")) as peer:
        found = check(f"amqps://shop:{ENCODED}@127.0.0.1:{peer.port}/")
    assert (found.status, found.failed) == (1, ["TLS"])
    assert "the system's authorities" in found.step("TLS")["cause"]
    assert "tls_ca_file" in found.step("TLS")["remedy"]


def test_a_certificate_that_has_expired(authority: Authority, check: Check) -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
    with Peer(authority.handle("127.0.0.1", not_after=past, not_before=past.replace(year=2019))) as peer:
        found = check(tls_url(peer, authority.ca_file))
    assert (found.status, found.failed) == (1, ["TLS"])
    assert "expired" in found.step("TLS")["cause"]
    assert "Renew" in found.step("TLS")["remedy"]


def test_a_client_certificate_that_is_wanted(authority: Authority, check: Check) -> None:
    with Peer(authority.handle("127.0.0.1", wants_certificate=True)) as peer:
        found = check(tls_url(peer, authority.ca_file))
    assert found.status == 1
    (step,) = found.failed
    assert "wants a client certificate" in found.step(step)["cause"]
    assert "tls_cert_file" in found.step(step)["remedy"]


def test_tls_to_a_plain_port(broker: DevBroker, check: Check) -> None:
    found = check(url_of(broker.port, scheme="amqps"))
    assert (found.status, found.failed) == (1, ["TLS"])
    assert "amqp://" in found.step("TLS")["remedy"] or "AMQP port" in found.step("TLS")["remedy"]


def test_plain_amqp_to_a_tls_port(authority: Authority, check: Check) -> None:
    with Peer(authority.handle("127.0.0.1")) as peer:
        found = check(url_of(peer.port))
    assert (found.status, found.failed) == (1, ["AMQP"])
    assert "amqps://" in found.step("AMQP")["remedy"]


def test_tls_to_what_is_not_amqp_behind_it(tmp_path: Path, check: Check) -> None:
    if trustme is None:
        missing("trustme is not installed")
    with Peer(saying(b"")) as inner:
        authority = Authority(tmp_path, inner.port)
        with Peer(authority.handle("127.0.0.1")) as peer:
            found = check(tls_url(peer, authority.ca_file))
    assert (found.status, found.failed) == (1, ["AMQP"])
    assert "proxy without a broker" in found.step("AMQP")["remedy"]
    assert "amqps" not in found.step("AMQP")["remedy"]


def test_unchecked_certificates_are_warned_about(authority: Authority, check: Check) -> None:
    with Peer(authority.handle("rabbit.example")) as peer:
        found = check(tls_url(peer, authority.ca_file) + "&tls_verify=off")
    assert found.status == 0
    assert found.step("TLS")["status"] == "warning"


def test_files_that_cannot_be_used(authority: Authority, check: Check) -> None:
    with Peer(authority.handle("127.0.0.1")) as peer:
        found = check(tls_url(peer, "/no/such/file.pem"))
    assert (found.status, found.failed) == (1, ["TLS"])
    assert "/no/such/file.pem" in found.step("TLS")["cause"]


# What people see.


def test_the_text_has_cause_and_remedy_and_names_the_source(
    broker: DevBroker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMQP_URL", url_of(broker.port, user="shop:s3cret"))
    assert main(["check"]) == 1
    text = capsys.readouterr().out
    assert "(from AMQP_URL)" in text
    assert re.search(r"failed +login .*\n +cause: login refused.*\n(.*\n)* +remedy: Check user name", text)
    assert "1 of 1 host failed" in text
    assert "\x1b" not in text
    assert "s3cret" not in text


def on_a_terminal(*arguments: str, **environ: str) -> str:
    """What the command writes to a terminal."""
    import pty

    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", **environ}
    environment.pop("NO_COLOR", None) if "NO_COLOR" not in environ else None
    command = [sys.executable, "-m", "wsgi_messaging", *arguments]
    root = Path(__file__).parents[2]
    done = subprocess.Popen(command, stdout=slave, stderr=slave, stdin=slave, cwd=root, env=environment)
    os.close(slave)
    text = b""
    try:
        while data := os.read(master, 65536):
            text += data
    except OSError:  # Linux: the other end was closed
        pass
    done.wait(20)
    os.close(master)
    return text.decode()


def test_colour_only_on_a_terminal_and_not_where_no_color_is_set() -> None:
    refused = f"amqp://127.0.0.1:{free_port()}"
    coloured = on_a_terminal("check", refused)
    bare = on_a_terminal("check", refused, NO_COLOR="1")
    assert "\x1b[31mfailed" in coloured
    assert "\x1b" not in bare
    strip = re.compile(r"\x1b\[\d+m")
    assert [line.split()[:2] for line in strip.sub("", coloured).splitlines()] == [
        line.split()[:2] for line in bare.splitlines()
    ]


def test_what_was_interrupted_is_not_shown_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever gives a silent broker up by Ctrl-C read "ok" beside the step that had no answer."""
    asked = threading.Event()

    def interrupt() -> None:
        asked.wait(10.0)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def silence(sock: socket.socket) -> None:
        sock.recv(8)
        asked.set()
        sock.recv(1)

    with Peer(silence) as peer:
        threading.Thread(target=interrupt, daemon=True).start()
        assert main(["check", url_of(peer.port), "--timeout", "10"]) == 130
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "AMQP " in line]
    assert line.split()[0] == "failed"


def test_a_broker_cannot_write_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for handle in (saying(b"\x1b[2Jowned\r\n"), broker_of("4.1.0\x1b[2J")):
        with Peer(handle) as peer:
            assert main(["check", url_of(peer.port), "--timeout", "2"]) == 1
        assert "\x1b" not in capsys.readouterr().out
