"""How long a broker that beats may leave messages unanswered, and when it is excused."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.waiting import wait_until
from tests.unit.test_outlet import Socket
from tests.unit.test_pending import outgoing
from tests.unit.test_publishing import MAIN, Desk
from tests.unit.wire import ack, closed
from wsgi_messaging.connection.outlet import Outlet
from wsgi_messaging.connection.patience import (
    FORGOTTEN_AFTER,
    IN_A_ROW,
    LATE_AFTER,
    LOOK_EVERY,
    SILENT_AFTER,
    SILENT_AT_MOST,
    Patience,
)
from wsgi_messaging.connection.pending import Confirms
from wsgi_messaging.runtime import native

NEVER = float("inf")
BEGIN = 100.0
STEP = LOOK_EVERY
ENOUGH = SILENT_AFTER + 2 * STEP
"""Seconds after which it is given up at the latest: until it is first seen, and until it is looked at again."""


class Clock:
    """Looks when a look is due, as the connection's thread does."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.now = BEGIN

    def publish(self, **changes: object) -> None:
        self.desk.publish("a", "", self.now, deadline=NEVER, **changes)

    def look(self, *, is_excused: bool = False) -> None:
        self.desk.publisher.look(self.now, is_excused=is_excused)

    def due_at(self) -> float:
        return min(self.desk.publisher.due_at(), self.desk.publisher.patience.look_at)

    def goes_on(self, seconds: float, *, is_excused: bool = False) -> float | None:
        """Let time pass; after how many seconds the broker was given up."""
        begun, end = self.now, self.now + seconds
        while (due := self.due_at()) <= end:
            self.now = max(self.now, due)
            self.desk.advance(self.now)
            try:
                if self.now >= self.desk.publisher.patience.look_at:
                    self.look(is_excused=is_excused)
            except EOFError:
                return self.now - begun
        self.now = end
        return None


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_is_looked_at_while_nothing_is_in_flight(clock: Clock) -> None:
    assert clock.due_at() == NEVER
    clock.publish()
    assert clock.due_at() == BEGIN + STEP
    clock.desk.answer(ack(MAIN, 1))
    assert clock.goes_on(10 * SILENT_AFTER) is None
    assert clock.due_at() == NEVER


@pytest.mark.parametrize("lane", [{"confirm": True}, {"confirm": False}, {"exchange": "unproven"}])
def test_a_message_that_is_not_answered_ends_it(lane: dict[str, object]) -> None:
    clock = Clock()
    exchange = str(lane.pop("exchange", ""))
    clock.desk.publish("a", exchange, clock.now, deadline=NEVER, **lane)
    given_up = clock.goes_on(10 * SILENT_AFTER)
    assert given_up is not None and SILENT_AFTER <= given_up <= ENOUGH


def test_answers_to_later_messages_do_not_excuse_the_oldest(clock: Clock) -> None:
    """A channel that has lost one message to a partition goes on with those to other queues."""
    clock.publish()
    for tag in range(2, 100):
        clock.publish()
        clock.desk.answer(ack(MAIN, tag))
        if clock.goes_on(1.0) is not None:
            break
    assert SILENT_AFTER <= clock.now - BEGIN <= ENOUGH


def test_the_time_counts_from_when_it_was_sent(clock: Clock) -> None:
    """And not from when an older one was answered."""
    clock.publish(), clock.publish()
    assert clock.goes_on(SILENT_AFTER - STEP) is None
    clock.desk.answer(ack(MAIN, 1))
    given_up = clock.goes_on(SILENT_AFTER)
    assert given_up is not None and given_up <= 3 * STEP


def test_a_broker_that_is_slow_goes_on(clock: Clock) -> None:
    """Two thousand in flight for ten seconds each."""
    for tag in range(1, 2000):
        clock.publish()
        if tag > 200:
            clock.desk.answer(ack(MAIN, tag - 200))
        assert clock.goes_on(0.05) is None


def test_a_new_channel_begins_anew(clock: Clock) -> None:
    """Its messages are numbered from 1 again: they are not those of the one before."""
    for tag in range(1, 100):
        clock.publish()
        clock.desk.answer(ack(MAIN, tag))
    clock.publish()
    assert clock.goes_on(SILENT_AFTER - STEP) is None
    clock.desk.answer(closed(MAIN, 404, "NOT_FOUND"))
    begun = clock.now
    for tag in range(1, 50):
        clock.publish()
        clock.desk.answer(ack(MAIN, tag))
        assert clock.goes_on(1.0) is None
    assert clock.now - begun > ENOUGH


def test_excused_time_does_not_count(clock: Clock) -> None:
    clock.publish()
    assert clock.goes_on(SILENT_AFTER - STEP) is None
    assert clock.goes_on(4 * SILENT_AFTER, is_excused=True) is None
    given_up = clock.goes_on(4 * SILENT_AFTER)
    assert given_up is not None and SILENT_AFTER - STEP <= given_up <= ENOUGH


def gives_up_after(patience: Patience, now: float) -> float:
    confirms = Confirms()
    confirms.sent(outgoing("a"))
    for seconds in range(10**5):
        try:
            patience.look([confirms], now + seconds, is_excused=False)
        except EOFError:
            return float(seconds)
    raise AssertionError("never given up")


