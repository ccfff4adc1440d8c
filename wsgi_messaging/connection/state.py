"""The states of one broker connection, and every transition between them.

`after(state, event)` is pure; a pair that is not in the table is a defect of ours and raises. The diagram in the
documentation is generated from this table.

Layer 0: imports `enum`, nothing else.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """What the application may assume of the connection."""

    NEW = "new"
    """Nothing was opened yet; the first publish, consumer or warm-up opens it."""

    CONNECTING = "connecting"
    """A broker is being tried: what is published waits, unsent."""

    READY = "ready"
    """The broker takes messages and answers."""

    BLOCKED = "blocked"
    """The broker has an alarm and takes no messages; deliveries and heartbeats go on."""

    WAITING = "waiting"
    """No broker could be reached; the next attempt has a time. What is published waits, unsent."""

    CLOSING = "closing"
    """What was accepted is being finished and the broker told good-bye; nothing new is accepted."""

    CLOSED = "closed"
    """The end: the socket is gone and the thread has ended or is about to."""


class Event(Enum):
    """What can happen to a connection."""

    OPEN = "open"
    """Somebody needs the connection, or the time of the next attempt has come."""

    OPENED = "opened"
    """The AMQP handshake has succeeded."""

    FAILED = "failed"
    """The attempt has failed."""

    LOST = "lost"
    """An open connection broke, fell silent, or was closed by the broker."""

    ALARM = "alarm"
    """The broker sent `connection.blocked`."""

    ALL_CLEAR = "all clear"
    """The broker sent `connection.unblocked`."""

    CLOSE = "close"
    """The application wants to end."""

    ENDED = "ended"
    """The closing handshake is over, or its time is."""


_TABLE: dict[tuple[State, Event], State] = {
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


class IllegalTransition(Exception):
    """An event came in a state that cannot have it: a defect of this package."""


def after(state: State, event: Event) -> State:
    """The state that follows. Raises: `IllegalTransition` for a pair that is not in the table."""
    try:
        return _TABLE[state, event]
    except KeyError as exc:
        raise IllegalTransition(f"{event.name} in {state.name}") from exc


def transitions() -> list[tuple[State, Event, State]]:
    """The whole table, in its order: for the diagram and for tests."""
    return [(state, event, target) for (state, event), target in _TABLE.items()]
