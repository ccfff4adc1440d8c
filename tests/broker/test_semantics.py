"""What a client may rely on, said of both brokers: a real RabbitMQ and the embedded one.

Every test runs twice with the same steps. Where the two differ, RabbitMQ is right.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import kombu
import pytest

from tests.broker.semantics_client import Address, Client, Wire, bodies, depth, get_all, publish, ready, text, wire
from wsgi_messaging.connection import codec

Name = Callable[[str], str]


@pytest.fixture
def client(any_broker: Address) -> Iterator[Client]:
    opened = Client(any_broker)
    yield opened
    opened.close()


@pytest.fixture
def other(any_broker: Address) -> Iterator[Client]:
    """A second connection."""
    opened = Client(any_broker)
    yield opened
    opened.close()


@pytest.fixture
def channel(client: Client) -> Any:
    return client.channel()


@pytest.fixture
def queue(channel: Any, unique: Name) -> str:
    """An exclusive queue of the client."""
    return str(channel.queue_declare(unique("q"), exclusive=True, auto_delete=False).queue)


def declared(channel: Any, name: str, exclusive: bool = True, durable: bool = False, **arguments: Any) -> str:
    """A queue with arguments; `x_message_ttl=5` is the argument x-message-ttl."""
    arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
    channel.queue_declare(name, exclusive=exclusive, durable=durable, auto_delete=False, arguments=arguments)
    return name


# Opening a connection


def test_capabilities_and_tuning(client: Client) -> None:
    capabilities = client.connection.server_properties["capabilities"]
    for name in (
        "publisher_confirms",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "authentication_failure_close",
        "exchange_exchange_bindings",
        "per_consumer_qos",
        "consumer_priorities",
    ):
        assert capabilities[name] is True
    assert client.connection.server_properties["version"] == "3.10.8"
    assert (client.connection.channel_max, client.connection.frame_max) == (2047, 131072)


@pytest.mark.parametrize("mechanism", ["PLAIN", "AMQPLAIN"])
def test_login(any_broker: Address, mechanism: str) -> None:
    Client(any_broker, login_method=mechanism).close()


@pytest.mark.parametrize(
    ("settings", "code", "reply"),
    [
        (
            {"password": "wrong"},
            403,
            "ACCESS_REFUSED - Login was refused using authentication mechanism AMQPLAIN. For details see the broker"
            " logfile.",
        ),
        (
            {"userid": "nobody", "login_method": "PLAIN"},
            403,
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker"
            " logfile.",
        ),
        ({"virtual_host": "nosuch"}, 530, "NOT_ALLOWED - vhost nosuch not found"),
    ],
)
def test_login_refused(any_broker: Address, settings: dict[str, str], code: int, reply: str) -> None:
    with pytest.raises(amqp.AMQPError) as caught:
        Client(any_broker, **settings)
    assert (caught.value.reply_code, caught.value.reply_text) == (code, reply)


def test_login_refused_without_a_word(any_broker: Address) -> None:
    """A client that has not announced authentication_failure_close just loses the connection."""
    with pytest.raises((EOFError, ConnectionError)):
        Wire(any_broker, password="wrong", capabilities=False)


# What is refused, and in which words


def _queue(name: str, **options: Any) -> Callable[[Any], Any]:
    return lambda channel: channel.queue_declare(name, **{"auto_delete": False, **options})


def _exchange(name: str, kind: str = "direct", **options: Any) -> Callable[[Any], Any]:
    return lambda channel: channel.exchange_declare(name, kind, **{"auto_delete": False, **options})


def _invalid(arguments: dict[str, Any], said: str) -> tuple[Any, int, str]:
    """A queue whose arguments are wrong."""
    return _queue("sem-bad", arguments=arguments), 406, said.replace("WHERE", "queue 'sem-bad' in vhost '/'")


def _published(**properties: Any) -> Callable[[Any], Any]:
    def act(channel: Any) -> None:
        publish(channel, "sem-q", "x", **properties)
        channel.queue_declare("sem-q", passive=True)

    return act


SAME_Q = "for queue 'sem-q' in vhost '/': received"
SAME_TTL = "inequivalent arg 'x-message-ttl' for queue 'sem-ttl' in vhost '/': received"
SAME_E = "for exchange 'sem-e' in vhost '/': received"
REFUSALS: dict[str, tuple[Callable[[Any], Any], int, str]] = {
    "no-queue": (_queue("sem-none", passive=True), 404, "no queue 'sem-none' in vhost '/'"),
    "durable": (
        _queue("sem-q", durable=True),
        406,
        f"inequivalent arg 'durable' {SAME_Q} 'true' but current is 'false'",
    ),
    "auto-delete": (
        _queue("sem-q", auto_delete=True),
        406,
        f"inequivalent arg 'auto_delete' {SAME_Q} 'true' but current is 'false'",
    ),
    "ttl-new": (
        _queue("sem-q", arguments={"x-message-ttl": 1000}),
        406,
        f"inequivalent arg 'x-message-ttl' {SAME_Q} the value '1000' of type 'signedint' but current is none",
    ),
    "ttl-gone": (
        _queue("sem-ttl"),
        406,
        f"{SAME_TTL} none but current is the value '60000' of type 'signedint'",
    ),
    "ttl-other": (
        _queue("sem-ttl", arguments={"x-message-ttl": 2000}),
        406,
        f"{SAME_TTL} '2000' but current is '60000'",
    ),
    "dlx-new": (
        _queue("sem-q", arguments={"x-dead-letter-exchange": "e"}),
        406,
        f"inequivalent arg 'x-dead-letter-exchange' {SAME_Q} the value 'e' of type 'longstr' but current is none",
    ),
    "arg-text": _invalid(
        {"x-message-ttl": "a"}, "invalid arg 'x-message-ttl' for WHERE: \"expected integer, got longstr\""
    ),
    "arg-negative": _invalid({"x-message-ttl": -1}, "invalid arg 'x-message-ttl' for WHERE: {value_negative,-1}"),
    "arg-zero": _invalid({"x-expires": 0}, "invalid arg 'x-expires' for WHERE: {value_zero,0}"),
    "arg-priority": _invalid(
        {"x-max-priority": 300}, "invalid arg 'x-max-priority' for WHERE: {max_value_exceeded,300}"
    ),
    "arg-overflow": _invalid({"x-overflow": "z"}, "invalid arg 'x-overflow' for WHERE: invalid_overflow"),
    "arg-dlk": _invalid(
        {"x-dead-letter-routing-key": "a"},
        "invalid arg 'x-dead-letter-routing-key' for WHERE: routing_key_but_no_dlx_defined",
    ),
    "arg-ttl-large": _invalid(
        {"x-message-ttl": 315360000001}, "invalid arg 'x-message-ttl' for WHERE: {value_too_large,315360000001}"
    ),
    "arg-expires-large": _invalid(
        {"x-expires": 315360000001}, "invalid arg 'x-expires' for WHERE: {value_too_large,315360000001}"
    ),
    "arg-dlx": _invalid(
        {"x-dead-letter-exchange": 1}, "invalid type 'signedint' for arg 'x-dead-letter-exchange' in WHERE"
    ),
    "arg-type": _invalid({"x-queue-type": "z"}, "invalid arg 'x-queue-type' for WHERE: \"unsupported queue type 'z'\""),
    "quorum-transient": _invalid({"x-queue-type": "quorum"}, "invalid property 'non-durable' for WHERE"),
    "limit-on-classic": _invalid(
        {"x-delivery-limit": 3}, "invalid arg 'x-delivery-limit' for WHERE of queue type rabbit_classic_queue"
    ),
    "reserved-queue": (_queue("amq.x"), 403, "queue name 'amq.x' contains reserved prefix 'amq.*'"),
    "reserved-exchange": (_exchange("amq.x"), 403, "exchange name 'amq.x' contains reserved prefix 'amq.*'"),
    "declare-default": (_exchange(""), 403, "operation not permitted on the default exchange"),
    "no-exchange": (_exchange("sem-none", passive=True), 404, "no exchange 'sem-none' in vhost '/'"),
    "exchange-type": (
        _exchange("sem-e", "fanout"),
        406,
        f"inequivalent arg 'type' {SAME_E} 'fanout' but current is 'direct'",
    ),
    "exchange-durable": (
        _exchange("sem-e", durable=True),
        406,
        f"inequivalent arg 'durable' {SAME_E} 'true' but current is 'false'",
    ),
    "exchange-auto-delete": (
        _exchange("sem-e", auto_delete=True),
        406,
        f"inequivalent arg 'auto_delete' {SAME_E} 'true' but current is 'false'",
    ),
    "alternate": (
        _exchange("sem-e", arguments={"alternate-exchange": "x"}),
        406,
        f"inequivalent arg 'alternate-exchange' {SAME_E} the value 'x' of type 'longstr' but current is none",
    ),
    "alternate-type": (
        _exchange("sem-x", arguments={"alternate-exchange": 5}),
        406,
        "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'sem-x' in vhost '/'",
    ),
    "delete-default": (
        lambda channel: channel.exchange_delete(""),
        403,
        "operation not permitted on the default exchange",
    ),
    "delete-amq": (
        lambda channel: channel.exchange_delete("amq.direct"),
        403,
        "deletion of system exchange 'amq.direct' in vhost '/' not allowed",
    ),
    "delete-amq-none": (
        lambda channel: channel.exchange_delete("amq.none"),
        403,
        "deletion of system exchange 'amq.none' in vhost '/' not allowed",
    ),
    "delete-bound": (
        lambda channel: channel.exchange_delete("sem-e", if_unused=True),
        406,
        "exchange 'sem-e' in vhost '/' in use",
    ),
    "bind-default": (
        lambda channel: channel.queue_bind("sem-q", "", "x"),
        403,
        "operation not permitted on the default exchange",
    ),
    "bind-no-exchange": (
        lambda channel: channel.queue_bind("sem-q", "sem-none", "x"),
        404,
        "no exchange 'sem-none' in vhost '/'",
    ),
    "bind-no-queue": (
        lambda channel: channel.queue_bind("sem-none", "sem-e", "x"),
        404,
        "no queue 'sem-none' in vhost '/'",
    ),
    "bind-neither": (
        lambda channel: channel.queue_bind("sem-none", "sem-no-exchange", "x"),
        404,
        "no exchange 'sem-no-exchange' in vhost '/'",
    ),
    "bind-exchanges": (
        lambda channel: channel.exchange_bind("sem-none", "sem-nor", "x"),
        404,
        "no exchange 'sem-nor' in vhost '/'",
    ),
    "bind-exchange": (
        lambda channel: channel.exchange_bind("sem-none", "sem-e", "x"),
        404,
        "no exchange 'sem-none' in vhost '/'",
    ),
    "x-match": (
        lambda channel: channel.queue_bind("sem-q", "amq.headers", "", arguments={"x-match": "z"}),
        406,
        'Invalid x-match field value <<"z">>; expected all, any, all-with-x, or any-with-x',
    ),
    "purge": (lambda channel: channel.queue_purge("sem-none"), 404, "no queue 'sem-none' in vhost '/'"),
    "get": (lambda channel: channel.basic_get("sem-none"), 404, "no queue 'sem-none' in vhost '/'"),
    "get-unnamed": (lambda channel: channel.basic_get(""), 404, "no previously declared queue"),
    "consume": (lambda channel: channel.basic_consume("sem-none"), 404, "no queue 'sem-none' in vhost '/'"),
    "delete-not-empty": (
        lambda channel: channel.queue_delete("sem-full", if_empty=True),
        406,
        "queue 'sem-full' in vhost '/' not empty",
    ),
    "delete-used": (
        lambda channel: channel.queue_delete("sem-used", if_unused=True),
        406,
        "queue 'sem-used' in vhost '/' in use",
    ),
    "exclusive-use": (
        lambda channel: channel.basic_consume("sem-used", exclusive=True),
        403,
        "queue 'sem-used' in vhost '/' in exclusive use",
    ),
    "consumer-priority": (
        lambda channel: channel.basic_consume("sem-q", arguments={"x-priority": "high"}),
        406,
        "invalid arg 'x-priority' for queue 'sem-q' in vhost '/': \"expected integer, got longstr\"",
    ),
    "ack": (
        lambda channel: (channel.basic_ack(7), channel.queue_declare("sem-q", passive=True)),
        406,
        "unknown delivery tag 7",
    ),
    "reject": (
        lambda channel: (channel.basic_reject(0, True), channel.queue_declare("sem-q", passive=True)),
        406,
        "unknown delivery tag 0",
    ),
    "publish": (_published(exchange="sem-none"), 404, "no exchange 'sem-none' in vhost '/'"),
    "publish-internal": (
        _published(exchange="amq.rabbitmq.trace"),
        403,
        "cannot publish to internal exchange 'amq.rabbitmq.trace' in vhost '/'",
    ),
    "expiration": (_published(expiration="abc"), 406, "invalid expiration 'abc': no_integer"),
    "expiration-part": (_published(expiration="1a"), 406, "invalid expiration '1a': {leftover_string,\"a\"}"),
    "expiration-negative": (_published(expiration="-1"), 406, "invalid expiration '-1': {value_negative,-1}"),
    "expiration-large": (
        _published(expiration="315360000001"),
        406,
        "invalid expiration '315360000001': {value_too_large,315360000001}",
    ),
    "expiration-digits": (_published(expiration="\u0663"), 406, "invalid expiration '\u0663': no_integer"),
    "user-id": (_published(user_id="z"), 406, "user_id property set to 'z' but authenticated user was 'guest'"),
    "cc": (
        _published(application_headers={"CC": "z"}),
        406,
        'invalid message: {unacceptable_type_in_header,"CC",longstr}',
    ),
}
CODES = {403: "ACCESS_REFUSED", 404: "NOT_FOUND", 405: "RESOURCE_LOCKED", 406: "PRECONDITION_FAILED"}


@pytest.fixture
def scenery(client: Client) -> Iterator[None]:
    """What the table of refusals is about."""
    channel = client.channel()
    declared(channel, "sem-q", exclusive=False)
    declared(channel, "sem-ttl", exclusive=False, x_message_ttl=60000)
    declared(channel, "sem-used", exclusive=False)
    declared(channel, "sem-full", exclusive=False)
    publish(channel, "sem-full", "x")
    client.consume(channel, "sem-used")
    channel.exchange_declare("sem-e", "direct", auto_delete=False)
    channel.queue_bind("sem-full", "sem-e", "k")
    yield
    for name in ("sem-q", "sem-ttl", "sem-used", "sem-full"):
        channel.queue_delete(name)
    channel.exchange_delete("sem-e")


@pytest.mark.usefixtures("scenery")
@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_close_the_channel_only(client: Client, other: Client, case: str) -> None:
    action, code, said = REFUSALS[case]
    channel, bystander = other.channel(), other.channel()
    with pytest.raises(amqp.ChannelError) as caught:
        action(channel)
    assert (caught.value.reply_code, caught.value.reply_text) == (code, f"{CODES[code]} - {said}")
    assert depth(bystander, "sem-q") == 0


@pytest.mark.parametrize(
    ("action", "code", "reply"),
    [
        (_exchange("sem-x", "zork"), 503, "COMMAND_INVALID - unknown exchange type 'zork'"),
        (lambda channel: channel.basic_qos(10, 1, False), 540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)"),
        (lambda channel: channel.flow(False), 540, "NOT_IMPLEMENTED - active=false"),
    ],
)
def test_refusals_that_close_the_connection(
    client: Client, channel: Any, action: Callable[[Any], Any], code: int, reply: str
) -> None:
    with pytest.raises(amqp.AMQPError) as caught:
        action(channel)
    assert (caught.value.reply_code, caught.value.reply_text) == (code, reply)
    assert not client.connection.connected


@pytest.mark.parametrize("again", ["", "sem-none"])
def test_a_consumer_tag_is_used_once(client: Client, channel: Any, queue: str, again: str) -> None:
    """Whichever queue it is used for, there or not."""
    client.consume(channel, queue, consumer_tag="t")
    with pytest.raises(amqp.NotAllowed, match="NOT_ALLOWED - attempt to reuse consumer tag 't'"):
        channel.send_method(
            (60, 20), "BssbbbbF", (0, again or queue, "t", False, False, False, False, {}), wait=(60, 21)
        )


def test_what_does_not_exist_may_be_deleted_and_unbound(channel: Any, queue: str) -> None:
    assert channel.queue_delete("sem-none") == 0
    channel.exchange_delete("sem-none")
    channel.queue_unbind(queue, "amq.direct", "not-bound")
    channel.queue_unbind(queue, "sem-none", "x")
    assert channel.basic_cancel("sem-none") == "sem-none"


def test_exclusive_queue_is_locked_for_others_and_goes_with_its_connection(
    client: Client, other: Client, queue: str
) -> None:
    for action in (
        lambda channel: channel.queue_declare(queue, exclusive=True, auto_delete=False),
        lambda channel: channel.queue_declare(queue, passive=True),
        lambda channel: channel.basic_consume(queue),
        lambda channel: channel.basic_get(queue),
        lambda channel: channel.queue_purge(queue),
        lambda channel: channel.queue_delete(queue),
        lambda channel: channel.queue_bind(queue, "amq.direct", "x"),
    ):
        with pytest.raises(amqp.ResourceLocked) as caught:
            action(other.channel())
        assert caught.value.reply_text.startswith(
            f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. It could be"
        )
    with pytest.raises(amqp.ResourceLocked):
        client.channel().queue_declare(queue, auto_delete=False)
    client.close()
    assert other.until(lambda: _is_missing(other, queue))


def _is_missing(client: Client, queue: str) -> bool:
    try:
        client.channel().queue_declare(queue, passive=True)
    except amqp.NotFound:
        return True
    except amqp.ResourceLocked:
        return False
    return False


# Routing


def bound(channel: Any, exchange: str, kind: str, *keys: str, **options: Any) -> str:
    channel.exchange_declare(exchange, kind, auto_delete=False, **options)
    queue = str(channel.queue_declare("", exclusive=True).queue)
    for key in keys:
        channel.queue_bind(queue, exchange, key)
    return queue


def test_default_and_direct_exchange(channel: Any, queue: str) -> None:
    channel.queue_bind(queue, "amq.direct", "k")
    publish(channel, queue, "default")
    publish(channel, "k", "direct", exchange="amq.direct")
    publish(channel, "K", "elsewhere", exchange="amq.direct")
    assert bodies(get_all(channel, queue)) == ["default", "direct"]


def test_fanout_takes_every_key(channel: Any, unique: Name) -> None:
    name = unique("e")
    queues = [bound(channel, name, "fanout", key) for key in ("a", "b")]
    publish(channel, "z", "x", exchange=name)
    assert [bodies(get_all(channel, queue)) for queue in queues] == [["x"], ["x"]]
    channel.exchange_delete(name)


@pytest.mark.parametrize(
    ("pattern", "key", "fits"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#", "", True),
        ("#.b", "b", True),
        ("#.b", "a.b", True),
        ("#.b", "a.b.c", False),
        ("*.#.c", "a.b.b.c", True),
        ("*.#.c", "c", False),
        ("#.b.#", "a.b.c", True),
        ("*", "", False),
        ("*.*", "a", False),
        ("a..b", "a..b", True),
        ("a.*.b", "a..b", True),
        ("#.#", "a", True),
    ],
)
def test_topic(channel: Any, queue: str, pattern: str, key: str, fits: bool) -> None:
    channel.queue_bind(queue, "amq.topic", pattern)
    publish(channel, key, "x", exchange="amq.topic")
    assert bool(get_all(channel, queue)) is fits


@pytest.mark.parametrize(
    ("wanted", "headers", "fits"),
    [
        ({"x-match": "all", "a": 1, "b": "2"}, {"a": 1, "b": "2", "c": 3}, True),
        ({"x-match": "all", "a": 1, "b": "2"}, {"a": 1}, False),
        ({"a": 1}, {"a": 1}, True),
        ({"x-match": "any", "a": 1, "b": "2"}, {"b": "2"}, True),
        ({"x-match": "any", "a": 1, "b": "2"}, {"a": 2}, False),
        ({"x-match": "all", "a": None}, {"a": "anything"}, True),
        ({"x-match": "all", "a": 1}, {"a": "1"}, False),
        ({"x-match": "all", "x-a": 1}, {}, True),
        ({"x-match": "all-with-x", "x-a": 1}, {}, False),
        ({"x-match": "all-with-x", "x-a": 1}, {"x-a": 1}, True),
        ({"x-match": "any", "x-a": 1}, {"x-a": 1}, False),
        ({"x-match": "any-with-x", "x-a": 1}, {"x-a": 1}, True),
        ({"x-match": "all"}, {}, True),
        ({"x-match": "any"}, {"a": 1}, False),
        ({}, {}, True),
        ({"x-match": "all", "a": True}, {"a": True}, True),
    ],
)
def test_headers(channel: Any, queue: str, wanted: dict[str, Any], headers: dict[str, Any], fits: bool) -> None:
    channel.queue_bind(queue, "amq.headers", "", arguments=wanted)
    publish(channel, "", "x", exchange="amq.headers", application_headers=headers)
    assert bool(get_all(channel, queue)) is fits


def test_a_queue_gets_a_message_once_however_many_bindings_match(channel: Any, queue: str) -> None:
    for pattern in ("a.*", "a.#", "#"):
        channel.queue_bind(queue, "amq.topic", pattern)
    publish(channel, "a.b", "x", exchange="amq.topic")
    assert bodies(get_all(channel, queue)) == ["x"]


def test_exchange_bound_to_exchange(channel: Any, unique: Name) -> None:
    name = unique("e")
    queue = bound(channel, name, "topic", "#.b")
    channel.exchange_bind(name, "amq.direct", "a.b")
    channel.exchange_bind("amq.direct", name, "#")
    publish(channel, "a.b", "through", exchange="amq.direct")
    publish(channel, "a", "not", exchange="amq.direct")
    assert bodies(get_all(channel, queue)) == ["through"]
    channel.exchange_unbind(name, "amq.direct", "a.b")
    publish(channel, "a.b", "no more", exchange="amq.direct")
    assert get_all(channel, queue) == []
    channel.exchange_delete(name)


def test_alternate_exchange_takes_what_is_unroutable(channel: Any, unique: Name) -> None:
    name, alternate = unique("e"), unique("ae")
    fallback = bound(channel, alternate, "fanout", "")
    queue = bound(channel, name, "direct", "k", arguments={"alternate-exchange": alternate})
    publish(channel, "k", "routed", exchange=name)
    publish(channel, "z", "unroutable", exchange=name)
    assert bodies(get_all(channel, queue)) == ["routed"]
    assert bodies(get_all(channel, fallback)) == ["unroutable"]
    channel.exchange_delete(name)
    channel.exchange_delete(alternate)


def test_the_default_exchange_is_no_alternate(channel: Any, queue: str, unique: Name) -> None:
    name = unique("x")
    channel.exchange_declare(name, "direct", auto_delete=False, arguments={"alternate-exchange": ""})
    publish(channel, queue, "lost", exchange=name)
    publish(channel, queue, "next")
    ready(channel, queue, 1)
    assert bodies(get_all(channel, queue)) == ["next"]
    channel.exchange_delete(name)


def test_unbinding_and_auto_deleted_exchange(channel: Any, queue: str, unique: Name) -> None:
    name = unique("e")
    channel.exchange_declare(name, "direct", auto_delete=True)
    channel.queue_bind(queue, name, "a")
    channel.queue_bind(queue, name, "b")
    channel.queue_unbind(queue, name, "a")
    publish(channel, "a", "gone", exchange=name)
    publish(channel, "b", "there", exchange=name)
    assert bodies(get_all(channel, queue)) == ["there"]
    channel.queue_unbind(queue, name, "b")
    with pytest.raises(amqp.NotFound):
        channel.exchange_declare(name, "direct", passive=True)


def test_sender_selected_distribution(channel: Any, queue: str, unique: Name) -> None:
    others = [declared(channel, unique("cc")) for _ in range(2)]
    publish(channel, queue, "x", application_headers={"CC": [others[0]], "BCC": [others[1]], "a": 1})
    for name in (queue, *others):
        (message,) = get_all(channel, name)
        assert message.headers == {"CC": [others[0]], "a": 1}


def test_an_empty_queue_name_is_the_last_declared(channel: Any) -> None:
    name = channel.queue_declare("", exclusive=True).queue
    assert name.startswith("amq.gen-")
    channel.queue_bind("", "amq.direct", "last")
    publish(channel, "last", "x", exchange="amq.direct")
    assert text(channel.basic_get("", no_ack=True)) == "x"


# Time and limits


def test_queue_ttl(channel: Any, unique: Name) -> None:
    queue = declared(channel, unique("q"), x_message_ttl=2000)
    publish(channel, queue, "x")
    ready(channel, queue, 1)  # RabbitMQ's queue may answer the question before it takes the message
    ready(channel, queue, 0)


def test_message_ttl_counts_at_the_head(channel: Any, queue: str) -> None:
    publish(channel, queue, "lasting")
    publish(channel, queue, "short", expiration="50")
    time.sleep(0.3)  # longer than the short one lasts at the head
    assert depth(channel, queue) == 2
    assert text(channel.basic_get(queue, no_ack=True)) == "lasting"
    ready(channel, queue, 0)


def test_a_message_behind_one_of_more_priority_does_not_expire(channel: Any, unique: Name) -> None:
    """Only the head of a queue expires, also where priorities say what the head is."""
    queue = declared(channel, unique("q"), x_max_priority=5)
    publish(channel, queue, "high", priority=5)
    publish(channel, queue, "low", priority=1, expiration="50")
    time.sleep(0.2)  # longer than the message's time to live
    assert depth(channel, queue) == 2
    assert bodies(get_all(channel, queue)) == ["high"]


def test_the_shorter_ttl_counts(channel: Any, unique: Name) -> None:
    queue = declared(channel, unique("q"), x_message_ttl=60000)
    publish(channel, queue, "x", expiration="100")
    ready(channel, queue, 0)


def test_ttl_zero_is_delivered_at_once_or_never(client: Client, channel: Any, unique: Name) -> None:
    queue = declared(channel, unique("q"), x_message_ttl=0)
    publish(channel, queue, "nobody there")
    ready(channel, queue, 0)
    client.consume(channel, queue)
    publish(channel, queue, "taken")
    assert client.bodies(1) == ["taken"]


def test_unused_queue_expires(client: Client, channel: Any, unique: Name) -> None:
    queue = declared(channel, unique("q"), exclusive=False, x_expires=300)
    used = declared(channel, unique("q"), exclusive=False, x_expires=300)
    client.consume(channel, used)
    time.sleep(0.7)  # more than twice x-expires; one look only, for a look is a use
    assert _is_missing(client, queue)
    assert depth(channel, used) == 0
    channel.queue_delete(used)


def test_max_length_drops_the_oldest(channel: Any, unique: Name) -> None:
    queue = declared(channel, unique("q"), x_max_length=2)
    publish(channel, queue, "1", "2", "3")
    assert bodies(get_all(channel, queue)) == ["2", "3"]


def test_max_bytes_drops_the_oldest(channel: Any, unique: Name) -> None:
    queue = declared(channel, unique("q"), x_max_length_bytes=10)
    publish(channel, queue, "aaaa", "bbbb", "cccc")
    assert bodies(get_all(channel, queue)) == ["bbbb", "cccc"]


@pytest.mark.parametrize(("overflow", "kept"), [("drop-head", ["2", "3"]), ("reject-publish", ["1", "2"])])
def test_max_length_counts_what_comes_back(channel: Any, unique: Name, overflow: str, kept: list[str]) -> None:
    queue = declared(channel, unique("q"), x_max_length=2, x_overflow=overflow)
    publish(channel, queue, "1", "2")
    ready(channel, queue, 2)
    message = channel.basic_get(queue)
    publish(channel, queue, "3") if overflow == "drop-head" else None
    channel.basic_reject(message.delivery_tag, True)
    ready(channel, queue, 2)
    assert bodies(get_all(channel, queue)) == kept


def test_max_length_may_reject_publishes(client: Client, unique: Name) -> None:
    channel = client.channel(confirms=True)
    queue = declared(channel, unique("q"), x_max_length=1, x_overflow="reject-publish")
    for body in "12":
        publish(channel, queue, body)
        client.until(lambda body=body: len(client.events) == int(body))
    assert [event[0] for event in client.events] == ["ack", "nack"]
    assert bodies(get_all(channel, queue)) == ["1"]


def test_priorities(channel: Any, unique: Name) -> None:
    queue = declared(channel, unique("q"), x_max_priority=5)
    for body, priority in (("low", 1), ("none", None), ("high", 4), ("beyond", 9), ("low2", 1)):
        publish(channel, queue, body, **({} if priority is None else {"priority": priority}))
    assert bodies(get_all(channel, queue)) == ["beyond", "high", "low", "low2", "none"]


# Dead letters


@pytest.fixture
def grave(channel: Any, unique: Name) -> str:
    """The queue that dead letters go to, by the default exchange."""
    return declared(channel, unique("dead"))


def buried(channel: Any, unique: Name, grave: str, **arguments: Any) -> str:
    return declared(channel, unique("q"), x_dead_letter_exchange="", x_dead_letter_routing_key=grave, **arguments)


def the_dead(channel: Any, grave: str) -> Any:
    ready(channel, grave, 1)
    return channel.basic_get(grave, no_ack=True)


def test_rejected_messages_are_dead_lettered(channel: Any, unique: Name, grave: str) -> None:
    queue = buried(channel, unique, grave)
    publish(channel, queue, "x", application_headers={"own": 1}, message_id="m")
    channel.basic_reject(channel.basic_get(queue).delivery_tag, False)
    message = the_dead(channel, grave)
    assert (text(message), message.message_id, message.delivery_info["routing_key"]) == ("x", "m", grave)
    (death,) = message.headers.pop("x-death")
    assert abs(death.pop("time").timestamp() - time.time()) < 5
    assert death == {"count": 1, "reason": "rejected", "queue": queue, "exchange": "", "routing-keys": [queue]}
    assert message.headers == {
        "own": 1,
        "x-first-death-exchange": "",
        "x-first-death-queue": queue,
        "x-first-death-reason": "rejected",
    }


def test_what_a_deleted_queue_had_handed_out_is_not_dead_lettered(channel: Any, unique: Name, grave: str) -> None:
    queue = buried(channel, unique, grave)
    publish(channel, queue, "x")
    message = channel.basic_get(queue)
    channel.queue_delete(queue)
    channel.basic_reject(message.delivery_tag, False)
    publish(channel, grave, "next")
    ready(channel, grave, 1)
    assert bodies(get_all(channel, grave)) == ["next"]


def test_expired_messages_are_dead_lettered(channel: Any, unique: Name, grave: str) -> None:
    queue = buried(channel, unique, grave)
    publish(channel, queue, "x", expiration="20")
    message = the_dead(channel, grave)
    (death,) = message.headers["x-death"]
    assert (death["reason"], death["original-expiration"]) == ("expired", "20")
    assert "expiration" not in message.properties


def test_dropped_messages_are_dead_lettered(channel: Any, unique: Name, grave: str) -> None:
    queue = buried(channel, unique, grave, x_max_length=1)
    publish(channel, queue, "1", "2")
    message = the_dead(channel, grave)
    assert (text(message), message.headers["x-death"][0]["reason"]) == ("1", "maxlen")


def test_deaths_are_counted(channel: Any, unique: Name) -> None:
    name = unique("q")
    queue = declared(channel, name, x_dead_letter_exchange="", x_dead_letter_routing_key=name)
    publish(channel, queue, "x")
    for _ in range(3):
        ready(channel, queue, 1)
        channel.basic_reject(channel.basic_get(queue).delivery_tag, False)
    (death,) = the_dead(channel, queue).headers["x-death"]
    assert (death["count"], death["reason"]) == (3, "rejected")


def test_a_circle_of_expiries_ends(channel: Any, unique: Name) -> None:
    first, second = unique("q"), unique("q")
    declared(channel, first, x_message_ttl=20, x_dead_letter_exchange="", x_dead_letter_routing_key=second)
    declared(channel, second, x_message_ttl=20, x_dead_letter_exchange="", x_dead_letter_routing_key=first)
    publish(channel, first, "x")
    ready(channel, first, 0)
    time.sleep(0.3)  # for many rounds, if it went round
    assert (depth(channel, first), depth(channel, second)) == (0, 0)


def test_dead_letter_keeps_the_key_unless_told(channel: Any, unique: Name) -> None:
    name = unique("dlx")
    grave = bound(channel, name, "direct", "first")
    queue = declared(channel, unique("q"), x_dead_letter_exchange=name)
    channel.queue_bind(queue, "amq.direct", "first")
    publish(channel, "first", "x", exchange="amq.direct")
    channel.basic_reject(channel.basic_get(queue).delivery_tag, False)
    message = the_dead(channel, grave)
    assert (message.delivery_info["exchange"], message.delivery_info["routing_key"]) == (name, "first")
    assert message.headers["x-first-death-exchange"] == "amq.direct"
    channel.exchange_delete(name)


def test_dead_letter_with_a_key_of_its_own_loses_its_copies(channel: Any, unique: Name, grave: str) -> None:
    """Or a replay, or a second death, would send it to the queues of its CC once more."""
    queue, copy = buried(channel, unique, grave), declared(channel, unique("copy"))
    publish(channel, queue, "x", application_headers={"CC": [copy]})
    channel.basic_reject(channel.basic_get(queue).delivery_tag, False)
    assert "CC" not in the_dead(channel, grave).headers
    assert depth(channel, copy) == 1


def test_dead_letter_keeps_blind_copies_to_itself(channel: Any, unique: Name, grave: str) -> None:
    queue = buried(channel, unique, grave)
    publish(channel, queue, "x", application_headers={"CC": ["seen"], "BCC": ["unseen"]})
    ready(channel, queue, 1)
    channel.basic_reject(channel.basic_get(queue).delivery_tag, False)
    assert the_dead(channel, grave).headers["x-death"][0]["routing-keys"] == [queue, "seen"]


def test_quorum_queue_counts_deliveries(channel: Any, unique: Name, grave: str) -> None:
    queue = declared(
        channel,
        unique("quorum"),
        exclusive=False,
        durable=True,
        x_queue_type="quorum",
        x_delivery_limit=2,
        x_dead_letter_exchange="",
        x_dead_letter_routing_key=grave,
    )
    try:
        publish(channel, queue, "x", delivery_mode=2)
        seen = []
        for _ in range(3):
            ready(channel, queue, 1)
            message = channel.basic_get(queue)
            seen.append((message.delivery_info["redelivered"], (message.headers or {}).get("x-delivery-count")))
            channel.basic_reject(message.delivery_tag, True)
        assert seen == [(False, 0), (True, 1), (True, 2)]
        assert the_dead(channel, grave).headers["x-death"][0]["reason"] == "delivery_limit"
    finally:
        channel.queue_delete(queue)


def test_quorum_queue_has_no_prefetch_for_a_channel(client: Client, other: Client, unique: Name) -> None:
    channel = client.channel()
    queue = declared(channel, unique("quorum"), exclusive=False, durable=True, x_queue_type="quorum")
    channel.basic_qos(0, 5, True)
    with pytest.raises(amqp.AMQPNotImplementedError) as caught:
        channel.basic_consume(queue)
    assert caught.value.reply_text == f"NOT_IMPLEMENTED - queue '{queue}' in vhost '/' does not support global qos"
    other.channel().queue_delete(queue)


# Publishing


def test_confirms(client: Client, unique: Name) -> None:
    channel = client.channel(confirms=True)
    queue = declared(channel, unique("q"))
    publish(channel, queue, *(str(number) for number in range(50)))
    client.until(lambda: client.events and client.events[-1][1] == 50)
    confirmed: set[int] = set()
    for kind, tag, multiple in client.events:
        assert kind == "ack"
        confirmed |= set(range(1, tag + 1)) if multiple else {tag}
    assert confirmed == set(range(1, 51))


def test_unroutable_is_returned_before_its_confirm(client: Client) -> None:
    channel = client.channel(confirms=True)
    publish(channel, "sem-nowhere", "x", mandatory=True)
    client.until(lambda: len(client.events) == 2)
    assert client.events[0] == ("return", 312, "NO_ROUTE", "", "sem-nowhere", "x")
    assert client.events[1][:2] == ("ack", 1)


def test_unroutable_is_confirmed_silently_unless_mandatory(client: Client) -> None:
    channel = client.channel(confirms=True)
    publish(channel, "sem-nowhere", "x")
    client.until(lambda: client.events)
    assert client.events[0][0] == "ack"


def test_confirms_stop_with_the_channel_and_others_go_on(client: Client, unique: Name) -> None:
    failing, going = client.channel(confirms=True), client.channel(confirms=True)
    queue = declared(going, unique("q"))
    with pytest.raises(amqp.NotFound):  # from the publish itself, if the answer is quick: py-amqp reads in it
        client.until(lambda: publish(failing, "x", "lost", exchange="sem-none"))
    publish(going, queue, "kept")
    client.until(lambda: client.events)
    assert client.events[-1][:2] == ("ack", 1)
    assert bodies(get_all(going, queue)) == ["kept"]


@pytest.mark.parametrize("size", [0, 1, 131064, 131065, 1_000_000])
def test_bodies_of_any_size(channel: Any, queue: str, size: int) -> None:
    body = bytes(index % 251 for index in range(min(size, 251))) * (size // 251 + 1)
    channel.basic_publish(amqp.Message(body[:size]), "", queue)
    received = channel.basic_get(queue, no_ack=True).body
    assert (received.encode("latin-1") if isinstance(received, str) else received) == body[:size]


def test_properties_come_back_as_they_were_sent(channel: Any, queue: str) -> None:
    sent = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "application_headers": {"text": "é", "int": -5, "big": 2**31 - 1, "list": [1, "two"], "table": {"a": True}},
        "delivery_mode": 2,
        "priority": 3,
        "correlation_id": "c",
        "reply_to": "r",
        "expiration": "60000",
        "message_id": "m",
        "timestamp": 1_700_000_000,
        "type": "t",
        "user_id": "guest",
        "app_id": "a",
    }
    publish(channel, queue, "x", **sent)
    received = channel.basic_get(queue, no_ack=True).properties
    assert {name: received[name] for name in sent} == sent


# Consuming


def test_consumers_take_turns(client: Client, other: Client, unique: Name) -> None:
    channel, second = client.channel(), other.channel()
    queue = declared(channel, unique("q"), exclusive=False)
    client.consume(channel, queue)
    other.consume(second, queue)
    publish(channel, queue, *"123456")
    assert len(client.bodies(3)) == len(other.bodies(3)) == 3
    assert sorted(bodies(client.deliveries) + bodies(other.deliveries)) == list("123456")
    channel.queue_delete(queue)


def test_prefetch_for_each_consumer(client: Client, unique: Name) -> None:
    channel = client.channel(prefetch=2)
    queue = declared(channel, unique("q"))
    publish(channel, queue, *"1234567")
    client.consume(channel, queue, consumer_tag="a")
    client.consume(channel, queue, consumer_tag="b")
    client.until(lambda: len(client.deliveries) == 4)
    assert client.settled(channel, queue) == list("1234")
    channel.basic_ack(client.deliveries[0].delivery_tag)
    assert client.bodies(5)[4] == "5"
    assert len(client.settled(channel, queue)) == 5


def test_prefetch_for_the_channel(client: Client, unique: Name) -> None:
    channel = client.channel()
    channel.basic_qos(0, 3, True)
    queue, second = declared(channel, unique("q")), declared(channel, unique("q"))
    publish(channel, queue, *"123")
    publish(channel, second, *"456")
    client.consume(channel, queue)
    client.consume(channel, second)
    client.until(lambda: len(client.deliveries) == 3)
    assert len(client.settled(channel, queue)) == 3
    channel.basic_ack(client.deliveries[-1].delivery_tag, multiple=True)
    assert sorted(client.bodies(6)) == list("123456")


def test_no_ack_knows_no_prefetch(client: Client, unique: Name) -> None:
    channel = client.channel(prefetch=1)
    queue = declared(channel, unique("q"))
    publish(channel, queue, *"123")
    client.consume(channel, queue, no_ack=True)
    assert client.bodies(3) == list("123")


def test_get_counts_what_is_left(channel: Any, queue: str) -> None:
    publish(channel, queue, *"12")
    message = channel.basic_get(queue)
    assert (message.delivery_info["message_count"], message.delivery_info["redelivered"]) == (1, False)
    channel.basic_get(queue, no_ack=True)
    assert channel.basic_get(queue) is None


def test_requeued_messages_come_back_where_they_stood(channel: Any, queue: str) -> None:
    publish(channel, queue, *"12345")
    taken = [channel.basic_get(queue) for _ in range(4)]
    channel.basic_ack(taken[1].delivery_tag)
    channel.basic_reject(taken[2].delivery_tag, True)
    channel.basic_reject(taken[0].delivery_tag, True)
    channel.basic_reject(taken[3].delivery_tag, True)
    back = get_all(channel, queue)
    assert bodies(back) == list("1345")
    assert [message.delivery_info["redelivered"] for message in back] == [True, True, True, False]


def test_nack_multiple(channel: Any, queue: str) -> None:
    publish(channel, queue, *"1234")
    taken = [channel.basic_get(queue) for _ in range(4)]
    channel.send_method((60, 120), "Lbb", (taken[2].delivery_tag, True, True))
    assert bodies(get_all(channel, queue)) == list("123")
    channel.basic_ack(0, multiple=True)
    assert depth(channel, queue) == 0


def test_a_message_is_acknowledged_once(channel: Any, queue: str) -> None:
    publish(channel, queue, "x")
    tag = channel.basic_get(queue).delivery_tag
    channel.basic_ack(tag)
    channel.basic_ack(tag)
    with pytest.raises(amqp.PreconditionFailed, match=f"unknown delivery tag {tag}"):
        depth(channel, queue)


def test_recover_redelivers_everything(client: Client, channel: Any, queue: str) -> None:
    client.consume(channel, queue)
    publish(channel, queue, *"12")
    client.bodies(2)
    channel.basic_recover(requeue=True)
    assert sorted(client.bodies(4)[2:]) == list("12")
    assert all(message.delivery_info["redelivered"] for message in client.deliveries[2:])


def test_cancelled_consumer_keeps_what_it_has(client: Client, channel: Any, queue: str) -> None:
    tag = client.consume(channel, queue)
    publish(channel, queue, "1")
    client.bodies(1)
    channel.basic_cancel(tag)
    publish(channel, queue, "2")
    assert client.settled(channel, queue) == ["1"]
    assert depth(channel, queue) == 1
    channel.basic_ack(client.deliveries[0].delivery_tag)
    assert bodies(get_all(channel, queue)) == ["2"]


def test_closed_channel_gives_back(client: Client, channel: Any, queue: str) -> None:
    consuming = client.channel()
    client.consume(consuming, queue)
    publish(channel, queue, *"123")
    client.bodies(3)
    consuming.basic_ack(client.deliveries[0].delivery_tag)
    consuming.close()
    ready(channel, queue, 2)
    back = get_all(channel, queue)
    assert bodies(back) == ["2", "3"]
    assert all(message.delivery_info["redelivered"] for message in back)


def test_lost_connection_gives_back(client: Client, other: Client, unique: Name) -> None:
    channel = client.channel()
    queue = declared(channel, unique("q"), exclusive=False)
    other.consume(other.channel(), queue)
    publish(channel, queue, "1")
    other.bodies(1)
    other.connection.sock.close()
    ready(channel, queue, 1)
    assert channel.basic_get(queue).delivery_info["redelivered"] is True
    channel.queue_delete(queue)


def test_auto_deleted_queue_goes_with_its_last_consumer(client: Client, channel: Any, unique: Name) -> None:
    queue = unique("q")
    channel.queue_declare(queue, auto_delete=True)
    first, second = client.consume(channel, queue), client.consume(channel, queue)
    channel.basic_cancel(first)
    assert channel.queue_declare(queue, passive=True).consumer_count == 1
    channel.basic_cancel(second)
    assert _is_missing(client, queue)


def test_consumer_is_told_when_its_queue_is_deleted(client: Client, other: Client, unique: Name) -> None:
    channel = client.channel()
    queue = declared(channel, unique("q"), exclusive=False)
    tag = client.consume(channel, queue)
    other.channel().queue_delete(queue)
    client.until(lambda: client.events)
    assert client.events == [("cancel", tag)]
    assert channel.is_open


def test_exclusive_consumer_keeps_others_out(client: Client, channel: Any, queue: str) -> None:
    client.consume(channel, queue, exclusive=True)
    with pytest.raises(amqp.AccessRefused, match="in exclusive use"):
        client.channel().basic_consume(queue)


def test_consumer_priority(client: Client, channel: Any, queue: str) -> None:
    client.consume(channel, queue, consumer_tag="low")
    client.consume(channel, queue, consumer_tag="high", arguments={"x-priority": 5})
    publish(channel, queue, *"123")
    client.bodies(3)
    assert {message.delivery_info["consumer_tag"] for message in client.deliveries} == {"high"}


def test_single_active_consumer(client: Client, channel: Any, unique: Name) -> None:
    queue = declared(channel, unique("q"), x_single_active_consumer=True)
    client.consume(channel, queue, consumer_tag="first")
    client.consume(channel, queue, consumer_tag="second")
    publish(channel, queue, *"12")
    client.bodies(2)
    channel.basic_cancel("first")
    publish(channel, queue, "3")
    client.bodies(3)
    assert [message.delivery_info["consumer_tag"] for message in client.deliveries] == ["first", "first", "second"]


def test_no_exclusive_consumer_where_one_is_active_at_a_time(channel: Any, unique: Name) -> None:
    queue = declared(channel, unique("q"), x_single_active_consumer=True)
    with pytest.raises(amqp.AccessRefused, match="in exclusive use"):
        channel.basic_consume(queue, exclusive=True)


def test_purge_leaves_what_is_being_worked_on(channel: Any, queue: str) -> None:
    publish(channel, queue, *"123")
    tag = channel.basic_get(queue).delivery_tag
    assert channel.queue_purge(queue) == 2
    channel.basic_reject(tag, True)
    assert bodies(get_all(channel, queue)) == ["1"]


def test_delete_tells_how_many_were_ready(channel: Any, unique: Name) -> None:
    queue = declared(channel, unique("q"))
    publish(channel, queue, *"123")
    channel.basic_get(queue)
    assert channel.queue_delete(queue) == 2


def test_kombu_works_as_it_is(any_broker: Address, unique: Name) -> None:
    name = unique("kombu")
    exchange = kombu.Exchange(name, "topic", durable=False, auto_delete=True)
    queue = kombu.Queue(name, exchange, "a.#", durable=False, exclusive=True)
    received: list[Any] = []
    with kombu.Connection(any_broker.url) as connection:
        producer = connection.Producer()
        with connection.Consumer(queue, callbacks=[lambda body, message: (received.append(body), message.ack())]):
            producer.publish({"id": 7}, exchange=exchange, routing_key="a.b", declare=[exchange], retry=True)
            connection.drain_events(timeout=10)
    assert received == [{"id": 7}]


# The protocol


FRAMES: dict[str, tuple[Callable[[Any], Any], int, str, tuple[int, int]]] = {
    "frame-end": (
        lambda w: w.raw(1, 0, b"\0\x0a\0\x32", b"\0"),
        501,
        "FRAME_ERROR - type 1, all octets = <<0,10,0,50>>: {invalid_frame_end_marker,0}",
        (0, 0),
    ),
    "frame-type": (
        lambda w: w.raw(7, 1, b"abc"),
        501,
        'FRAME_ERROR - type 7, all octets = <<"abc">>: unknown_frame',
        (0, 0),
    ),
    "too-large": (
        lambda w: w.socket.sendall(b"\x01\0\0\0\x03\x0d\x40"),
        501,
        "FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,200000,131064}",
        (0, 0),
    ),
    "no-channel": (
        lambda w: w.method(2, 60, 10, "lBb", 0, 0, False),
        504,
        "CHANNEL_ERROR - expected 'channel.open'",
        (60, 10),
    ),
    "open-twice": (
        lambda w: w.method(1, 20, 10, "s", ""),
        504,
        "CHANNEL_ERROR - second 'channel.open' seen",
        (20, 10),
    ),
    "channel-0": (
        lambda w: w.method(0, 60, 10, "lBb", 0, 0, False),
        504,
        "CHANNEL_ERROR - unexpected method in connection state running",
        (60, 10),
    ),
    "connection-on-1": (
        lambda w: w.method(1, 10, 50, "BsBB", 200, "", 0, 0),
        503,
        "COMMAND_INVALID - unimplemented method",
        (10, 50),
    ),
    "answer-unasked": (
        lambda w: w.method(1, 60, 11),
        503,
        "COMMAND_INVALID - unimplemented method",
        (60, 11),
    ),
    "body-first": (
        lambda w: w.raw(3, 1, b"abc"),
        505,
        "UNEXPECTED_FRAME - expected method frame, got non method frame instead",
        (0, 0),
    ),
    "header-missing": (
        lambda w: (w.publish("q"), w.method(1, 60, 10, "lBb", 0, 0, False)),
        505,
        "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
        (60, 40),
    ),
    "body-missing": (
        lambda w: (w.publish("q"), w.header(3), w.method(1, 60, 10, "lBb", 0, 0, False)),
        505,
        "UNEXPECTED_FRAME - expected content body, got non content body frame instead",
        (60, 40),
    ),
    "other-class": (
        lambda w: (w.publish("q"), w.header(3, class_id=50)),
        505,
        "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead",
        (60, 40),
    ),
    "body-too-long": (
        lambda w: (w.publish("q"), w.header(3), w.raw(3, 1, b"abcd"), w.method(1, 60, 10, "lBb", 0, 0, False)),
        505,
        "UNEXPECTED_FRAME - expected content body, got non content body frame instead",
        (60, 40),
    ),
    "beat-on-channel": (lambda w: w.raw(8, 1, b""), 505, "UNEXPECTED_FRAME - type 8, all octets = <<>>", (0, 0)),
}


@pytest.mark.parametrize("case", FRAMES)
def test_protocol_violations_close_the_connection(any_broker: Address, case: str) -> None:
    act, code, reply, blamed = FRAMES[case]
    with wire(any_broker) as opened:
        act(opened)
        assert opened.close_frame() == (code, reply, blamed)
        opened.method(0, 10, 51)


@pytest.mark.parametrize("tuning", [(0, 131072), (2047, 0)])
def test_no_limit_is_beyond_the_brokers(any_broker: Address, tuning: tuple[int, int]) -> None:
    """RabbitMQ says it in its log, and hangs up three seconds later."""
    with pytest.raises((EOFError, OSError)):
        Wire(any_broker, tuning=tuning)


def test_undecodable_arguments(any_broker: Address) -> None:
    with wire(any_broker) as opened:
        opened.raw(1, 1, b"\0\x32\0\x0a\0\0")
        code, reply, blamed = opened.close_frame()
        assert (code, reply[:27], blamed) == (501, "FRAME_ERROR - cannot decode", (50, 10))


@pytest.mark.parametrize("header", [b"GET / HTTP/1.1\r\n\r\n", b"AMQP\x00\x01\x00\x00"])
def test_other_protocols_are_told_which_one_is_spoken(any_broker: Address, header: bytes) -> None:
    with socket.create_connection((any_broker.host, any_broker.port), timeout=10) as sock:
        sock.sendall(header)
        assert sock.recv(8) == b"AMQP\0\0\x09\x01"


def test_everything_on_a_closing_channel_is_ignored(any_broker: Address) -> None:
    with wire(any_broker) as opened:
        opened.publish("q", exchange="sem-none")
        opened.header(0)
        opened.publish("q", exchange="sem-none")
        opened.header(3)
        opened.raw(3, 1, b"abc")
        opened.method(1, 60, 10, "lBb", 0, 1, False)
        assert opened.close_frame() == (404, "NOT_FOUND - no exchange 'sem-none' in vhost '/'", (60, 40))
        opened.method(1, 20, 41)
        opened.method(1, 20, 10, "s", "")
        assert opened.frame()[2][:4] == b"\0\x14\0\x0b"
        assert opened.is_alive()


def test_close_frames_may_cross(any_broker: Address) -> None:
    with wire(any_broker) as opened:
        opened.publish("q", exchange="sem-none")
        opened.header(0)
        opened.method(1, 20, 40, "BsBB", 200, "", 0, 0)
        opened.method(1, 20, 41)
        opened.method(1, 20, 10, "s", "")
        # In this order most of the time; a busy RabbitMQ has several processes answer.
        answers = {opened.frame()[2][:4] for _ in range(3)}
        assert answers == {b"\0\x14\0\x28", b"\0\x14\0\x29", b"\0\x14\0\x0b"}


def test_recover_async_has_no_answer(any_broker: Address) -> None:
    with wire(any_broker) as opened:
        opened.method(1, 60, 100, "b", True)
        assert opened.is_alive()


def test_properties_that_are_not_utf8_pass_through(any_broker: Address, client: Client, unique: Name) -> None:
    """A consumer has to cope with them: neither broker looks."""
    queue = declared(client.channel(), unique("q"), exclusive=False)
    with wire(any_broker) as opened:
        properties = b"\x80\0\x03\xff\xfe\xfd"
        opened.publish(queue)
        opened.header(1, properties)
        opened.raw(3, 1, b"x")
        opened.method(1, 60, 70, "Bsb", 0, queue, True)
        assert opened.frame()[2][:4] == b"\0\x3c\0\x47"
        assert opened.frame()[2][12:] == properties
    client.channel().queue_delete(queue)


def test_a_slow_reader_gets_everything(any_broker: Address, client: Client, unique: Name) -> None:
    """Deliveries wait while a client reads too slowly, and go on; without acknowledgements nothing else moves them."""
    channel, size, count = client.channel(), 6_000_000, 2
    queue = declared(channel, unique("q"), exclusive=False)
    with wire(any_broker) as opened:
        opened.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        publish(channel, queue, *["x" * size] * count)
        ready(channel, queue, count)
        opened.method(1, 60, 20, "BssbbbbF", 0, queue, "slow", False, True, False, False, {})
        time.sleep(0.3)  # it reads nothing until the broker can write no more
        received = 0
        while received < size * count:
            kind, _channel, payload = opened.frame()
            received += len(payload) if kind == 3 else 0
    channel.queue_delete(queue)


def test_broker_beats_and_drops_the_silent(any_broker: Address) -> None:
    with wire(any_broker, heartbeat=1) as opened:
        begun = time.monotonic()
        beats = 0
        with pytest.raises((EOFError, OSError)):  # noqa: PT012
            while True:
                assert opened.frame() == (8, 0, b"")
                beats += 1
        assert 1.5 < time.monotonic() - begun < 10
        assert beats >= 2


def test_any_traffic_counts_as_a_heartbeat(any_broker: Address) -> None:
    with wire(any_broker, heartbeat=1) as opened:
        ended_at = time.monotonic() + 3.5
        while time.monotonic() < ended_at:
            opened.raw(8, 0, b"")
            while opened.frame()[0] != 8:
                pass
        opened.method(0, 10, 50, "BsBB", 200, "", 0, 0)
        while (frame := opened.frame())[0] == 8:
            pass
        assert frame[2] == b"\0\x0a\0\x33"


def test_numbers_beyond_32_bits_as_py_amqp_writes_them(channel: Any, queue: str) -> None:
    """py-amqp writes them with the type L, which RabbitMQ takes for a signed 64-bit integer."""
    channel.queue_bind(queue, "amq.headers", "", arguments={"n": 2**40})
    publish(channel, "", "x", exchange="amq.headers", application_headers={"n": 2**40})
    (message,) = get_all(channel, queue)
    assert message.headers == {"n": 2**40}
    assert codec.read_table(codec.table({"n": 2**40}))[0] == {"n": 2**40}
