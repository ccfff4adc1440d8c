"""Our driver under the real oslo.messaging's API: with itself, with the rabbit driver on the other side, with ours."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import processes
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import wait_until
from tests.interop import peer as peers
from tests.interop.peer import Peer, PeerError, interpreter
from wsgi_messaging import Transport
from wsgi_messaging.rpc import RPCClient, RPCServer, Target

EXCHANGE = "interop-driver"
RABBIT, OURS = "rabbit", "wsgi+rabbit"
PAIRS = [(OURS, RABBIT), (RABBIT, OURS), (OURS, OURS)]
VALUES = [
    None,
    True,
    0,
    -(2**62),
    1.5,
    "",
    "żółw 🐢 \u2028",
    [1, "two", None, [3.0]],
    {"a": {"_msg_id": "x"}},
    "x" * 200_000,
]


def url_for(driver: str, rabbitmq: RabbitMQ) -> str:
    return rabbitmq.url.replace("amqp://", f"{driver}://", 1)


class Peers:
    """Processes of oslo.messaging, by driver and script; made at their first use."""

    def __init__(self, rabbitmq: RabbitMQ) -> None:
        self.rabbitmq = rabbitmq
        self._started: dict[tuple[str, str], Peer] = {}

    def __call__(self, driver: str, script: str = "oslo_peer.py", **options: Any) -> Peer:
        key = (driver, f"{script} {sorted(options.items())}")
        if key not in self._started:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(peers, "SCRIPT", peers.SCRIPT.with_name(script))
                self._started[key] = Peer(url_for(driver, self.rabbitmq), **options)
        return self._started[key]

    def close(self) -> None:
        for peer in self._started.values():
            peer.close()


@pytest.fixture(scope="module")
def start(rabbitmq: RabbitMQ) -> Iterator[Peers]:
    made = Peers(rabbitmq)
    yield made
    made.close()


class Pair:
    """A client on one driver, and two servers of a topic on another."""

    def __init__(self, client: Peer, server: Peer, topic: str) -> None:
        self._client, self.server, self.topic = client, server, topic
        self.names = [f"{topic}-{number}" for number in (1, 2)]
        for name in self.names:
            assert server(do="serve", topic=topic, server=name, exchange=EXCHANGE) == "serving"

    def __call__(self, method: str, kind: str = "call", context: Any = None, args: Any = None, **how: Any) -> Any:
        if kind == "call":
            how.setdefault("timeout", 20)
        return self._client(
            do="send",
            kind=kind,
            topic=self.topic,
            exchange=EXCHANGE,
            method=method,
            args=args or {},
            context=context or {},
            **how,
        )

    def seen(self, name: str) -> list[Any]:
        found: list[Any] = self.server(do="seen", server=name)
        return found


@pytest.fixture(scope="module", params=PAIRS, ids=" to ".join)
def pair(request: pytest.FixtureRequest, start: Peers) -> Pair:
    client, server = request.param
    return Pair(start(client), start(server), f"driver-{client}-{server}".replace("+", "-"))


@pytest.fixture
def transport(rabbitmq: RabbitMQ) -> Iterator[Transport]:
    with Transport(rabbitmq.url, name="interop-driver") as opened:
        yield opened


# RPC


def test_every_value_comes_back(pair: Pair) -> None:
    assert [pair("echo", args={"value": value}) for value in VALUES] == VALUES


def test_the_context_and_what_the_peers_server_adds_to_it(pair: Pair) -> None:
    context = {"user": "alice", "roles": ["admin"], "request_id": "req-1"}
    assert pair("context", context=context) == {**context, "client_timeout": None}
    assert pair("context", context=context, call_monitor_timeout=4)["client_timeout"] == 4


def test_namespaces_and_servers(pair: Pair) -> None:
    assert pair("echo", args={"value": 1}, namespace="special", version="2.0") == ["special", 1]
    for name in [*pair.names, pair.names[0]]:
        assert pair("who", server=name) == name


@pytest.mark.parametrize(
    ("method", "how", "expected"),
    [
        ("no_such", {}, "NoSuchMethod"),
        ("echo", {"version": "2.0"}, "UnsupportedVersion"),
        ("echo", {"namespace": "none"}, "UnsupportedVersion"),
        ("_private", {}, "NoSuchMethod"),
    ],
)
def test_what_the_dispatcher_refuses(pair: Pair, method: str, how: dict[str, Any], expected: str) -> None:
    with pytest.raises(PeerError) as caught:
        pair(method, args={"value": 1}, **how)
    assert caught.value.kinds[0] == "RemoteError"
    assert caught.value.exc_type == expected


def test_remote_exceptions_are_rebuilt_where_allowed(pair: Pair) -> None:
    with pytest.raises(PeerError, match="wrong value") as caught:
        pair("wrong")
    assert caught.value.kinds[0] == "ValueError"
    with pytest.raises(PeerError, match="short and stout") as caught:
        pair("teapot", args={"color": "red"})
    # The peer's endpoint runs as __main__, which its client does not allow.
    assert (caught.value.kinds[0], caught.value.exc_type) == ("RemoteError", "TeapotError")


def test_signs_of_life_keep_a_call_going_and_its_timeout_ends_it(pair: Pair) -> None:
    assert pair("slow", args={"seconds": 3.6}, timeout=30, call_monitor_timeout=3) == "done"
    started = time.monotonic()
    with pytest.raises(PeerError) as caught:
        pair("slow", args={"seconds": 6.0}, timeout=1)
    assert caught.value.kinds[0] == "MessagingTimeout"
    assert time.monotonic() - started < 5.0


def test_casts_to_one_to_any_and_to_all(pair: Pair) -> None:
    pair("note", "cast", args={"item": "one"}, server=pair.names[0])
    pair("note", "cast", args={"item": "any"})
    pair("note", "cast", args={"item": "all"}, fanout=True)

    def seen() -> list[Any]:
        return sorted(item for name in pair.names for item in pair.seen(name))

    wait_until(lambda: seen() == ["all", "all", "any", "one"], 10.0, "four casts")
    assert "one" in pair.seen(pair.names[0])


def test_our_own_client_and_server_understand_the_driver(
    start: Peers, transport: Transport, unique: Callable[[str], str]
) -> None:
    class Endpoint:
        def double(self, ctxt: dict[str, Any], value: int) -> int:
            return 2 * value

    driver, theirs, ours = start(OURS), unique("theirs"), unique("ours")
    driver(do="serve", topic=theirs, server="s", exchange=EXCHANGE)
    client = RPCClient(transport, Target(exchange=EXCHANGE, topic=theirs, version="1.0"), timeout=10)
    assert client.call({"user": "bob"}, "context")["user"] == "bob"
    server = RPCServer(transport, Target(exchange=EXCHANGE, topic=ours, server="s"), [Endpoint()])
    server.start()
    assert call(driver, ours, "double", value=21) == 42
    assert server.stop()


def call(peer: Peer, topic: str, method: str, how: dict[str, Any] | None = None, /, **args: Any) -> Any:
    options: dict[str, Any] = {"kind": "call", "timeout": 20, **(how or {})}
    if options["kind"] == "cast":
        del options["timeout"]
    return peer(do="send", topic=topic, exchange=EXCHANGE, method=method, args=args, context={}, **options)


@pytest.mark.parametrize("options", [{"amqp_durable_queues": True}, {"rabbit_quorum_queue": True}], ids=str)
def test_both_drivers_serve_one_topic_with_the_same_flags(
    start: Peers, unique: Callable[[str], str], options: dict[str, Any]
) -> None:
    topic, exchange = unique("flags"), unique("flagged")
    for driver in (RABBIT, OURS):
        start(driver, **options)(do="serve", topic=topic, server=f"on-{driver}", exchange=exchange)
    client = start(OURS, **options)
    send = {
        "do": "send",
        "kind": "call",
        "topic": topic,
        "exchange": exchange,
        "method": "who",
        "args": {},
        "context": {},
    }
    answers = {client(**send, server=f"on-{driver}", timeout=10) for driver in (RABBIT, OURS)}
    assert answers == {"on-rabbit", "on-wsgi+rabbit"}


# What the rabbit driver does badly (OSLO_WIRE, section 0), through ours


def test_a_call_ends_with_its_timeout_though_no_broker_is_there() -> None:
    with Peer(f"wsgi+rabbit://guest:guest@127.0.0.1:{processes.free_port()}/") as peer:
        for how, kind, most in (
            ({"timeout": 2}, "MessagingTimeout", 5.0),
            ({"timeout": 30, "retry": 0}, "MessageDeliveryFailure", 15.0),
            ({"kind": "cast", "retry": 0}, "MessageDeliveryFailure", 15.0),
            ({"kind": "cast", "retry": 1}, "MessageDeliveryFailure", 15.0),
        ):
            started = time.monotonic()
            with pytest.raises(PeerError) as caught:
                call(peer, "none", "echo", how, value=1)
            assert caught.value.kinds[0] == kind, caught.value
            assert time.monotonic() - started < most


def test_a_call_waits_for_a_server_that_comes_within_its_time(start: Peers, unique: Callable[[str], str]) -> None:
    topic = unique("late")
    with Peer(start(OURS) and url_for(OURS, start.rabbitmq)) as early:
        early._say(
            {
                "do": "send",
                "kind": "call",
                "topic": topic,
                "exchange": EXCHANGE,
                "method": "who",
                "args": {},
                "context": {},
                "timeout": 30,
            }
        )
        time.sleep(1.0)
        start(OURS)(do="serve", topic=topic, server="late", exchange=EXCHANGE)
        assert early._answer(40.0) == {"result": "late"}


def test_a_call_that_nobody_serves_is_a_timeout(start: Peers, unique: Callable[[str], str]) -> None:
    """And says so: the broker has answered."""
    topic = unique("nobody")
    started = time.monotonic()
    with pytest.raises(PeerError) as caught:
        call(start(OURS), topic, "echo", {"timeout": 1.5}, value=1)
    assert caught.value.kinds[0] == "MessagingTimeout"
    assert f"no server took the request in time: exchange {EXCHANGE!r} has no queue for {topic!r}" in caught.value.text
    assert 1.4 < time.monotonic() - started < 5.0


def test_stopping_is_quick_and_leaves_no_queue_behind(
    start: Peers, rabbitmq: RabbitMQ, unique: Callable[[str], str]
) -> None:
    topic = unique("short")
    with Peer(url_for(OURS, rabbitmq)) as peer:
        peer(do="serve", topic=topic, server="s", exchange=EXCHANGE)
        assert call(peer, topic, "who") == "s"
        before = rabbitmq.queues()
        started = time.monotonic()
        assert peer(do="stop") == "stopped"
        assert time.monotonic() - started < 4.0
        gone = before - rabbitmq.queues()
    assert len([name for name in gone if name.startswith("reply_")]) == 1
    assert len([name for name in gone if name.startswith(f"{topic}_fanout_")]) == 1


def test_there_are_two_connections_however_many_servers_and_calls(
    rabbitmq: RabbitMQ, unique: Callable[[str], str]
) -> None:
    topic = unique("few")
    with Peer(url_for(OURS, rabbitmq)) as peer:
        for number in range(3):
            peer(do="serve", topic=topic, server=f"s{number}", exchange=EXCHANGE)
        for _ in range(5):
            call(peer, topic, "who")
        found = rabbitmq.connections(containing=f":{peer._process.pid}@")
        assert sorted(each.connection_name.split(":")[1] for each in found) == ["consume", "publish"]


def test_a_server_comes_back_after_its_exchange_was_deleted_and_after_a_restart(
    own_rabbitmq: RabbitMQ, unique: Callable[[str], str]
) -> None:
    topic = unique("back")
    url = url_for(OURS, own_rabbitmq)
    with Peer(url) as server, Peer(url) as client:
        server(do="serve", topic=topic, server="s", exchange=EXCHANGE)
        assert call(client, topic, "who") == "s"
        own_rabbitmq.api(f"exchanges/%2F/{EXCHANGE}", "DELETE")
        assert call(client, topic, "who", {"timeout": 20}) == "s"
        own_rabbitmq.restart()
        assert call(client, topic, "who", {"timeout": 30}) == "s"


# Notifications


@pytest.mark.parametrize(("sender", "listener"), PAIRS)
@pytest.mark.parametrize("notifier", ["messagingv2", "messaging"])
def test_notifications_of_every_priority(
    start: Peers, unique: Callable[[str], str], sender: str, listener: str, notifier: str
) -> None:
    topic = unique("notify")
    hearing = start(listener, "notify_peer.py", exchange=EXCHANGE)
    hearing(do="listen", name=topic, topics=[topic])
    sending = start(sender, "notify_peer.py", exchange=EXCHANGE)
    for priority in ("audit", "debug", "info", "warn", "error", "critical", "sample"):
        sending(
            do="notify",
            topics=[topic],
            priority=priority,
            event_type="an.event",
            payload={"of": priority},
            driver=notifier,
            context={"user": "alice"},
        )
    seen = heard(hearing, topic, 7)
    assert {each[0] for each in seen} == {each[4]["of"] for each in seen}
    assert all(each[1]["user"] == "alice" and each[3] == "an.event" for each in seen)


def heard(peer: Peer, name: str, count: int) -> list[Any]:
    wait_until(lambda: len(peer(do="heard", name=name)) >= count, 20.0, f"{count} notifications", interval=0.1)
    found: list[Any] = peer(do="heard", name=name)
    assert len(found) == count
    return found


def test_what_is_sent_before_anybody_listens_is_kept(start: Peers, unique: Callable[[str], str]) -> None:
    topic = unique("kept")
    peer = start(OURS, "notify_peer.py", exchange=EXCHANGE)
    peer(do="notify", topics=[topic], priority="info", event_type="early", payload=1, times=3)
    peer(do="listen", name=topic, topics=[topic])
    assert [each[4] for each in heard(peer, topic, 3)] == [1, 1, 1]


def test_requeue_gives_it_once_more(start: Peers, unique: Callable[[str], str]) -> None:
    topic = unique("requeue")
    peer = start(OURS, "notify_peer.py", exchange=EXCHANGE)
    peer(do="listen", name=topic, topics=[topic], requeue=1)
    peer(do="notify", topics=[topic], priority="info", event_type="again", payload=1)
    assert [each[4] for each in heard(peer, topic, 2)] == [1, 1]


@pytest.mark.parametrize("other", [OURS, RABBIT])
def test_a_pool_gets_copies_and_shares_them(start: Peers, unique: Callable[[str], str], other: str) -> None:
    topic, pool = unique("pooled"), unique("pool")
    ours = start(OURS, "notify_peer.py", exchange=EXCHANGE)
    theirs = start(other, "notify_peer.py", exchange=EXCHANGE)
    ours(do="listen", name=topic, topics=[topic])
    ours(do="listen", name=f"{pool}1", topics=[topic], pool=pool)
    theirs(do="listen", name=f"{pool}2", topics=[topic], pool=pool)
    ours(do="notify", topics=[topic], priority="info", event_type="all", payload=1, times=10)
    heard(ours, topic, 10)

    def shares() -> list[int]:
        return [len(ours(do="heard", name=f"{pool}1")), len(theirs(do="heard", name=f"{pool}2"))]

    wait_until(lambda: sum(shares()) >= 10, 20.0, "the pool's copies")
    assert sum(shares()) == 10
    assert all(shares())


def test_batches_are_filled_or_come_with_their_timeout(start: Peers, unique: Callable[[str], str]) -> None:
    topic = unique("batch")
    peer = start(OURS, "notify_peer.py", exchange=EXCHANGE)
    peer(do="notify", topics=[topic], priority="info", event_type="many", payload=1, times=25)
    peer(do="listen", name=topic, topics=[topic], batch=10)
    assert [len(batch) for batch in heard(peer, topic, 3)] == [10, 10, 5]


# In one process


def run(url: str, *arguments: str) -> str:
    """The script's output. It has 60 s."""
    done = subprocess.run(
        [interpreter(), "-W", "ignore", str(Path(__file__).with_name("driver_script.py")), *arguments],
        env=processes.environment(PYTHONPATH=None, URL=url.replace("amqp://", "wsgi+rabbit://", 1)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_forked_child_has_connections_of_its_own(rabbitmq: RabbitMQ) -> None:
    assert run(rabbitmq.url, "fork").split() == ["child:2", "parent:3"]


def test_options_without_effect_are_named_in_one_line_and_the_others_taken_over(rabbitmq: RabbitMQ) -> None:
    lines = run(rabbitmq.url, "options").splitlines()
    assert len(lines) == 2
    assert "rpc_conn_pool_size" in lines[0]
    assert "heartbeat_in_pthread" in lines[0]
    assert "use_queue_manager" in lines[0]
    assert lines[1] == "heartbeat=17 prefetch=5 durable=True ttl=60000 tls_ca=ca.pem verify=True"


def test_what_no_option_says_is_of_the_environment(rabbitmq: RabbitMQ) -> None:
    """`wsgi-messaging status` says to set WSGI_MESSAGING_RUN_DIR for the server, and so it has to be of use."""
    lines = run(rabbitmq.url, "environment").splitlines()
    assert lines[0] == f"nova-api auto 8192 {rabbitmq.host} 60"
    assert "run_dir: 'relative'" in lines[1]


def test_a_request_that_comes_twice_is_executed_once_and_both_are_acknowledged(rabbitmq: RabbitMQ) -> None:
    assert run(rabbitmq.url, "twice").split() == ["executed:1", "left:0"]


def test_the_reply_queue_is_kept_for_as_long_as_the_option_says(rabbitmq: RabbitMQ) -> None:
    assert run(rabbitmq.url, "ttl").splitlines() == ["60:{'x-expires': 60000}", "0:{}"]


def test_retry_bounds_what_is_spent_on_a_broker_that_is_away() -> None:
    """One retry takes the rabbit driver two seconds: its interval and kombu's delay, a second each."""
    lines = run(f"amqp://guest:guest@127.0.0.1:{processes.free_port()}/", "away").split()
    names, seconds = zip(*(line.split(":") for line in lines), strict=True)
    assert [*names] == [
        "MessageDeliveryFailure",
        "MessageDeliveryFailure",
        "MessageDeliveryFailure",
        "MessagingTimeout",
    ]
    for spent, least in zip(map(float, seconds), (0, 2, 2, 2), strict=True):
        assert least - 0.5 <= spent < least + 5.0


@pytest.mark.parametrize("what", ["password", "virtual host"])
def test_a_broker_that_lets_nobody_in_is_an_error_at_once(rabbitmq: RabbitMQ, what: str) -> None:
    """Without it a cast, a notification and the start of a server waited for ever."""
    wrong_password = rabbitmq.url.replace(rabbitmq.password, "wrong")
    url = wrong_password if what == "password" else f"{rabbitmq.url.removesuffix('//')}/nowhere"
    assert run(url, "refused").splitlines() == ["True True"] * 4


def test_names_of_the_errors_with_at_least_once(rabbitmq: RabbitMQ) -> None:
    assert run(rabbitmq.url, "mandatory").split() == ["MessageUndeliverable", "MessageUndeliverable", "None"]


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [("guest:guest@", "guest:guest"), ("", "guest:guest"), ("user@", "user:guest"), ("user:@", "user:guest")],
)
def test_a_host_never_gets_the_password_of_another(credentials: str, expected: str) -> None:
    """In whichever order the hosts are; the rabbit driver, too, fills with "guest" what is missing or empty."""
    code = (
        "import sys; from oslo_config import cfg; from oslo_messaging import TransportURL\n"
        "from wsgi_messaging.addresses import parse_url; from wsgi_messaging.oslo.driver_options import amqp_url\n"
        "url = TransportURL.parse(cfg.CONF, sys.argv[1])\n"
        "found = {broker for _ in range(50) for broker in parse_url(amqp_url(url, is_tls=False))[0]}\n"
        "print(*sorted(f'{each.userid}:{each.password}@{each.host}' for each in found))\n"
    )
    done = subprocess.run(
        [interpreter(), "-W", "ignore", "-c", code, f"wsgi+rabbit://{credentials}a,svc:pw@b/"],
        env=processes.environment(PYTHONPATH=str(processes.ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == sorted([f"{expected}@a", "svc:pw@b"])
