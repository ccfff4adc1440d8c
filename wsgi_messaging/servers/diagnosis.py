"""What is said about a server's configuration, and how: one line, with the remedy in it.

Layer 5: imports logging.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any

logger = logging.getLogger("wsgi_messaging.servers")

GUNICORN_LINE = (
    "from wsgi_messaging.servers.gunicorn import post_fork, post_worker_init, worker_int, worker_abort, worker_exit"
)
PATCHED_TOO_LATE = (
    "the application was imported BEFORE gevent.monkey.patch_all() (--preload with -k gevent): module-level"
    " locks do not protect greenlets and may dead-lock the worker. Put 'from gevent import monkey;"
    " monkey.patch_all()' at the very top of gunicorn.conf.py, or drop --preload."
)
UWSGI_LINE = "shared-import = wsgi_messaging.servers.uwsgi"
UWSGI_SINGLE = (
    "uWSGI runs each mounted application in an interpreter of its own, and calls the post-fork and exit hooks of the"
    " first one only. Add 'single-interpreter = true' to its configuration."
)
ONE_SHOT = (
    "werkzeug.run_simple(processes=N) forks a new process for EVERY request and ends it with os._exit(): no"
    " connection and no heartbeat can live in it, so each request that publishes opens and closes a"
    " connection of its own (milliseconds instead of a fraction of one). Use 'wsgi-messaging serve APP"
    " --processes N --threads', or threaded=True."
)
SUB_INTERPRETER_REFUSED = (
    "mod_wsgi runs this application in the sub-interpreter {group!r} and is too old to tell when that is"
    " destroyed (no subscribe_shutdown): a live heartbeat thread would crash the process then. Use"
    " 'WSGIApplicationGroup %{{GLOBAL}}', or upgrade mod_wsgi."
)
THREAD_LEFT = (
    "the thread of a connection did not end before mod_wsgi's interpreter {group!r} does (pid {pid}): a"
    " segmentation fault may follow. Prefer 'WSGIApplicationGroup %{{GLOBAL}}'."
)


def say(text: str, *, level: int = logging.WARNING, stream: Any = None) -> None:
    """Log one line; where the application has configured no handler at all, write it to the server's own log.

    Python's last-resort handler would not say whose line it is, and an application's NullHandler keeps it from
    printing at all: a diagnosis that nobody sees is none. `stream` is `environ["wsgi.errors"]` where there is one,
    else standard error. Raises: nothing; neither a request nor a server's hook may end for a full disk.
    """
    if not logger.isEnabledFor(level):
        return
    if _is_heard():
        logger.log(level, text)
    elif level >= logging.WARNING:
        output = stream or sys.stderr
        with suppress(OSError, ValueError, AttributeError):  # it cannot be written, was closed, or is not there
            output.write(f"wsgi_messaging: {logging.getLevelName(level).lower()}: {text}\n")
            output.flush()


def _is_heard() -> bool:
    at: logging.Logger | None = logger
    while at is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in at.handlers):
            return True
        at = at.parent if at.propagate else None
    return False


def gunicorn_without_hook(pid: int) -> str:
    return (
        f"gunicorn worker {pid} serves requests but wsgi_messaging's post_fork() never ran in it: the first"
        f" message waits for the connection. Add to gunicorn.conf.py: {GUNICORN_LINE} (gunicorn reads only"
        " these exact names; a later definition of the same name replaces ours: use chain())."
    )


def uwsgi_without_hook(pid: int) -> str:
    return (
        f"uWSGI worker {pid} serves requests but wsgi_messaging's post-fork hook never ran in it: not"
        " configured, or something replaced uwsgi.post_fork_hook after it was set (importing uwsgidecorators"
        f" does). Add to the uWSGI configuration: {UWSGI_LINE}"
    )


def uwsgi_without_threads(version: str, *, kept_alive: bool) -> str:
    fate = (
        "a uWSGI timer gives it a turn once a second for the time being, at the cost of requests"
        if kept_alive
        else f"nothing wakes it (with 'master = true' and '{UWSGI_LINE}' a timer would)"
    )
    return (
        f"uWSGI {version} runs with Python threads disabled, so the AMQP heartbeat thread freezes whenever"
        f" the worker waits for a request, and the broker drops the connection; {fate}. Add 'enable-threads"
        " = true' (threads are on by default only since uWSGI 2.0.27)."
    )


UWSGI_FORK_LINE = "py-call-uwsgi-fork-hooks = true"
UWSGI_DEADLY_SINCE = (3, 13)
"""Python's own locks then end a process that unlocks what it has not locked (unbit/uwsgi issue 2710)."""
UWSGI_HALF_A_FORK = (
    "uWSGI's 'py-call-osafterfork' kills each worker at its start from Python 3.13 on (\"Fatal Python error: ..."
    f" unlocking ...\"). Put '{UWSGI_FORK_LINE}' in its place."
)
UWSGI_PATCHED_MASTER = (
    "the uWSGI master was patched by gevent before it forked, and 'py-call-osafterfork' makes gevent's fork hook"
    " complain in each worker (\"Exception ignored in: _ForkHooks.after_fork_in_child\"). Remove 'py-call-osafterfork',"
    " or add 'lazy-apps = true'."
)
SUB_INTERPRETER_GEVENT = (
    "gevent does not work in mod_wsgi's sub-interpreter {group!r} (gevent.sleep() never returns there): use"
    " 'WSGIApplicationGroup %{{GLOBAL}}'."
)
UWSGI_SKIP_ATEXIT = (
    "uWSGI's 'skip-atexit' keeps our exit hook from running: each worker's connection is cut at its end instead of"
    " closed, and messages that were handed over with publish_soon() may be lost. Remove 'skip-atexit'."
)


def uwsgi_harakiri(seconds: int, timeout: float) -> str:
    return (
        f"uWSGI's 'harakiri = {seconds}' kills a worker that waits {seconds} s, connection and all, and a publish may"
        f" wait {timeout:g} s for the broker. Set the transport's timeout (WSGI_MESSAGING_TIMEOUT) below {seconds}."
    )


def uwsgi_stale_threads(count: int) -> str:
    return (
        f"the uWSGI master had {count} Python threads when it forked, and Python was not told of the fork: locks"
        " that they held stay locked in the workers (logging's among them), and a worker may hang at its end. Add"
        f" '{UWSGI_FORK_LINE}'."
    )


def uwsgi_without_master(processes: int) -> str:
    return (
        f"uWSGI runs {processes} processes without a master: workers 2..{processes} survive SIGTERM and keep"
        " serving. Add 'master = true'."
    )


def say_mod_wsgi(process_group: str, application_group: str, stream: Any) -> None:
    """Say what is not as it should be about where mod_wsgi runs the application."""
    embedded = (
        "mod_wsgi runs the application embedded in Apache's own processes: each opens a connection of its"
        " own, up to ServerLimit of them. Prefer daemon mode (WSGIDaemonProcess)."
    )
    if application_group:
        text = (
            f"running in the mod_wsgi sub-interpreter {application_group!r}: supported, but every thread"
            " must end before the interpreter is destroyed. Prefer 'WSGIApplicationGroup %{GLOBAL}'."
        )
        say(text if process_group else f"{text} Also, {embedded}", stream=stream)
    elif not process_group:
        say(embedded, level=logging.INFO, stream=stream)
