"""A small AMQP client for the tests of broker semantics, on py-amqp: what came in is kept, waiting is bounded."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import amqp

from tests.harness.secret import PASSWORD, USER
from wsgi_messaging.connection import codec

PATIENCE = 10.0


@dataclass(frozen=True)
class Address:
    """Where the broker under test listens."""

    kind: str
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"amqp://{USER}:{PASSWORD}@{self.host}:{self.port}//"


class Client:
    """One connection. Deliveries, returns, confirms and cancels of all its channels are kept in order."""

    def __init__(self, address: Address, **settings: Any) -> None:
        options = {"userid": USER, "password": PASSWORD, "heartbeat": 0, "connect_timeout": PATIENCE, **settings}
        self.connection = amqp.Connection(f"{address.host}:{address.port}", **options)
        self.connection.connect()
        self.events: list[tuple[Any, ...]] = []
        self.deliveries: list[Any] = []

    def channel(self, *, confirms: bool = False, prefetch: int = 0) -> Any:
        channel = self.connection.channel()
        channel.events["basic_return"].add(self._returned)
        if confirms:
            channel.confirm_select()
            channel.events["basic_ack"].add(lambda tag, multiple: self.events.append(("ack", tag, multiple)))
            channel.events["basic_nack"].add(lambda tag, multiple: self.events.append(("nack", tag, multiple)))
        if prefetch:
            channel.basic_qos(0, prefetch, False)
        return channel

    def _returned(self, exc: Any, exchange: str, routing_key: str, message: Any) -> None:
        self.events.append(("return", exc.reply_code, exc.reply_text, exchange, routing_key, message.body))

    def consume(self, channel: Any, queue: str, **options: Any) -> str:
        """Start a consumer; its deliveries go to `deliveries`."""
        options = {
            "no_ack": False,
            "on_cancel": lambda tag: self.events.append(("cancel", tag)),
            **options,
        }
        tag = channel.basic_consume(queue, callback=self.deliveries.append, **options)
        return str(getattr(tag, "consumer_tag", tag))

    def until(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Read from the broker until the condition is true. Fails after `timeout`."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            left = deadline - time.monotonic()
            assert left > 0, f"not within {timeout} s; events {self.events}, deliveries {bodies(self.deliveries)}"
            with contextlib.suppress(TimeoutError, socket.timeout):
                self.connection.drain_events(timeout=min(left, 0.2))
        return value

    def bodies(self, count: int) -> list[str]:
        """The bodies of the deliveries, when there are that many."""
        self.until(lambda: len(self.deliveries) >= count)
        return bodies(self.deliveries)

    def settled(self, channel: Any, queue: str) -> list[str]:
        """The bodies of the deliveries once the broker has answered a question asked after them."""
        channel.queue_declare(queue, passive=True)
        return bodies(self.deliveries)

    def close(self) -> None:
        """Leave, politely if it is still possible."""
        with contextlib.suppress(OSError, amqp.AMQPError):
            self.connection.close()


def bodies(messages: list[Any]) -> list[str]:
    return [text(message) for message in messages]


def text(message: Any) -> str:
    body = message.body
    return body.decode() if isinstance(body, bytes) else str(body)


def publish(
    channel: Any, queue: str, *texts: str, exchange: str = "", mandatory: bool = False, **properties: Any
) -> None:
    for body in texts:
        channel.basic_publish(amqp.Message(body, **properties), exchange, queue, mandatory=mandatory)


def get_all(channel: Any, queue: str) -> list[Any]:
    """Everything that is in the queue, taken out."""
    return list(iter(lambda: channel.basic_get(queue, no_ack=True), None))


def depth(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).message_count)


def ready(channel: Any, queue: str, count: int, timeout: float = PATIENCE) -> int:
    """Wait until so many messages are ready in the queue."""
    deadline = time.monotonic() + timeout
    while (found := depth(channel, queue)) != count:
        assert time.monotonic() < deadline, f"{queue}: {found} messages ready, not {count}, after {timeout} s"
        time.sleep(0.02)  # between two looks
    return found


class Wire:
    """A bare socket that speaks frames, to say what no client library would."""

    def __init__(
        self,
        address: Address,
        *,
        heartbeat: int = 0,
        password: str = PASSWORD,
        capabilities: bool = True,
        tuning: tuple[int, int] = (2047, 131072),
    ) -> None:
        self.socket = socket.create_connection((address.host, address.port), timeout=PATIENCE)
        try:
            self._shake_hands(heartbeat, password, capabilities, tuning)
        except (OSError, EOFError):
            self.socket.close()
            raise

    def _shake_hands(self, heartbeat: int, password: str, capabilities: bool, tuning: tuple[int, int]) -> None:
        self.socket.sendall(b"AMQP\0\0\x09\x01")
        self.frame()
        properties = {"capabilities": {"authentication_failure_close": capabilities}}
        self.method(0, 10, 11, "FsSs", properties, "PLAIN", f"\0{USER}\0{password}", "en_US")
        self.frame()
        self.method(0, 10, 31, "BlB", *tuning, heartbeat)
        self.method(0, 10, 40, "ssb", "/", "", False)
        self.frame()
        self.method(1, 20, 10, "s", "")
        self.frame()

    def raw(self, kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> None:
        self.socket.sendall(struct.pack(">BHI", kind, channel, len(payload)) + payload + end)

    def method(self, channel: int, class_id: int, number: int, kinds: str = "", *values: Any) -> None:
        self.raw(1, channel, struct.pack(">HH", class_id, number) + codec.arguments(kinds, *values))

    def publish(self, routing_key: str, *, exchange: str = "") -> None:
        """The method of a publish; the content has to follow."""
        self.method(1, 60, 40, "Bssbb", 0, exchange, routing_key, False, False)

    def header(self, size: int, properties: bytes = b"\0\0", class_id: int = 60) -> None:
        self.raw(2, 1, struct.pack(">HHQ", class_id, 0, size) + properties)

    def frame(self) -> tuple[int, int, bytes]:
        """The next frame. Raises: EOFError, or OSError for a reset or after `PATIENCE` seconds."""
        kind, channel, size = struct.unpack(">BHI", self._exactly(7))
        return kind, channel, self._exactly(size + 1)[:-1]

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def close_frame(self) -> tuple[int, str, tuple[int, int]]:
        """Code, text and blamed method of the `connection.close` or `channel.close` that comes next."""
        kind, _channel, payload = self.frame()
        assert kind == 1
        assert payload[:4] in (b"\0\x0a\0\x32", b"\0\x14\0\x28"), payload
        code, reply, class_id, number = codec.read_arguments("BsBB", payload, 4)
        return code, reply, (class_id, number)

    def is_alive(self) -> bool:
        """True when the broker still answers on channel 1."""
        self.method(1, 60, 10, "lBb", 0, 0, False)
        return self.frame() == (1, 1, b"\0\x3c\0\x0b")


@contextlib.contextmanager
def wire(address: Address, **settings: Any) -> Iterator[Wire]:
    """An open connection with channel 1 open."""
    opened = Wire(address, **settings)
    try:
        yield opened
    finally:
        opened.socket.close()
