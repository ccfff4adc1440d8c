"""Confirms over two channels: who is hit by a broker's answer, and who is not."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.unit.test_pending import Notified, outgoing
from tests.unit.wire import ack, closed, methods, nack, published, returned
from wsgi_messaging.connection.channels import Channels
from wsgi_messaging.connection.frames import CHANNEL_CLOSE_OK, Inbound, encoded_route, message_frames
from wsgi_messaging.connection.pending import Outgoing
from wsgi_messaging.connection.publishing import (
    KEPT_FREE,
    NACK_PAUSES,
    RENEW_EVERY,
    RETIRED_AT_MOST,
    SWEEP_EVERY,
    TRIES_AFTER_NACKS,
    TRIES_AFTER_REFUSALS,
    Publisher,
)
from wsgi_messaging.connection.trials import AT_ONCE
from wsgi_messaging.errors import (
    Closed,
    ConfirmTimeout,
    ConnectionLost,
    InvalidMessage,
    MessagingError,
    Rejected,
    Unroutable,
)

NOW = 1.0
NACK_PAUSE, LONGEST_PAUSE = NACK_PAUSES
MAIN = 1


class Desk:
    """A publisher with its channels, fed and read as the connection's thread does it."""

    def __init__(self, is_held: Callable[[], bool] = bool) -> None:
        self.channels = Channels()
        self.publisher = Publisher(self.channels, is_held)
        self.publisher.frame_max = 4096
        self.written = b""
        self.notified: Notified = []

    def publish(self, name: str, exchange: str = "", now: float = NOW, **changes: object) -> Outgoing:
        entry = outgoing(name, self.notified, exchange=exchange, **changes)
        self.written += self.publisher.admit(entry, now)
        return entry

    def answer(self, inbound: Inbound, now: float = NOW) -> None:
        self.written += self.channels.dispatch(inbound, now)

    def advance(self, now: float) -> None:
        self.written += self.publisher.advance(now)

    def sent(self) -> list[tuple[int, bytes]]:
        """(channel, body) of what was written since the last look."""
        data, self.written = self.written, b""
        return published(data)

    def sent_methods(self) -> list[tuple[int, str]]:
        data, self.written = self.written, b""
        return methods(data)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def error_of(entry: Outgoing, kind: type[MessagingError]) -> MessagingError:
    assert entry.is_done
    assert isinstance(entry.error, kind), entry.error
    return entry.error


def is_confirmed(entry: Outgoing) -> bool:
    return entry.is_done and entry.error is None


# The main lane.


def test_the_first_message_opens_a_confirming_channel(desk: Desk) -> None:
    desk.publish("a"), desk.publish("b")
    assert desk.sent_methods() == [
        (MAIN, "channel.open"),
        (MAIN, "confirm.select"),
        (MAIN, "basic.publish"),
        (MAIN, "basic.publish"),
    ]


def test_confirms_resolve_their_messages(desk: Desk) -> None:
    a, b, c = (desk.publish(name) for name in "abc")
    assert desk.publisher.in_flight == 3
    desk.answer(ack(MAIN, 2))
    assert [is_confirmed(each) for each in (a, b, c)] == [False, True, False]
    desk.answer(ack(MAIN, 3, multiple=True))
    assert desk.notified == ["b", "a", "c"]
    assert (desk.publisher.confirmed, desk.publisher.in_flight) == (3, 0)


def test_a_return_is_an_error_and_its_ack_no_confirm(desk: Desk) -> None:
    a, b = desk.publish("a"), desk.publish("b")
    desk.answer(returned(MAIN, "", "key", b"b"))
    error = error_of(b, Unroutable)
    assert error.reply_code == 312  # type: ignore[attr-defined]
    assert not error.maybe_sent
    desk.answer(ack(MAIN, 2, multiple=True))
    assert is_confirmed(a) and desk.notified == ["b", "a"]
    assert (desk.publisher.confirmed, desk.publisher.failed, desk.publisher.returned) == (1, 1, 1)


def test_a_return_of_nothing_of_ours_is_passed_over(desk: Desk) -> None:
    a = desk.publish("a")
    desk.answer(returned(MAIN, "", "key", b"never sent"))
    assert not a.is_done and desk.publisher.returned == 0


