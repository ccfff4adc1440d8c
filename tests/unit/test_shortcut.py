"""A lone caller writes its message itself, while the connection's thread sleeps, and never otherwise; and reads the
answer, while it stands by."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from tests.harness.waiting import wait_until
from tests.unit.test_pending import outgoing
from wsgi_messaging import Transport, Unavailable
from wsgi_messaging.connection import outlet, shortcut
from wsgi_messaging.connection.channels import Channels
from wsgi_messaging.connection.frames import FrameError
from wsgi_messaging.connection.lanes import ASK_AFTER
from wsgi_messaging.connection.loop import Loop
from wsgi_messaging.connection.outlet import Outlet
from wsgi_messaging.connection.publishing import Publisher
from wsgi_messaging.connection.pulse import Pulse
from wsgi_messaging.connection.shortcut import READ_WITHIN, Shortcut
from wsgi_messaging.connection.watch import Watch
from wsgi_messaging.devbroker import DevBroker
from wsgi_messaging.lifetime import PUBLISH
from wsgi_messaging.runtime import native

LONG = 10.0


class Stream:
    """Takes so many octets at a time."""

    wants_write = False
    has_pending = False

    def __init__(self) -> None:
        self.octets = SimpleNamespace(is_contended=False)
        self.written = b""
        self.takes = 1 << 20
        self.fails: BaseException | None = None

    def send(self, data: memoryview) -> int | None:
        if self.fails is not None:
            raise self.fails
        self.written += data[: self.takes]
        return min(len(data), self.takes) or None


class Desk:
    """A connection's parts; its thread is asleep, or made to be awake."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.watch.open()
        self.publisher = Publisher(Channels())
        self.publisher.frame_max = 4096
        self.outlet = Outlet(self.publisher)
        self.stream: Any = Stream()
        self.link: Any = SimpleNamespace(stream=self.stream)
        self.read: Callable[[], None] = lambda: None
        inlet: Any = SimpleNamespace(read=lambda _link: self.read())
        self.consumers: Any = SimpleNamespace(due_at=lambda: float("inf"))
        pulse = Pulse(lambda _text: None)
        self.shortcut = Shortcut(self.watch, self.outlet, inlet, self.publisher, self.consumers, pulse)
        self.shortcut.link = self.link
        self.sleep()
        self.watch.give_turn()

    def sleep(self, *, on_standby: bool = False, seconds: float = 10.0) -> None:
        self.watch.fall_asleep(native.monotonic() + seconds, on_standby=on_standby)

    def write(self, *names: str, **changes: Any) -> bool:
        """What a caller on another thread gets for the last of these messages."""
        entries = [outgoing(name, [], **{"deadline": float("inf"), **changes}) for name in names]
        self.outlet.outbox.extend(entries)
        return bool(elsewhere(lambda: self.shortcut.write(entries[-1])))


