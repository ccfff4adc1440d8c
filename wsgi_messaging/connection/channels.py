"""The channels of one connection: who answers on which number, and the polite way to end one.

Layer 1.
"""

from __future__ import annotations

from collections.abc import Callable

from . import codec, frames
from .frames import Inbound

OnMethod = Callable[[Inbound, float], bytes]
"""Reacts to a method at a time (`now`); gives the bytes to write."""

_CLOSE_ARGUMENTS = codec.arguments("BsBB", 200, "done", 0, 0)


def close_reason(inbound: Inbound) -> tuple[int, str]:
    """Code and text of channel.close or connection.close. RabbitMQ may cut the text in the middle of a character."""
    raw = inbound.arguments
    size = int.from_bytes(raw[2:3], "big")
    return int.from_bytes(raw[:2], "big"), raw[3 : 3 + size].decode("utf-8", "replace")


class Refused(Exception):
    """The broker closed the connection because of something that was sent."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"the broker closed the connection: {code} {text}")
        self.code = code
        self.text = text


def closed_by_broker(inbound: Inbound) -> Exception:
    """What connection.close means: a `Refused` for a 5xx code, an EOFError otherwise (320: it is going down)."""
    code, text = close_reason(inbound)
    return Refused(code, text) if code >= 500 else EOFError(f"the broker closed the connection: {code} {text}")


FIRST_FREE = 3
"""The numbers below are kept for the lanes whose messages are encoded by their callers."""


class Channels:
    """Channel numbers in use on one connection."""

    def __init__(self) -> None:
        self.most = 2047
        """How many the broker allows."""
        self._handlers: dict[int, OnMethod] = {}
        self._closing: dict[int, OnMethod | None] = {}

    def __len__(self) -> int:
        return len(self._handlers)

    @property
    def free(self) -> int:
        """How many more may be opened; one that is being closed counts."""
        return self.most - len(self._handlers) - len(self._closing)

    @property
    def are_all_taken(self) -> bool:
        """True when no more may be opened, and none is being closed."""
        return len(self._handlers) >= self.most

    def take(self, on_method: OnMethod, number: int | None = None) -> int:
        """Have `on_method` answer on a free channel (on `number`, if given); gives its number."""
        if number is None:
            number = FIRST_FREE
            while number in self._handlers or number in self._closing:
                number += 1
        self._handlers[number] = on_method
        return number

    def close(self, number: int, on_closed: OnMethod | None = None) -> bytes:
        """The bytes that end a channel from our side; what still comes on it is passed over.

        Its number may not be opened again before the broker's close-ok, which `on_closed` is told of: RabbitMQ takes
        an earlier channel.open for a second one on the channel that is being closed, and closes the connection.
        """
        self._handlers.pop(number, None)
        self._closing[number] = on_closed
        return frames.method_frame(number, frames.CHANNEL_CLOSE, _CLOSE_ARGUMENTS)

    def dispatch(self, inbound: Inbound, now: float) -> bytes:
        """Give a method to whom it is for. The broker's channel.close is answered here, before its handler reacts."""
        number = inbound.channel
        if inbound.method == frames.CHANNEL_CLOSE_OK:
            on_closed = self._closing.pop(number, None)
            return on_closed(inbound, now) if on_closed else b""
        answer = b""
        if inbound.method == frames.CHANNEL_CLOSE:
            answer = frames.method_frame(number, frames.CHANNEL_CLOSE_OK)
            handler = self._handlers.pop(number, None)
        else:
            handler = self._handlers.get(number)
        if inbound.method == frames.CHANNEL_FLOW:
            return frames.method_frame(number, frames.CHANNEL_FLOW_OK, inbound.arguments[:1])
        return answer + handler(inbound, now) if handler else answer

    def lost(self) -> None:
        """The connection is gone, and all its channels."""
        self._handlers.clear()
        self._closing.clear()