def test_what_nobody_wants_any_more_is_not_sent(desk: Desk) -> None:
    late = desk.publish("late", now=10.0)
    assert not error_of(late, ConfirmTimeout).maybe_sent
    given_up = outgoing("given up", desk.notified)
    given_up.abandoned = True
    assert desk.publisher.admit(given_up, NOW) == b""
    assert desk.sent() == []
    assert desk.publisher.failed == 2


def test_an_encoded_message_is_used_as_it_is_on_the_main_lane_only(desk: Desk) -> None:
    wire = message_frames(MAIN, encoded_route("", "key", True), b"\0\0", b"encoded", 4096)
    desk.publish("a", wire=wire)
    assert desk.sent() == [(MAIN, b"encoded")]
    desk.answer(nack(MAIN, 1))
    desk.advance(NOW + NACK_PAUSE)
    [(channel, body)] = desk.sent()
    assert (channel != MAIN, body) == (True, b"a"), "elsewhere it needs another channel's number"


def test_a_body_is_split_as_the_broker_agreed(desk: Desk) -> None:
    desk.publish("x" * 10_000)
    assert desk.written.count(b"\x03\0\x01") == 3
    assert desk.sent() == [(MAIN, b"x" * 10_000)]


def test_headers_beyond_a_frame_are_the_callers_error(desk: Desk) -> None:
    """A content header cannot be split; sent whole it costs everybody's connection (501)."""
    entry = Outgoing(
        "",
        "key",
        b"",
        b"h" * 4077,
        b"body",
        deadline=10.0,
        on_done=lambda _entry: None,
        mandatory=True,
        may_repeat=True,
        wire=b"wire",
    )
    assert published(desk.publisher.admit(entry, NOW)) == []
    assert not error_of(entry, InvalidMessage).maybe_sent
    fits = outgoing("fits")
    fits.header = b"h" * 4076
    assert published(desk.publisher.admit(fits, NOW)) == [(MAIN, b"fits")]
    desk.answer(ack(MAIN, 1))
    assert is_confirmed(fits)


def test_is_awaited_on_either_lane_and_before_it(desk: Desk) -> None:
    assert not desk.publisher.is_awaited(NOW)
    main, proving, waiting = desk.publish("a"), desk.publish("b", "new"), desk.publish("c", "new")
    for entry in (main, proving, waiting):
        assert desk.publisher.is_awaited(NOW)
        entry.abandoned = True
    assert not desk.publisher.is_awaited(NOW)


# The proving lane.


def test_the_first_to_an_exchange_goes_alone_over_another_channel(desk: Desk) -> None:
    a, b, other = desk.publish("a", "new"), desk.publish("b", "new"), desk.publish("other")
    [(proving, _a), (main, _other)] = desk.sent()
    assert (proving, main) == (3, MAIN)
    assert (desk.publisher.in_flight, desk.publisher.waiting_count) == (2, 1)
    assert desk.publisher.waiting() == [b]
    desk.answer(ack(proving, 1))
    assert is_confirmed(a)
    assert desk.sent() == [(MAIN, b"b")], "proven: the main lane takes it"
    desk.answer(ack(MAIN, 2, multiple=True))
    assert is_confirmed(b) and is_confirmed(other)
    desk.publish("c", "new")
    assert desk.sent() == [(MAIN, b"c")]


def test_an_unknown_exchange_harms_no_neighbour(desk: Desk) -> None:
    neighbours = [desk.publish("neighbour"), desk.publish("good exchange", "good")]
    [_main, (proving, _body)] = desk.sent()
    desk.answer(ack(proving, 1))
    bad, after = desk.publish("bad", "nowhere"), desk.publish("after", "nowhere")
    new = desk.publish("other new one", "new")
    (bad_lane, first), (new_lane, second) = desk.sent()
    assert (first, second) == (b"bad", b"other new one") and bad_lane != new_lane
    desk.answer(closed(bad_lane, 404, "NOT_FOUND - no exchange 'nowhere'"))
    error = error_of(bad, Rejected)
    assert (error.reply_code, error.maybe_sent) == (404, False)  # type: ignore[attr-defined]
    assert "nowhere" in str(error)
    assert desk.sent_methods() == [
        (bad_lane, "channel.close-ok"),
        (bad_lane, "channel.open"),
        (bad_lane, "confirm.select"),
        (bad_lane, "basic.publish"),
    ]
    desk.answer(closed(bad_lane, 404))
    assert error_of(after, Rejected)
    desk.answer(ack(new_lane, 1))
    desk.answer(ack(MAIN, 1))
    assert all(is_confirmed(each) for each in [*neighbours, new])


