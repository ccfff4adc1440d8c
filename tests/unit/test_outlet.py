"""What is written first, how much at a time, and what a lost connection takes with it."""

from __future__ import annotations

import pytest

from tests.unit.test_pending import outgoing
from tests.unit.wire import published, split
from wsgi_messaging.connection import frames
from wsgi_messaging.connection.channels import Channels
from wsgi_messaging.connection.outlet import SENDS_AT_ONCE, WRITE_MAX, Outlet
from wsgi_messaging.connection.pending import Outgoing
from wsgi_messaging.connection.publishing import Publisher
from wsgi_messaging.errors import ConfirmTimeout

NOW = 1.0


class Socket:
    """Takes so many octets at a time, and `room` in all."""

    wants_write = False
    has_pending = False

    def __init__(self, at_a_time: int = 10**9, room: int = 10**9) -> None:
        self.taken = b""
        self.sends: list[int] = []
        self.room = room
        self._at_a_time = at_a_time
        self.flushed = 0

    def send(self, data: memoryview) -> int | None:
        size = min(len(data), self._at_a_time, self.room)
        if not size:
            return None
        self.taken += data[:size]
        self.room -= size
        self.sends.append(size)
        return size

    def flush(self) -> None:
        self.flushed += 1


class Desk:
    def __init__(self) -> None:
        publisher = Publisher(Channels())
        publisher.frame_max = 131072
        self.outlet = Outlet(publisher)

    def queue(self, *names: str, **changes: object) -> list[Outgoing]:
        entries = [outgoing(name, **changes) for name in names]
        self.outlet.outbox.extend(entries)
        return entries

    def write(self, socket: Socket, takes_messages: bool = True) -> bool:
        return self.outlet.write(socket, NOW, takes_messages)  # type: ignore[arg-type]


def test_many_messages_one_send() -> None:
    desk, socket = Desk(), Socket()
    desk.queue(*(str(number) for number in range(100)))
    assert desk.write(socket)
    assert len(socket.sends) == 1
    assert [body for _channel, body in published(socket.taken)] == [str(number).encode() for number in range(100)]
    assert not desk.outlet.outbox and not desk.outlet.is_stuck
    assert not socket.flushed, "there was nothing left to flush"


def test_what_the_stream_keeps_is_flushed() -> None:
    """A TLS stream takes more than its socket; a turn with nothing to write must see the rest out."""
    desk, socket = Desk(), Socket()
    socket.wants_write = True
    assert not desk.write(socket)
    assert socket.flushed == 1


def test_answers_go_before_messages() -> None:
    desk, socket = Desk(), Socket()
    desk.queue("message")
    desk.outlet.answer(frames.BEAT)
    desk.outlet.answer(b"")
    desk.outlet.answer(None)
    assert desk.outlet.has_answers
    desk.write(socket)
    assert split(socket.taken)[0].kind == frames.HEARTBEAT
    assert not desk.outlet.has_answers


def test_blocked_messages_wait_and_answers_do_not() -> None:
    desk, socket = Desk(), Socket()
    desk.queue("message")
    desk.outlet.answer(frames.BEAT)
    desk.write(socket, takes_messages=False)
    assert socket.taken == frames.BEAT
    assert len(desk.outlet.outbox) == 1
    assert not desk.write(socket, takes_messages=False)


def test_a_send_holds_about_so_much() -> None:
    desk, socket = Desk(), Socket()
    desk.queue(*["x" * 10_000] * 100)
    desk.write(socket)
    assert all(WRITE_MAX <= size < WRITE_MAX + 20_000 for size in socket.sends[:-1])
    assert len(published(socket.taken)) == 100


def test_a_slow_socket_gets_the_rest_later_byte_for_byte() -> None:
    whole, slow = Socket(), Socket(at_a_time=7, room=20)
    for socket in (whole, slow):
        desk = Desk()
        desk.queue("a" * 50, "b")
        assert desk.write(socket)
    assert desk.outlet.is_stuck
    desk.outlet.answer(frames.BEAT)
    assert not desk.write(slow), "no room: nothing was taken"
    while desk.outlet.is_stuck or desk.outlet.has_answers:
        slow.room = 20
        desk.write(slow)
    assert slow.taken == whole.taken + frames.BEAT, "an answer goes behind what was begun"


