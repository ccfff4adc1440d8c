"""What native threads have libraries do is not logged by them; and each process knows its id."""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.requirements import missing
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


@pytest.fixture(params=[False, True])
def was_disabled(request: pytest.FixtureRequest, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the application had disabled the logger, in a patched process."""
    monkeypatch.setattr(native, "is_patched", lambda: True)
    logger.disabled = request.param
    return logger.disabled


def test_two_threads_of_a_patched_process_leave_the_logger_as_it_was(
    logger: logging.Logger, was_disabled: bool
) -> None:
    """The second to enter finds it disabled by the first, and is not to leave it so."""
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


def test_a_child_that_was_forked_meanwhile_gets_its_logger_back(logger: logging.Logger, was_disabled: bool) -> None:
    """The thread that had silenced it is not in the child; the next one there leaves it as it was before both."""

    def child() -> int:
        with native.quiet_logger(logger):
            pass
        return logger.disabled is not was_disabled or bool(native._quiet)

    with native.quiet_logger(logger):
        pid = os.fork()
        if pid == 0:
            os._exit(child())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
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


def test_a_start_that_is_interrupted_behind_the_start(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A signal handler raises: the thread runs, and ends without a word."""
    start = native._NamedThread.start

    def interrupted(thread: native._NamedThread) -> None:
        start(thread)
        raise RuntimeError("alarm")

    monkeypatch.setattr(native._NamedThread, "start", interrupted)
    go_on = threading.Event()
    thread = native.NativeThread("interrupted", go_on.wait)
    with pytest.raises(RuntimeError, match="alarm"):
        thread.start()
    [running] = [each for each in threading.enumerate() if each.name == "interrupted"]
    go_on.set()
    running.join(10.0)
    assert not running.is_alive()
    assert "release unlocked lock" not in capfd.readouterr().err


# The process id.


def said_in_a_child(fork: Callable[[], int], say: Callable[[], str]) -> list[str]:
    """What a child says of itself."""
    read_end, write_end = os.pipe()
    child = fork()
    if child == 0:
        os.write(write_end, say().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write_end)
    with open(read_end, "rb") as reader:
        return reader.read().decode().split()


FORKS = pytest.mark.parametrize("fork", [os.fork, ctypes.PyDLL(None).fork], ids=["python's", "the system's"])


@FORKS
@pytest.mark.parametrize("is_wiped", [True, False])
def test_each_process_has_its_id(fork: Callable[[], int], is_wiped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Python is not told of the fork, as in uWSGI's workers; and where the kernel wipes nothing."""
    if not is_wiped:
        monkeypatch.setattr(native, "_is_known", b"\0")
    assert native.getpid() == os.getpid()
    assert len(set(said_in_a_child(fork, lambda: f"{native.getpid()} {native.getpid()} {os.getpid()}"))) == 1
    assert native.getpid() == os.getpid()


@FORKS
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no thread is known for the main one")
def test_the_thread_that_forks_is_the_childs_main_one(fork: Callable[[], int]) -> None:
    """It knew of itself that it is not, in the parent."""

    def know_and_fork() -> None:
        # Until who joins it sleeps: who wants the interpreter at the fork is waited for in the child, and is not there.
        time.sleep(0.2)
        known.append(native.is_main_thread())
        told.extend(said_in_a_child(fork, lambda: str(native.is_main_thread())))
        known.append(native.is_main_thread())

    known: list[bool] = []
    told: list[str] = []
    thread = threading.Thread(target=know_and_fork)
    thread.start()
    thread.join(10.0)
    assert (known, told) == ([False, False], ["True"])
    assert native.is_main_thread()


def test_the_system_is_asked_once_for_the_process_id(monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(native._is_known, mmap.mmap):
        missing("this kernel cannot wipe memory in a forked child")
    own = native.getpid()
    monkeypatch.setattr(os, "getpid", lambda: own + 1)
    assert native.getpid() == own


class Page:
    """Takes the advices that it is told to."""

    def __init__(self, *accepted: int) -> None:
        self._accepted = accepted

    def madvise(self, advice: int) -> None:
        if advice not in self._accepted:
            raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize(
    ("accepted", "is_trusted"),
    [((), False), ((native._WIPE_ON_FORK,), True), ((native._WIPE_ON_FORK, native._NO_ADVICE), False)],
    ids=["an old kernel", "a new one", "an emulator that does nothing of it"],
)
def test_memory_that_may_be_kept_over_a_fork_is_not_trusted(
    accepted: tuple[int, ...], is_trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native.mmap, "mmap", lambda *_args, **_rest: Page(*accepted))
    assert (native._wiped_in_a_forked_child() is not None) is is_trusted
