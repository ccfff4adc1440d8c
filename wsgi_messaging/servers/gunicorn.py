"""gunicorn's server hooks: a deployer imports them into gunicorn.conf.py.

    from wsgi_messaging.servers.gunicorn import post_fork, post_worker_init
    from wsgi_messaging.servers.gunicorn import worker_int, worker_abort, worker_exit

Without such a file: `gunicorn -c python:wsgi_messaging.servers.gunicorn app:app`.

Rules, each from a fact of gunicorn 21 to 27: an exception in a hook stops all of gunicorn, so none raises;
gevent patches after `post_fork`, so that only marks; the argument counts are exact; and no name in this
module is also the name of a gunicorn setting, because `-c python:` reads every one that is.

Layer 5: imports runtime.worker.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from ..errors import ConfigurationError
from ..runtime import worker as process
from . import diagnosis

ABORT_SECONDS = 0.5  # the arbiter sends SIGKILL about a second after SIGABRT
EXIT_SECONDS = 3.0


def post_fork(server: Any, worker: Any) -> None:
    """Mark the new worker. Nothing else: no thread, no connection, no exception is safe here."""
    process.mark("gunicorn", str(worker.age), age=worker.age, patched_at_fork=_is_patched())


def post_worker_init(worker: Any) -> None:
    """Begin to connect in the background; say so if the application was imported before gevent patched."""
    process.mark("gunicorn", str(worker.age), age=worker.age)
    marked = process.current()
    patched_at_fork = True if marked is None else marked.facts.get("patched_at_fork", True)
    if worker.cfg.preload_app and not patched_at_fork and _is_patched():
        diagnosis.say(diagnosis.PATCHED_TOO_LATE)
    process.warm()


def worker_int(worker: Any) -> None:
    """Nothing: it runs in a signal handler or in the reloader's thread, and `worker_exit` always follows."""


def worker_abort(worker: Any) -> None:
    """The worker was silent for `--timeout`: close at once, in the handler that interrupted a request."""
    if os.getpid() == worker.pid:
        process.stop(ABORT_SECONDS)


def worker_exit(server: Any, worker: Any) -> None:
    """Close what this worker opened. gunicorn may call it in the master too (the worker was gone already)."""
    if os.getpid() == worker.pid:
        process.stop(EXIT_SECONDS)


def chain(*hooks: Callable[..., object]) -> Callable[..., None]:
    """One hook that calls all of `hooks` in order, also after one of them raised.

    For a deployer's own hook beside ours: `post_fork = chain(my_post_fork, ours.post_fork)`. It takes exactly
    the arguments that its parts take, because gunicorn counts them.

    Raises: ConfigurationError: the hooks take different numbers of arguments, or none takes one or two.
    """
    counts = {_argument_count(hook) for hook in hooks}
    if counts == {1}:

        def chained_worker(worker: Any) -> None:
            _call_all(hooks, worker)

        return chained_worker
    if counts == {2}:

        def chained_server_worker(server: Any, worker: Any) -> None:
            _call_all(hooks, server, worker)

        return chained_server_worker
    raise ConfigurationError(f"chain(): the hooks must all take one argument, or all take two; these take {counts}")


def _call_all(hooks: tuple[Callable[..., object], ...], *arguments: Any) -> None:
    if hooks:
        try:
            hooks[0](*arguments)
        finally:
            _call_all(hooks[1:], *arguments)


def _argument_count(hook: Callable[..., object]) -> int:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in positional for parameter in inspect.signature(hook).parameters.values())


def _is_patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))
