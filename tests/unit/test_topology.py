"""What was declared through us, and what of it belongs to a queue or a route."""

from __future__ import annotations

from dataclasses import replace

from wsgi_messaging.connection import topology as made_of
from wsgi_messaging.connection.topology import (
    RESTING_KEPT,
    Declaration,
    Topology,
    bind_queue,
    declare_exchange,
    declare_queue,
    with_queue,
)


def exchange(name: str) -> Declaration:
    return declare_exchange(name, "topic", passive=False, durable=True, auto_delete=False, internal=False, arguments={})


def queue(name: str) -> Declaration:
    return declare_queue(name, passive=False, durable=True, exclusive=False, auto_delete=False, arguments={})


X, Y = exchange("x"), exchange("y")
A, B = queue("a"), queue("b")
A_TO_X, B_TO_X, B_TO_Y = bind_queue("a", "x", "k", {}), bind_queue("b", "x", "k", {}), bind_queue("b", "y", "k", {})
ALL = [X, Y, A, B, A_TO_X, B_TO_X, B_TO_Y]


def topology(*made: Declaration) -> Topology:
    recorded = Topology()
    for each in made:
        recorded.record(each)
    return recorded


def test_a_queue_comes_with_its_bindings_and_their_exchanges_in_order() -> None:
    assert topology(*ALL).of_queue("a") == [X, A, A_TO_X]
    assert topology(*ALL).of_queue("b") == [X, Y, B, B_TO_X, B_TO_Y]
    assert topology(*ALL).of_queue("c") == []


def test_the_default_exchanges_route_is_the_queue() -> None:
    assert topology(*ALL).of_route("", "a") == [X, A, A_TO_X]
    assert topology(*ALL).of_route("", "c") == []


def test_an_exchanges_route_is_all_that_is_bound_to_it() -> None:
    assert topology(*ALL).of_route("x", "whatever") == ALL
    assert topology(*ALL).of_route("y", "whatever") == [X, Y, B, B_TO_X, B_TO_Y]
    assert topology(X, A).of_route("x", "k") == [X]
    assert topology(*ALL).of_route("z", "k") == []


def test_recorded_once() -> None:
    recorded = topology(A, B, A, queue("a"))
    assert recorded.of_queue("a") == [A]


def test_with_other_arguments_it_is_another_declaration() -> None:
    longer = declare_queue(
        "a", passive=False, durable=True, exclusive=False, auto_delete=False, arguments={"x-max-length": 1}
    )
    assert topology(A, longer).of_queue("a") == [A, longer]


def test_forget() -> None:
    recorded = topology(*ALL)
    recorded.forget(queue="b")
    assert recorded.of_queue("b") == []
    assert recorded.of_route("x", "k") == [X, A, A_TO_X]
    recorded.forget(exchange="x")
    assert recorded.of_queue("a") == [A]
    recorded.forget()
    assert recorded.of_queue("a") == [A]


# A queue that the broker named.

NAMED = replace(queue(""), queue="amq.gen-1", is_named_by_broker=True)
NAMED_TO_X = replace(bind_queue("amq.gen-1", "x", "k", {"a": 1}), is_named_by_broker=True)


def test_a_queue_that_the_broker_named_is_made_once_more_as_the_one_declared_last() -> None:
    methods, name = topology(X, NAMED, NAMED_TO_X).once_more("amq.gen-1")
    assert name == ""
    assert methods == [
        (made_of.EXCHANGE_DECLARE, X.arguments),
        (made_of.QUEUE_DECLARE, queue("").arguments),
        (made_of.QUEUE_BIND, bind_queue("", "x", "k", {"a": 1}).arguments),
    ]


def test_one_that_we_named_is_made_once_more_by_its_name() -> None:
    methods, name = topology(X, A, A_TO_X).once_more("a")
    assert name == "a"
    assert [arguments for _method, arguments in methods] == [X.arguments, A.arguments, A_TO_X.arguments]


def test_its_new_name_is_that_of_its_bindings_too() -> None:
    recorded = topology(X, NAMED, A, NAMED_TO_X)
    recorded.rename("amq.gen-1", "amq.gen-2")
    assert recorded.of_queue("amq.gen-1") == []
    [_exchange, named, bound] = recorded.of_queue("amq.gen-2")
    assert named == replace(NAMED, queue="amq.gen-2")
    assert bound.arguments == bind_queue("amq.gen-2", "x", "k", {"a": 1}).arguments
    assert recorded.of_queue("a") == [A]


def test_one_of_ours_takes_its_new_name_with_it() -> None:
    for made, expected in ((A, B), (A_TO_X, B_TO_X)):
        assert made_of.renamed(made, "b") == expected


def test_a_publisher_does_not_make_it_once_more() -> None:
    """It would have another name. What binds it may be missing while it is there."""
    recorded = topology(X, A, NAMED, A_TO_X, NAMED_TO_X)
    assert recorded.of_route("", "amq.gen-1") == [X]
    assert recorded.of_route("x", "k") == [X, A, A_TO_X, NAMED_TO_X]


def fleeting(name: str) -> Declaration:
    return declare_queue(name, passive=False, durable=False, exclusive=True, auto_delete=True, arguments={})


def test_what_went_with_its_consumer_is_not_made_for_a_publisher() -> None:
    recorded = topology(X, fleeting("f"), bind_queue("f", "x", "k", {}), A, A_TO_X)
    recorded.rest("f")
    recorded.rest("a")
    assert recorded.of_route("x", "k") == [X, A, A_TO_X]
    assert recorded.of_route("", "f") == []
    assert recorded.once_more("f")[0], "but for who consumes it again"
    recorded.record(fleeting("f"))
    assert recorded.of_route("", "f") == [X, fleeting("f"), bind_queue("f", "x", "k", {})]


def test_of_many_that_went_with_their_consumers_the_last_are_remembered() -> None:
    recorded = topology(X)
    for number in range(RESTING_KEPT + 5):
        recorded.record(fleeting(f"f{number}"))
        recorded.record(bind_queue(f"f{number}", "x", "k", {}))
        recorded.rest(f"f{number}")
        if number == 0:
            recorded.wake("f0")
    assert recorded.of_queue("f0"), "it is in use again"
    assert [number for number in range(1, RESTING_KEPT + 5) if not recorded.of_queue(f"f{number}")] == [1, 2, 3, 4]


def test_another_queues_arguments() -> None:
    for name in ("", "other", "q" * 255):
        assert with_queue(A_TO_X.arguments, name) == bind_queue(name, "x", "k", {}).arguments


def test_what_is_said_of_them() -> None:
    assert [each.what for each in (X, A, A_TO_X)] == [
        "exchange 'x'",
        "queue 'a'",
        "binding of queue 'a' to exchange 'x' by 'k'",
    ]
