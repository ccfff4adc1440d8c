"""The transition table: every pair of it, and every pair that is not in it."""

from __future__ import annotations

import itertools

import pytest

from wsgi_messaging.connection.state import Event, IllegalTransition, State, after, transitions

LEGAL = {
    (State.NEW, Event.OPEN): State.CONNECTING,
    (State.NEW, Event.CLOSE): State.CLOSED,
    (State.CONNECTING, Event.OPENED): State.READY,
    (State.CONNECTING, Event.FAILED): State.WAITING,
    (State.CONNECTING, Event.CLOSE): State.CLOSED,
    (State.READY, Event.ALARM): State.BLOCKED,
    (State.READY, Event.LOST): State.WAITING,
    (State.READY, Event.CLOSE): State.CLOSING,
    (State.BLOCKED, Event.ALARM): State.BLOCKED,
    (State.BLOCKED, Event.ALL_CLEAR): State.READY,
    (State.BLOCKED, Event.LOST): State.WAITING,
    (State.BLOCKED, Event.CLOSE): State.CLOSING,
    (State.WAITING, Event.OPEN): State.CONNECTING,
    (State.WAITING, Event.CLOSE): State.CLOSED,
    (State.CLOSING, Event.ALARM): State.CLOSING,
    (State.CLOSING, Event.ALL_CLEAR): State.CLOSING,
    (State.CLOSING, Event.LOST): State.CLOSED,
    (State.CLOSING, Event.ENDED): State.CLOSED,
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)), ids=lambda each: each.name)
def test_every_pair(state: State, event: Event) -> None:
    if (state, event) in LEGAL:
        assert after(state, event) is LEGAL[state, event]
    else:
        with pytest.raises(IllegalTransition, match=f"{event.name} in {state.name}"):
            after(state, event)


def test_transitions_are_the_table() -> None:
    assert {(state, event): target for state, event, target in transitions()} == LEGAL
    assert len(transitions()) == len(LEGAL)


def test_closed_is_the_end_and_reachable_from_everywhere() -> None:
    assert not [event for state, event, _target in transitions() if state is State.CLOSED]
    for start in State:
        reached, new = {start}, {start}
        while new:
            new = {target for state, _event, target in transitions() if state in new} - reached
            reached |= new
        assert State.CLOSED in reached, start


def test_an_open_connection_can_be_lost_and_any_live_one_closed() -> None:
    assert {state for state, event, _target in transitions() if event is Event.LOST} == {
        State.READY,
        State.BLOCKED,
        State.CLOSING,
    }
    assert {state for state, event, _target in transitions() if event is Event.CLOSE} == {*State} - {
        State.CLOSING,
        State.CLOSED,
    }
