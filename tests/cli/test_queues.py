"""`wsgi-messaging queues` and `dlq`: what they show is what the broker says; a replay loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from kombu import Exchange, Queue

from tests.cli.peers import Peer, saying
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.secret import PASSWORD, dev_broker
from tests.harness.waiting import wait_until
from wsgi_messaging import Message, Settings, Transport
from wsgi_messaging.cli import main
from wsgi_messaging.cli._approach import conversation_with_any
from wsgi_messaging.cli._conversation import Conversation, Parcel
from wsgi_messaging.cli._letters import REPLAYS
from wsgi_messaging.cli.queues import ask
from wsgi_messaging.connection import codec, frames
from wsgi_messaging.devbroker import DevBroker

Run = Callable[..., tuple[int, str]]


@pytest.fixture(params=["devbroker", "rabbitmq"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each test on both brokers."""
    if request.param == "rabbitmq":
        yield request.getfixturevalue("rabbitmq").url
        return
    with dev_broker() as broker:
        yield broker.url


@pytest.fixture
def run(url: str, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str]:
        status = main([*arguments, "--url", url])
        captured = capsys.readouterr()
        return status, captured.out

    return run


def rows(run: Run, *arguments: str) -> Any:
    _status, text = run(*arguments, "--json")
    return json.loads(text)


class Grave:
    """A working queue whose rejected messages go to a dead-letter queue; both with names of their own."""

    def __init__(self, url: str, unique: Callable[[str], str]) -> None:
        self._settings = Settings(url=url)
        self.transport = Transport(url)
        self.exchange, self.work, self.dead = unique("x"), unique("work"), unique("dead")
        graveyard = Exchange(unique("graveyard"), "fanout")
        self.transport.declare(Queue(self.dead, graveyard))
        self.transport.declare(
            Queue(
                self.work,
                Exchange(self.exchange, "topic"),
                routing_key="order.#",
                queue_arguments={"x-dead-letter-exchange": graveyard.name},
            )
        )

    def bury(self, count: int, **options: Any) -> None:
        """Have `count` messages published, rejected and dead-lettered."""
        messages = [
            Message(body={"id": number}, routing_key="order.new", exchange=self.exchange, **options)
            for number in range(count)
        ]
        before = self.dead_depth()
        assert self.transport.publish_many(messages) == [None] * count
        consumer = self.transport.consume(self.work, lambda delivery: delivery.reject(), 0)
        wait_until(lambda: self.dead_depth() == before + count, 30.0, "the deaths", interval=0.1)
        consumer.cancel()

    def dead_depth(self) -> int:
        (row,) = ask([self.dead], self._settings, 5.0)
        return int(row["messages"])

    def taken(self, queue: str) -> list[Any]:
        """What is in a queue, taken out."""
        found: list[Any] = []
        consumer = self.transport.consume(queue, found.append)
        time.sleep(0.3)  # nothing tells that nothing more comes
        consumer.cancel()
        return found


@pytest.fixture
def grave(url: str, unique: Callable[[str], str]) -> Iterator[Grave]:
    grave = Grave(url, unique)
    yield grave
    grave.transport.close()


def test_depth_and_consumers(run: Run, grave: Grave) -> None:
    grave.transport.publish_many(
        [Message(body=b"x", routing_key="order.new", exchange=grave.exchange) for _number in range(3)]
    )
    consumer = grave.transport.consume(grave.dead, lambda delivery: None)
    status, text = run("queues", grave.work, grave.dead)
    consumer.cancel()
    assert status == 0
    head, *lines = [line.split() for line in text.splitlines()]
    assert head == ["QUEUE", "READY", "CONSUMERS", "STATE"]
    assert lines == [[grave.work, "3", "0", "running"], [grave.dead, "0", "1", "running"]]


def test_a_queue_that_is_missing_or_anothers(run: Run, grave: Grave, unique: Callable[[str], str]) -> None:
    private = unique("private")
    grave.transport.declare(Queue(private, exclusive=True))
    status, text = run("queues", grave.work, "no-such-queue", private, "--json")
    states = {row["queue"]: row["state"] for row in json.loads(text)}
    assert status == 1
    assert states == {
        grave.work: "running",
        "no-such-queue": "missing",
        private: "exclusive to another connection",
    }


