"""What each WSGI server needs: its hooks, and one look at the first request to see that they are in place.

A missing hook is not an error: the transport is right without one. A hook makes it early (connected before
the first request) and tidy (closed, not cut, at the end), so a worker without one says so once, with the line
to add.

Layer 5: imports runtime.worker; the module of a server only where that server serves.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..runtime import worker
from . import diagnosis

_advice: dict[int, Advice] = {}  # by pid: what a parent saw says nothing about its fork
_one_shot_said = mmap.mmap(-1, 1)  # one byte shared with all forks: run_simple(processes=N) forks per request


@dataclass(frozen=True, slots=True)
class Advice:
    """What the middleware may assume about this process.

    `server` is "gunicorn", "uwsgi", "mod_wsgi", "werkzeug", or "" for one that needs nothing of us. `hooked`:
    its hook ran here. `one_shot`: the process was forked for this one request and ends with `os._exit` after
    it, so what is opened in the request is closed in the request.
    """

    server: str
    hooked: bool = False
    one_shot: bool = False


def _prepare() -> None:
    """mod_wsgi destroys a sub-interpreter under its threads unless it was asked for a word before; and the application
    may have no middleware of ours that sees a request (oslo.messaging's driver, Django's own function)."""
    if hasattr(sys.modules.get("mod_wsgi"), "process_group"):
        from . import mod_wsgi

        mod_wsgi.prepare()


worker.prepare_by(_prepare)


def observe_first_request(environ: Mapping[str, Any]) -> Advice:
    """Which server serves this process, judged by its first request; call it before the transport is used.

    Does what a missing hook left undone, and says once per process what is missing. Threads: any, also at once.
    After fork: call again; it is cheap, and one dict look-up from the second call on.

    Raises: ConfigurationError: a thread of ours would crash this process at its end (see servers.mod_wsgi);
    each request gets it, until the configuration is changed.
    """
    pid = os.getpid()
    known = _advice.get(pid)
    if known is not None:
        return known
    advice = _look(environ)
    if _advice.setdefault(pid, advice) is advice:
        _speak(advice, environ)
    return advice


def serving(environ: Mapping[str, Any]) -> str:
    """The name of the server that made `environ`; "" for one that is not known here."""
    if "mod_wsgi.process_group" in environ:
        return "mod_wsgi"
    if "uwsgi.version" in environ:
        return "uwsgi"
    software = str(environ.get("SERVER_SOFTWARE", "")).lower()
    return next((name for name in ("gunicorn", "werkzeug") if software.startswith(name)), "")


def _look(environ: Mapping[str, Any]) -> Advice:
    server = serving(environ)
    if server == "mod_wsgi":
        from . import mod_wsgi

        return Advice(server, hooked=mod_wsgi.subscribe())
    marked = worker.current()
    hooked = marked is not None and marked.server == server
    # Only a server that forks for each request calls itself multi-process here; those of `serve` are marked.
    one_shot = server == "werkzeug" and not hooked and bool(environ.get("wsgi.multiprocess"))
    return Advice(server, hooked, one_shot)


def _speak(advice: Advice, environ: Mapping[str, Any]) -> None:
    stream = environ.get("wsgi.errors")
    if advice.server == "mod_wsgi":
        diagnosis.say_mod_wsgi(environ["mod_wsgi.process_group"], environ.get("mod_wsgi.application_group", ""), stream)
    elif advice.one_shot:
        if not _one_shot_said[0]:
            _one_shot_said[0] = 1
            diagnosis.say(diagnosis.ONE_SHOT, stream=stream)
    elif advice.hooked or not advice.server:
        return
    elif advice.server == "uwsgi":
        from . import uwsgi

        uwsgi.adopt(stream)
    else:
        worker.mark(advice.server)
        if advice.server == "gunicorn":
            diagnosis.say(diagnosis.gunicorn_without_hook(os.getpid()), stream=stream)