def test_so_many_are_on_trial_at_once(desk: Desk) -> None:
    """The others have their turn when one ends; those that nobody waits for any more are passed over."""
    entries = [desk.publish(str(number), f"x{number}", deadline=2.0 + number / 64) for number in range(AT_ONCE + 3)]
    first = desk.sent()
    assert len({channel for channel, _body in first}) == len(first) == AT_ONCE
    entries[AT_ONCE].abandoned = True
    desk.answer(ack(first[0][0], 1))
    assert is_confirmed(entries[0])
    assert [body for _channel, body in desk.sent()] == [str(AT_ONCE + 1).encode()]
    over_at = entries[1].deadline
    assert desk.publisher.due_at() == over_at, "the next one's time is over"
    desk.advance(over_at)
    assert [body for _channel, body in desk.sent()] == [str(AT_ONCE + 2).encode()]
    for channel, _body in first[1:]:
        desk.answer(ack(channel, 1), over_at)
    assert not error_of(entries[AT_ONCE], ConfirmTimeout).maybe_sent
    assert desk.publisher.in_flight == 2


def test_a_trial_that_is_not_answered_holds_up_nobody_for_longer_than_its_own_time(desk: Desk) -> None:
    sick = desk.publish("sick", "new", deadline=2.0)
    waiting = desk.publish("waiting", "new", deadline=9.0)
    [(silent, _body)] = desk.sent()
    assert desk.publisher.due_at() == 2.0
    desk.advance(2.0)
    [(channel, body)] = desk.sent()
    assert channel != silent and body == b"waiting"
    desk.answer(ack(channel, 1), 2.0)
    assert is_confirmed(waiting) and not sick.is_done
    desk.sent()
    desk.answer(ack(silent, 1), 3.0)
    assert desk.sent_methods() == [(silent, "channel.close")], "which is closed when it was answered for after all"
    assert not desk.publisher.is_busy


def test_the_brokers_limit_of_channels_is_kept(desk: Desk) -> None:
    """Beyond it RabbitMQ ends the connection (530); one that is being closed counts. One trial there always is."""
    desk.channels.most = KEPT_FREE + 4
    desk.publish("main")
    entries = [desk.publish(str(number), f"x{number}") for number in range(20)]
    answered = 0
    while written := desk.sent_methods():
        assert len(desk.channels) + len(desk.channels._closing) <= KEPT_FREE + 4
        for channel, name in written:
            if name == "basic.publish" and channel != MAIN:
                desk.answer(ack(channel, 1))
                answered += 1
            elif name == "channel.close":
                desk.answer(Inbound(channel, CHANNEL_CLOSE_OK, b""))
    assert answered == 20 and all(map(is_confirmed, entries))
    desk.channels.most = 1
    assert desk.publish("one", "another") and desk.sent()


def test_while_the_broker_takes_none_nothing_is_tried() -> None:
    """A message that was not sent is to be told so when its time is over."""
    is_held = False
    desk = Desk(lambda: is_held)
    desk.publish("in flight", "new", deadline=2.0)
    waits = desk.publish("waits", "new", deadline=9.0)
    desk.publish("refused")
    desk.answer(nack(MAIN, 1))
    desk.sent()
    is_held = True
    assert desk.publisher.due_at() == float("inf")
    desk.advance(3.0)
    assert desk.sent() == [] and not waits.maybe_sent
    is_held = False
    desk.advance(3.0)
    assert {body for _channel, body in desk.sent()} == {b"waits", b"refused"}


def test_what_waits_on_trial_and_is_wanted_no_more_does_not_pile_up(desk: Desk) -> None:
    desk.publish("silent", "new", deadline=99.0)
    late, wanted = desk.publish("late", "new", deadline=2.0), desk.publish("wanted", "new", deadline=9.0)
    desk.advance(NOW)
    desk.advance(NOW + SWEEP_EVERY)
    assert late.is_done and not wanted.is_done
    assert not error_of(late, ConfirmTimeout).maybe_sent


def test_thousands_of_destinations_cost_no_more_each(desk: Desk) -> None:
    """Counted by the steps of a turn: with 4,000 of them a message is looked at as often as with 40."""

    def steps(count: int) -> float:
        desk = Desk()
        counted = 0

        def count_one(_frame: object, _event: str, _argument: object) -> None:
            nonlocal counted
            counted += 1

        sys.setprofile(count_one)
        try:
            for number in range(count):
                desk.publish("x", f"x{number}")
        finally:
            sys.setprofile(None)
        return counted / count

    assert steps(4000) < 1.5 * steps(400)


