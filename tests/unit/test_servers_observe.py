"""servers/__init__.py and diagnosis.py: which server serves, did its hook run, and what is said, once."""

from __future__ import annotations

import errno
import io
import logging
import os
from collections.abc import Iterator

import pytest

from wsgi_messaging import servers
from wsgi_messaging.runtime import worker
from wsgi_messaging.servers import Advice, diagnosis, observe_first_request, serving

GUNICORN = {"SERVER_SOFTWARE": "gunicorn/27.0.1", "wsgi.multiprocess": True}
FORKING_WERKZEUG = {"SERVER_SOFTWARE": "Werkzeug/3.1.9", "wsgi.multiprocess": True}
THREADED_WERKZEUG = {"SERVER_SOFTWARE": "Werkzeug/3.1.9", "wsgi.multiprocess": False}


class CountingHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture(autouse=True)
def _as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(servers, "_advice", {})
    monkeypatch.setattr(worker, "_marked", None)
    servers._one_shot_said[0] = 0
    yield
    servers._one_shot_said[0] = 0


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What is logged, through a handler on our logger as an application would configure one."""
    handler = CountingHandler()
    diagnosis.logger.addHandler(handler)
    yield handler.texts
    diagnosis.logger.removeHandler(handler)


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        (GUNICORN, "gunicorn"),
        (FORKING_WERKZEUG, "werkzeug"),
        ({"uwsgi.version": b"2.0.31"}, "uwsgi"),
        ({"mod_wsgi.process_group": "", "SERVER_SOFTWARE": "Apache/2.4.71"}, "mod_wsgi"),
        ({"SERVER_SOFTWARE": "waitress"}, ""),
        ({}, ""),
    ],
)
def test_the_server_is_known_by_its_environ(environ: dict[str, object], name: str) -> None:
    assert serving(environ) == name


def test_gunicorn_without_hook_is_named_once_with_the_line_to_add(said: list[str]) -> None:
    assert observe_first_request(GUNICORN) == Advice("gunicorn", hooked=False)
    assert observe_first_request(GUNICORN) == Advice("gunicorn", hooked=False)
    assert len(said) == 1
    assert f"gunicorn worker {os.getpid()} " in said[0]
    assert diagnosis.GUNICORN_LINE in said[0]


def test_gunicorn_with_hook_says_nothing(said: list[str]) -> None:
    worker.mark("gunicorn", "1")
    assert observe_first_request(GUNICORN) == Advice("gunicorn", hooked=True)
    assert said == []


def test_the_hook_of_the_parent_process_does_not_count(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    worker.mark("gunicorn", "1")
    parent = worker.current()
    assert parent is not None
    monkeypatch.setattr(worker, "_marked", worker.Worker(parent.pid + 1, "gunicorn"))
    assert not observe_first_request(GUNICORN).hooked
    assert len(said) == 1


def test_werkzeug_that_forks_for_each_request_is_one_shot_and_said_once_for_all_its_forks(said: list[str]) -> None:
    assert observe_first_request(FORKING_WERKZEUG) == Advice("werkzeug", one_shot=True)
    servers._advice.clear()  # the next child begins with the parent's memory, where nothing was observed
    assert observe_first_request(FORKING_WERKZEUG).one_shot
    assert said == [diagnosis.ONE_SHOT]


def test_the_byte_that_says_so_is_shared_with_a_fork() -> None:
    """Fails with an ordinary variable: each child would warn again."""
    pid = os.fork()
    if pid == 0:
        servers._one_shot_said[0] = 1
        os._exit(0)
    os.waitpid(pid, 0)
    assert servers._one_shot_said[0] == 1


def test_threaded_werkzeug_needs_nothing(said: list[str]) -> None:
    assert observe_first_request(THREADED_WERKZEUG) == Advice("werkzeug")
    assert said == []


def test_workers_of_serve_are_not_one_shot(said: list[str]) -> None:
    worker.mark("werkzeug", "1", processes=2)
    assert observe_first_request(FORKING_WERKZEUG) == Advice("werkzeug", hooked=True)
    assert said == []


def test_another_server_is_left_alone(said: list[str]) -> None:
    assert observe_first_request({"SERVER_SOFTWARE": "waitress"}) == Advice("")
    assert worker.current() is None
    assert said == []


def unconfigure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging as an application leaves it that never thought of it. (Not a fixture: pytest's own handler comes after
    the fixtures.)"""
    monkeypatch.setattr(diagnosis.logger, "propagate", False)
    monkeypatch.setattr(diagnosis.logger, "handlers", [logging.NullHandler()])


def test_without_logging_the_line_goes_to_the_servers_error_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails without it: a NullHandler swallows the line, and nobody ever sees it."""
    errors = io.StringIO()
    unconfigure(monkeypatch)
    observe_first_request({**GUNICORN, "wsgi.errors": errors})
    assert errors.getvalue().startswith("wsgi_messaging: warning: gunicorn worker")
    assert errors.getvalue().count("\n") == 1


def test_a_silenced_logger_stays_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = io.StringIO()
    unconfigure(monkeypatch)
    monkeypatch.setattr(diagnosis.logger, "disabled", True)
    diagnosis.say("anything", stream=errors)
    assert errors.getvalue() == ""


class Unwritable(io.StringIO):
    """An error log on a full disk."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("errors", [Unwritable(), closed(), None])
def test_a_log_that_cannot_be_written_costs_no_request(
    monkeypatch: pytest.MonkeyPatch, errors: io.StringIO | None
) -> None:
    """Fails without it: the first request of each worker without a hook ended in an error."""
    unconfigure(monkeypatch)
    monkeypatch.setattr("sys.stderr", None)  # as after `2>&-`
    assert observe_first_request({**GUNICORN, "wsgi.errors": errors}) == Advice("gunicorn")


@pytest.mark.parametrize(
    ("process_group", "application_group", "parts"),
    [
        ("daemon", "", []),
        ("daemon", "host|/app", ["sub-interpreter 'host|/app'", "%{GLOBAL}"]),
        ("", "host|/app", ["sub-interpreter 'host|/app'", "ServerLimit"]),
    ],
)
def test_where_mod_wsgi_runs_the_application(
    said: list[str], process_group: str, application_group: str, parts: list[str]
) -> None:
    diagnosis.say_mod_wsgi(process_group, application_group, None)
    assert len(said) == bool(parts)
    assert all(part in said[0] for part in parts)