def test_sweep_drops_what_nobody_wants_and_keeps_the_order() -> None:
    desk = Desk()
    a, late, b = [*desk.queue("a"), *desk.queue("late", deadline=0.5), *desk.queue("b")]
    gone = desk.queue("gone")[0]
    gone.abandoned = True
    desk.outlet.sweep(NOW)
    assert list(desk.outlet.outbox) == [a, b]
    assert isinstance(late.error, ConfirmTimeout) and not late.error.maybe_sent
    assert gone.is_done


def test_sweep_keeps_what_waits_before_what_comes_meanwhile() -> None:
    desk = Desk()
    a, b = desk.queue("a", "b")
    came: list[Outgoing] = []

    class Asked(Outgoing):
        __slots__ = ()

        def is_wanted(self, now: float) -> bool:
            came.extend(desk.queue("came"))
            return super().is_wanted(now)

    b.__class__ = Asked
    desk.outlet.sweep(NOW)
    assert list(desk.outlet.outbox) == [a, b, *came]


def test_take_messages_leaves_nothing() -> None:
    desk = Desk()
    entries = desk.queue("a", "b")
    assert desk.outlet.take_messages() == entries
    assert desk.outlet.take_messages() == []


def test_lost_puts_what_was_under_way_before_what_waits() -> None:
    desk, socket = Desk(), Socket(room=30)
    first = desk.queue("first")
    desk.write(socket)
    waiting = desk.queue("waiting")
    desk.outlet.answer(frames.BEAT)
    desk.outlet.lost(first)
    assert not desk.outlet.is_stuck and not desk.outlet.has_answers, "half a frame belongs to the old connection"
    assert list(desk.outlet.outbox) == [*first, *waiting]


def test_is_awaited_while_somebody_waits_or_bytes_do() -> None:
    desk, stuck = Desk(), Socket(room=3)
    assert not desk.outlet.is_awaited(NOW)
    [entry] = desk.queue("a")
    assert desk.outlet.is_awaited(NOW)
    entry.abandoned = True
    assert not desk.outlet.is_awaited(NOW)
    desk.queue("b")
    desk.write(stuck)
    assert desk.outlet.is_stuck and desk.outlet.is_awaited(NOW)


def test_take_unrepeatable_leaves_the_others_in_order() -> None:
    desk = Desk()
    a, once, b = [*desk.queue("a"), *desk.queue("once", may_repeat=False), *desk.queue("b")]
    assert desk.outlet.take_unrepeatable() == [once]
    assert list(desk.outlet.outbox) == [a, b]


def test_what_comes_while_the_unrepeatable_are_taken_out_stays_behind_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()
    a, b = [*desk.queue("a"), *desk.queue("b")]
    take = desk.outlet.take_messages

    def overtaken() -> list[Outgoing]:
        taken = take()
        later.extend(desk.queue("later"))
        return taken

    later: list[Outgoing] = []
    monkeypatch.setattr(desk.outlet, "take_messages", overtaken)
    assert desk.outlet.take_unrepeatable() == []
    assert list(desk.outlet.outbox) == [a, b, *later]


def test_callers_that_are_faster_than_the_socket_do_not_keep_it_from_reading() -> None:
    """Each send lets them hand over more; the confirms would lie unread, and a broker that answers be given up."""
    desk, socket = Desk(), Socket()
    send = socket.send

    def send_and_hand_over(data: memoryview) -> int | None:
        desk.queue("another")
        assert len(socket.sends) < 100, "it writes for ever"
        return send(data)

    socket.send = send_and_hand_over  # type: ignore[method-assign]
    desk.queue("first")
    assert desk.write(socket)
    assert len(socket.sends) == SENDS_AT_ONCE and desk.outlet.outbox
