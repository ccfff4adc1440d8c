"""Which broker is tried when, and how little is said about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from wsgi_messaging.connection import connecting
from wsgi_messaging.connection.connecting import FIRST_WITHIN, STABLE_AFTER, Attempts
from wsgi_messaging.connection.hosts import Broker
from wsgi_messaging.connection.link import Interrupted, LinkOptions
from wsgi_messaging.errors import ConnectFailed

A, B = Broker("a", 1), Broker("b", 2)


@dataclass
class Link:
    """What an attempt gives, as far as the attempts look at it."""

    broker: Broker


@dataclass
class Clock:
    """Stands at the beginning of the attempt that is made, until it ends."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


@dataclass
class Network:
    """Answers each attempt: a reason to fail, or None for a link; and how long that takes."""

    takes: float = 0.0
    reasons: dict[str, Exception | None] = field(default_factory=dict)
    tried: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)

    def open_link(self, broker: Broker, *_rest: object) -> Link:
        CLOCK.now += self.takes
        self.tried.append(broker.host)
        self.logins.append(f"{broker.userid}:{broker.password}")
        reason = self.reasons.get(broker.host)
        if reason is not None:
            raise reason
        return Link(broker)


class Journal:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.info = self.warning = self.error = self.lines.append

    def ask(self, question: Callable[[], object], _timeout: float) -> object:
        return question()


class Chance:
    """No chance at all: the order stays, and every pause is the longest of its round, or such a part of it."""

    part = 1.0

    def shuffle(self, _order: list[Broker]) -> None:
        """As it was."""

    def random(self) -> float:
        return self.part


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network()
    monkeypatch.setattr(connecting, "open_link", made.open_link)
    monkeypatch.setattr(connecting, "_CHANCE", Chance())
    return made


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def make(network: Network, journal: Journal) -> Callable[..., Attempts]:
    return lambda *brokers: Attempts("app", brokers, LinkOptions(), None, journal, CLOCK)  # type: ignore[arg-type]


def attempt(attempts: Attempts, now: float) -> Link | None:
    CLOCK.now = now
    return attempts.attempt(lambda *_arguments: None, now)  # type: ignore[return-value]


def refused(text: str = "refused", *, is_permanent: bool = False) -> ConnectFailed:
    return ConnectFailed(text, is_permanent=is_permanent)


def test_the_other_hosts_of_a_round_are_tried_at_once(make: Callable[..., Attempts], network: Network) -> None:
    network.reasons = {"a": refused(), "b": refused()}
    attempts = make(A, B)
    assert attempt(attempts, 10.0) is None
    assert attempts.retry_at == 10.0
    assert attempt(attempts, 10.0) is None
    assert attempts.retry_at == 10.25
    assert network.tried == ["a", "b"]


def test_rounds_slow_down(make: Callable[..., Attempts], network: Network) -> None:
    network.reasons = {"a": refused()}
    attempts = make(A)
    pauses = []
    for _ in range(5):
        attempt(attempts, 0.0)
        pauses.append(attempts.retry_at)
    assert pauses == [0.25, 0.5, 1.0, 2.0, 2.0]


def test_a_pause_begins_when_the_attempt_has_ended(make: Callable[..., Attempts], network: Network) -> None:
    """From its beginning, a pause after an attempt that timed out would be over: no rest for who is overloaded."""
    network.reasons, network.takes = {"a": refused("no answer"), "b": refused("no answer")}, 5.0
    attempts = make(A, B)
    attempt(attempts, 10.0)
    assert attempts.retry_at == 15.0, "the next host of the round at once"
    attempt(attempts, 15.0)
    assert attempts.retry_at == 20.25
    assert attempts.away_since == 10.0


