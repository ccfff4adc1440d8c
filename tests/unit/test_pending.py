"""Delivery tags: who is meant by an answer."""

from __future__ import annotations

import itertools
import random

import pytest

from wsgi_messaging.connection import pending
from wsgi_messaging.connection.pending import Confirms, Outgoing
from wsgi_messaging.errors import ConnectionLost

Notified = list[str]


def outgoing(name: str, notified: Notified | None = None, **changes: object) -> Outgoing:
    options: dict[str, object] = {
        "deadline": 10.0,
        "on_done": lambda _entry: None if notified is None else notified.append(name),
        "mandatory": True,
        "may_repeat": True,
        "wire": None,
        "exchange": "",
        "routing_key": "key",
        **changes,
    }
    exchange, routing_key = options.pop("exchange"), options.pop("routing_key")
    return Outgoing(exchange, routing_key, b"", b"", name.encode(), **options)  # type: ignore[arg-type]


def sent(*names: str) -> Confirms:
    confirms = Confirms()
    for name in names:
        confirms.sent(outgoing(name))
    return confirms


def bodies(entries: list[Outgoing]) -> str:
    return "".join(entry.body.decode() for entry in entries)


def test_one_by_one_in_any_order() -> None:
    for order in itertools.permutations((1, 2, 3)):
        confirms = sent(*"abc")
        assert "".join(bodies(confirms.resolve(tag, False)) for tag in order) == "".join(
            "abc"[tag - 1] for tag in order
        )
        assert len(confirms) == 0


def test_multiple_is_all_up_to_the_tag_in_order_of_publishing() -> None:
    confirms = sent(*"abcde")
    assert bodies(confirms.resolve(3, True)) == "abc"
    assert bodies(confirms.resolve(3, True)) == ""
    assert bodies(confirms.resolve(2, True)) == ""
    assert bodies(confirms.resolve(5, True)) == "de"


def test_multiple_passes_over_what_was_answered() -> None:
    confirms = sent(*"abcde")
    assert bodies(confirms.resolve(2, False)) == "b"
    assert bodies(confirms.resolve(1, False)) == "a"
    assert bodies(confirms.resolve(4, True)) == "cd"
    assert len(confirms) == 1


def test_multiple_zero_is_all_so_far() -> None:
    confirms = sent(*"abc")
    assert bodies(confirms.resolve(0, True)) == "abc"
    confirms.sent(outgoing("d"))
    assert bodies(confirms.resolve(4, False)) == "d"


@pytest.mark.parametrize("tag", [0, 4, 99, 2**64 - 1])
def test_unknown_tags_give_nothing(tag: int) -> None:
    confirms = sent(*"abc")
    assert confirms.resolve(tag, False) == []
    assert len(confirms) == 3


def test_multiple_beyond_the_last_is_all() -> None:
    """A broker that counts wrongly must not make us count for ever."""
    confirms = sent(*"abc")
    assert bodies(confirms.resolve(2**64 - 1, True)) == "abc"
    confirms.sent(outgoing("d"))
    assert bodies(confirms.resolve(4, True)) == "d"


def test_a_duplicate_answer_gives_nothing() -> None:
    confirms = sent(*"ab")
    confirms.resolve(1, False)
    assert confirms.resolve(1, False) == []
    assert confirms.resolve(1, True) == []
    assert bodies(confirms.resolve(2, True)) == "b"


def test_random_answers_resolve_each_exactly_once() -> None:
    chance = random.Random(7)
    for _round in range(50):
        confirms, found, count = Confirms(), [], 0
        for _step in range(60):
            for _ in range(chance.randrange(4)):
                count += 1
                confirms.sent(outgoing(str(count)))
            answered = confirms.resolve(chance.randrange(count + 2), chance.random() < 0.3)
            numbers = [int(entry.body) for entry in answered]
            assert numbers == sorted(numbers)
            found += numbers
        found += [int(entry.body) for entry in confirms.resolve(0, True)]
        assert sorted(found) == list(range(1, count + 1))


# What comes back.


def test_returns_are_matched_in_order() -> None:
    """Twins: the first return is the first one's, and so on; an answer between them changes nothing."""
    confirms = sent("same", "same", "same")
    first = confirms.returned("", "key", b"", b"same")
    assert first is not None
    assert confirms.resolve(1, False) == [first]
    second = confirms.returned("", "key", b"", b"same")
    third = confirms.returned("", "key", b"", b"same")
    assert [second, third] == confirms.resolve(3, True)


def test_a_twin_that_came_back_is_known_by_its_properties() -> None:
    """Its message_id is among them: the other one, whose confirm is on its way, is in a queue."""
    confirms = sent("same", "same", "same")
    for number, entry in enumerate(confirms.entries.values()):
        entry.header = b"id %d" % number
    assert confirms.returned("", "key", b"id 1", b"same") is confirms.entries[2]
    assert confirms.returned("", "key", b"the broker put something in", b"same") is confirms.entries[3]


