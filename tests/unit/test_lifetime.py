"""A transport's life without a broker: opened amid exceptions from outside, given up in time."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.waiting import wait_until
from wsgi_messaging import ConfirmTimeout, ConnectTimeout, MessagingError, Transport, Unavailable
from wsgi_messaging.connection.loop import Loop
from wsgi_messaging.connection.watch import Watch
from wsgi_messaging.lifetime import Lifetime
from wsgi_messaging.runtime import native
from wsgi_messaging.runtime.waiting import Completion
from wsgi_messaging.settings import Settings
from wsgi_messaging.testing import DevBroker

NOBODY = "amqp://127.0.0.1:1"
AT_ONCE = 5.0
"""Seconds; what is waited for in vain takes 10."""


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker() as running:
        yield running


@pytest.mark.parametrize("error", [TimeoutError, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("is_behind", [False, True], ids=["before", "behind"])
def test_an_exception_from_outside_amid_the_opening(
    broker: DevBroker, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], is_behind: bool
) -> None:
    """A signal handler that raises, before the thread runs or when it does. The next publish waited for ever."""
    start = native.NativeThread.start

    def interrupted(thread: native.NativeThread) -> None:
        monkeypatch.undo()
        if is_behind:
            start(thread)
        raise error("alarm")

    with Transport(broker.url) as transport:
        monkeypatch.setattr(native.NativeThread, "start", interrupted)
        with pytest.raises((error, Unavailable)) as caught:
            transport.publish(b"", "q", mandatory=False)
        assert isinstance(caught.value, Unavailable) == (error is RuntimeError)
        transport.publish(b"", "q", mandatory=False)
        wait_until(lambda: _threads(transport) == 1, what="the end of the first thread")


def _threads(transport: Transport) -> int:
    return sum(thread.name.startswith("wsgi-messaging-publish") for thread in threading.enumerate())


def test_a_handler_that_publishes_amid_the_opening_is_told_so(
    broker: DevBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message can only go when the opening goes on, which is when it has returned."""
    opens = Watch.open
    said: list[BaseException] = []

    def opened(watch: Watch) -> None:
        monkeypatch.undo()
        try:
            transport.publish(b"", "q", mandatory=False)
        except Unavailable as exc:
            said.append(exc)
        opens(watch)

    with Transport(broker.url) as transport:
        monkeypatch.setattr(Watch, "open", opened)
        transport.publish(b"", "q", mandatory=False)
    assert "signal handler" in str(said[0])


def test_a_short_close_leaves_time_for_what_was_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    close = Loop.close

    def recorded(loop: Loop, close_by: float) -> None:
        given.append(close_by - native.monotonic())
        close(loop, close_by)

    monkeypatch.setattr(Loop, "close", recorded)
    connections = Lifetime(Settings(url=NOBODY))
    connections._loops["publish"] = connections._make("publish")
    connections.close(0.4)
    assert 0.2 < given[0] < 0.4


def test_a_confirm_whose_time_is_over_is_not_sent_behind_that() -> None:
    with Transport(NOBODY) as transport:
        confirm = transport.publish_soon(b"", "q", timeout=0.01)
        wait_until(lambda: confirm.done, what="its end")
        assert isinstance(confirm.error, MessagingError) and not confirm.error.maybe_sent
        assert confirm._entry.abandoned, "what was said of it holds"


def test_one_waiter_who_is_interrupted_does_not_take_the_message_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_completion: Completion, _deadline: float) -> bool:
        raise KeyboardInterrupt

    with Transport(NOBODY) as transport:
        confirm = transport.publish_soon(b"", "q", timeout=5.0)
        monkeypatch.setattr(Completion, "wait_until", interrupted)
        with pytest.raises(KeyboardInterrupt):
            confirm.wait()
        assert not confirm._entry.abandoned
        monkeypatch.undo()
        assert transport.close(0.1)


def test_in_a_process_that_ends_with_its_request_a_publish_keeps_its_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        transport = Transport(f"amqp://127.0.0.1:{silent.getsockname()[1]}?timeout=20")
        transport.is_one_shot = True
        began_at = time.monotonic()
        with pytest.raises((ConfirmTimeout, ConnectTimeout)):
            transport.publish(b"", "q", timeout=0.5)
        assert time.monotonic() - began_at < AT_ONCE


def test_a_handler_of_logging_may_close_the_transport(caplog: pytest.LogCaptureFixture) -> None:
    said: list[Any] = []

    class Closing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                said.append(transport.close(1.0))
            except BaseException as exc:
                said.append(exc)
                raise

    handler = Closing()
    logger = logging.getLogger("wsgi_messaging")
    logger.addHandler(handler)
    try:
        transport = Transport(NOBODY)
        transport.warm()
        wait_until(lambda: said, what="the line that the broker is away")
    finally:
        logger.removeHandler(handler)
    assert isinstance(said[0], bool)
