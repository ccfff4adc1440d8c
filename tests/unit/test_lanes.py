"""The plain lane: messages without a confirm of their own, settled by one question, a reply, or a return."""

from __future__ import annotations

import pytest

from tests.unit.test_publishing import MAIN, NOW, Desk, error_of, is_confirmed
from tests.unit.wire import ack, closed, inbound, returned
from wsgi_messaging.connection import frames
from wsgi_messaging.connection.lanes import ASK_AFTER
from wsgi_messaging.connection.pending import Outgoing
from wsgi_messaging.errors import ConnectionLost, Unroutable

PLAIN = 2
ANSWER = inbound(PLAIN, frames.BASIC_QOS_OK)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def request(desk: Desk, name: str, exchange: str = "", now: float = NOW, **changes: object) -> Outgoing:
    return desk.publish(name, exchange, now, confirm=False, **changes)


def ask(desk: Desk) -> None:
    """Let the time come at which the broker is asked."""
    assert desk.publisher.is_busy
    desk.sent_methods()
    desk.advance(desk.publisher.due_at())
    assert desk.sent_methods() == [(PLAIN, "basic.qos")]


def test_it_opens_without_confirms(desk: Desk) -> None:
    request(desk, "a")
    assert desk.sent_methods() == [(PLAIN, "channel.open"), (PLAIN, "basic.publish")]


def test_what_its_caller_encoded_is_written_as_it_is(desk: Desk) -> None:
    wire = frames.small_message(PLAIN, b"method", b"header", b"body")
    request(desk, "a")
    desk.sent()
    request(desk, "b", wire=wire)
    assert desk.written == wire


def test_one_question_settles_all_that_went_before_it(desk: Desk) -> None:
    a, b = request(desk, "a"), request(desk, "b", now=NOW + ASK_AFTER / 2)
    assert desk.publisher.due_at() == NOW + ASK_AFTER
    desk.advance(NOW + ASK_AFTER / 2)
    ask(desk)
    late = request(desk, "late")
    assert desk.publisher.in_flight == 3
    desk.answer(ANSWER)
    assert is_confirmed(a) and is_confirmed(b) and not late.is_done
    assert (desk.publisher.confirmed, desk.publisher.in_flight) == (2, 1)


def test_there_is_one_question_at_a_time(desk: Desk) -> None:
    request(desk, "a")
    ask(desk)
    late = request(desk, "late")
    assert not desk.publisher.is_busy
    desk.answer(ANSWER, NOW + 1)
    assert desk.publisher.due_at() == NOW + 1 + ASK_AFTER
    ask(desk)
    desk.answer(ANSWER)
    assert is_confirmed(late) and not desk.publisher.is_busy


def test_a_message_that_no_queue_takes_comes_back(desk: Desk) -> None:
    a, b = request(desk, "a"), request(desk, "b")
    desk.answer(returned(PLAIN, "", "key", b"b"))
    assert not error_of(b, Unroutable).maybe_sent and not a.is_done
    ask(desk)
    desk.answer(ANSWER)
    assert is_confirmed(a) and (desk.publisher.confirmed, desk.publisher.returned) == (1, 1)


def test_the_lanes_have_confirms_of_their_own(desk: Desk) -> None:
    confirmed, plain = desk.publish("confirmed"), request(desk, "plain")
    desk.answer(ack(MAIN, 1))
    assert is_confirmed(confirmed) and not plain.is_done


def test_an_unproven_exchange_is_proven_with_a_confirm(desk: Desk) -> None:
    a, b = request(desk, "a", "new"), request(desk, "b", "new")
    [(proving, body)] = desk.sent()
    assert (proving, body) == (3, b"a")
    desk.answer(ack(proving, 1))
    assert desk.sent() == [(PLAIN, b"b")]
    assert is_confirmed(a) and not b.is_done


def test_its_messages_go_while_the_main_lane_is_refused(desk: Desk) -> None:
    desk.publish("full")
    desk.answer(inbound(MAIN, frames.BASIC_NACK, "Lbb", 1, False, False))
    desk.sent()
    request(desk, "a")
    assert desk.sent() == [(PLAIN, b"a")]


def test_when_it_is_closed_the_unanswered_are_tried_one_at_a_time(desk: Desk) -> None:
    """Its number 404 tells which exchange is missing only to who knows what went first."""
    answered, a, b = request(desk, "answered"), request(desk, "a"), request(desk, "b")
    answered.abandoned = True  # its reply came
    desk.sent()
    desk.answer(closed(PLAIN, 404))
    assert desk.sent() == [(3, b"a")]
    desk.answer(ack(3, 1))
    assert desk.sent() == [(3, b"b")]
    assert is_confirmed(a) and not b.is_done


def test_what_nobody_waits_for_may_be_at_fault_all_the_same(desk: Desk) -> None:
    """A request whose call has timed out, to an exchange that is gone: the other one is only its neighbour."""
    timed_out, neighbour = request(desk, "timed out"), request(desk, "neighbour")
    timed_out.abandoned = True
    desk.sent()
    desk.answer(closed(PLAIN, 404))
    assert not neighbour.is_done and desk.sent() == [(3, b"neighbour")]


def test_what_a_lost_connection_leaves(desk: Desk) -> None:
    """The unanswered go again; what a reply proved does not, nor counts as failed; what may go once only is told."""
    answered, a, once = request(desk, "answered"), request(desk, "a"), request(desk, "once", may_repeat=False)
    answered.abandoned = True
    assert desk.publisher.lost("reset", False) == [a]
    assert error_of(once, ConnectionLost).maybe_sent
    assert desk.publisher.failed == 1 and not desk.publisher.is_busy


def test_what_the_broker_said_it_has_does_not_go_again(desk: Desk) -> None:
    request(desk, "a")
    ask(desk)
    desk.answer(ANSWER)
    assert desk.publisher.lost("reset", False) == []


def test_it_is_awaited_until_it_is_settled(desk: Desk) -> None:
    request(desk, "a")
    assert desk.publisher.is_awaited(NOW)
    ask(desk)
    desk.answer(ANSWER)
    assert not desk.publisher.is_awaited(NOW)