@pytest.mark.parametrize("answered", [(2, 1), (2,)])
def test_a_twin_is_known_after_ten_thousands_more(answered: tuple[int, ...]) -> None:
    """Answers overtake each other (of a quorum queue and a classic one), and one may come very late."""
    confirms = sent("a", "b")
    for tag in answered:
        confirms.resolve(tag, False)
    for number in range(3, 10_200):
        confirms.sent(outgoing("other"))
        confirms.resolve(number, False)
    for number in range(2):
        confirms.sent(outgoing("same"))
        confirms.entries[confirms.last_tag].header = b"id %d" % number
    assert confirms.returned("", "key", b"id 1", b"same") is confirms.entries[confirms.last_tag]


def test_a_twin_is_known_when_the_broker_has_changed_another_one() -> None:
    confirms = sent("changed", *["same"] * 300)
    for tag, entry in confirms.entries.items():
        entry.header = b"id %d" % tag
    assert confirms.returned("", "key", b"without BCC", b"changed") is confirms.entries[1]
    assert confirms.returned("", "key", b"id 299", b"same") is confirms.entries[299]


def test_returns_that_the_broker_has_changed_cost_no_more_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes BCC out of the headers, for one. Then not every message in flight is looked at for each."""
    looked_at = 0
    monkeypatch.setattr(pending, "LOOKED_THROUGH", 100)

    class Looked(Outgoing):
        __slots__ = ()

        def __getattribute__(self, name: str) -> object:
            nonlocal looked_at
            looked_at += name == "header"
            return super().__getattribute__(name)

    confirms = sent(*["same"] * 400)
    for entry in confirms.entries.values():
        entry.__class__ = Looked
    assert [confirms.returned("", "key", b"changed", b"same") for _ in range(400)] == list(confirms.entries.values())
    assert looked_at < 400 * 110


def test_a_returned_one_stays_until_its_ack() -> None:
    confirms = sent("a", "b")
    entry = confirms.returned("", "key", b"", b"b")
    assert entry is not None and entry.body == b"b"
    assert len(confirms) == 2


def test_only_mandatory_ones_come_back() -> None:
    confirms = Confirms()
    confirms.sent(outgoing("same", mandatory=False))
    confirms.sent(outgoing("same"))
    entry = confirms.returned("", "key", b"", b"same")
    assert confirms.resolve(2, False) == [entry]


@pytest.mark.parametrize(("exchange", "key", "body"), [("x", "key", b"a"), ("", "other", b"a"), ("", "key", b"z")])
def test_what_is_not_ours_is_nobodys(exchange: str, key: str, body: bytes) -> None:
    assert sent("a").returned(exchange, key, b"", body) is None


def test_a_return_out_of_order_is_still_found() -> None:
    confirms = sent(*"abc")
    later, earlier = confirms.returned("", "key", b"", b"c"), confirms.returned("", "key", b"", b"a")
    assert later is not None and earlier is not None
    assert (later.body, earlier.body) == (b"c", b"a")
    later.finish(), earlier.finish()
    assert confirms.returned("", "key", b"", b"a") is None, "each comes back once"


def test_take_all_leaves_nothing() -> None:
    confirms = sent(*"abc")
    confirms.resolve(2, False)
    assert bodies(confirms.take_all()) == "ac"
    assert len(confirms) == 0
    assert confirms.resolve(0, True) == []


def test_is_awaited_while_somebody_waits() -> None:
    confirms = sent(*"ab")
    assert confirms.is_awaited(9.9)
    assert not confirms.is_awaited(10.0)
    for entry in confirms.take_all():
        entry.abandoned = True
        confirms.sent(entry)
    assert not confirms.is_awaited(0.0)


# One message.


def test_finish_is_once() -> None:
    notified: Notified = []
    entry = outgoing("a", notified)
    error = ConnectionLost("broke")
    entry.finish(error)
    entry.finish()
    assert (entry.error, entry.is_done, notified) == (error, True, ["a"])
    assert not error.maybe_sent


def test_an_error_after_sending_says_maybe_sent() -> None:
    entry = outgoing("a")
    entry.maybe_sent = True
    entry.finish(error := ConnectionLost("broke"))
    assert error.maybe_sent


@pytest.mark.parametrize(
    ("change", "is_wanted"), [({}, True), ({"abandoned": True}, False), ({"is_done": True}, False)]
)
def test_is_wanted(change: dict[str, bool], is_wanted: bool) -> None:
    entry = outgoing("a")
    for name, value in change.items():
        setattr(entry, name, value)
    assert entry.is_wanted(9.9) is is_wanted
    assert not entry.is_wanted(10.0)
