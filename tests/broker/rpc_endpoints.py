"""What the RPC tests call, and how they start it."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import itertools
import threading
import time
import uuid
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from wsgi_messaging import Transport
from wsgi_messaging.rpc import RPCClient, RPCServer, Target, expose, remaining_time

EXCHANGE = "rpc-tests"
TIMEOUT = 30.0
"""Seconds. Of the clients here: enough for a machine whose processors are busy with something else."""
AT_ONCE = TIMEOUT / 2
"""Seconds. What is to come at once comes by then on such a machine, too; what waits for its timeout does not."""


class Unprintable(Exception):
    """Neither its text nor its arguments can be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Cyclic:
    """Iterates over itself."""

    def __iter__(self) -> Iterator[Any]:
        return iter([self])


def _endless() -> Any:
    """A list that holds itself."""
    found: list[Any] = []
    found.append(found)
    return found


RESULTS: dict[str, tuple[Callable[[], Any], Any]] = {
    "date": (lambda: datetime.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05.000000"),
    "date of xmlrpc": (lambda: xmlrpc.client.DateTime("20260102T03:04:05"), "2026-01-02T03:04:05.000000"),
    "day": (lambda: datetime.date(2026, 1, 2), "2026-01-02"),
    "uuid": (lambda: uuid.UUID(int=1), str(uuid.UUID(int=1))),
    "decimal": (lambda: decimal.Decimal("1.50"), "1.50"),
    "tuple": (lambda: (1, (2,)), [1, [2]]),
    "set": (lambda: {1}, [1]),
    "bytes": (lambda: b"text", "text"),
    "generator": (lambda: {"a": 1}.keys(), ["a"]),
    "surrogate": (lambda: "\ud800", "\ud800"),
    "integer key": (lambda: {1: 2}, {"1": 2}),
}
"""What a method may return beyond JSON, and what arrives."""

UNSPEAKABLE: dict[str, Callable[[], Any]] = {
    "object": object,
    "not utf-8": lambda: b"\xff",
    "tuple key": lambda: {(1, 2): 3},
    "cycle": _endless,
    "cyclic iterator": Cyclic,
    "complex": lambda: 1j,
    "lock": threading.Lock,
}
"""What a method may return and nobody can send."""


DEPARTURES: dict[str, type[BaseException]] = {
    each.__name__: each for each in (SystemExit, asyncio.CancelledError, KeyboardInterrupt)
}
"""What a method may raise that is no `Exception`."""


def unspeakable_error(kind: str) -> Exception:
    """An exception that cannot be sent as it is."""
    if kind == "arguments":
        return ValueError(object(), threading.Lock())
    if kind == "bytes":
        return ValueError(b"\xff")
    if kind == "kwargs":
        error = ValueError("kwargs")
        error.kwargs = {"lock": threading.Lock()}  # type: ignore[attr-defined]
        return error
    return Unprintable(object())


@dataclass
class Endpoint:
    """Counts what it executes."""

    name: str = "s1"
    executed: list[Any] = field(default_factory=list)
    running: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Event = field(default_factory=threading.Event)
    target = Target(version="1.3")

    def add(self, ctxt: dict[str, Any], a: int, b: int) -> int:
        self.executed.append((a, b))
        return a + b

    @expose
    def echo(self, ctxt: dict[str, Any], value: Any) -> Any:
        return value

    def context(self, ctxt: dict[str, Any]) -> Any:
        return ctxt

    def who(self, ctxt: dict[str, Any]) -> str:
        return self.name

    def left(self, ctxt: dict[str, Any]) -> float | None:
        return remaining_time()

    def slow(self, ctxt: dict[str, Any], seconds: float) -> str:
        time.sleep(seconds)  # it is slow
        self.executed.append(seconds)
        return "done"

    def hold(self, ctxt: dict[str, Any]) -> str:
        """Executes until `go_on` is set."""
        self.running.release()
        assert self.go_on.wait(100)
        self.executed.append("held")
        return "held"

    def result(self, ctxt: dict[str, Any], kind: str) -> Any:
        return (RESULTS[kind][0] if kind in RESULTS else UNSPEAKABLE[kind])()

    def fail(self, ctxt: dict[str, Any], kind: str) -> None:
        raise unspeakable_error(kind)

    def leave(self, ctxt: dict[str, Any], kind: str) -> None:
        raise DEPARTURES[kind]

    def _private(self, ctxt: dict[str, Any]) -> str:
        return "never"


_topics = itertools.count(1)


@contextmanager
def serving(
    transport: Transport, unique: Callable[[str], str], *endpoints: object, server: str = "s1", **options: Any
) -> Iterator[RPCServer]:
    """A server on a topic of its own, or on `topic`."""
    topic = options.pop("topic", None) or unique("topic")
    target = Target(exchange=options.pop("exchange", EXCHANGE), topic=topic, server=server)
    running = RPCServer(transport, target, endpoints, **options)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def client_of(transport: Transport, server: RPCServer, **options: Any) -> RPCClient:
    """A client of the server's topic."""
    options.setdefault("timeout", TIMEOUT)
    return RPCClient(transport, Target(exchange=EXCHANGE, topic=server.target.topic, version="1.0"), **options)


def took(call: Callable[[], Any], *errors: type[BaseException]) -> tuple[float, Any]:
    """How long the call took, and its result or the error that it raised."""
    started_at = time.monotonic()
    try:
        result = call()
    except errors as exc:
        return time.monotonic() - started_at, exc
    if errors:
        pytest.fail(f"expected {errors}, got {result!r}")
    return time.monotonic() - started_at, result