def elsewhere(work: Callable[[], object]) -> object:
    """Done on a thread that is not the main one."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as exc:  # noqa: BLE001  (what came out of it is the result)
            results.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10.0)
    return results[0]


@pytest.fixture
def desk() -> Any:
    made = Desk()
    yield made
    made.watch.close()


def test_a_lone_message_is_written_at_once(desk: Desk) -> None:
    assert desk.write("a")
    assert b"a" in desk.stream.written and not desk.outlet.outbox


def test_never_on_the_main_thread(desk: Desk) -> None:
    """There a signal handler may come in the middle, and stay."""
    desk.outlet.outbox.append(entry := outgoing("a", [], deadline=float("inf")))
    assert not desk.shortcut.write(entry)
    assert desk.stream.written == b"" and len(desk.outlet.outbox) == 1


def test_never_while_the_thread_is_awake(desk: Desk) -> None:
    assert desk.watch.take_turn(), "the thread has woken"
    assert not desk.write("a")
    assert desk.stream.written == b""


def test_never_while_the_connection_takes_no_messages(desk: Desk) -> None:
    desk.shortcut.link = None
    assert not desk.write("a")
    assert len(desk.outlet.outbox) == 1


def test_several_are_the_threads(desk: Desk) -> None:
    assert not desk.write("a", "b")
    assert desk.stream.written == b"" and len(desk.outlet.outbox) == 2


def test_what_the_socket_did_not_take_is_the_threads(desk: Desk) -> None:
    desk.stream.takes = 10
    assert not desk.write("a")
    assert len(desk.stream.written) == 10 and desk.outlet.is_stuck


def test_a_question_that_falls_due_in_its_sleep_is_the_threads(desk: Desk) -> None:
    assert not desk.write("a", confirm=False)
    assert desk.publisher.due_at() < native.monotonic() + ASK_AFTER + 1.0
    desk.watch.sleeps_until = desk.publisher.due_at()
    assert desk.write("b", confirm=False), "it wakes in time"


def test_a_broken_socket_is_found_by_the_thread(desk: Desk) -> None:
    desk.stream.fails = BrokenPipeError()
    assert not desk.write("a")
    assert desk.outlet.is_stuck
    assert desk.watch.take_turn(), "the turn was given back"
    with pytest.raises(BrokenPipeError):
        desk.shortcut.raise_fault(desk.link)
    desk.shortcut.raise_fault(desk.link)  # once


def test_a_fault_of_an_earlier_connection_is_not_this_ones(desk: Desk) -> None:
    desk.stream.fails = BrokenPipeError()
    assert not desk.write("a")
    desk.shortcut.raise_fault(SimpleNamespace())  # type: ignore[arg-type]


def test_an_interrupted_caller_tears_the_stream(desk: Desk) -> None:
    desk.stream.fails = SystemExit()
    desk.outlet.outbox.append(entry := outgoing("a", [], deadline=float("inf")))
    assert isinstance(elsewhere(lambda: desk.shortcut.write(entry)), SystemExit)
    assert desk.watch.take_turn(), "the turn was given back"
    with pytest.raises(EOFError, match="interrupted"):
        desk.shortcut.raise_fault(desk.link)


# The answer.


class Answers:
    """A socket that is readable when it is told; what is read there settles the message."""

    def __init__(self, desk: Desk) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.reads = 0
        self.settles = True
        self.fails: Exception | None = None
        self._desk = desk
        desk.watch.add(self.ours, native.POLLIN)  # type: ignore[arg-type]
        desk.read = self._read

    def come(self) -> None:
        self.theirs.send(b"x")

    def _read(self) -> None:
        self.ours.recv(1)
        self.reads += 1
        if self.fails is not None:
            raise self.fails
        if self.settles:
            for entry in self._desk.publisher._main.confirms.take_all():
                entry.finish()


@pytest.fixture
def answers(desk: Desk) -> Any:
    made = Answers(desk)
    yield made
    made.ours.close()
    made.theirs.close()


def test_an_answer_is_read_while_the_thread_stands_by(desk: Desk, answers: Answers) -> None:
    desk.sleep(on_standby=True)
    answers.come()
    assert desk.write("a")
    assert answers.reads == 1


def test_it_pays_to_stand_by_when_lone_messages_follow_each_other(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcut, "STANDBY_FOR", LONG)
    desk.write("a")
    assert not desk.shortcut.is_hot(native.monotonic()), "the thread would wake once more, for nothing"
    desk.write("b")
    assert desk.shortcut.is_hot(native.monotonic())
    assert not desk.shortcut.is_hot(native.monotonic() + LONG)


def test_it_stands_by_longer_where_each_of_its_turns_costs_the_callers_one(desk: Desk) -> None:
    at_rest = desk.shortcut.stands_by_for(desk.link)
    desk.stream.octets.is_contended = True
    assert desk.shortcut.stands_by_for(desk.link) > at_rest


def test_an_answer_is_the_threads_when_the_socket_wakes_it(desk: Desk, answers: Answers) -> None:
    answers.come()
    assert desk.write("a")
    assert answers.reads == 0


def test_several_reads_until_the_answer(desk: Desk, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a heartbeat of the broker comes first."""
    desk.sleep(on_standby=True)
    monkeypatch.setattr(shortcut, "READ_WITHIN", LONG)
    answers.settles = False
    read = desk.read

    def second_settles() -> None:
        read()
        answers.settles = True

    desk.read = second_settles
    answers.come()
    answers.come()
    assert desk.write("a")
    assert answers.reads == 2


def test_an_answer_that_takes_long_is_the_threads(desk: Desk, answers: Answers) -> None:
    desk.sleep(on_standby=True)
    began_at = native.monotonic()
    assert not desk.write("a")
    assert READ_WITHIN * 0.9 <= native.monotonic() - began_at < LONG
    assert desk.watch.take_turn(), "the turn was given back"


