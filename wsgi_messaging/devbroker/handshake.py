"""How a connection begins: SASL, tuning and the virtual host, as far as they are arithmetic.

Layer 5, part of the embedded broker: pure.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..connection import codec
from .methods import FRAME_MIN_SIZE
from .node import CHANNEL_MAX, FRAME_MAX
from .refusals import Refusal


class State(enum.Enum):
    """Where a connection stands."""

    HEADER = "the protocol header is awaited"
    STARTED = "connection.start is sent; credentials are awaited"
    TUNING = "connection.tune is sent; the answer is awaited"
    TUNED = "connection.open is awaited"
    RUNNING = "channels may be opened"
    CLOSING = "connection.close is sent; everything but its answer is ignored"
    CLOSED = "nothing is read or sent any more, except what is already written"


EXPECTED = {
    State.STARTED: "connection.start_ok",
    State.TUNING: "connection.tune_ok",
    State.TUNED: "connection.open",
}
"""The only method that each state of the handshake takes."""


@dataclass(frozen=True)
class Tuning:
    """What client and broker agreed on."""

    channel_max: int = CHANNEL_MAX
    frame_max: int = FRAME_MAX
    heartbeat: int = 0


def authenticated_user(users: Mapping[str, str], mechanism: str, response: bytes) -> str:
    """The user whose credentials these are.

    Raises: `Refusal` 403 with RabbitMQ's words, which tell nothing about what was wrong.
    """
    user, password = _credentials(mechanism, response)
    if user not in users or users[user] != password:
        raise Refusal(
            403,
            f"Login was refused using authentication mechanism {mechanism}. For details see the broker logfile.",
        )
    return user


def _credentials(mechanism: str, response: bytes) -> tuple[str, str]:
    if mechanism == "PLAIN" and response.count(b"\0") == 2:
        _identity, user, password = response.split(b"\0")
        return user.decode("utf-8", "replace"), password.decode("utf-8", "replace")
    if mechanism == "AMQPLAIN":
        try:
            values, _end = codec.read_table(len(response).to_bytes(4, "big") + response)
        except codec.MalformedValue:
            values = {}
        return str(values.get("LOGIN")), str(values.get("PASSWORD"))
    raise Refusal(504, f"no usable credentials for authentication mechanism {mechanism}")


def tuning(channel_max: int, frame_max: int, heartbeat: int) -> Tuning:
    """What the client's `tune_ok` means; 0, no limit, is more than the broker allows. Raises: `Refusal` 530."""
    if not 0 < channel_max <= CHANNEL_MAX:
        asked = channel_max or "0 (no limit)"
        raise Refusal(530, f"negotiated channel_max = {asked} is higher than the maximum allowed value ({CHANNEL_MAX})")
    if not 0 < frame_max <= FRAME_MAX:
        raise Refusal(530, f"negotiated frame_max = {frame_max} is higher than the maximum allowed value ({FRAME_MAX})")
    if frame_max < FRAME_MIN_SIZE:
        raise Refusal(
            530,
            f"negotiated frame_max = {frame_max} is lower than the minimum allowed value ({FRAME_MIN_SIZE})",
        )
    return Tuning(channel_max, frame_max, heartbeat)


def connection_name(client_properties: Mapping[str, Any], peer: str) -> str:
    name = client_properties.get("connection_name")
    return name if isinstance(name, str) and name else peer
