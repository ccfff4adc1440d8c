"""A lone caller writes its message itself, while the connection's thread sleeps, and never otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.waiting import wait_until
from tests.unit.test_pending import outgoing
from wsgi_messaging import Transport, Unavailable
from wsgi_messaging.connection import outlet
from wsgi_messaging.connection.channels import Channels
from wsgi_messaging.connection.lanes import ASK_AFTER
from wsgi_messaging.connection.loop import Loop
from wsgi_messaging.connection.outlet import Outlet
from wsgi_messaging.connection.publishing import Publisher
from wsgi_messaging.connection.pulse import Pulse
from wsgi_messaging.connection.shortcut import Shortcut
from wsgi_messaging.connection.watch import Watch
from wsgi_messaging.devbroker import DevBroker
from wsgi_messaging.lifetime import PUBLISH
from wsgi_messaging.runtime import native


class Stream:
    """Takes so many octets at a time."""

    wants_write = False

    def __init__(self) -> None:
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
        self.shortcut = Shortcut(self.watch, self.outlet, self.publisher, Pulse(lambda _text: None))
        self.shortcut.stream = self.stream
        self.watch.fall_asleep(native.monotonic() + 10.0)
        self.watch.give_turn()

    def write(self, *names: str, **changes: Any) -> bool:
        """What a caller on another thread gets for the last of these messages."""
        self.outlet.outbox.extend(outgoing(name, [], deadline=float("inf"), **changes) for name in names)
        return bool(elsewhere(self.shortcut.write))


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
    desk.outlet.outbox.append(outgoing("a", [], deadline=float("inf")))
    assert not desk.shortcut.write()
    assert desk.stream.written == b"" and len(desk.outlet.outbox) == 1


def test_never_while_the_thread_is_awake(desk: Desk) -> None:
    assert desk.watch.take_turn(), "the thread has woken"
    assert not desk.write("a")
    assert desk.stream.written == b""


def test_never_while_the_connection_takes_no_messages(desk: Desk) -> None:
    desk.shortcut.stream = None
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
    assert desk.outlet.is_stuck and desk.shortcut.torn is None
    assert desk.watch.take_turn(), "the turn was given back"


def test_an_interrupted_caller_tears_the_stream(desk: Desk) -> None:
    desk.stream.fails = SystemExit()
    desk.outlet.outbox.append(outgoing("a", [], deadline=float("inf")))
    assert isinstance(elsewhere(desk.shortcut.write), SystemExit)
    assert desk.shortcut.torn is desk.stream
    assert desk.watch.take_turn(), "the turn was given back"


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


def test_a_thread_that_publishes_alone_wakes_nobody(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = loop_of(transport)
    roused: list[int] = []
    monkeypatch.setattr(loop.watch, "rouse", lambda: roused.append(1))

    def publish() -> int:
        for number in range(100):
            wait_until(lambda: loop.watch._is_asleep, what="the thread's sleep", interval=0.001)
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
    wait_until(lambda: loop.watch._is_asleep, what="the thread's sleep")
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
    wait_until(lambda: loop.watch._is_asleep, what="the thread's sleep")
    assert isinstance(elsewhere(lambda: transport.publish("torn", "nowhere", mandatory=False)), SystemExit)
    wait_until(lambda: loop.reconnects == 1, what="another connection")
    transport.publish("next", "nowhere", mandatory=False)
