"""How the broker says no: AMQP's reply codes with RabbitMQ's words.

A soft refusal closes the channel, a hard one the connection (AMQP 0-9-1 section 1.2). The texts are those
that RabbitMQ 3.10.8 was seen to send; a client that matches on them sees no difference.

Layer 5, part of the embedded broker: imports nothing of ours.
"""

from __future__ import annotations

from typing import Any

NAMES = {
    311: "CONTENT_TOO_LARGE",
    320: "CONNECTION_FORCED",
    403: "ACCESS_REFUSED",
    404: "NOT_FOUND",
    405: "RESOURCE_LOCKED",
    406: "PRECONDITION_FAILED",
    501: "FRAME_ERROR",
    503: "COMMAND_INVALID",
    504: "CHANNEL_ERROR",
    505: "UNEXPECTED_FRAME",
    530: "NOT_ALLOWED",
    540: "NOT_IMPLEMENTED",
    541: "INTERNAL_ERROR",
}

_HARD = frozenset({320, 501, 502, 503, 504, 505, 530, 540, 541})


def _cut(text: str) -> str:
    """As RabbitMQ cuts a text that a short string cannot hold, but at a whole character."""
    raw = text.encode()
    return text if len(raw) <= 255 else raw[:252].decode("utf-8", "ignore") + "..."


class Refusal(Exception):
    """What the client did is refused; `text` is the reply text as it goes on the wire.

    `method` is what to blame where that is not the method that was read last.
    """

    def __init__(self, code: int, explanation: str = "", *, method: str = "") -> None:
        self.code = code
        self.method = method
        self.text = _cut(f"{NAMES[code]} - {explanation}") if explanation else NAMES[code]
        super().__init__(f"{code} {self.text}")

    @property
    def is_hard(self) -> bool:
        """True when the connection has to close, not just the channel."""
        return self.code in _HARD


def no_queue(name: str, vhost: str) -> Refusal:
    return Refusal(404, f"no queue '{name}' in vhost '{vhost}'")


def no_exchange(name: str, vhost: str) -> Refusal:
    return Refusal(404, f"no exchange '{name}' in vhost '{vhost}'")


def locked(name: str, vhost: str) -> Refusal:
    return Refusal(
        405,
        f"cannot obtain exclusive access to locked queue '{name}' in vhost '{vhost}'. It could be originally declared"
        " on another connection or the exclusive property value does not match that of the original declaration.",
    )


def reserved(kind: str, name: str) -> Refusal:
    return Refusal(403, f"{kind} name '{name}' contains reserved prefix 'amq.*'")


def default_exchange() -> Refusal:
    return Refusal(403, "operation not permitted on the default exchange")


def inequivalent(argument: str, kind: str, name: str, vhost: str, received: Any, current: Any) -> Refusal:
    """406 for a declaration that differs from what exists; None is an absent argument."""
    if received is None or current is None:
        said = f"received {_with_type(received)} but current is {_with_type(current)}"
    else:
        said = f"received '{_plain(received)}' but current is '{_plain(current)}'"
    return Refusal(406, f"inequivalent arg '{argument}' for {kind} '{name}' in vhost '{vhost}': {said}")


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _with_type(value: Any) -> str:
    return "none" if value is None else f"the value '{_plain(value)}' of type '{type_name(value)}'"


def type_name(value: Any) -> str:
    """RabbitMQ's name of the AMQP field type that carries such a value."""
    match value:
        case bool():
            return "bool"
        case int():
            return "signedint" if -(2**31) <= value < 2**31 else "long"
        case str():
            return "longstr"
        case float():
            return "double"
        case dict():
            return "table"
        case list():
            return "array"
        case bytes():
            return "binary"
        case None:
            return "void"
    return "timestamp"