def test_no_more_channels_are_left_to_what_is_in_flight_than_the_broker_allows(desk: Desk) -> None:
    for number in range(RETIRED_AT_MOST + 1):
        desk.publish("sick", "new", deadline=NOW + number + 1)
        desk.advance(NOW + number + 1)
    assert len(desk.publisher._retired) == RETIRED_AT_MOST
    assert desk.publisher.due_at() == float("inf"), "nothing to do: a time that is over would make the loop spin"


def test_who_gives_up_knows_whether_it_was_sent(desk: Desk) -> None:
    """The caller gives up between the look whether it is wanted and the write: it has been told that it is not sent."""

    class GivesUp(Outgoing):
        __slots__ = ()

        def is_wanted(self, now: float) -> bool:
            self.abandoned = True
            return True

    entry = outgoing("late")
    entry.__class__ = GivesUp
    assert desk.publisher.admit(entry, NOW) == b""
    assert not entry.maybe_sent and entry.was_dropped


def test_an_unknown_exchange_is_not_proven_by_another(desk: Desk) -> None:
    desk.publish("bad", "nowhere")
    desk.answer(closed(3, 404))
    desk.sent()
    desk.publish("again", "nowhere")
    assert desk.sent() == [(3, b"again")]


def test_those_that_wait_for_the_trial_can_expire(desk: Desk) -> None:
    desk.publish("first", "new")
    late = desk.publish("late", "new", deadline=2.0)
    desk.sent()
    desk.answer(ack(3, 1), now=3.0)
    assert desk.sent() == []
    assert not error_of(late, ConfirmTimeout).maybe_sent


# The main lane is closed all the same.


def test_suspects_are_tried_one_at_a_time(desk: Desk) -> None:
    entries = [desk.publish(name) for name in ("a", "bad", "c")]
    desk.sent()
    desk.answer(closed(MAIN, 406, "PRECONDITION_FAILED - message size"))
    tried = []
    for answer in (ack, None, ack):
        [(channel, body)] = desk.sent()
        assert channel != MAIN
        tried.append(body)
        if answer is None:
            desk.answer(closed(channel, 406, "PRECONDITION_FAILED - message size"))
        else:
            desk.answer(answer(channel, 1))
    assert tried == [b"a", b"bad", b"c"]
    a, bad, c = entries
    assert is_confirmed(a) and is_confirmed(c)
    assert error_of(bad, Rejected).reply_code == 406  # type: ignore[attr-defined]


def test_the_only_one_in_flight_is_the_one(desk: Desk) -> None:
    confirmed, bad = desk.publish("good"), desk.publish("bad")
    desk.answer(ack(MAIN, 1))
    desk.sent()
    desk.answer(closed(MAIN, 406))
    assert error_of(bad, Rejected)
    assert is_confirmed(confirmed)
    assert desk.sent() == []


def test_a_deleted_exchange_has_to_be_proven_again(desk: Desk) -> None:
    desk.publish("proves", "x")
    desk.answer(ack(3, 1))
    desk.publish("gone", "x")
    desk.sent()
    desk.answer(closed(MAIN, 404))
    desk.publish("next", "x")
    assert MAIN not in [channel for channel, _body in desk.sent()]


def test_without_repetition_a_suspect_is_lost(desk: Desk) -> None:
    once, again = desk.publish("once", may_repeat=False), desk.publish("again")
    desk.sent()
    desk.answer(closed(MAIN, 406))
    assert error_of(once, ConnectionLost).maybe_sent
    [(_channel, body)] = desk.sent()
    assert body == b"again" and not again.is_done


def test_after_the_close_the_main_lane_opens_again(desk: Desk) -> None:
    desk.publish("bad")
    desk.sent()
    desk.answer(closed(MAIN, 406))
    good = desk.publish("good")
    assert desk.sent_methods()[-3:] == [(MAIN, "channel.open"), (MAIN, "confirm.select"), (MAIN, "basic.publish")]
    desk.answer(ack(MAIN, 1))
    assert is_confirmed(good)


# Refused: basic.nack.


