"""Callers whose messages were answered together gather, and one of them writes for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.test_pending import outgoing
from tests.unit.test_shortcut import Desk, elsewhere
from wsgi_messaging.connection.crowd import RESTS_AT_MOST, Crowd
from wsgi_messaging.connection.pending import Outgoing


class Place:
    """A connection on which so many messages are in flight; its thread is asleep."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.incoming: Callable[[], object] = bool
        inlet: Any = SimpleNamespace(read=lambda _link: self.incoming())
        self.crowd = Crowd(self.desk.outlet, self.desk.publisher, inlet, self.desk.shortcut)

    def answered(self, some: int, in_flight: int = 0) -> None:
        """Some messages are answered by what the thread reads, and so many others are not."""
        confirms = self.desk.publisher.confirms
        while len(confirms) < some + in_flight:
            confirms.sent(message())
        tags = list(confirms.entries)[:some]
        self.incoming = lambda: [confirms.resolve(tag, multiple=False) for tag in tags]
        self.crowd.read(self.desk.link)

    def in_vain(self) -> None:
        """Nobody comes in time."""
        self.crowd.disperse(is_answered=False)
        self.desk.outlet.outbox.clear()

    def hand_over(self, number: int = 1, *, is_alone: bool = False) -> list[bool]:
        """Which of so many callers need not wake the thread."""
        return [bool(elsewhere(lambda: self.crowd.hand_over(message(), is_alone=is_alone))) for _ in range(number)]

    @property
    def waiting(self) -> int:
        return len(self.desk.outlet.outbox)


def message() -> Outgoing:
    return outgoing("a", [], deadline=float("inf"))


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.desk.watch.close()


def test_nobody_gathers_before_an_answer(place: Place) -> None:
    assert place.hand_over() == [False]
    assert place.waiting == 1 and not place.desk.stream.written


def test_the_last_of_them_writes_for_all(place: Place) -> None:
    place.answered(3, in_flight=5)
    assert place.hand_over(2) == [True, True]
    assert place.waiting == 2 and not place.desk.stream.written
    assert place.hand_over() == [True]
    assert place.waiting == 0 and len(place.desk.publisher.confirms) == 5 + 3


@pytest.mark.parametrize(("answered", "in_flight", "pile"), [(8, 0, 4), (7, 0, 4), (6, 2, 3), (4, 4, 4), (1, 1, 1)])
def test_who_completes_the_half_does_not_wait_for_the_rest(
    place: Place, answered: int, in_flight: int, pile: int
) -> None:
    """The broker works on one half while the other one is made."""
    place.answered(answered, in_flight)
    assert place.hand_over(pile) == [True] * pile
    assert place.waiting == 0
    assert place.hand_over() == [True]
    assert place.waiting == (pile > 1)


def test_one_publisher_is_no_crowd(place: Place) -> None:
    """It has a way of its own, and reads its answer, too."""
    place.answered(1)
    assert not place.crowd.is_gathering
    assert place.hand_over(is_alone=True) == [True]
    assert place.waiting == 0


def test_who_cannot_write_wakes_the_thread(place: Place) -> None:
    place.answered(2, in_flight=2)
    assert place.crowd.hand_over(message(), is_alone=False), "the first one waits for the second"
    assert not place.crowd.hand_over(message(), is_alone=False), "never on the main thread"
    place.desk.stream.takes = 10
    assert place.hand_over() == [False], "the socket takes no more"
    place.desk.stream.takes = 1 << 20
    place.desk.sleep(on_standby=True)
    assert place.hand_over(2) == [True, False], "nobody reads the answer"
    place.desk.shortcut.link = None
    assert place.hand_over(2) == [True, False], "it takes no messages"


def test_what_waits_when_others_are_answered_counts(place: Place) -> None:
    place.answered(4, in_flight=4)
    place.hand_over(3)
    place.answered(2, in_flight=4)
    assert not place.crowd.is_awaited, "three are more than the two who come back"


def test_it_is_over_with_the_sleep(place: Place) -> None:
    place.answered(4, in_flight=4)
    place.crowd.disperse(is_answered=True)
    assert not place.crowd.is_gathering and not place.crowd.is_awaited
    assert place.hand_over() == [False], "the thread is woken"


def test_what_answers_nobody_gathers_nobody(place: Place) -> None:
    place.answered(0, in_flight=8)
    assert not place.crowd.is_gathering


def test_where_they_do_not_come_back_it_is_tried_ever_more_rarely(place: Place) -> None:
    """Fails without the rests: each message behind an answer would be late by the time that gathering takes."""
    passed_by = []
    for _ in range(9):
        passed_by.append(0)
        place.answered(4, in_flight=4)
        while not place.crowd.is_gathering:
            passed_by[-1] += 1
            assert place.hand_over() == [False]
            place.answered(4, in_flight=4)
        place.in_vain()
    assert passed_by == [0, 1, 3, 7, 15, 31, RESTS_AT_MOST, RESTS_AT_MOST, RESTS_AT_MOST]


def test_where_they_come_back_again_it_goes_on(place: Place) -> None:
    place.answered(4, in_flight=4)
    place.in_vain()
    for _ in range(2):
        place.answered(4, in_flight=4)
    assert place.hand_over(4) == [True] * 4
    place.crowd.disperse(is_answered=False)
    place.answered(4, in_flight=4)
    assert place.crowd.is_gathering


def test_an_answer_in_between_says_nothing_of_them(place: Place) -> None:
    for _ in range(2):
        place.answered(4, in_flight=4)
        assert place.crowd.is_gathering
        place.crowd.disperse(is_answered=True)


def test_what_has_waited_does_not_wait_again(place: Place) -> None:
    """Fails without the look at it: answers that come one by one would hold it up until all were answered."""
    place.answered(4, in_flight=20)
    place.hand_over(2)
    place.crowd.disperse(is_answered=True)
    place.answered(4, in_flight=16)
    assert not place.crowd.is_gathering, "the thread writes it now"
    place.desk.outlet.outbox.clear()
    place.answered(4, in_flight=12)
    assert place.crowd.is_gathering


def test_who_waits_for_nobody_needs_no_rest(place: Place) -> None:
    """Two who publish in turns: each writes its own."""
    place.answered(4, in_flight=4)
    place.in_vain()
    place.answered(1, in_flight=1)
    assert place.hand_over() == [True] and not place.waiting