def test_a_link_lives_from_when_it_was_open(make: Callable[..., Attempts], network: Network) -> None:
    network.takes = 3.0
    attempts = make(A)
    for now in (10.0, 20.0):
        link = attempt(attempts, now)
        attempts.lost(link, "reset", now + 3.0 + STABLE_AFTER / 2)  # type: ignore[arg-type]
    assert attempts.retry_at > 23.0 + STABLE_AFTER / 2
    attempt(attempts, 30.0)
    attempts.lost(link, "reset", 33.0 + STABLE_AFTER / 2)  # type: ignore[arg-type]
    assert attempts.retry_at == 33.0 + STABLE_AFTER / 2 + 0.5, "the third short life: the second pause"


def test_one_line_for_each_host_that_fails_and_one_for_the_end_of_it(
    make: Callable[..., Attempts], network: Network, journal: Journal
) -> None:
    network.reasons = {"a": refused("a: refused"), "b": refused("b: refused")}
    attempts = make(A, B)
    for _ in range(9):
        attempt(attempts, 0.0)
    assert journal.lines == ["app: a: refused", "app: b: refused"]
    assert attempts.last_failure is network.reasons["a"]
    network.reasons = {}
    assert attempt(attempts, 0.0) is not None
    assert journal.lines[2:] == ["app: connected to amqp://b:2 after 9 failed attempts"]
    assert attempts.last_failure is None


def test_the_first_success_is_not_worth_a_line(make: Callable[..., Attempts], journal: Journal) -> None:
    assert attempt(make(A), 0.0) is not None
    assert journal.lines == []