def test_a_nack_is_tried_again_on_another_channel_after_a_pause(desk: Desk) -> None:
    entry = desk.publish("a")
    desk.sent()
    desk.answer(nack(MAIN, 1))
    assert desk.publisher.due_at() == NOW + NACK_PAUSE
    desk.advance(NOW + NACK_PAUSE / 2)
    assert desk.sent() == []
    desk.advance(NOW + NACK_PAUSE)
    [(channel, body)] = desk.sent()
    assert (channel != MAIN, body) == (True, b"a")
    desk.answer(ack(channel, 1))
    assert is_confirmed(entry)
    assert not desk.publisher.is_busy


def test_enough_nacks_are_final(desk: Desk) -> None:
    entry = desk.publish("a")
    now = NOW
    for tries in range(1, TRIES_AFTER_NACKS + 1):
        assert not entry.is_done
        [(channel, _body)] = desk.sent()
        desk.answer(nack(channel, 1), now)
        now += min(NACK_PAUSE * 2 ** (tries - 1), LONGEST_PAUSE)
        desk.advance(now)
    error = error_of(entry, Rejected)
    assert "its queue is full" in str(error)
    assert error.reply_code == 0  # type: ignore[attr-defined]
    assert desk.sent() == [] and desk.publisher.in_flight == 0
    assert 3.0 < now - NOW < 5.0, "an election of a quorum queue's leader takes seconds"


def test_a_nack_of_several_keeps_their_order(desk: Desk) -> None:
    entries = [desk.publish(name) for name in "abc"]
    desk.sent()
    desk.answer(nack(MAIN, 3, multiple=True))
    desk.advance(NOW + NACK_PAUSE)
    order = []
    for _ in range(3):
        [(channel, body)] = desk.sent()
        order.append(body)
        desk.answer(ack(channel, len(order)))
    assert order == [b"a", b"b", b"c"]
    assert all(is_confirmed(each) for each in entries)


def test_each_try_has_a_fresh_channel(desk: Desk) -> None:
    """RabbitMQ 3.10 answers nack for as long as a channel lives whose first message met a leader election."""
    desk.publish("a", "new")
    [(first, _body)] = desk.sent()
    desk.answer(nack(first, 1))
    desk.advance(NOW + NACK_PAUSE)
    assert (first, "channel.close") in methods(desk.written)
    [(second, _body)] = desk.sent()
    assert second != first


def test_a_main_lane_that_refuses_is_left_to_what_is_in_flight(desk: Desk) -> None:
    """Messages go on over another channel meanwhile, also when one of those in flight is never answered."""
    wire = message_frames(MAIN, encoded_route("", "key", True), b"\0\0", b"for the main lane", 4096)
    first, second = desk.publish("a"), desk.publish("b", wire=wire)
    desk.sent()
    desk.answer(nack(MAIN, 1))
    third = desk.publish("c", wire=wire)
    [(substitute, body)] = desk.sent()
    assert substitute != MAIN and body == b"c"
    desk.answer(ack(MAIN, 2))
    assert is_confirmed(second)
    assert desk.sent_methods() == [(MAIN, "channel.close")]
    fourth = desk.publish("d")
    assert desk.sent() == [(substitute, b"d")], "a second channel.open before close-ok would cost the connection"
    desk.answer(Inbound(MAIN, CHANNEL_CLOSE_OK, b""))
    fifth = desk.publish("e")
    assert desk.sent_methods() == [(MAIN, "channel.open"), (MAIN, "confirm.select"), (MAIN, "basic.publish")]
    desk.answer(ack(substitute, 2, multiple=True))
    assert desk.sent_methods() == [(substitute, "channel.close")]
    desk.answer(ack(MAIN, 1))
    assert all(is_confirmed(each) for each in (third, fourth, fifth))
    assert not first.is_done


def test_a_queue_that_stays_full_does_not_cost_a_channel_for_each_message(desk: Desk) -> None:
    desk.publish("a"), desk.publish("b")
    desk.sent()
    desk.answer(nack(MAIN, 1))
    desk.publish("c")
    [(substitute, _body)] = desk.sent()
    desk.answer(nack(substitute, 1))
    desk.publish("d")
    assert desk.sent() == [(substitute, b"d")]
    desk.answer(nack(substitute, 2), NOW + RENEW_EVERY)
    assert desk.sent_methods() == [(substitute, "channel.close")]


