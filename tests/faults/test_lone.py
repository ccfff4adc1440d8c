"""Faults that meet a caller who is alone, and reads its confirm in the place of the connection's thread.

Nearly everything else in tests/faults runs on pytest's main thread, which never does.
"""

from __future__ import annotations

import threading
import time

import pytest

from tests.harness.proxy import DOWN, FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import Elsewhere, stays, wait_until
from wsgi_messaging import BrokerBlocked, ConfirmTimeout, ConnectionStatus, Settings, Transport
from wsgi_messaging.connection import shortcut
from wsgi_messaging.connection.shortcut import Shortcut
from wsgi_messaging.devbroker import DevBroker

HEARTBEAT = 2.0
LONG = 20.0


def transport_to(url: str, heartbeat: float = 60.0) -> Transport:
    return Transport(settings=Settings(url=url, heartbeat=heartbeat, app="lone"))


def status_of(transport: Transport) -> ConnectionStatus:
    [status] = transport.status().connections
    return status


def publish(transport: Transport, count: int = 1, queue: str = "nowhere", *, timeout: float | None = None) -> float:
    """The longest that one of so many took."""
    longest = 0.0
    for number in range(count):
        began_at = time.monotonic()
        transport.publish(f"{number}", queue, mandatory=False, timeout=timeout)
        longest = max(longest, time.monotonic() - began_at)
    return longest


def stand_by(transport: Transport, elsewhere: Elsewhere) -> None:
    """Until the other thread reads its confirms itself."""
    reads: list[bool] = []
    original = Shortcut._read

    def counted(self: Shortcut, *arguments: object) -> bool:
        reads.append(original(self, *arguments))  # type: ignore[arg-type]
        return reads[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shortcut, "_read", counted)
        wait_until(lambda: elsewhere(lambda: publish(transport, 5)).result(10.0) and any(reads), 10.0, "a read")


def test_what_is_confirmed_is_there_whenever_the_connection_breaks(
    rabbitmq: RabbitMQ, proxy: FaultProxy, queue: str, elsewhere: Elsewhere
) -> None:
    with transport_to(proxy.url()) as transport:
        stand_by(transport, elsewhere)
        working = elsewhere(lambda: publish(transport, 1500, queue))
        for _ in range(4):
            time.sleep(0.1)  # so that messages are under way again
            proxy.cut()
            wait_until(lambda: working.done() or status_of(transport).state == "ready", 10.0, "the connection")
        assert float(str(working.result(100.0))) < 8.0, "who waits in vain does so for 10 s"
        assert status_of(transport).reconnects >= 1, "else nothing was tried"
    missing = {f"{number}" for number in range(1500)}

    def none_is_missing() -> bool:
        missing.difference_update(message["payload"] for message in rabbitmq.messages(queue))
        return not missing

    wait_until(none_is_missing, 10.0, "the messages")


def test_a_black_hole_ends_at_the_deadline_and_the_heart_beats_on(proxy: FaultProxy, elsewhere: Elsewhere) -> None:
    """No answer comes; what we send still gets there, so the broker must hear of us."""
    with transport_to(proxy.url(), HEARTBEAT) as transport:
        stand_by(transport, elsewhere)
        proxy.freeze(DOWN)
        began_at = time.monotonic()
        failed = elsewhere(lambda: publish(transport, timeout=2.6)).exception(20.0)
        assert isinstance(failed, ConfirmTimeout) and failed.maybe_sent
        assert time.monotonic() - began_at < 2.6 + 3.0
        [pair] = proxy.pairs
        assert pair.traffic["up"].largest_gap(time.monotonic()) < 1.2 * HEARTBEAT, "no beat: it is 2.6 s"


def test_a_break_is_noticed_while_nobody_publishes(proxy: FaultProxy, elsewhere: Elsewhere) -> None:
    """The thread that stands by does not look at its socket, but for a tenth of a second only."""
    with transport_to(proxy.url()) as transport:
        stand_by(transport, elsewhere)
        proxy.cut()
        wait_until(lambda: status_of(transport).reconnects == 1, what="the loss")


def test_another_caller_does_not_wait_for_the_first_ones_confirm(
    broker: DevBroker, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transport_to(broker.url) as transport:
        stand_by(transport, elsewhere)
        monkeypatch.setattr(shortcut, "READ_WITHIN", LONG)
        broker.hold_confirms()
        first = elsewhere(lambda: publish(transport))
        wait_until(lambda: status_of(transport).in_flight == 1, what="the first one's message")
        second = threading.Thread(target=publish, args=(transport,))
        second.start()
        wait_until(lambda: status_of(transport).in_flight == 2, what="the second one's message")
        assert not first.done()
        broker.release_confirms()
        first.result(10.0)
        second.join(10.0)
        assert not second.is_alive()


def test_a_confirm_that_the_caller_did_not_wait_for_wakes_the_thread(
    broker: DevBroker, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not stand by while an answer is to come."""
    with transport_to(broker.url) as transport:
        stand_by(transport, elsewhere)
        monkeypatch.setattr(shortcut, "STANDBY_FOR", LONG)
        broker.hold_confirms()
        working = elsewhere(lambda: publish(transport))
        stays(lambda: not working.done(), shortcut.READ_WITHIN * 3)
        broker.release_confirms()
        working.result(LONG / 2)


def test_an_alarm_that_the_caller_reads(broker: DevBroker, elsewhere: Elsewhere) -> None:
    with transport_to(broker.url) as transport:
        stand_by(transport, elsewhere)
        broker.block("no memory")
        failed = elsewhere(lambda: publish(transport, 50, timeout=0.5)).exception(10.0)
        assert isinstance(failed, BrokerBlocked) and "no memory" in str(failed)
        broker.unblock()
        assert elsewhere(lambda: publish(transport, 5)).exception(10.0) is None


def test_a_refusal_that_the_caller_reads(broker: DevBroker, elsewhere: Elsewhere) -> None:
    """The exchange is gone, and the broker closes the channel: the caller is told, and the next message goes out."""
    with transport_to(broker.url) as transport:
        stand_by(transport, elsewhere)
        failed = elsewhere(lambda: transport.publish("x", "q", "no-such-exchange")).exception(10.0)
        assert failed is not None and "404" in str(failed)
        assert elsewhere(lambda: publish(transport, 5)).exception(10.0) is None
        assert status_of(transport).reconnects == 0
