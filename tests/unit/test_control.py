"""One request at a time, each with its answer, none able to stop the next."""

from __future__ import annotations

import pytest

from tests.unit.wire import closed, inbound, methods
from wsgi_messaging.connection import frames, topology
from wsgi_messaging.connection.channels import Channels, Refused
from wsgi_messaging.connection.control import Control, Request
from wsgi_messaging.connection.frames import Inbound
from wsgi_messaging.errors import Closed, DeclarationRefused

NOW = 1.0
DECLARE_OK = frames.method_id(50, 11)


class Desk:
    def __init__(self) -> None:
        self.channels = Channels()
        self.control = Control(self.channels)
        self.notified: list[str] = []

    def ask(self, name: str, deadline: float = 10.0) -> Request:
        made = topology.declare_queue(
            name, passive=False, durable=True, exclusive=False, auto_delete=False, arguments={}
        )
        request = Request(
            made.method, made.arguments, what=made.what, deadline=deadline, notify=lambda: self.notified.append(name)
        )
        self.control.add(request, NOW)
        return request

    def advance(self, now: float = NOW) -> list[tuple[int, str]]:
        return methods(self.control.advance(now))

    def answer(self, answer: Inbound, now: float = NOW) -> list[tuple[int, str]]:
        return methods(self.channels.dispatch(answer, now))


def declared(channel: int, name: str) -> Inbound:
    return inbound(channel, DECLARE_OK, "sll", name, 0, 0)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_one_after_the_other_over_one_channel(desk: Desk) -> None:
    a, b = desk.ask("a"), desk.ask("b")
    assert len(desk.control) == 2
    assert desk.advance() == [(3, "channel.open"), (3, "queue.declare")]
    assert desk.advance() == [], "b waits for a's answer"
    desk.answer(inbound(3, frames.CHANNEL_OPEN_OK, "S", ""))
    assert not a.is_done, "the opening's answer is not the request's"
    assert desk.answer(answer := declared(3, "a")) == [(3, "queue.declare")]
    assert (a.answer, a.error, b.is_done) == (answer, None, False)
    assert desk.answer(declared(3, "b")) == []
    assert desk.notified == ["a", "b"]
    assert len(desk.control) == 0


def test_one_channel_more_than_the_broker_allows_is_not_opened(desk: Desk) -> None:
    """It ended the connection, 530, and with it all consumers."""
    desk.channels.most = 2
    taken = [desk.channels.take(lambda _inbound, _now: b"") for _ in range(2)]
    a = desk.ask("a")
    assert desk.advance() == []
    assert isinstance(a.error, DeclarationRefused) and a.error.reply_code == 530
    assert "allows 2 channels" in str(a.error) and not a.maybe_sent
    desk.channels.close(taken[0])
    b = desk.ask("b")
    assert desk.advance() == [] and not b.is_done, "it counts until the broker's close-ok"
    desk.answer(inbound(taken[0], frames.CHANNEL_CLOSE_OK))
    assert desk.advance() == [(3, "channel.open"), (3, "queue.declare")]
    desk.channels.take(lambda _inbound, _now: b"")
    desk.answer(declared(3, "b"))
    desk.ask("c")
    assert desk.advance() == [(3, "queue.declare")], "the one that it has is enough"


def test_a_refusal_is_the_requests_own(desk: Desk) -> None:
    a, b = desk.ask("a"), desk.ask("b")
    desk.advance()
    written = desk.answer(closed(3, 406, "PRECONDITION_FAILED - inequivalent arg"))
    assert written == [(3, "channel.close-ok"), (3, "channel.open"), (3, "queue.declare")]
    assert isinstance(a.error, DeclarationRefused)
    assert a.error.reply_code == 406
    assert str(a.error) == "queue 'a': 406 PRECONDITION_FAILED - inequivalent arg"
    desk.answer(declared(3, "b"))
    assert b.answer is not None


