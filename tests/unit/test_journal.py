"""Records go from the connection's thread to the application's side, in order, and stop nobody."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest

from tests.harness.waiting import wait_until
from wsgi_messaging.runtime import journal as module
from wsgi_messaging.runtime import native
from wsgi_messaging.runtime.journal import Journal


class Handler(logging.Handler):
    """Keeps what is written; `gate` holds it up."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.writers: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def emit(self, record: logging.LogRecord) -> None:
        self.gate.wait(10.0)
        self.records.append(record)
        self.writers.add(threading.current_thread().name)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def journal(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    monkeypatch.setattr(module, "_LINGER", 0.02)
    logger = logging.Logger("test")
    logger.addHandler(handler)
    made = Journal(logger)
    made.ensure_writer()
    yield made
    handler.gate.set()
    made.close()
    made.join(5.0)


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "wsgi-messaging-journal"]


def test_records_in_order_with_their_levels(journal: Journal, handler: Handler) -> None:
    for number in range(50):
        journal.info(f"{number}")
    journal.warning("w %s 100%")
    journal.error("e")
    wait_until(lambda: len(handler.records) == 52, what="the records")
    assert handler.texts == [*map(str, range(50)), "w %s 100%", "e"]
    assert [record.levelname for record in handler.records[-3:]] == ["INFO", "WARNING", "ERROR"]


def test_a_handler_that_holds_its_lock_stops_no_caller(journal: Journal, handler: Handler) -> None:
    """Without a thread of the journal's own this stood still until the handler's lock was free."""
    handler.gate.clear()
    began_at = native.monotonic()
    with handler.lock:  # type: ignore[union-attr]
        for number in range(10):
            journal.warning(str(number))
    assert native.monotonic() - began_at < 5.0
    assert handler.records == []
    handler.gate.set()
    wait_until(lambda: len(handler.records) == 10, what="the records")
    assert threading.current_thread().name not in handler.writers


def test_the_writer_is_there_only_while_there_is_something_to_write(journal: Journal, handler: Handler) -> None:
    assert not writers()
    for number in range(3):
        journal.info(str(number))
        wait_until(lambda number=number: len(handler.records) == number + 1, what="the record")
        wait_until(lambda: not writers(), what="the writer's end")
    assert handler.texts == ["0", "1", "2"]


def test_what_was_said_before_the_close_is_written(journal: Journal, handler: Handler) -> None:
    handler.gate.clear()
    for number in range(10):
        journal.info(str(number))
    journal.close()
    handler.gate.set()
    journal.join(5.0)
    assert handler.texts == [str(number) for number in range(10)]
    assert not writers()


def test_join_is_bounded(journal: Journal, handler: Handler) -> None:
    handler.gate.clear()
    journal.info("stuck")
    journal.close()
    began_at = native.monotonic()
    journal.join(0.01)
    assert native.monotonic() - began_at < 5.0


def test_many_threads_lose_nothing(journal: Journal, handler: Handler) -> None:
    def write(thread: int) -> None:
        for number in range(100):
            journal.info(f"{thread}-{number}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: len(handler.records) == 400, what="the records")
    for thread in range(4):
        own = [text for text in handler.texts if text.startswith(f"{thread}-")]
        assert own == [f"{thread}-{number}" for number in range(100)]


def test_out_of_threads_for_a_moment(journal: Journal, handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(module, "start_application_thread", refuse)
        journal.info("1")
    assert not writers()
    journal.info("2")
    wait_until(lambda: handler.texts == ["1", "2"], what="both records")


def test_a_question_is_answered_on_a_thread_of_the_application(journal: Journal) -> None:
    asked: list[str] = []

    def question() -> int:
        asked.append(threading.current_thread().name)
        return 42

    assert journal.ask(question, 5.0) == 42
    assert asked == ["wsgi-messaging-journal"]


def test_a_question_that_fails_or_hangs(journal: Journal) -> None:
    def fail() -> int:
        raise KeyError("no secret today")

    with pytest.raises(KeyError, match="no secret today"):
        journal.ask(fail, 5.0)
    gate = threading.Event()
    with pytest.raises(TimeoutError):
        journal.ask(lambda: gate.wait(10.0), 0.05)
    gate.set()


def test_a_handler_that_raises_ends_nothing(
    journal: Journal, handler: Handler, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told on standard error, as logging tells it, and the next record is written all the same."""
    failed = threading.Event()

    class Raising(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if record.getMessage() == "bad":
                failed.set()
                raise LookupError("the handler's own")
            return True

    handler.addFilter(Raising())
    journal.info("bad")
    assert failed.wait(5.0)
    journal.info("good")
    wait_until(lambda: handler.texts == ["good"], what="the next record")
    assert "LookupError: the handler's own" in capsys.readouterr().err


def test_ask_answers_from_the_applications_side(journal: Journal) -> None:
    assert journal.ask(lambda: threading.current_thread().name, 5.0) == "wsgi-messaging-journal"


def test_ask_raises_what_the_question_raises_and_goes_on(journal: Journal) -> None:
    def fail() -> None:
        raise LookupError("no secret today")

    with pytest.raises(LookupError, match="no secret today"):
        journal.ask(fail, 5.0)
    assert journal.ask(lambda: 7, 5.0) == 7


def test_ask_is_bounded(journal: Journal, handler: Handler) -> None:
    handler.gate.clear()
    journal.info("held up")
    with pytest.raises(TimeoutError):
        journal.ask(lambda: 7, 0.02)


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, KeyboardInterrupt])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_ask_goes_on_after_what_is_no_exception(journal: Journal, error: type[BaseException]) -> None:
    """As gevent.Timeout around a look-up of credentials: the native thread gets an error, and the next answer."""

    def raises() -> None:
        raise error

    with pytest.raises(RuntimeError, match=error.__name__):
        journal.ask(raises, 5.0)
    assert journal.ask(lambda: "answer", 5.0) == "answer"


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_is_ended_has_a_successor(journal: Journal, handler: Handler, error: type[BaseException]) -> None:
    def ends(_record: object) -> None:
        raise error

    emit, handler.emit = handler.emit, ends  # type: ignore[method-assign]
    journal.warning("lost")
    wait_until(lambda: not len(journal._records), what="the first record")
    handler.emit = emit  # type: ignore[method-assign]

    def is_written() -> bool:
        journal.warning("written")
        return "written" in handler.texts

    wait_until(is_written, what="a record behind it")