def test_a_main_lane_that_was_left_and_is_closed_may_be_opened_again(desk: Desk) -> None:
    desk.publish("a"), desk.publish("to an exchange that is gone")
    desk.sent()
    desk.answer(nack(MAIN, 1))
    desk.answer(closed(MAIN, 404))
    desk.sent()
    desk.publish("c")
    assert desk.sent_methods()[-1:] == [(MAIN, "basic.publish")]


def test_what_waits_after_a_nack_goes_over_the_next_connection(desk: Desk) -> None:
    entry = desk.publish("a")
    desk.answer(nack(MAIN, 1))
    desk.channels.lost()
    assert desk.publisher.lost("gone", is_refusal=False) == [entry]
    assert not desk.publisher.is_busy


def test_without_repetition_a_nack_is_final(desk: Desk) -> None:
    assert desk.publish("a", may_repeat=False)
    entry = desk.publish("b", may_repeat=False)
    desk.answer(nack(MAIN, 2))
    assert not error_of(entry, Rejected).maybe_sent, "one queue, and that refused"


def test_a_nack_leaves_open_what_another_queue_did(desk: Desk) -> None:
    desk.publish("proves", "x")
    [(trial, _body)] = desk.sent()
    desk.answer(ack(trial, 1))
    entry = desk.publish("b", "x", may_repeat=False)
    desk.answer(nack(MAIN, 1))
    assert error_of(entry, Rejected).maybe_sent


# The connection is lost.


def test_lost_gives_what_is_to_be_sent_again_in_order(desk: Desk) -> None:
    main = [desk.publish(name) for name in "ab"]
    proving, waiting = desk.publish("c", "new"), desk.publish("d", "new")
    assert desk.publisher.lost("reset", is_refusal=False) == [*main, proving, waiting]
    assert desk.publisher.in_flight == 0
    assert not desk.notified
    assert all(each.maybe_sent for each in (*main, proving))
    assert not waiting.maybe_sent


def test_lost_without_repetition(desk: Desk) -> None:
    sent, unsent = desk.publish("a", "new", may_repeat=False), desk.publish("b", "new", may_repeat=False)
    assert desk.publisher.lost("reset by peer", is_refusal=False) == [unsent]
    error = error_of(sent, ConnectionLost)
    assert error.maybe_sent and "reset by peer" in str(error)


def test_lost_forgets_what_came_back(desk: Desk) -> None:
    entry = desk.publish("a")
    desk.answer(returned(MAIN, "", "key", b"a"))
    assert desk.publisher.lost("reset", is_refusal=False) == []
    assert error_of(entry, Unroutable)


def test_what_ends_every_connection_is_given_up(desk: Desk) -> None:
    """A message that the broker answers with a closed connection must not be sent for ever."""
    entry = desk.publish("deadly")
    for number in range(TRIES_AFTER_REFUSALS - 1):
        assert desk.publisher.lost("501 FRAME_ERROR", is_refusal=True) == [entry], number
        desk.channels.lost()
        desk.publisher.admit(entry, NOW)
    assert desk.publisher.lost("501 FRAME_ERROR", is_refusal=True) == []
    assert "501 FRAME_ERROR" in str(entry.error)


def test_losses_without_a_refusal_may_go_on(desk: Desk) -> None:
    entry = desk.publish("patient")
    for _ in range(10):
        assert desk.publisher.lost("reset", is_refusal=False) == [entry]
        desk.channels.lost()
        desk.publisher.admit(entry, NOW)


@pytest.mark.parametrize("answer", [returned(MAIN, "", "key", b"a"), closed(MAIN, 406)], ids=["return", "close"])
def test_a_refusal_after_an_earlier_try_leaves_maybe_sent(desk: Desk, answer: Inbound) -> None:
    """The first copy may have arrived before the connection broke: False would be a lie."""
    entry = desk.publish("a")
    [again] = desk.publisher.lost("reset", is_refusal=False)
    desk.channels.lost()
    desk.publisher.admit(again, NOW)
    desk.answer(answer)
    assert error_of(entry, MessagingError).maybe_sent


def test_give_up_fails_the_open_ones_with_errors_of_their_own(desk: Desk) -> None:
    done, open_ones = outgoing("done"), [outgoing("a"), outgoing("b")]
    done.finish()
    open_ones[0].maybe_sent = True
    desk.publisher.give_up([done, *open_ones], Closed("closed"))
    assert done.error is None
    errors = [error_of(each, Closed) for each in open_ones]
    assert [error.maybe_sent for error in errors] == [True, False]
    assert errors[0] is not errors[1]
