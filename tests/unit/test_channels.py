"""Channel numbers and who answers on them."""

from __future__ import annotations

import pytest

from tests.unit.wire import ack, closed, inbound, methods
from wsgi_messaging.connection import codec, frames
from wsgi_messaging.connection.channels import Channels, Refused, close_reason, closed_by_broker
from wsgi_messaging.connection.frames import Inbound


class Handler:
    def __init__(self, answer: bytes = b"") -> None:
        self.got: list[Inbound] = []
        self._answer = answer

    def __call__(self, inbound: Inbound, _now: float) -> bytes:
        self.got.append(inbound)
        return self._answer


def test_numbers_are_the_lowest_free_ones_behind_the_lanes() -> None:
    channels = Channels()
    assert [channels.take(Handler()) for _ in range(3)] == [3, 4, 5]
    assert channels.take(Handler(), number=1) == 1
    channels.dispatch(closed(3, 404), 0.0)
    assert channels.take(Handler()) == 3
    assert len(channels) == 4


def test_a_number_is_free_only_after_close_ok() -> None:
    """Before, methods of the old channel may still come on it."""
    channels, handler = Channels(), Handler()
    channels.take(handler)
    assert methods(channels.close(3)) == [(3, "channel.close")]
    assert channels.take(Handler()) == 4
    assert channels.dispatch(ack(3, 1), 0.0) == b""
    assert handler.got == []
    assert channels.dispatch(inbound(3, frames.CHANNEL_CLOSE_OK), 0.0) == b""
    assert channels.take(Handler()) == 3


def test_the_brokers_close_is_answered_before_its_handler_reacts() -> None:
    channels = Channels()
    handler = Handler(frames.method_frame(3, frames.CHANNEL_OPEN, b"\0"))
    channels.take(handler)
    written = channels.dispatch(closed(3, 404, "gone"), 0.0)
    assert methods(written) == [(3, "channel.close-ok"), (3, "channel.open")]
    assert close_reason(handler.got[0]) == (404, "gone")
    assert methods(channels.dispatch(closed(3, 404), 0.0)) == [(3, "channel.close-ok")], "nobody's any more"


def test_crossing_closes() -> None:
    channels, handler = Channels(), Handler()
    channels.take(handler)
    channels.close(3)
    assert methods(channels.dispatch(closed(3, 404), 0.0)) == [(3, "channel.close-ok")]
    assert handler.got == []
    channels.dispatch(inbound(3, frames.CHANNEL_CLOSE_OK), 0.0)
    assert channels.take(Handler()) == 3


@pytest.mark.parametrize("active", [False, True])
def test_flow_is_answered_for_everybody(active: bool) -> None:
    channels, handler = Channels(), Handler()
    channels.take(handler)
    written = channels.dispatch(inbound(3, frames.CHANNEL_FLOW, "b", active), 0.0)
    assert methods(written) == [(3, "channel.flow-ok")]
    assert written[11] == active
    assert handler.got == []


def test_a_method_on_a_free_number_is_passed_over() -> None:
    assert Channels().dispatch(ack(7, 1), 0.0) == b""


def test_lost_forgets_everything() -> None:
    channels = Channels()
    channels.take(Handler())
    channels.close(channels.take(Handler()))
    channels.lost()
    assert len(channels) == 0
    assert channels.take(Handler()) == 3
    assert channels.take(Handler()) == 4


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (codec.arguments("BsBB", 404, "gone", 60, 40), (404, "gone")),
        (b"\x01\x94\x03ab\xc3\0\0\0\0", (404, "ab\N{REPLACEMENT CHARACTER}")),
        (b"\x01\x94\xffab", (404, "ab")),
        (b"\x01\x94", (404, "")),
        (b"", (0, "")),
    ],
)
def test_any_reason_can_be_read(raw: bytes, reason: tuple[int, str]) -> None:
    assert close_reason(Inbound(1, frames.CHANNEL_CLOSE, raw)) == reason


@pytest.mark.parametrize(("code", "kind"), [(320, EOFError), (403, EOFError), (501, Refused), (541, Refused)])
def test_who_is_to_blame_for_a_closed_connection(code: int, kind: type[Exception]) -> None:
    error = closed_by_broker(inbound(0, frames.CONNECTION_CLOSE, "BsBB", code, "why", 0, 0))
    assert type(error) is kind
    assert str(error) == f"the broker closed the connection: {code} why"