@pytest.mark.parametrize("arguments", [("queues",), ("dlq", "list")])
def test_wrong_usage(run: Run, arguments: Sequence[str]) -> None:
    assert run(*arguments)[0] == 2


@pytest.mark.parametrize("command", [("queues",), ("dlq", "list")])
@pytest.mark.parametrize("name", ["ord*", "order?", "[a-z]"])
def test_patterns_are_for_the_management(command: Sequence[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "orders", name, "--url", "amqp://127.0.0.1:1"]) == 2
    assert f"'{name}': patterns need --management" in capsys.readouterr().err


def test_a_list_over_amqp_says_that_it_shows_what_was_named(
    grave: Grave, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dlq", "list", grave.work, "--url", url]) == 0
    captured = capsys.readouterr()
    assert captured.out.split()[:4] == ["QUEUE", "READY", "CONSUMERS", "STATE"]
    assert captured.err == "the queues named; --management tells which of them get dead letters, and whose\n"


def test_a_broker_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queues", "q", "--url", "amqp://u:s3cret@127.0.0.1:1//"]) == 1
    captured = capsys.readouterr()
    assert "connection refused" in captured.err
    assert "rabbitmq-diagnostics" in captured.err
    assert "s3cret" not in captured.err


def test_a_replayed_message_is_as_it_was(run: Run, grave: Grave) -> None:
    grave.bury(
        3,
        headers={"tenant": "a", "deep": {"list": [1, True, None, 2.5]}},
        priority=4,
        correlation_id="c-1",
        reply_to="r",
        properties={"type": "order", "app_id": "shop"},
    )
    status, text = run("dlq", "replay", grave.dead)
    assert (status, text.splitlines()[-1]) == (0, f"3 of 3 replayed, 0 kept in {grave.dead}")
    back = grave.taken(grave.work)
    assert [delivery.json() for delivery in back] == [{"id": number} for number in range(3)]
    for delivery in back:
        assert dict(delivery.headers) == {"tenant": "a", "deep": {"list": [1, True, None, 2.5]}, REPLAYS: 1}
        kept = ("priority", "correlation_id", "reply_to", "type", "app_id", "delivery_mode", "content_type")
        assert [delivery.properties[name] for name in kept] == [4, "c-1", "r", "order", "shop", 2, "application/json"]
        assert (delivery.exchange, delivery.routing_key) == (grave.exchange, "order.new")
    assert len({delivery.message_id for delivery in back}) == 3
    assert rows(run, "queues", grave.dead)[0]["messages"] == 0


def test_replays_are_counted(run: Run, grave: Grave) -> None:
    grave.bury(1)
    for times in (1, 2):
        assert run("dlq", "replay", grave.dead)[0] == 0
        if times == 1:
            consumer = grave.transport.consume(grave.work, lambda delivery: delivery.reject())
            wait_until(lambda: rows(run, "queues", grave.dead)[0]["messages"] == 1, 10.0, "the second death")
            consumer.cancel()
    assert [dict(delivery.headers) for delivery in grave.taken(grave.work)] == [{REPLAYS: 2}]


def test_many_in_batches_with_a_limit_and_in_order(run: Run, grave: Grave) -> None:
    grave.bury(250)
    status, text = run("dlq", "replay", grave.dead, "--limit", "130", "--json")
    assert status == 0
    assert json.loads(text) == {
        "examined": 130,
        "replayed": 130,
        "dry_run": False,
        "interrupted": False,
        "routes": {f"{grave.exchange} / order.new": 130},
        "kept": {},
    }
    assert rows(run, "queues", grave.dead, grave.work)[0]["messages"] == 120
    assert [delivery.json()["id"] for delivery in grave.taken(grave.work)] == list(range(130))


def test_a_dry_run_changes_nothing(run: Run, grave: Grave) -> None:
    grave.bury(5)
    status, text = run("dlq", "replay", grave.dead, "--dry-run")
    assert (status, text.splitlines()[-1]) == (0, f"5 of 5 would be replayed, 0 kept in {grave.dead}")
    found = rows(run, "queues", grave.dead, grave.work)
    assert [row["messages"] for row in found] == [5, 0]


def test_what_cannot_be_replayed_stays_where_it_is(run: Run, grave: Grave, url: str) -> None:
    grave.bury(2)
    grave.transport.publish(b"never died", grave.dead)
    grave.bury(2)
    # The binding goes: the exchange is there, and routes to nobody.
    grave.transport.close()
    unbind(url, grave)
    status, text = run("dlq", "replay", grave.dead)
    assert status == 1
    assert "4  kept: " in text
    assert "no queue takes it (NO_ROUTE)" in text
    assert "1  kept: no x-death header" in text
    assert rows(run, "queues", grave.dead)[0]["messages"] == 5


def test_a_message_that_nobody_can_read_stays_and_the_others_go(run: Run, grave: Grave, url: str) -> None:
    """A consumer of ours rejects it, so it is in a dead-letter queue that it will be met."""
    not_utf8 = b"\x80\0\x03\xff\xfe\xfd"  # a content type
    with conversation_with_any(Settings(url=url), 5.0) as (_broker, conversation):
        conversation.publish([Parcel("", grave.work, not_utf8, b"x")])
    consumer = grave.transport.consume(grave.work, lambda delivery: None)
    wait_until(lambda: grave.dead_depth() == 1, 10.0, "its death")
    consumer.cancel()
    grave.bury(2)
    found = rows(run, "dlq", "show", grave.dead)
    assert [row["reason"][:20] for row in found] == ["malformed properties", "rejected", "rejected"]
    status, text = run("dlq", "replay", grave.dead)
    assert status == 1
    assert "1  kept: malformed properties" in text
    assert f"2 of 3 replayed, 1 kept in {grave.dead}" in text
    assert [row["messages"] for row in rows(run, "queues", grave.work, grave.dead)] == [2, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"routing-keys": 5}, "no x-death header"),
        ({"routing-keys": "key"}, "no x-death header"),
        ({"routing-keys": ["k" * 256]}, "it cannot be encoded again"),
        ({"exchange": "x" * 256}, "it cannot be encoded again"),
        ({"count": "often", "routing-keys": ["nobody-takes-this"]}, "no queue takes it"),
    ],
)
def test_a_history_that_makes_no_sense_stays(run: Run, grave: Grave, change: dict[str, Any], said: str) -> None:
    """Any publisher can write an x-death header."""
    death = {"queue": "q", "reason": "rejected", "exchange": "", "routing-keys": ["q"], "count": 1, **change}
    grave.transport.publish(b"odd", grave.dead, headers={"x-death": [death]})
    grave.bury(1)
    assert len(rows(run, "dlq", "show", grave.dead)) == 2
    status, text = run("dlq", "replay", grave.dead)
    assert (status, text.splitlines()[-1]) == (1, f"1 of 2 replayed, 1 kept in {grave.dead}")
    assert said in text


