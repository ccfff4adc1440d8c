"""Broker URLs, as people and other tools write them, to brokers.

Understood: amqp, amqps, rabbit and pyamqp; several hosts as kombu writes them (`amqp://a;amqp://b`) and as
oslo.messaging does (`rabbit://u:p@a:5672,u:p@b:5672/vhost`); an empty path and `/` and `//` all stand for the virtual
host `/`; user, password and virtual host are percent-decoded. What a URL cannot hold, an error names without
repeating the URL, which has a password in it.

Layer 3.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl, unquote

from .connection.hosts import Broker
from .errors import ConfigurationError

_SCHEMES = {"amqp": False, "rabbit": False, "pyamqp": False, "amqps": True, "rabbits": True}
_ENCODE = "a password, or a virtual host, with : / ? @ or # in it must be percent-encoded"
_HOST_MISSING = "url: a host is missing beside a ',' or ';', and it would be 127.0.0.1; write it, or leave that out"
_DEFAULT_PORTS = {False: 5672, True: 5671}


def parse_url(url: str) -> tuple[tuple[Broker, ...], dict[str, str]]:
    """The brokers of a URL, in its order, and the settings of its query string.

    Raises: `ConfigurationError`, which names the part that is wrong.
    """
    brokers: list[tuple[Broker, bool]] = []
    options: dict[str, str] = {}
    scheme = ""
    for part in url.split(";"):
        if not part.strip() and ";" in url:
            raise ConfigurationError(_HOST_MISSING)
        before, separator, after = part.strip().partition("://")
        scheme, rest = (before, after) if separator else (scheme, before)
        if scheme not in _SCHEMES:
            problem = f"unknown scheme {scheme!r}" if scheme.isalpha() else "no scheme"
            raise ConfigurationError(f"url: {problem}; write amqp://user:password@host:5672//")
        found, query = _parse_one(rest, _SCHEMES[scheme])
        brokers += found
        options.update(query)
    return _with_shared_credentials(brokers), options


def _parse_one(rest: str, is_tls: bool) -> tuple[list[tuple[Broker, bool]], dict[str, str]]:
    location, _, query = rest.partition("?")
    authorities, slash, path = location.partition("/")
    if "@" in path:
        raise ConfigurationError(f"url: '@' after the host; {_ENCODE}")
    if "," in authorities and not all(each.rpartition("@")[2].strip() for each in authorities.split(",")):
        raise ConfigurationError(_HOST_MISSING)
    virtual_host = unquote(path) if slash and path not in ("", "/") else "/"
    brokers = [_parse_authority(authority, is_tls, virtual_host) for authority in authorities.split(",")]
    return brokers, dict(parse_qsl(query, keep_blank_values=True))


def _parse_authority(authority: str, is_tls: bool, virtual_host: str) -> tuple[Broker, bool]:
    """The broker, and whether credentials are written for it."""
    credentials, _, location = authority.rpartition("@")
    userid, colon, password = credentials.partition(":")
    host, port = _host_and_port(location, is_tls)
    broker = Broker(
        host=host,
        port=port,
        userid=unquote(userid) if userid else "guest",
        password=unquote(password) if colon else "guest",
        virtual_host=virtual_host,
        is_tls=is_tls,
    )
    return broker, bool(credentials)


def _host_and_port(location: str, is_tls: bool) -> tuple[str, int]:
    if location.startswith("["):
        host, bracket, tail = location[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise ConfigurationError("url: a host in brackets is not an IPv6 address")
        port_text = tail[1:]
    else:
        host, _, port_text = location.partition(":")
    if not port_text:
        return host or "127.0.0.1", _DEFAULT_PORTS[is_tls]
    if not port_text.isascii() or not port_text.isdigit() or not 0 < int(port_text) < 65536:
        raise ConfigurationError(f"url: what stands for a port is not a number from 1 to 65535; {_ENCODE}")
    return host or "127.0.0.1", int(port_text)


def _with_shared_credentials(brokers: list[tuple[Broker, bool]]) -> tuple[Broker, ...]:
    """Hosts written without credentials, behind one that has them, take its: `amqp://u:p@a,b,c//`."""
    first, _is_written = brokers[0]
    return tuple(
        broker if is_written else replace(broker, userid=first.userid, password=first.password)
        for broker, is_written in brokers
    )