@pytest.mark.parametrize("how", ["abandoned", "expired"])
def test_one_whose_caller_is_gone_does_not_stop_the_next(desk: Desk, how: str) -> None:
    a, b = desk.ask("a", deadline=2.0), desk.ask("b")
    desk.advance()
    a.abandoned = how == "abandoned"
    now = NOW if how == "abandoned" else 2.0
    assert desk.advance(now) == [(3, "channel.close"), (4, "channel.open"), (4, "queue.declare")]
    assert desk.answer(declared(3, "a")) == [], "the late answer is nobody's"
    assert not b.is_done
    desk.answer(declared(4, "b"))
    assert b.answer is not None and a.answer is None


def test_those_that_nobody_wants_are_not_sent(desk: Desk) -> None:
    desk.ask("late", deadline=0.5)
    desk.ask("wanted")
    assert desk.advance() == [(3, "channel.open"), (3, "queue.declare")]
    assert len(desk.control) == 1


def test_only_what_was_sent_says_maybe_sent(desk: Desk) -> None:
    a, b = desk.ask("a"), desk.ask("b")
    desk.advance()
    assert (a.maybe_sent, b.maybe_sent) == (True, False)


def test_what_was_under_way_is_asked_again_after_a_loss(desk: Desk) -> None:
    a, b = desk.ask("a"), desk.ask("b")
    desk.advance()
    desk.channels.lost()
    desk.control.lost(None)
    assert len(desk.control) == 2
    assert desk.advance() == [(3, "channel.open"), (3, "queue.declare")]
    desk.answer(declared(3, "a"))
    desk.answer(declared(3, "b"))
    assert desk.notified == ["a", "b"] and a.answer and b.answer


def test_a_declaration_that_ends_the_connection_is_not_asked_for_ever(desk: Desk) -> None:
    """RabbitMQ answers some declarations by closing the connection, 541 for a transient shared queue from 4.3 on."""
    deadly, next_one = desk.ask("deadly"), desk.ask("next")
    for _ in range(2):
        desk.advance()
        desk.channels.lost()
        desk.control.lost(Refused(541, "INTERNAL_ERROR"))
        if deadly.is_done:
            break
    assert isinstance(deadly.error, DeclarationRefused)
    assert deadly.error.reply_code == 541
    desk.advance()
    assert not next_one.is_done and next_one.maybe_sent, "its turn has come"


def test_a_channel_closed_between_requests(desk: Desk) -> None:
    desk.ask("a")
    desk.advance()
    desk.answer(declared(3, "a"))
    assert desk.answer(closed(3, 541)) == [(3, "channel.close-ok")]
    desk.ask("b")
    assert desk.advance() == [(3, "channel.open"), (3, "queue.declare")]


def test_give_up_fails_all(desk: Desk) -> None:
    a, b = desk.ask("a"), desk.ask("b")
    desk.advance()
    desk.control.give_up(Closed("closed"))
    assert isinstance(a.error, Closed) and isinstance(b.error, Closed)
    assert a.error is not b.error, "each caller raises an error of its own"
    assert len(desk.control) == 0
    desk.control.give_up(Closed("closed"))
    assert desk.notified == ["a", "b"]


def test_finish_is_once(desk: Desk) -> None:
    request = desk.ask("a")
    request.finish(answer := declared(3, "a"))
    request.finish(None, Closed("closed"))
    assert (request.answer, request.error, desk.notified) == (answer, None, ["a"])


def test_a_request_is_given_up_in_time_for_the_next_one(desk: Desk) -> None:
    assert desk.control.due_at() == float("inf")
    desk.ask("hangs", deadline=3.0), desk.ask("next")
    desk.advance()
    assert desk.control.due_at() == 3.0
    assert [name for _channel, name in desk.advance(3.0)] == ["channel.close", "channel.open", "queue.declare"]
    assert desk.control.due_at() == 10.0


def test_what_nobody_waits_for_does_not_pile_up(desk: Desk) -> None:
    given_up, wanted, _late = desk.ask("given up"), desk.ask("wanted"), desk.ask("late", deadline=2.0)
    given_up.abandoned = True
    desk.control.sweep(2.0)
    assert len(desk.control) == 1
    assert desk.advance() == [(3, "channel.open"), (3, "queue.declare")]
    desk.answer(declared(3, "wanted"))
    assert wanted.is_done
