"""Which broker comes next."""

from __future__ import annotations

from wsgi_messaging.connection.hosts import Broker, Hosts

A, B, C = (Broker(name, 5672) for name in "abc")


def as_given(_brokers: list[Broker]) -> None:
    """Shuffles nothing."""


def hosts(*brokers: Broker) -> Hosts:
    return Hosts(brokers, as_given)


def test_a_round_tries_each_once() -> None:
    three = hosts(A, B, C)
    taken = []
    for over in (False, False, True):
        taken.append(three.take())
        assert three.is_round_over is over
    assert taken == [A, B, C]
    assert three.take() is A
    assert not three.is_round_over


def test_the_one_that_worked_comes_last_after_it_is_lost() -> None:
    three = hosts(A, B, C)
    three.take()
    assert three.take() is B
    three.succeeded()
    assert [three.take() for _ in range(3)] == [C, A, B], "one that has just failed does not come before the others"
    assert three.is_round_over
    assert three.take() is C


def test_two_that_are_lost_one_after_the_other_leave_the_third() -> None:
    """The first may hang still."""
    three = hosts(A, B, C)
    for expected in (A, B, C, A):
        assert three.take() is expected
        three.succeeded()


def test_a_single_host_is_tried_again() -> None:
    one = hosts(A)
    one.take()
    one.succeeded()
    assert not one.is_round_over
    assert one.take() is A
    assert one.is_round_over


def test_the_order_is_the_workers_own() -> None:
    brokers = [A, B, C]
    shuffled = Hosts(brokers, lambda order: order.reverse())
    assert [shuffled.take() for _ in range(3)] == [C, B, A]
    assert brokers == [A, B, C], "what was given is not changed"


def test_broker_shows_no_secret() -> None:
    broker = Broker("host", 5671, "user", "secret", "/v", is_tls=True)
    assert str(broker) == "amqps://host:5671//v"
    assert str(Broker("::1", 5672)) == "amqp://[::1]:5672"
    assert "secret" not in repr(broker) and "user" not in repr(broker)