def test_which_of_letters_that_look_alike_came_back(run: Run, grave: Grave, unique: Callable[[str], str]) -> None:
    """They differ by their headers only, by which they are routed: some that came back were taken for delivered, and
    were gone. Transient ones, whose confirms come many at a time."""
    kinds, taken = unique("kinds"), unique("taken")
    grave.transport.declare(Queue(taken, Exchange(kinds, "headers"), binding_arguments={"kind": "a"}))
    death = {"queue": "q", "reason": "rejected", "exchange": kinds, "routing-keys": ["k"], "count": 1}
    letters = [
        Message(body=b"x", routing_key=grave.dead, persistent=False, headers={"x-death": [death], "kind": "ab"[n % 2]})
        for n in range(100)
    ]
    assert grave.transport.publish_many(letters) == [None] * 100
    status, text = run("dlq", "replay", grave.dead)
    assert (status, text.splitlines()[-1]) == (1, f"50 of 100 replayed, 50 kept in {grave.dead}")
    assert [delivery.headers["kind"] for delivery in grave.taken(taken)] == ["a"] * 50
    wait_until(lambda: grave.dead_depth() == 50, what="what stays")
    assert [delivery.headers["kind"] for delivery in grave.taken(grave.dead)] == ["b"] * 50


def test_headers_are_replayed_octet_for_octet(run: Run, grave: Grave, url: str) -> None:
    death = {"queue": "q", "reason": "rejected", "exchange": "", "routing-keys": [grave.work], "count": 1}
    odd = {"text": b"S\0\0\0\4caf\xe9", "octet": b"b\xff", "real": b"f\x3f\x80\0\1", "time": b"T" + b"\1" * 8}
    fields = {name: codec.Field(raw) for name, raw in odd.items()}
    header = codec.properties({"headers": {**fields, "x-death": [death]}})
    with conversation_with_any(Settings(url=url), 5.0) as (_broker, conversation):
        assert conversation.publish([Parcel("", grave.dead, header, b"x")]).results == [""]
    assert run("dlq", "replay", grave.dead)[0] == 0
    with conversation_with_any(Settings(url=url), 5.0) as (_broker, conversation):
        (found,) = conversation.fetch(grave.work, 1)
    headers = codec.read_properties(found.header, split=True)["headers"]
    assert {name: bytes(headers[name]) for name in odd} == odd
    assert set(headers) == {*odd, REPLAYS}


