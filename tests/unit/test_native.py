"""What native threads have libraries do is not logged by them."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from wsgi_messaging.runtime import native

LONG = 10.0


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    logger = logging.getLogger("a.library")
    monkeypatch.setattr(logger, "disabled", False)
    return logger


def test_the_thread_is_quiet_and_others_are_not(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    with ThreadPoolExecutor(1) as another, native.quiet_logger(logger):
        logger.warning("of the thread")
        another.submit(logger.warning, "of another").result(LONG)
    logger.warning("afterwards")
    assert caplog.messages == ["of another", "afterwards"]
    assert not logger.filters


@pytest.mark.parametrize("was_disabled", [False, True])
def test_two_threads_of_a_patched_process_leave_the_logger_as_it_was(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, was_disabled: bool
) -> None:
    """The second to enter finds it disabled by the first, and is not to leave it so."""
    monkeypatch.setattr(native, "is_patched", lambda: True)
    logger.disabled = was_disabled
    has_entered, may_leave = threading.Event(), threading.Event()

    def second() -> None:
        with native.quiet_logger(logger):
            has_entered.set()
            may_leave.wait(LONG)

    with ThreadPoolExecutor(1) as another:
        with native.quiet_logger(logger):
            done = another.submit(second)
            assert has_entered.wait(LONG)
        assert logger.disabled, "the second is still in there"
        may_leave.set()
        done.result(LONG)
    assert logger.disabled is was_disabled


def test_a_thread_that_could_not_be_started_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of a process under Python 3.12: to join it is no error."""

    def refuse(_thread: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(native._NamedThread, "start", refuse)
    thread = native.NativeThread("refused", lambda: None)
    with pytest.raises(RuntimeError):
        thread.start()
    assert thread.join(0.1)
