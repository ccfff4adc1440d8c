"""Broker URLs in all the forms that people paste, and what is said of those that are wrong."""

from __future__ import annotations

import pytest

from wsgi_messaging.addresses import parse_url
from wsgi_messaging.connection.hosts import Broker
from wsgi_messaging.errors import ConfigurationError

SECRET = "s3cret"


def broker(host: str = "h", port: int = 5672, userid: str = "guest", password: str = "guest", **rest: object) -> Broker:
    return Broker(host, port, userid, password, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://", broker("127.0.0.1")),
        ("amqp://h", broker()),
        ("amqp://h/", broker()),
        ("amqp://h//", broker()),
        ("amqp://h/%2F", broker()),
        ("amqp://h/%2f", broker()),
        ("amqp://h/v", broker(virtual_host="v")),
        ("amqp://h//v", broker(virtual_host="/v")),
        ("amqp://h/a%2Fb", broker(virtual_host="a/b")),
        ("amqp://h/a%40b", broker(virtual_host="a@b")),
        ("amqp://h:1234", broker(port=1234)),
        ("amqp://h:65535", broker(port=65535)),
        ("amqp://h:", broker()),
        ("amqp://:1234", broker("127.0.0.1", 1234)),
        (" amqp://h ", broker()),
        ("rabbit://u:p@h:1//", broker("h", 1, "u", "p")),
        ("pyamqp://u:p@h", broker("h", 5672, "u", "p")),
        ("amqps://h", broker(port=5671, is_tls=True)),
        ("amqps://h:1", broker(port=1, is_tls=True)),
        ("rabbits://h", broker(port=5671, is_tls=True)),
        ("amqp://u@h", broker(userid="u")),
        ("amqp://u:@h", broker(userid="u", password="")),
        ("amqp://:p@h", broker(password="p")),
        ("amqp://u%40x:p%3A%2F%3F%23%40%25@h", broker(userid="u@x", password="p:/?#@%")),
        ("amqp://u:p@ss@h", broker(userid="u", password="p@ss")),
        ("amqp://u:p:q@h", broker(userid="u", password="p:q")),
        ("amqp://u:%C3%BC@h", broker(userid="u", password="ü")),
        ("amqp://[::1]", broker("::1")),
        ("amqp://[::1]:1234/v", broker("::1", 1234, virtual_host="v")),
        ("amqp://u:p@[2001:db8::1]:1//", broker("2001:db8::1", 1, "u", "p")),
        ("amqps://[::1]", broker("::1", 5671, is_tls=True)),
        ("amqp://rabbit.example.org", broker("rabbit.example.org")),
    ],
)
def test_one_host(url: str, expected: Broker) -> None:
    assert parse_url(url) == ((expected,), {})


@pytest.mark.parametrize(
    "url",
    [
        "amqp://u:p@a:1/v;amqp://u:p@b:2/v",
        "amqp://u:p@a:1/v; amqp://u:p@b:2/v",
        "amqp://u:p@a:1,u:p@b:2/v",
        "amqp://u:p@a:1,b:2/v",
        "rabbit://u:p@a:1,u:p@b:2/v",
        "amqp://u:p@a:1/v;u:p@b:2/v",
        "amqp://u:p@a:1/v;b:2/v",
    ],
)
def test_several_hosts_as_kombu_and_as_oslo_messaging_write_them(url: str) -> None:
    brokers, _query = parse_url(url)
    assert brokers == (broker("a", 1, "u", "p", virtual_host="v"), broker("b", 2, "u", "p", virtual_host="v"))


def test_mixed_hosts() -> None:
    brokers, _query = parse_url("amqp://u:p@a,x:y@b,[::1]:7/v;amqps://c")
    assert brokers == (
        broker("a", 5672, "u", "p", virtual_host="v"),
        broker("b", 5672, "x", "y", virtual_host="v"),
        broker("::1", 7, "u", "p", virtual_host="v"),
        broker("c", 5671, "u", "p", is_tls=True),
    )


@pytest.mark.parametrize("written", ["guest:guest", "guest", ":guest"])
@pytest.mark.parametrize("between", [",", ";"])
def test_guest_that_is_written_is_no_host_without_credentials(written: str, between: str) -> None:
    """Fails when the first host's password goes to one that has credentials of its own."""
    brokers, _query = parse_url(f"amqp://u:p@a{between}{written}@b{between}c{between}@d")
    assert brokers == (broker("a", userid="u", password="p"), broker("b")) + tuple(
        broker(host, userid="u", password="p") for host in "cd"
    )


def test_credentials_are_not_taken_from_a_host_further_on() -> None:
    assert parse_url("amqp://a,u:p@b,c")[0] == (broker("a"), broker("b", userid="u", password="p"), broker("c"))


def test_query() -> None:
    _brokers, query = parse_url("amqp://h/v?heartbeat=5&cacertfile=%2Fca.pem&empty=")
    assert query == {"heartbeat": "5", "cacertfile": "/ca.pem", "empty": ""}


def test_query_of_several_urls() -> None:
    _brokers, query = parse_url("amqp://a?heartbeat=5;amqp://b?timeout=1")
    assert query == {"heartbeat": "5", "timeout": "1"}


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "no scheme"),
        (f"u:{SECRET}@h", "no scheme"),
        (f"//u:{SECRET}@h", "no scheme"),
        (f"redis://u:{SECRET}@h", "unknown scheme 'redis'"),
        (f"u:{SECRET}://x@h", "no scheme"),
        (f"http://u:{SECRET}@h", "unknown scheme 'http'"),
        (f"amqp://u:{SECRET}@h:x", "port"),
        (f"amqp://u:{SECRET}@h:0", "port"),
        (f"amqp://u:{SECRET}@h:65536", "port"),
        (f"amqp://u:{SECRET}@h:-1", "port"),
        (f"amqp://u:{SECRET}@h:1.5", "port"),
        (f"amqp://u:{SECRET}@h:٣", "port"),
        (f"amqp://u:{SECRET}/x@h//", "percent-encoded"),
        (f"amqp://u:{SECRET}?x@h//", "percent-encoded"),
        ("amqp://u:12/s3cret@h//", "percent-encoded"),
        (f"amqp://u:{SECRET};x@h//", "percent-encoded"),
        (f"amqp://u:{SECRET}@[::1", "IPv6"),
        (f"amqp://u:{SECRET}@[::1]x", "IPv6"),
        (f"amqp://u:{SECRET}@::1", "port"),
        (f"amqp://a;redis://u:{SECRET}@b", "unknown scheme 'redis'"),
        (f"amqp://u:{SECRET}@a;", "a host is missing"),
        (f"amqp://u:{SECRET}@a;;b", "a host is missing"),
        (f"amqp://u:{SECRET}@a,", "a host is missing"),
        (f"amqp://u:{SECRET}@a:5672,/v", "a host is missing"),
        (f"amqp://u:{SECRET}@,u:{SECRET}@b", "a host is missing"),
    ],
)
def test_what_is_wrong_is_named_and_no_secret_with_it(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match="^url: ") as caught:
        parse_url(url)
    assert problem in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "x@h" not in str(caught.value)