def test_after_a_loss_the_next_attempt_is_due_at_once_and_elsewhere(
    make: Callable[..., Attempts], network: Network, journal: Journal
) -> None:
    attempts = make(A, B)
    link = attempt(attempts, 0.0)
    attempts.lost(link, "reset", 100.0)  # type: ignore[arg-type]
    assert attempts.retry_at == 100.0
    assert attempt(attempts, 100.0) == Link(B)
    assert journal.lines == ["app: lost amqp://a:1: reset", "app: connected to amqp://b:2 after 0 failed attempts"]


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_after_the_loss_of_an_only_host_chance_says_when(
    make: Callable[..., Attempts], monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    """Everybody else has lost it, too. Without chance, all of them would come in the same instant."""
    monkeypatch.setattr(Chance, "part", part)
    attempts = make(A)
    link = attempt(attempts, 0.0)
    attempts.lost(link, "reset", 100.0)  # type: ignore[arg-type]
    assert attempts.retry_at == 100.0 + FIRST_WITHIN * part


def test_the_lost_host_is_not_blamed_again_when_it_is_still_away(
    make: Callable[..., Attempts], network: Network, journal: Journal
) -> None:
    attempts = make(A)
    link = attempt(attempts, 0.0)
    attempts.lost(link, "reset", 100.0)  # type: ignore[arg-type]
    network.reasons = {"a": refused("a: refused")}
    for now in range(100, 105):
        attempt(attempts, float(now))
    assert len(journal.lines) == 1


def test_a_lost_host_that_comes_to_refuse_us_is_spoken_of_again(
    make: Callable[..., Attempts], network: Network, journal: Journal
) -> None:
    attempts = make(A)
    link = attempt(attempts, 0.0)
    attempts.lost(link, "reset", 100.0)  # type: ignore[arg-type]
    for reason in [refused("away"), refused("login refused", is_permanent=True)] * 2:
        network.reasons = {"a": reason}
        attempt(attempts, 100.0)
    assert journal.lines == ["app: lost amqp://a:1: reset", "app: login refused"]


def test_one_short_life_is_forgiven(make: Callable[..., Attempts], journal: Journal) -> None:
    attempts = make(A)
    link = attempt(attempts, 0.0)
    attempts.lost(link, "reset", STABLE_AFTER / 2)  # type: ignore[arg-type]
    assert attempts.retry_at == STABLE_AFTER / 2 + FIRST_WITHIN
    attempt(attempts, 1.0)
    assert [line.split(" ")[1] for line in journal.lines] == ["lost", "connected"]


def test_links_that_break_as_soon_as_they_open_are_tried_ever_more_slowly_and_quietly(
    make: Callable[..., Attempts], journal: Journal
) -> None:
    attempts = make(A)
    now, pauses = 0.0, []
    for _ in range(20):
        link = attempt(attempts, now)
        attempts.lost(link, "501 FRAME_ERROR", now + 0.01)  # type: ignore[arg-type]
        pauses.append(attempts.retry_at - now - 0.01)
        now = attempts.retry_at
    assert pauses[0] == pytest.approx(FIRST_WITHIN)
    assert pauses[-1] == pytest.approx(2.0)
    assert pauses == pytest.approx(sorted(pauses))
    assert len(journal.lines) <= 4
    link = attempt(attempts, now)
    assert len([line for line in journal.lines if "connected" in line]) <= 1
    attempts.say_if_due(now + STABLE_AFTER)
    attempts.say_if_due(now + STABLE_AFTER)
    assert journal.lines[-1].startswith("app: connected to"), "it holds: that is said, once"
    attempts.lost(link, "reset", now + 100.0)  # type: ignore[arg-type]
    assert attempts.retry_at == now + 100.0 + FIRST_WITHIN
    assert journal.lines[-1] == "app: lost amqp://a:1: reset"


def test_hopeless_is_a_whole_round_of_refusals_that_waiting_cannot_mend(
    make: Callable[..., Attempts], network: Network
) -> None:
    wrong = refused("login refused", is_permanent=True)
    network.reasons = {"a": wrong, "b": refused()}
    attempts = make(A, B)
    for _ in range(4):
        attempt(attempts, 0.0)
        assert not attempts.is_hopeless
    network.reasons["b"] = wrong
    attempt(attempts, 0.0)
    assert not attempts.is_hopeless, "half a round"
    attempt(attempts, 0.0)
    assert attempts.is_hopeless
    network.reasons = {}
    attempt(attempts, 0.0)
    assert not attempts.is_hopeless


def test_an_interrupt_passes(make: Callable[..., Attempts], network: Network, journal: Journal) -> None:
    network.reasons = {"a": Interrupted()}
    with pytest.raises(Interrupted):
        attempt(make(A), 0.0)
    assert journal.lines == []


def test_a_defect_costs_the_attempt_and_not_the_thread(
    make: Callable[..., Attempts], network: Network, journal: Journal
) -> None:
    network.reasons["a"] = TypeError("not a string")
    attempts = make(A)
    assert attempt(attempts, 0.0) is None and attempt(attempts, 1.0) is None
    assert journal.lines == ["app: amqp://a:1: cannot connect (TypeError: not a string)"]
    network.reasons.clear()
    assert attempt(attempts, 2.0) == Link(A)


def test_credentials_are_asked_for_at_each_attempt(network: Network, journal: Journal) -> None:
    secrets = iter([("user", "first"), ("user", "second")])
    attempts = Attempts("app", [A], LinkOptions(credentials=lambda: next(secrets)), None, journal)  # type: ignore[arg-type]
    link = attempt(attempts, 0.0)
    attempts.lost(link, "reset", 100.0)  # type: ignore[arg-type]
    attempt(attempts, 100.0)
    assert network.logins == ["user:first", "user:second"]


def test_credentials_that_cannot_be_had_are_a_failed_attempt(network: Network, journal: Journal) -> None:
    def fail() -> tuple[str, str]:
        raise LookupError("s3cret")

    attempts = Attempts("app", [A], LinkOptions(credentials=fail), None, journal)  # type: ignore[arg-type]
    assert attempt(attempts, 0.0) is None
    assert "the function for the credentials failed: LookupError" in journal.lines[0]
    assert "s3cret" not in journal.lines[0]
    assert network.tried == []


def test_away_since_the_first_failure_of_a_row(make: Callable[..., Attempts], network: Network) -> None:
    attempts = make(A)
    assert attempts.away_since is None
    network.reasons = {"a": refused()}
    attempt(attempts, 5.0)
    attempt(attempts, 9.0)
    assert attempts.away_since == 5.0
    network.reasons = {}
    attempt(attempts, 10.0)
    assert attempts.away_since is None