def test_after_some_each_takes_twice_as_long_and_after_a_quiet_minute_it_begins_anew() -> None:
    patience = Patience()
    now, waited = BEGIN, []
    for _ in range(IN_A_ROW + 8):
        waited.append(gives_up_after(patience, now))
        now += waited[-1]
    assert waited[:IN_A_ROW] == [SILENT_AFTER] * IN_A_ROW
    assert waited[IN_A_ROW:] == [SILENT_AFTER * 2**power for power in range(1, 6)] + [SILENT_AT_MOST] * 3
    now += FORGOTTEN_AFTER - LATE_AFTER
    assert gives_up_after(patience, now) == SILENT_AT_MOST, "it was not that long"
    assert gives_up_after(patience, now + SILENT_AT_MOST + FORGOTTEN_AFTER + 1) == SILENT_AFTER


def test_who_is_late_is_not_quiet() -> None:
    """A message to a queue without a majority every half a minute: its publisher has given it up when it ends."""
    patience = Patience()
    for _ in range(IN_A_ROW):
        gives_up_after(patience, BEGIN)
    for minute in range(1, 10):
        confirms = Confirms()
        confirms.sent(outgoing("a"))
        for seconds in (0.0, LATE_AFTER):
            patience.look([confirms], BEGIN + 30 * minute + seconds, is_excused=False)
    assert gives_up_after(patience, BEGIN + 300) == 2 * SILENT_AFTER


# Who is excused: what has not come to the broker cannot be answered.


class Wire(Socket):
    """A stream over a real socket."""

    def __init__(self, sock: native.Socket) -> None:
        super().__init__()
        self.sock = sock


@pytest.fixture
def ends() -> Iterator[tuple[native.Socket, socket.socket]]:
    """A TCP connection: our end, and a peer's that reads nothing by itself."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = native.tcp_socket(socket.AF_INET, unacknowledged_ms=60000)
        ours.connect_ex(server.getsockname())
        peer, _address = server.accept()
    with peer:
        yield ours, peer
    ours.close()


def fill(sock: native.Socket) -> None:
    """Send until the peer's kernel takes no more."""
    while True:
        try:
            sock.send(bytes(65536))
        except BlockingIOError:
            return


def outlet_in_flight() -> Outlet:
    desk = Desk()
    desk.publish("a", deadline=NEVER)
    desk.publisher.patience.look_at = 0.0
    return Outlet(desk.publisher)


def is_given_up(outlet: Outlet, wire: Wire, *, is_blocked: bool = False) -> bool:
    try:
        for now in (BEGIN, BEGIN + 1, BEGIN + SILENT_AFTER + 1):
            outlet.look(wire, now, is_blocked=is_blocked)  # type: ignore[arg-type]
            outlet.look(wire, now + STEP, is_blocked=is_blocked)  # type: ignore[arg-type]
    except EOFError as exc:
        assert "a message was not answered for" in str(exc)
        return True
    return False


def test_what_the_peer_has_not_acknowledged_is_counted(ends: tuple[native.Socket, socket.socket]) -> None:
    ours, peer = ends
    assert native.unacknowledged(ours) == 0
    fill(ours)
    assert native.unacknowledged(ours) > 0
    peer.settimeout(0.1)

    def is_all_taken() -> bool:
        with contextlib.suppress(TimeoutError):
            peer.recv(10**6)
        return native.unacknowledged(ours) == 0

    wait_until(is_all_taken, 20.0, "its acknowledgement", interval=0.0)


def test_where_the_system_does_not_tell_nothing_is_counted(tmp_path: Path) -> None:
    with (tmp_path / "no socket").open("wb") as no_socket:
        assert native.unacknowledged(no_socket) == 0  # type: ignore[arg-type]


def test_who_has_everything_is_not_excused(ends: tuple[native.Socket, socket.socket]) -> None:
    assert is_given_up(outlet_in_flight(), Wire(ends[0]))


def test_an_alarm_excuses(ends: tuple[native.Socket, socket.socket]) -> None:
    assert not is_given_up(outlet_in_flight(), Wire(ends[0]), is_blocked=True)


def test_what_is_on_its_way_excuses(ends: tuple[native.Socket, socket.socket]) -> None:
    """A large message takes its time on a slow line."""
    fill(ends[0])
    assert not is_given_up(outlet_in_flight(), Wire(ends[0]))


def test_what_the_socket_does_not_take_excuses(ends: tuple[native.Socket, socket.socket]) -> None:
    outlet, wire = outlet_in_flight(), Wire(ends[0])
    wire.room = 0
    outlet.answer(b"beat")
    outlet.write(wire, BEGIN, True)  # type: ignore[arg-type]
    assert outlet.is_stuck
    assert not is_given_up(outlet, wire)


def test_what_tls_has_not_sent_excuses(ends: tuple[native.Socket, socket.socket]) -> None:
    wire = Wire(ends[0])
    wire.wants_write = True
    assert not is_given_up(outlet_in_flight(), wire)
