"""What goes over the wire: ours beside oslo.messaging's own frames, captured in the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness.proxy import FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import wait_until
from tests.interop.capture import Published, published
from tests.interop.peer import Peer
from wsgi_messaging import Transport
from wsgi_messaging.oslo.envelope import DEADLINE
from wsgi_messaging.rpc import RPCClient, RPCServer, Target

EXCHANGE = "interop-wire"


class Endpoint:
    def echo(self, ctxt: dict[str, Any], value: Any) -> Any:
        return value

    def wrong(self, ctxt: dict[str, Any]) -> None:
        raise ValueError("wrong value")

    def slow(self, ctxt: dict[str, Any], seconds: float) -> str:
        import time

        time.sleep(seconds)
        return "done"


@pytest.fixture
def proxies(rabbitmq: RabbitMQ) -> Iterator[tuple[FaultProxy, FaultProxy]]:
    """One for oslo.messaging, one for us."""
    target = (rabbitmq.host, rabbitmq.amqp_port)
    with FaultProxy(target, record=True) as theirs, FaultProxy(target, record=True) as ours:
        yield theirs, ours


def described(message: Published) -> dict[str, Any]:
    """All of a message but the ids."""
    inner = {key: message.inner[key] for key in message.keys}
    for key in ("_msg_id", "_reply_q", "_unique_id"):
        if key in inner:
            assert isinstance(inner[key], str) and len(inner[key].removeprefix("reply_")) == 32, key
            inner[key] = "an id"
    failure = inner.get("failure")
    if failure:
        inner["failure"] = "a failure"
    return {
        "exchange": message.exchange,
        "routing_key": "a reply queue" if message.routing_key.startswith("reply_") else message.routing_key,
        "mandatory": message.mandatory,
        "properties": message.properties,
        "outer": (list(message.outer), message.outer["oslo.version"]),
        "inner": list(inner.items()),
    }


def test_requests_equal_theirs(
    proxies: tuple[FaultProxy, FaultProxy], rabbitmq: RabbitMQ, unique: Callable[[str], str]
) -> None:
    """Everything but `mandatory` on a call, which we set on purpose, and our deadline key."""
    topic, context = unique("wire"), {"user": "alice", "roles": ["admin"]}
    theirs, ours = proxies
    with Transport(rabbitmq.url) as serving, Transport(ours.url()) as transport, Peer(theirs.url()) as peer:
        server = RPCServer(serving, Target(exchange=EXCHANGE, topic=topic, server="s1"), [Endpoint()])
        server.start()
        client = RPCClient(transport, Target(exchange=EXCHANGE, topic=topic, version="1.0"), timeout=10)
        value = {"text": "ż", "number": 1.5, "list": [1, None]}
        for how in ({}, {"call_monitor_timeout": 4}, {"server": "s1"}):
            client.prepare(timeout=10, **how).call(context, "echo", value=value)
            peer(do="send", kind="call", topic=topic, exchange=EXCHANGE, method="echo", args={"value": value},
                 context=context, timeout=10, **how)  # fmt: skip
        for how in ({}, {"server": "s1"}, {"fanout": True}):
            client.prepare(**how).cast(context, "echo", value=value)
            peer(do="send", kind="cast", topic=topic, exchange=EXCHANGE, method="echo", args={"value": value},
                 context=context, **how)  # fmt: skip
        assert server.stop()
        sent, expected = published(ours), published(theirs)
    assert len(sent) == len(expected) == 6
    for our, their in zip(map(described, sent), map(described, expected), strict=True):
        is_call = "expiration" in their["properties"]
        assert our.pop("mandatory") is is_call
        assert their.pop("mandatory") is False
        assert our == their
    assert [DEADLINE in message.inner for message in sent] == [True, True, True, False, False, False]


def test_replies_equal_theirs(
    proxies: tuple[FaultProxy, FaultProxy], rabbitmq: RabbitMQ, unique: Callable[[str], str]
) -> None:
    """A result, a failure, signs of life; but for the delivery mode of those to a client of ours."""
    theirs, ours = proxies
    answers = {}
    for name, proxy in (("theirs", theirs), ("ours", ours)):
        topic = unique(name)
        with Transport(rabbitmq.url) as calling, Transport(proxy.url()) as transport, Peer(proxy.url()) as peer:
            target = Target(exchange=EXCHANGE, topic=topic, server="s1")
            server = RPCServer(transport, target, [Endpoint()])
            if name == "ours":
                server.start()
            else:
                peer(do="serve", topic=topic, server="s1", exchange=EXCHANGE)
            client = RPCClient(calling, Target(exchange=EXCHANGE, topic=topic, version="1.0"), timeout=20)
            client.call({}, "echo", value=[1])
            with pytest.raises(ValueError, match="wrong value"):
                client.call({}, "wrong")
            client.prepare(call_monitor_timeout=3).call({}, "slow", seconds=2.2)
            wait_until(lambda p=proxy: len(published(p)) == 4, what="four replies")
            answers[name] = [described(message) for message in published(proxy)]
            server.stop()
    for name, mode in (("theirs", 2), ("ours", 1)):
        assert [answer["properties"].pop("delivery_mode") for answer in answers[name]] == [mode] * 4
    assert answers["ours"] == answers["theirs"]