@pytest.mark.parametrize("first", ["duty", "deadline"])
def test_it_reads_no_longer_than_to_the_threads_next_duty_and_its_own_deadline(
    desk: Desk, answers: Answers, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beat is due: it must not wait for an answer that may never come."""
    monkeypatch.setattr(shortcut, "READ_WITHIN", LONG)
    desk.sleep(on_standby=True, seconds=0.05 if first == "duty" else LONG)
    began_at = native.monotonic()
    deadline = began_at + (0.05 if first == "deadline" else LONG)
    assert not desk.write("a", deadline=deadline)
    assert native.monotonic() - began_at < LONG / 2


def test_whoever_wants_the_thread_ends_it(desk: Desk, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcut, "READ_WITHIN", LONG)
    desk.sleep(on_standby=True, seconds=LONG)
    desk.watch.rouse()
    answers.come()
    began_at = native.monotonic()
    assert not desk.write("a")
    assert native.monotonic() - began_at < LONG / 2 and answers.reads == 0


def test_what_a_read_raises_is_the_threads(desk: Desk, answers: Answers) -> None:
    desk.sleep(on_standby=True)
    answers.fails = FrameError("nonsense")
    answers.come()
    assert not desk.write("a")
    with pytest.raises(FrameError):
        desk.shortcut.raise_fault(desk.link)


def test_what_a_read_left_to_write_is_the_threads(desk: Desk, answers: Answers) -> None:
    desk.sleep(on_standby=True)
    read = desk.read
    desk.read = lambda: (read(), desk.outlet.answer(b"channel.close-ok"))[1]
    answers.come()
    assert not desk.write("a")


def test_a_message_without_a_confirm_has_no_answer_to_read(desk: Desk, answers: Answers) -> None:
    desk.sleep(on_standby=True)
    desk.watch.sleeps_until = 0.0
    answers.come()
    assert not desk.write("a", confirm=False)
    assert answers.reads == 0


def test_a_greenlet_does_not_wait_in_the_threads_place(
    desk: Desk, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.sleep(on_standby=True)
    monkeypatch.setattr(shortcut, "waits_in_a_hub", lambda: True)
    answers.come()
    assert not desk.write("a")
    assert answers.reads == 0


# A delivery that a caller waits for: the reply to a call.


def read(desk: Desk, answers: Answers, seconds: float = LONG) -> tuple[object, float]:
    """What a caller gets that waits until something was read, and how long it took."""
    began_at = native.monotonic()
    result = elsewhere(lambda: desk.shortcut.read_answer(lambda: answers.reads, began_at + seconds))
    return result, native.monotonic() - began_at


def test_a_delivery_is_read_while_the_thread_stands_by(desk: Desk, answers: Answers) -> None:
    desk.sleep(on_standby=True)
    answers.come()
    assert read(desk, answers)[0] is True
    assert desk.watch.take_turn(), "the turn was given back"


def test_a_delivery_is_the_threads_when_the_socket_wakes_it(desk: Desk, answers: Answers) -> None:
    answers.come()
    assert read(desk, answers)[0] is False and answers.reads == 0


def test_no_delivery_is_read_on_the_main_thread(desk: Desk, answers: Answers) -> None:
    desk.sleep(on_standby=True)
    answers.come()
    assert not desk.shortcut.read_answer(lambda: answers.reads, float("inf")) and answers.reads == 0


def test_a_greenlet_reads_no_delivery(desk: Desk, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.sleep(on_standby=True)
    monkeypatch.setattr(shortcut, "waits_in_a_hub", lambda: True)
    answers.come()
    assert read(desk, answers)[0] is False and answers.reads == 0
    assert not desk.shortcut.is_hot(native.monotonic())


def test_a_delivery_that_takes_long_is_the_threads(desk: Desk, answers: Answers) -> None:
    desk.sleep(on_standby=True)
    result, took = read(desk, answers)
    assert result is False and READ_WITHIN * 0.9 <= took < LONG


def test_a_delivery_is_not_read_beyond_the_callers_time(
    desk: Desk, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortcut, "READ_WITHIN", LONG)
    desk.sleep(on_standby=True)
    result, took = read(desk, answers, 0.05)
    assert result is False and took < LONG / 2


def test_acknowledgements_that_fall_due_in_its_sleep_are_the_threads(desk: Desk, answers: Answers) -> None:
    desk.sleep(on_standby=True)
    desk.consumers.due_at = lambda: native.monotonic() + 1.0
    answers.come()
    assert read(desk, answers)[0] is False and answers.reads == 1
    desk.consumers.due_at = lambda: desk.watch.sleeps_until
    answers.come()
    answers.reads = 0
    assert read(desk, answers)[0] is True, "it wakes in time"


def test_calls_that_follow_each_other_have_the_thread_stand_by(
    desk: Desk, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortcut, "STANDBY_FOR", LONG)
    read(desk, answers, 0.0)
    assert not desk.shortcut.is_hot(native.monotonic())
    read(desk, answers, 0.0)
    assert desk.shortcut.is_hot(native.monotonic())


# What may come unasked: the next request.


def read_next(desk: Desk, answers: Answers, seconds: float = LONG) -> float:
    """How long it took a caller that waits until something was read."""
    began_at = native.monotonic()
    elsewhere(lambda: desk.shortcut.read_next(lambda: answers.reads, began_at + seconds))
    return native.monotonic() - began_at


def test_what_comes_unasked_is_read_by_who_waits_for_it(desk: Desk, answers: Answers) -> None:
    answers.come()
    read_next(desk, answers)
    assert answers.reads == 1 and desk.watch.is_asleep
    assert desk.watch.take_turn(), "the turn was given back"


def test_what_was_received_already_is_read(desk: Desk, answers: Answers) -> None:
    """Over TLS the rest of a record waits where no poll of the socket tells of it."""
    desk.stream.has_pending = True
    read = desk.read
    desk.read = lambda: (setattr(desk.stream, "has_pending", False), answers.come(), read())[2]
    read_next(desk, answers)
    assert answers.reads == 1


def test_a_flood_is_not_read_beyond_the_callers_time(desk: Desk, answers: Answers) -> None:
    """A beat is due some time, however much has been received."""
    desk.stream.has_pending = True
    desk.read = lambda: None
    assert read_next(desk, answers, 0.05) < LONG / 2
    assert not desk.watch.is_asleep, "the rest is the thread's"


def test_nothing_is_read_unasked_on_the_main_thread(desk: Desk, answers: Answers) -> None:
    answers.come()
    desk.shortcut.read_next(lambda: answers.reads, float("inf"))
    assert answers.reads == 0


def test_a_greenlet_reads_nothing_unasked(desk: Desk, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcut, "waits_in_a_hub", lambda: True)
    answers.come()
    read_next(desk, answers)
    assert answers.reads == 0


def test_nothing_is_read_without_a_connection(desk: Desk, answers: Answers) -> None:
    desk.shortcut.link = None
    answers.come()
    assert read_next(desk, answers) < LONG / 2
    assert answers.reads == 0 and desk.watch.is_asleep, "the thread has nothing to do"


def test_the_thread_watches_again_when_nothing_came(desk: Desk, answers: Answers) -> None:
    took = read_next(desk, answers)
    assert answers.reads == 0 and READ_WITHIN * 0.9 <= took < LONG
    assert desk.watch.is_asleep, "the socket will wake it"


def test_nothing_is_read_beyond_the_callers_time(desk: Desk, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcut, "READ_WITHIN", LONG)
    assert read_next(desk, answers, 0.05) < LONG / 2


def test_a_fault_that_is_met_wakes_the_thread(desk: Desk, answers: Answers) -> None:
    answers.fails = FrameError("nonsense")
    answers.come()
    read_next(desk, answers)
    assert not desk.watch.is_asleep
    with pytest.raises(FrameError):
        desk.shortcut.raise_fault(desk.link)


def test_what_was_left_to_do_wakes_the_thread(desk: Desk, answers: Answers) -> None:
    desk.consumers.due_at = lambda: desk.watch.sleeps_until
    answers.come()
    read_next(desk, answers)
    assert answers.reads == 1 and desk.watch.is_asleep, "it wakes in time"
    desk.consumers.due_at = lambda: native.monotonic() + 1.0
    answers.reads = 0
    answers.come()
    read_next(desk, answers)
    assert answers.reads == 1 and not desk.watch.is_asleep


def test_nobody_reads_unasked_for_a_moment_where_somebody_wanted_the_thread(
    desk: Desk, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among others who come and go it would be woken, and the thread too, for each of them."""
    monkeypatch.setattr(shortcut, "APART_FOR", LONG)
    desk.watch.rouse()
    answers.come()
    read_next(desk, answers)
    desk.watch._wake_up.drain()  # type: ignore[union-attr]
    read_next(desk, answers)
    assert answers.reads == 0
    desk.shortcut._reads_from -= LONG
    read_next(desk, answers)
    assert answers.reads == 1


# Orders: an acknowledgement, mostly.


def order(desk: Desk, answer: bytes = b"ack") -> tuple[object, list[float]]:
    """What a caller on another thread gets for an order, and when it was carried out."""
    done: list[float] = []

    def carry_out(now: float) -> bytes:
        done.append(now)
        return answer

    return elsewhere(lambda: desk.shortcut.carry_out(carry_out)), done


def test_a_lone_order_is_carried_out_at_once(desk: Desk) -> None:
    is_done, times = order(desk)
    assert is_done and len(times) == 1
    assert desk.stream.written == b"ack" and desk.outlet.has_nothing


def test_an_order_behind_a_message_is_the_threads(desk: Desk) -> None:
    desk.outlet.outbox.append(outgoing("a", []))
    assert order(desk) == (False, [])


@pytest.mark.parametrize(("takes", "fails"), [(1, None), (0, None), (9, BrokenPipeError())])
def test_an_order_is_carried_out_once_whatever_the_socket_does(
    desk: Desk, takes: int, fails: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second acknowledgement of a delivery would close the channel."""
    roused: list[int] = []
    monkeypatch.setattr(desk.watch, "rouse", lambda: roused.append(1))
    desk.stream.takes, desk.stream.fails = takes, fails
    is_done, times = order(desk)
    assert is_done and len(times) == 1
    assert desk.outlet.is_stuck and roused, "the rest is the thread's"


def loop_of(transport: Transport) -> Loop:
    loop = transport.connections().loop(PUBLISH)
    wait_until(lambda: loop.state.value == "ready", what="the connection")
    return loop


@pytest.fixture
def transport() -> Any:
    with DevBroker() as broker, Transport(broker.url) as made:
        yield made


def sleeps(loop: Loop) -> bool:
    """True when the turn of its thread can be taken."""
    if not loop.watch.take_turn():
        return False
    loop.watch.give_turn()
    return True


def test_a_thread_that_publishes_alone_wakes_nobody(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = loop_of(transport)
    roused: list[int] = []
    monkeypatch.setattr(loop.watch, "rouse", lambda: roused.append(1))

    def publish() -> int:
        for number in range(100):
            wait_until(lambda: sleeps(loop), what="the thread's sleep", interval=0.001)
            transport.publish(f"{number}", "nowhere", mandatory=False)
        return len(roused)

    assert elsewhere(publish) == 0
    assert transport.status().connections[0].confirmed == 100


def test_a_finalizer_in_the_middle_of_a_message_is_refused(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for a thread that waits for it."""
    loop = loop_of(transport)
    transport.publish("first", "nowhere", mandatory=False)
    write_one, refused = outlet.Outlet.write_one, []

    def finalized(*arguments: Any) -> bool:
        monkeypatch.undo()
        try:
            transport.publish("from __del__", "nowhere", mandatory=False)
        except Unavailable as exc:
            refused.append(exc)
        return write_one(*arguments)

    monkeypatch.setattr(outlet.Outlet, "write_one", finalized)
    wait_until(lambda: sleeps(loop), what="the thread's sleep")
    assert elsewhere(lambda: transport.publish("around it", "nowhere", mandatory=False)) is None
    assert len(refused) == 1
    transport.publish("next", "nowhere", mandatory=False)


def test_the_connection_is_given_up_when_a_caller_is_interrupted(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by an exception that another thread sends it; the next message goes over a new connection."""
    loop = loop_of(transport)
    transport.publish("first", "nowhere", mandatory=False)
    write_one = outlet.Outlet.write_one

    def interrupted(*arguments: Any) -> bool:
        monkeypatch.undo()
        write_one(*arguments)
        raise SystemExit

    monkeypatch.setattr(outlet.Outlet, "write_one", interrupted)
    wait_until(lambda: sleeps(loop), what="the thread's sleep")
    assert isinstance(elsewhere(lambda: transport.publish("torn", "nowhere", mandatory=False)), SystemExit)
    wait_until(lambda: loop.reconnects == 1, what="another connection")
    transport.publish("next", "nowhere", mandatory=False)


def test_a_thread_that_publishes_alone_does_all_itself(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the connection's thread wakes for each answer: that is what a lone caller waits for otherwise."""
    loop_of(transport)
    turns: list[int] = []
    sleep = Watch.sleep
    monkeypatch.setattr(Watch, "sleep", lambda self, wait_ms: (turns.append(1), sleep(self, wait_ms))[1])

    def publish() -> int:
        for number in range(300):
            transport.publish(f"{number}", "nowhere", mandatory=False)
        return len(turns)

    assert int(str(elsewhere(publish))) < 200
    assert transport.status().connections[0].confirmed == 300


def test_threads_that_are_alone_now_and_then(transport: Transport) -> None:
    """Threads that come and go between each other's answers: nothing is lost, and nobody waits for a timer."""
    loop_of(transport)

    def publish() -> float:
        began_at = native.monotonic()
        for number in range(200):
            transport.publish(f"{number}", "nowhere", mandatory=False)
            if number % 7 == 0:
                time.sleep(0.001)
        return native.monotonic() - began_at

    with ThreadPoolExecutor(3) as pool:
        took = [each.result(60.0) for each in [pool.submit(publish) for _ in range(3)]]
    assert transport.status().connections[0].confirmed == 600
    assert max(took) < 30.0
