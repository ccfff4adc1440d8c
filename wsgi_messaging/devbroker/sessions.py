"""One client's connection: bytes in, bytes out, no socket.

`Session.receive` takes what was read and `Session.out` holds what is to be written. Rules: a refusal inside
a channel closes the channel, a hard one the connection; after the broker's `connection.close` everything
but the answer is ignored; a client silent for more than two heartbeat intervals is dropped.

Layer 5, part of the embedded broker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ..connection import codec
from .channels import Channel
from .framing import FrameReader, unknown_frame
from .handshake import (
    EXPECTED,
    State,
    Tuning,
    authenticated_user,
    connection_name,
    tuning,
)
from .methods import (
    BY_ID,
    HEARTBEAT,
    HEARTBEAT_FRAME,
    METHOD,
    METHOD_ID,
    PROTOCOL_HEADER,
    method_frame,
    method_id,
)
from .node import CHANNEL_MAX, FRAME_MAX, SERVER_PROPERTIES, ConnectionInfo, Node
from .ports import Arguments
from .refusals import Refusal

HANDSHAKE_TIMEOUT = 10.0
CLOSE_TIMEOUT = 5.0
CONGESTED_BYTES = 4 * 1024 * 1024
"""With so much unread by the client, deliveries wait."""

_NEVER = float("inf")


class Session:
    """See the module. `now` is the time of the latest event (seconds, monotonic)."""

    def __init__(self, node: Node, peer: str, now: float) -> None:
        self.node = node
        self.peer = peer
        self.now = now
        self.out = bytearray()
        self.state = State.HEADER
        self.user = ""
        self.published = 0
        self.is_blocked = False
        self.received_at = now
        self.sent_at = now
        self.frame_max = FRAME_MAX
        self._tuning = Tuning()
        self._client_properties: Mapping[str, Any] = {}
        self._vhost = ""
        self._channels: dict[int, Channel] = {}
        self._reader = FrameReader()
        self._deadline = now + HANDSHAKE_TIMEOUT
        node.accepted += 1

    @property
    def is_congested(self) -> bool:
        return len(self.out) > CONGESTED_BYTES

    @property
    def info(self) -> ConnectionInfo:
        return ConnectionInfo(
            name=connection_name(self._client_properties, self.peer),
            peer=self.peer,
            vhost=self._vhost,
            user=self.user,
            channels=len(self._channels),
            consumers=sum(len(channel.consuming.consumers) for channel in self._channels.values()),
            heartbeat=self._tuning.heartbeat,
            published=self.published,
            is_blocked=self.is_blocked,
            client_properties=dict(self._client_properties),
        )

    def announced(self, capability: str) -> bool:
        capabilities = self._client_properties.get("capabilities")
        return isinstance(capabilities, dict) and capabilities.get(capability) is True

    def write(self, data: bytes) -> None:
        if self.state is not State.CLOSED:
            self.out += data

    def receive(self, data: bytes, now: float) -> None:
        """Take what the client sent and write the answers. Never raises for what a client may send."""
        self.now = self.received_at = now
        try:
            if self.state is State.HEADER:
                self._start(data)
                data = b""
            if self.state is not State.HEADER:
                self._frames(data)
        except Refusal as refusal:
            self._refuse(refusal, "")
        self.flush_confirms()

    def _frames(self, data: bytes) -> None:
        with contextlib.closing(self._reader.frames(data)) as frames:
            for kind, channel, payload in frames:
                self._frame(kind, channel, payload)
                if self.is_blocked or self.state is State.CLOSED:
                    return

    def flush_confirms(self) -> None:
        for channel in self._channels.values():
            if not channel.is_closing:
                channel.publishing.flush()

    def _start(self, data: bytes) -> None:
        header = self._reader.take_protocol_header(data)
        if header is None:
            return
        if header not in (PROTOCOL_HEADER, b"AMQP\x01\x01\x08\x00"):
            self.write(PROTOCOL_HEADER)
            self.state = State.CLOSED
            return
        self.write(method_frame(0, "connection.start", 0, 9, SERVER_PROPERTIES, "PLAIN AMQPLAIN", "en_US"))
        self.state = State.STARTED

    def _frame(self, kind: int, number: int, payload: bytes) -> None:
        if kind == HEARTBEAT:
            if number:
                raise Refusal(505, "type 8, all octets = <<>>")
            if payload:
                raise unknown_frame(kind, payload)
            return
        if kind not in (1, 2, 3):
            raise unknown_frame(kind, payload)
        name, arguments = "", []
        try:
            if kind == METHOD:
                name, kinds = _method(payload)
                arguments = codec.read_arguments(kinds, payload, METHOD_ID.size)
            self._dispatch(kind, number, name, arguments, payload)
        except codec.MalformedValue as exc:
            self._refuse(Refusal(501, f"cannot decode {name}: {exc}"), name)
        except Refusal as refusal:
            name = refusal.method or name
            channel = self._channels.get(number)
            if refusal.is_hard or channel is None or self.state is not State.RUNNING:
                self._refuse(refusal, name)
            else:
                channel.refuse(refusal, name or "basic.publish")

    def _dispatch(self, kind: int, number: int, name: str, arguments: Arguments, payload: bytes) -> None:
        if self.state is State.CLOSING:
            if name == "connection.close":
                self.write(method_frame(0, "connection.close_ok"))
            if name in ("connection.close", "connection.close_ok"):
                self.state = State.CLOSED
        elif self.state is not State.RUNNING:
            if number or name != EXPECTED.get(self.state):
                raise Refusal(504, "unexpected frame in the handshake")
            self._shake_hands(name, arguments)
        elif number == 0:
            self._connection_method(kind, name)
        else:
            self._channel_frame(kind, number, name, arguments, payload)

    def _shake_hands(self, name: str, arguments: Arguments) -> None:
        if name == "connection.start_ok":
            self._client_properties = arguments[0]
            self.user = authenticated_user(self.node.users, arguments[1], arguments[2])
            self.write(method_frame(0, "connection.tune", CHANNEL_MAX, FRAME_MAX, self.node.heartbeat))
            self.state = State.TUNING
        elif name == "connection.tune_ok":
            self._tuning = tuning(*arguments)
            self.frame_max = self._reader.frame_max = self._tuning.frame_max
            self.state = State.TUNED
        else:
            self._vhost = arguments[0]
            if self._vhost not in self.node.vhosts:
                raise Refusal(530, f"vhost {self._vhost} not found")
            self.write(method_frame(0, "connection.open_ok", ""))
            self.state = State.RUNNING
            self._deadline = _NEVER

    def _connection_method(self, kind: int, name: str) -> None:
        if kind != METHOD:
            raise Refusal(505, "expected method frame, got non method frame instead")
        if name != "connection.close":
            raise Refusal(504, "unexpected method in connection state running")
        self.end(self.now)
        self.write(method_frame(0, "connection.close_ok"))
        self.state = State.CLOSED

    def _channel_frame(self, kind: int, number: int, name: str, arguments: Arguments, payload: bytes) -> None:
        channel = self._channels.get(number)
        if channel is None:
            self._unopened(number, name)
        elif name == "channel.close":
            if not channel.is_closing:
                channel.publishing.flush()
                channel.close()
                del self._channels[number]
            self.write(method_frame(number, "channel.close_ok"))
        elif name == "channel.close_ok" and channel.is_closing:
            del self._channels[number]
        else:
            channel.frame(kind, name, arguments, payload)
            if name == "basic.publish" and self.node.blocked_reason is not None:
                self._block(self.node.blocked_reason)

    def _unopened(self, number: int, name: str) -> None:
        if name == "channel.close":
            self.write(method_frame(number, "channel.close_ok"))
        elif name == "channel.open":
            limit = self._tuning.channel_max
            if len(self._channels) >= limit:
                raise Refusal(
                    530,
                    f"number of channels opened ({limit}) has reached the negotiated channel_max ({limit})",
                )
            self._channels[number] = Channel(number, self, self.node.vhosts[self._vhost], self.node.rules)
            self.write(method_frame(number, "channel.open_ok", b""))
        elif name != "channel.close_ok":
            raise Refusal(504, "expected 'channel.open'")

    def _refuse(self, refusal: Refusal, method: str) -> None:
        """Close the connection for what the client did; in the handshake mostly without a word, as RabbitMQ."""
        if self.state in (State.CLOSING, State.CLOSED):
            return
        self.node.report(f"connection {self.peer} refused: {refusal}")
        silent = self.state in (State.STARTED, State.TUNING)
        if refusal.code == 403:
            silent = not self.announced("authentication_failure_close")
        self.end(self.now)
        self.close(refusal.code, refusal.text, method, silent=silent)

    def close(self, code: int, text: str, method: str = "", *, silent: bool = False) -> None:
        """Close the connection politely, or `silent`ly."""
        self.flush_confirms()
        if silent:
            self.state = State.CLOSED
        else:
            self.write(method_frame(0, "connection.close", code, text, *method_id(method)))
            self.state = State.CLOSING
            self._deadline = self.now + CLOSE_TIMEOUT

    def end(self, now: float) -> None:
        """The connection is over, however: give back what it holds. Idempotent."""
        self.now = now
        self.flush_confirms()
        channels, self._channels = self._channels, {}
        open_channels = [channel for channel in channels.values() if not channel.is_closing]
        for channel in open_channels:
            channel.consuming.leave()
        for channel in open_channels:  # what one gives back must not go to another that ends, too
            channel.close()
        if self._vhost in self.node.vhosts:
            self.node.vhosts[self._vhost].release(self, now)

    def _block(self, reason: str) -> None:
        """Tell a publisher that it is not read any more; the content of its message waits, as with RabbitMQ."""
        if not self.is_blocked:
            self.is_blocked = True
            if self.announced("connection.blocked"):
                self.write(method_frame(0, "connection.blocked", reason))

    def unblock(self, now: float) -> None:
        """The alarm is over: go on with what was read before it."""
        if self.is_blocked:
            self.is_blocked = False
            if self.announced("connection.blocked"):
                self.write(method_frame(0, "connection.unblocked"))
            self.receive(b"", now)

    def relieved(self, now: float) -> None:
        """The client has read what was written: deliveries go on."""
        self.now = now
        for channel in self._channels.values():
            channel.consuming.pump()

    def due_at(self) -> float:
        """When `tick` has something to do."""
        interval = self._tuning.heartbeat
        if not interval or self.state is not State.RUNNING:
            return self._deadline
        silent_at = _NEVER if self.is_blocked else self.received_at + 2 * interval
        return min(self._deadline, silent_at, self.sent_at + interval / 2)

    def tick(self, now: float) -> bool:
        """Beat if it is time; False if the client has to be dropped: silent too long, or slow to say hello or bye."""
        self.now = now
        if now >= self._deadline:
            return False
        interval = self._tuning.heartbeat
        if not interval or self.state is not State.RUNNING:
            return True
        if not self.is_blocked and now >= self.received_at + 2 * interval:
            self.node.missed_heartbeats += 1
            name = connection_name(self._client_properties, self.peer)
            self.node.report(f"missed heartbeats from client {name} ({self.peer}), timeout: {interval}s")
            return False
        if now >= self.sent_at + interval / 2:
            self.sent_at = now
            if not self.out:
                self.write(HEARTBEAT_FRAME)
        return True


def _method(payload: bytes) -> tuple[str, str]:
    """Name and argument letters of a method frame. Raises: `Refusal` 501 or 503."""
    if len(payload) < METHOD_ID.size:
        raise Refusal(501, f"cannot decode a method frame of {len(payload)} bytes")
    class_id, number = METHOD_ID.unpack_from(payload)
    found = BY_ID.get((class_id, number))
    if found is None:
        raise Refusal(503, f"unknown method {class_id}.{number}")
    return found
