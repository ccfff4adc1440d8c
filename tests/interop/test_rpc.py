"""Ours and the real oslo.messaging over a real RabbitMQ, in both directions, and both together on one topic."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import wait_until
from tests.interop.peer import Peer, PeerError
from wsgi_messaging import RemoteError, ReplyTimeout, Transport
from wsgi_messaging.cli import main
from wsgi_messaging.rpc import QueueFlags, RPCClient, RPCServer, Target, expected_exceptions, remaining_time

EXCHANGE = "interop"

VALUES = [
    None,
    True,
    0,
    -(2**62),
    1.5,
    "",
    "text",
    "żółw 🐢 \u2028",
    '"_msg_id": "00000000000000000000000000000000"',
    [],
    [1, "two", None, [3.0]],
    {},
    {"a": {"b": [{"c": None}]}, "_msg_id": "elsewhere"},
    "x" * 200_000,
]


class TeapotError(Exception):
    """As the peer's."""

    def __init__(self, message: str, color: str = "blue") -> None:
        super().__init__(message)
        self.kwargs = {"color": color}


TeapotError.__module__ = "oslo_peer"  # a module that the peer's client allows and can import


@dataclass
class Endpoint:
    """The same interface as the peer's."""

    name: str
    seen: list[Any] = field(default_factory=list)
    target = Target(version="1.3")

    def echo(self, ctxt: dict[str, Any], value: Any) -> Any:
        return value

    def context(self, ctxt: dict[str, Any]) -> dict[str, Any]:
        return ctxt

    def who(self, ctxt: dict[str, Any]) -> str:
        return self.name

    def note(self, ctxt: dict[str, Any], item: Any) -> None:
        self.seen.append(item)

    @expected_exceptions(TeapotError)
    def teapot(self, ctxt: dict[str, Any], color: str) -> None:
        raise TeapotError("short and stout", color)

    @expected_exceptions(ValueError)
    def wrong(self, ctxt: dict[str, Any]) -> None:
        raise ValueError("wrong value")

    def slow(self, ctxt: dict[str, Any], seconds: float) -> str:
        import time

        time.sleep(seconds)
        return "done"

    def left(self, ctxt: dict[str, Any]) -> float | None:
        return remaining_time()

    def unspeakable(self, ctxt: dict[str, Any]) -> object:
        return object()

    def _private(self, ctxt: dict[str, Any]) -> str:
        return "never"


class Special:
    target = Target(namespace="special", version="2.1")

    def echo(self, ctxt: dict[str, Any], value: Any) -> Any:
        return ["special", value]


@pytest.fixture(scope="module")
def peer(rabbitmq: RabbitMQ) -> Iterator[Peer]:
    with Peer(rabbitmq.url) as started:
        yield started


@pytest.fixture(scope="module")
def peer_topic(peer: Peer) -> str:
    """A topic that oslo.messaging serves, by two servers."""
    topic = "served-by-oslo"
    for server in ("oslo1", "oslo2"):
        assert peer(do="serve", topic=topic, server=server, exchange=EXCHANGE) == "serving"
    return topic


@pytest.fixture
def transport(rabbitmq: RabbitMQ) -> Iterator[Transport]:
    opened = Transport(rabbitmq.url, name="interop")
    yield opened
    opened.close()


@pytest.fixture
def client(transport: Transport, peer_topic: str) -> RPCClient:
    """Ours, for the peer's topic."""
    return RPCClient(transport, Target(exchange=EXCHANGE, topic=peer_topic, version="1.0"), timeout=20)


@pytest.fixture
def server(transport: Transport, unique: Callable[[str], str]) -> Iterator[tuple[RPCServer, Endpoint]]:
    """Ours, on a topic of its own."""
    endpoint = Endpoint("ours")
    target = Target(exchange=EXCHANGE, topic=unique("ours"), server="ours")
    serving = RPCServer(transport, target, [endpoint, Special()], ping=True)
    serving.start()
    yield serving, endpoint
    assert serving.stop()


def ask(peer: Peer, server: RPCServer, method: str, args: dict[str, Any] | None = None, /, **how: Any) -> Any:
    """A call of oslo.messaging's client to our server."""
    topic, kind = server.target.topic, how.pop("kind", "call")
    how.setdefault("timeout", 20)
    context = how.pop("context", {})
    return peer(
        do="send", kind=kind, topic=topic, exchange=EXCHANGE, method=method, args=args or {}, context=context, **how
    )


# Our client, oslo.messaging's server


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_our_call_to_their_server(client: RPCClient, value: Any) -> None:
    assert client.call({}, "echo", value=value) == value