def test_a_route_that_is_no_text_stays(run: Run, grave: Grave, url: str) -> None:
    keys = codec.Field(b"A\0\0\0\x09S\0\0\0\4caf\xe9")
    death = {"queue": "q", "reason": "rejected", "exchange": "", "routing-keys": keys, "count": 1}
    header = codec.properties({"headers": {"x-death": [death]}})
    with conversation_with_any(Settings(url=url), 5.0) as (_broker, conversation):
        assert conversation.publish([Parcel("", grave.dead, header, b"x")]).results == [""]
    status, text = run("dlq", "replay", grave.dead)
    assert status == 1 and "its route is no UTF-8" in text
    assert grave.dead_depth() == 1


def test_one_that_is_refused_does_not_keep_the_others(
    rabbitmq: RabbitMQ, unique: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """By closing the channel: the whole batch was published again by each run, and stayed."""
    grave = Grave(rabbitmq.url, unique)
    user = unique("clerk")
    rabbitmq.api(f"users/{user}", "PUT", {"password": PASSWORD, "tags": ""})
    rabbitmq.api(f"permissions/%2F/{user}", "PUT", {"configure": "", "write": ".*", "read": ".*"})
    allowed = {"exchange": grave.exchange, "write": "^order[.]", "read": ".*"}
    rabbitmq.api(f"topic-permissions/%2F/{user}", "PUT", allowed)
    death = {"queue": "q", "reason": "rejected", "exchange": grave.exchange, "count": 1}
    for number in range(30):
        key = "secret" if number in (4, 20) else "order.new"
        grave.transport.publish({"id": number}, grave.dead, headers={"x-death": [{**death, "routing-keys": [key]}]})
    url = f"amqp://{user}:{quote(PASSWORD, safe='')}@{rabbitmq.host}:{rabbitmq.amqp_port}/"
    assert main(["dlq", "replay", grave.dead, "--url", url]) == 1
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == f"28 of 30 replayed, 2 kept in {grave.dead}"
    assert "access to topic 'secret'" in text
    ids = [delivery.json()["id"] for delivery in grave.taken(grave.work)]
    assert set(ids) == set(range(30)) - {4, 20}
    assert len(ids) <= 28 + 9, "at most what was published beside the first that was refused comes twice"
    wait_until(lambda: grave.dead_depth() == 2, what="what stays")
    grave.transport.close()


def test_what_was_confirmed_before_the_time_was_over_is_done(
    run: Run, grave: Grave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was published, and stayed, and was published again by the next run."""
    hear = Conversation._await
    heard: list[int] = []

    def impatient(conversation: Conversation, channel: int, expected: int | None = None) -> Any:
        if heard:
            raise TimeoutError("no answer in time")
        inbound = hear(conversation, channel, expected)
        heard.extend([1] * (inbound.method == frames.BASIC_ACK))
        return inbound

    grave.bury(30)
    with monkeypatch.context() as patched:
        patched.setattr(Conversation, "_await", impatient)
        status, text = run("dlq", "replay", grave.dead)
    replayed = int(text.splitlines()[-1].split()[0])
    assert status == 1 and 0 < replayed < 30
    wait_until(lambda: grave.dead_depth() == 30 - replayed, what="what stays")
    assert replayed <= rows(run, "queues", grave.work)[0]["messages"] <= 10, "the first batch, of which some were heard"


def test_a_delivery_limit_that_comes_near_is_told(
    rabbitmq: RabbitMQ, unique: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    dead = unique("quorum")
    death = {"queue": "q", "reason": "rejected", "exchange": "", "routing-keys": [dead], "count": 1}
    with Transport(rabbitmq.url) as transport:
        transport.declare(Queue(dead, queue_arguments={"x-queue-type": "quorum"}))
        transport.publish(b"x", dead, headers={"x-death": [death]})
        told = []
        for _time in range(3):
            assert main(["dlq", "replay", dead, "--dry-run", "--url", rabbitmq.url]) == 0
            told.append("delivered" in capsys.readouterr().err)
    assert told == [False, False, True]


def test_an_exchange_that_is_gone(run: Run, grave: Grave, url: str) -> None:
    grave.bury(2)
    grave.transport.close()
    unbind(url, grave, exchange=True)
    status, text = run("dlq", "replay", grave.dead)
    assert status == 1
    assert f"2  kept: exchange '{grave.exchange}': 404" in text
    assert run("dlq", "replay", grave.dead, "--to-queue")[0] == 0
    assert rows(run, "queues", grave.work)[0]["messages"] == 2


def unbind(url: str, grave: Grave, *, exchange: bool = False) -> None:
    import kombu

    with kombu.Connection(url) as connection:
        channel = connection.channel()
        if exchange:
            channel.exchange_delete(grave.exchange)
        else:
            channel.queue_unbind(grave.work, grave.exchange, "order.#")


def test_to_the_queue_only_no_other_queue_gets_it_again(run: Run, grave: Grave, unique: Callable[[str], str]) -> None:
    audit = unique("audit")
    grave.transport.declare(Queue(audit, Exchange(grave.exchange, "topic"), routing_key="#"))
    grave.bury(2)
    assert run("dlq", "replay", grave.dead, "--to-queue")[0] == 0
    assert [row["messages"] for row in rows(run, "queues", grave.work, audit)] == [2, 2]


def test_show_tells_where_and_why_and_takes_nothing(run: Run, grave: Grave) -> None:
    grave.bury(3)
    found = rows(run, "dlq", "show", grave.dead, "--limit", "2")
    assert [row["number"] for row in found] == [1, 2]
    assert (found[0]["queue"], found[0]["reason"], found[0]["count"]) == (grave.work, "rejected", 1)
    assert (found[0]["exchange"], found[0]["routing_key"], found[0]["body"]) == (
        grave.exchange,
        "order.new",
        '{"id": 0}',
    )
    assert [json.loads(row["body"])["id"] for row in rows(run, "dlq", "show", grave.dead)] == [0, 1, 2]
    assert rows(run, "queues", grave.dead)[0]["messages"] == 3


def test_a_retry_queue_in_between_does_not_hide_where_it_came_from(
    run: Run, url: str, unique: Callable[[str], str]
) -> None:
    first, retry, last = unique("first"), unique("retry"), unique("last")
    with Transport(url) as transport:
        transport.declare(Queue(last))
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": last, "x-message-ttl": 50}
        transport.declare(Queue(retry, queue_arguments=arguments))
        transport.declare(
            Queue(first, queue_arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": retry})
        )
        transport.publish(b"x", first)
        consumer = transport.consume(first, lambda delivery: delivery.reject())
        wait_until(lambda: rows(run, "queues", last)[0]["messages"] == 1, 10.0, "the second death")
        consumer.cancel()
        (found,) = rows(run, "dlq", "show", last)
        assert (found["queue"], found["reason"]) == (first, "rejected")
        assert run("dlq", "replay", last)[0] == 0
        assert [row["messages"] for row in rows(run, "queues", first, retry, last)] == [1, 0, 0]


@pytest.fixture
def devbroker() -> Iterator[DevBroker]:
    with dev_broker() as broker:
        yield broker


def replay(broker: DevBroker, queue: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main(["dlq", "replay", queue, "--url", broker.url, "--timeout", "1"])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_nothing_is_acknowledged_before_it_is_confirmed(
    devbroker: DevBroker, unique: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    grave = Grave(devbroker.url, unique)
    grave.bury(3)
    devbroker.hold_confirms()
    status, text = replay(devbroker, grave.dead, capsys)
    devbroker.release_confirms()
    assert status == 1
    assert "no answer in time" in text
    assert "0 of 3 replayed" in text
    assert ask([grave.dead], Settings(url=devbroker.url), 5.0)[0]["messages"] == 3
    grave.transport.close()


def test_what_the_broker_refuses_is_kept(
    devbroker: DevBroker, unique: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    grave = Grave(devbroker.url, unique)
    grave.bury(3)
    devbroker.nack_next(2)
    status, text = replay(devbroker, grave.dead, capsys)
    assert status == 1
    assert "2  kept: " in text
    assert "basic.nack" in text
    assert [row["messages"] for row in ask([grave.dead, grave.work], Settings(url=devbroker.url), 5.0)] == [2, 1]
    devbroker.block("low on memory")
    status, text = replay(devbroker, grave.dead, capsys)
    assert status == 1
    assert "rabbitmq-diagnostics alarms" in text
    devbroker.unblock()
    grave.transport.close()


def test_interrupted_it_loses_nothing_and_says_how_far_it_was(rabbitmq: RabbitMQ, unique: Callable[[str], str]) -> None:
    grave = Grave(rabbitmq.url, unique)
    grave.bury(10000)
    command = [sys.executable, "-m", "wsgi_messaging", "dlq", "replay", grave.dead, "--url", rabbitmq.url]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )

    def depth() -> int:
        (row,) = ask([grave.work], Settings(url=rabbitmq.url), 5.0)
        return int(row["messages"])

    with process:
        wait_until(lambda: depth() > 100, 20.0, "the first replays", interval=0.01)
        process.send_signal(signal.SIGINT)
        text, _error = process.communicate(timeout=20)
    grave.transport.close()
    assert process.returncode == 130
    assert "of 10000 replayed" in text
    assert "; interrupted, " in text
    replayed = int(text.splitlines()[-1].split()[0])
    assert 0 < replayed < 10000
    in_work = {message["properties"]["message_id"] for message in rabbitmq.messages(grave.work)}
    in_dead = {message["properties"]["message_id"] for message in rabbitmq.messages(grave.dead)}
    assert len(in_work | in_dead) == 10000
    assert not in_work & in_dead, "the batch that was under way was finished"


def test_progress_is_shown_on_a_terminal(rabbitmq: RabbitMQ, unique: Callable[[str], str]) -> None:
    import pty

    grave = Grave(rabbitmq.url, unique)
    grave.bury(5000)
    grave.transport.close()
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "wsgi_messaging", "dlq", "replay", grave.dead, "--url", rabbitmq.url]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=slave, cwd=Path(__file__).parents[2], env=os.environ
    )
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 65536):
            shown += data
    except OSError:  # Linux: the other end was closed
        pass
    os.close(master)
    assert process.wait(20) == 0
    assert b"of 5000 (" in shown
    assert b"s left" in shown
    assert shown.endswith(b"\r")


# With the management API.


@pytest.fixture
def management(rabbitmq: RabbitMQ) -> str:
    return f"http://127.0.0.1:{rabbitmq.http_port}"


def managed(rabbitmq: RabbitMQ, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    status = main([*arguments, "--url", rabbitmq.url, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_all_queues(rabbitmq: RabbitMQ, management: str, queue: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = managed(rabbitmq, capsys, "queues", "--management", management)
    assert queue in [row["queue"] for row in found]
    status, found = managed(rabbitmq, capsys, "queues", queue[:-1] + "?", "no-such-*", "--management", management)
    assert [(row["queue"], row["state"]) for row in found][-1] == ("no-such-*", "missing")
    assert status == 1


def test_dead_letter_queues_are_found(
    rabbitmq: RabbitMQ, management: str, unique: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    grave = Grave(rabbitmq.url, unique)
    by_policy, target, lost = unique("policied"), unique("target"), unique("lost")
    rabbitmq.declare_queue(by_policy)
    rabbitmq.declare_queue(target)
    definition = {"dead-letter-exchange": "", "dead-letter-routing-key": target}
    policy = {"pattern": f"^{by_policy}$", "definition": definition, "apply-to": "queues"}
    rabbitmq.api(f"policies/%2F/{by_policy}", "PUT", policy)
    rabbitmq.declare_queue(lost, **{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "nowhere"})

    def found() -> dict[str, str]:
        _status, listed = managed(rabbitmq, capsys, "dlq", "list", "--management", management)
        return {row["queue"]: row["from"] for row in listed}

    wait_until(lambda: target in found(), 10.0, "the policy's effect")
    assert found()[grave.dead] == grave.work
    assert found()[target] == by_policy
    assert "missing: they are lost" in found()["nowhere"]
    status, listed = managed(rabbitmq, capsys, "dlq", "list", grave.work, grave.dead, "--management", management)
    assert {row["queue"]: row["from"] for row in listed} == {
        grave.work: "(none: this is no dead-letter queue)",
        grave.dead: grave.work,
    }
    assert status == 0
    status, listed = managed(rabbitmq, capsys, "dlq", "list", "no-such-queue", "--management", management)
    assert (status, listed[0]["from"]) == (1, "(this queue is missing)")
    assert managed(rabbitmq, capsys, "dlq", "list", "--management", management)[0] == 1
    grave.transport.close()
    rabbitmq.api(f"policies/%2F/{by_policy}", "DELETE")
    rabbitmq.delete_queue(lost)


def test_a_management_that_refuses_or_is_not_there(
    rabbitmq: RabbitMQ, management: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = management.replace("//", "//guest:s3cret@")
    assert main(["queues", "--management", wrong, "--url", rabbitmq.url]) == 1
    assert "set_user_tags guest monitoring" in (error := capsys.readouterr().err)
    assert "s3cret" not in error
    assert main(["queues", "--management", "http://u:s3cret@127.0.0.1:1"]) == 1
    assert "rabbitmq-plugins enable rabbitmq_management" in (error := capsys.readouterr().err)
    assert "s3cret" not in error
    assert main(["queues", "--management", "ftp://u:s3cret@x"]) == 2


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"AMQP\0\0\x09\x01", b"\x15\x03\x01\0\x02\x02\x16"])
def test_what_is_no_web_server_is_no_management(said: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """Another port of that host. Fails with a traceback."""
    with Peer(saying(said)) as peer:
        assert main(["dlq", "list", "--management", f"http://127.0.0.1:{peer.port}"]) == 1
    assert f"no management API at http://127.0.0.1:{peer.port} (" in capsys.readouterr().err


def test_what_a_peer_says_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when an error goes out as it is: this one clears the screen and says that all is well."""
    with Peer(saying(b"\x1b[2J\x1b[Hall well\x1b[8m\r\n")) as peer:
        assert main(["dlq", "list", "--management", f"http://127.0.0.1:{peer.port}"]) == 1
    error = capsys.readouterr().err
    assert "all well" in error and error.removesuffix("\n").isprintable()


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port", "http://[host]:15672"])
def test_an_address_that_is_none_is_named(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queues", "--management", url]) == 2
    assert "--management: what stands for a host or a port is none" in capsys.readouterr().err