def test_the_context_arrives_as_it_was_and_has_nothing_of_ours_in_it(client: RPCClient) -> None:
    context = {"user": "alice", "roles": ["admin"], "request_id": "req-1"}
    received = client.call(context, "context")
    assert received.pop("client_timeout", None) is None  # oslo.messaging's server adds it by itself
    assert received == context


def test_our_call_to_a_namespace_and_its_version(client: RPCClient) -> None:
    assert client.prepare(namespace="special", version="2.0").call({}, "echo", value=1) == ["special", 1]


def test_a_call_and_a_cast_from_the_shell(
    rabbitmq: RabbitMQ, peer_topic: str, client: RPCClient, capsys: pytest.CaptureFixture[str]
) -> None:
    to = ("--exchange", EXCHANGE, "--server", "oslo1", "--url", rabbitmq.url)
    assert main(["call", peer_topic, "echo", 'value={"a": [1, null]}', *to]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": [1, None]}
    assert main(["call", peer_topic, "teapot", "color=red", *to]) == 3
    assert "the method failed: TeapotError: short and stout" in capsys.readouterr().err
    assert main(["call", peer_topic, "no_such", *to]) == 3
    assert "remedy: Check METHOD" in capsys.readouterr().err
    assert main(["cast", peer_topic, "note", "item=from the shell", *to]) == 0
    assert main(["cast", peer_topic, "note", "item=to all", "--fanout", "--exchange", EXCHANGE, *to[4:]]) == 0
    noted = client.prepare(server="oslo1")
    wait_until(lambda: {"from the shell", "to all"} <= set(noted.call({}, "notes")), 10.0, "both casts")


def test_our_call_to_one_server(client: RPCClient) -> None:
    for name in ("oslo1", "oslo2", "oslo1"):
        assert client.prepare(server=name).call({}, "who") == name


@pytest.mark.parametrize(
    ("method", "changes", "expected"),
    [
        ("no_such", {}, "NoSuchMethod"),
        ("echo", {"version": "2.0"}, "UnsupportedVersion"),
        ("echo", {"version": "1.4"}, "UnsupportedVersion"),
        ("echo", {"namespace": "none"}, "UnsupportedVersion"),
        ("_private", {}, "NoSuchMethod"),
    ],
)
def test_their_dispatcher_refuses_our_call(
    client: RPCClient, method: str, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RemoteError) as caught:
        client.prepare(**changes).call({}, method, value=1)
    assert caught.value.exc_type == expected


def test_their_exceptions_are_ours_where_allowed(transport: Transport, client: RPCClient) -> None:
    with pytest.raises(ValueError, match="wrong value"):
        client.call({}, "wrong")
    with pytest.raises(RemoteError, match="short and stout") as caught:
        client.call({}, "teapot", color="red")
    assert caught.value.exc_type == "TeapotError"


def test_their_signs_of_life_keep_our_call_going(client: RPCClient) -> None:
    patient = client.prepare(timeout=30, call_monitor_timeout=4)
    assert patient.call({}, "slow", seconds=4.5) == "done"
    with pytest.raises(ReplyTimeout):
        client.prepare(timeout=0.8).call({}, "slow", seconds=2)


def test_our_casts_reach_their_servers(client: RPCClient, peer: Peer) -> None:
    client.prepare(server="oslo1").cast({}, "note", item="direct")
    client.prepare(fanout=True).cast({}, "note", item="all")
    ours = {"direct", "all"}  # beside those from the shell
    for server, expected in (("oslo1", ours), ("oslo2", {"all"})):
        wait_until(lambda s=server, e=expected: ours & set(peer(do="seen", server=s)) == e, what="the casts")


# Their client, our server


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_their_call_to_our_server(peer: Peer, server: tuple[RPCServer, Endpoint], value: Any) -> None:
    assert ask(peer, server[0], "echo", {"value": value}) == value


def test_their_context_arrives(peer: Peer, server: tuple[RPCServer, Endpoint]) -> None:
    context = {"user": "alice", "roles": ["admin"]}
    assert ask(peer, server[0], "context", context=context) == context


def test_their_call_to_our_namespace_and_server(peer: Peer, server: tuple[RPCServer, Endpoint]) -> None:
    serving = server[0]
    assert ask(peer, serving, "echo", {"value": 1}, namespace="special", version="2.0") == ["special", 1]
    assert ask(peer, serving, "who", server="ours") == "ours"
    assert ask(peer, serving, "oslo_rpc_server_ping") == "pong"
    assert (
        25 < ask(peer, serving, "left", timeout=30) <= 30
    )  # of the expiration: their callers say it with nothing else


@pytest.mark.parametrize(
    ("method", "changes", "expected"),
    [
        ("no_such", {}, "NoSuchMethod"),
        ("echo", {"version": "2.0"}, "UnsupportedVersion"),
        ("echo", {"namespace": "none"}, "UnsupportedVersion"),
        ("_private", {}, "NoSuchMethod"),
    ],
)
def test_our_dispatcher_refuses_their_call(
    peer: Peer, server: tuple[RPCServer, Endpoint], method: str, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(PeerError) as caught:
        ask(peer, server[0], method, {"value": 1}, **changes)
    assert (caught.value.kinds[0], caught.value.exc_type) == ("RemoteError", expected)


def test_our_exceptions_are_theirs(peer: Peer, server: tuple[RPCServer, Endpoint]) -> None:
    with pytest.raises(PeerError) as caught:
        ask(peer, server[0], "wrong")
    assert caught.value.kinds[0] == "ValueError"
    with pytest.raises(PeerError) as caught:
        ask(peer, server[0], "teapot", {"color": "red"})
    assert caught.value.kinds[:2] == ["TeapotError_Remote", "TeapotError"]
    assert caught.value.color == "red"


def test_they_are_told_when_our_result_cannot_be_sent(peer: Peer, server: tuple[RPCServer, Endpoint]) -> None:
    with pytest.raises(PeerError) as caught:
        ask(peer, server[0], "unspeakable")
    assert caught.value.exc_type == "InvalidMessage"


def test_our_signs_of_life_keep_their_call_going(peer: Peer, server: tuple[RPCServer, Endpoint]) -> None:
    assert ask(peer, server[0], "slow", {"seconds": 4.5}, timeout=30, call_monitor_timeout=4) == "done"


def test_their_casts_reach_our_server(peer: Peer, server: tuple[RPCServer, Endpoint]) -> None:
    serving, endpoint = server
    ask(peer, serving, "note", {"item": "any"}, kind="cast", timeout=None)
    ask(peer, serving, "note", {"item": "direct"}, kind="cast", timeout=None, server="ours")
    ask(peer, serving, "note", {"item": "all"}, kind="cast", timeout=None, fanout=True)
    wait_until(lambda: sorted(endpoint.seen) == ["all", "any", "direct"], what="the casts")


# Both on one topic


def test_both_serve_one_topic(transport: Transport, peer: Peer, peer_topic: str, client: RPCClient) -> None:
    endpoint = Endpoint("ours")
    with_them = RPCServer(transport, Target(exchange=EXCHANGE, topic=peer_topic, server="ours"), [endpoint])
    with_them.start()
    try:
        wait_until(lambda: {client.call({}, "who") for _ in range(6)} == {"ours", "oslo1", "oslo2"}, what="all three")
        ask(peer, with_them, "note", {"item": "to all"}, kind="cast", timeout=None, fanout=True)
        wait_until(lambda: "to all" in endpoint.seen, what="the fanout")
    finally:
        assert with_them.stop()


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"amqp_durable_queues": True}, QueueFlags(durable=True)),
        ({"amqp_auto_delete": True}, QueueFlags(auto_delete=True)),
        ({"rabbit_quorum_queue": True, "rabbit_quorum_delivery_limit": 5}, QueueFlags(quorum=True, delivery_limit=5)),
        (
            {"rabbit_quorum_queue": True, "rabbit_transient_quorum_queue": True},
            QueueFlags(quorum=True, transient_quorum=True),
        ),
    ],
    ids=["durable", "auto_delete", "quorum", "transient quorum"],
)
def test_the_flags_agree(
    rabbitmq: RabbitMQ,
    transport: Transport,
    unique: Callable[[str], str],
    options: dict[str, Any],
    flags: QueueFlags,
) -> None:
    topic, exchange = unique("flags"), unique("exchange")
    with Peer(rabbitmq.url, **options) as other:
        other(do="serve", topic=topic, server="theirs", exchange=exchange)
        target = Target(exchange=exchange, topic=topic, server="ours")
        serving = RPCServer(transport, target, [Endpoint("ours")], flags=flags)
        serving.start()  # a flag that differs is a 406
        client = RPCClient(transport, target(version="1.0"), timeout=20)
        assert client.call({}, "who") == "ours"
        assert client.prepare(server="theirs").call({}, "who") == "theirs"
        assert serving.stop()
