"""uWSGI's hooks: set by importing this module, at best with `shared-import = wsgi_messaging.servers.uwsgi`.

`shared-import` runs in the master before any fork, whatever lazy-apps says, so the hook reaches workers,
mules and the spooler. Imported by the application it works as well: too late for the fork, it runs its body
at once. A later `import uwsgidecorators` replaces uWSGI's only post-fork hook; so where there is a master we
are in its chain first. Threads that uWSGI does not schedule (before 2.0.27 without enable-threads) get their
turn from a uWSGI timer.

Outside uWSGI the import does nothing. Layer 5: imports runtime.worker, runtime.native.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any, Protocol, cast

from ..runtime import native, waiting, worker
from . import diagnosis

EXIT_SECONDS = 2.5
NO = ("false", "off", "no", "0")
TURN_MS = 20  # what a thread without enable-threads gets, once a second: enough to read, beat and write


class Api(Protocol):
    """The part of the module `uwsgi` (there only inside uWSGI) that is used here."""

    version: bytes
    numproc: int
    has_threads: int
    opt: dict[str, Any]

    def worker_id(self) -> int: ...
    def mule_id(self) -> int: ...
    def masterpid(self) -> int: ...
    def i_am_the_spooler(self) -> bool: ...
    def signal_registered(self, number: int) -> bool: ...
    def register_signal(self, number: int, target: str, handler: Callable[[int], None]) -> None: ...
    def signal(self, number: int) -> None: ...
    def add_timer(self, number: int, seconds: int) -> None: ...


_installed: Api | None = None
_loaded_signal: int | None = None  # lazy applications are imported after the hook; this is handled after both


def install(api: Api) -> None:
    """Set the hooks, once per interpreter, and say what in the configuration must change. Never raises."""
    global _installed, _loaded_signal
    if _installed is not None:
        return
    _installed = api
    has_master = api.masterpid() > 0
    if not api.has_threads:
        text = diagnosis.uwsgi_without_threads(api.version.decode(), kept_alive=_keep_alive(api))
        diagnosis.say(text, level=logging.ERROR)
    if _is_on(api, "lazy-apps", "lazy"):
        _loaded_signal = _on_signal(api, _warm)
    if sys.version_info >= diagnosis.UWSGI_DEADLY_SINCE and _tells_half_of_a_fork(api) and _role(api) == "master":
        diagnosis.say(diagnosis.UWSGI_HALF_A_FORK, level=logging.ERROR)
    if not has_master and api.numproc > 1 and api.worker_id() <= 1:
        diagnosis.say(diagnosis.uwsgi_without_master(api.numproc))
    if _separates_applications(api) and (_role(api) == "master" or "shared-import" not in api.opt):
        diagnosis.say(diagnosis.UWSGI_SINGLE)  # once: with shared-import the master has said it
    if _is_on(api, "skip-atexit"):
        diagnosis.say(diagnosis.UWSGI_SKIP_ATEXIT)
    _chain(api, "atexit", stop)
    if _role(api) != "master":
        after_fork()
    elif not has_master or not _join_decorators(api):
        _chain(api, "post_fork_hook", after_fork)


def after_fork() -> None:
    """The hook's body: mark the process; a worker connects now, mules and the spooler when they publish."""
    if _installed is None:
        return
    role = _role(_installed)
    number = _installed.mule_id() if role == "mule" else _installed.worker_id()
    worker.mark("uwsgi", str(number), role=role)
    if number == 1 and role == "worker":
        _say_what_shows_after_the_fork(_installed)
    if role in ("worker", "master"):  # without a master the hook runs before uWSGI numbers the process
        worker.warm()
    if role == "worker" and _loaded_signal is not None:
        _installed.signal(_loaded_signal)


def _say_what_shows_after_the_fork(api: Api) -> None:
    """In the first worker, for all."""
    if native.is_patched() and _tells_half_of_a_fork(api):
        diagnosis.say(diagnosis.UWSGI_PATCHED_MASTER)
    stale = native.count_inherited_threads()
    if stale and not _is_on(api, "py-call-osafterfork", "py-call-uwsgi-fork-hooks"):
        diagnosis.say(diagnosis.uwsgi_stale_threads(stale))
    digits = re.match(r"\d+", _text(api.opt.get("harakiri")))  # uWSGI reads them with atoi()
    harakiri = int(digits[0]) if digits else 0
    if 0 < harakiri <= worker.longest_wait():
        diagnosis.say(diagnosis.uwsgi_harakiri(harakiri, worker.longest_wait()))


def stop() -> None:
    """Close what this process opened. uWSGI calls it also where Python's atexit does not run (--gevent).

    It does so from the C library's exit handlers: no greenlet runs any more, and greenlet itself must not be touched.
    """
    waiting.leave_hubs()
    worker.stop(EXIT_SECONDS)


def adopt(stream: Any) -> None:
    """A request came to a worker whose hook had not run: do its work now, and say which line was missing."""
    api = _find()
    if api is None:
        return
    install(api)
    after_fork()
    if not _separates_applications(api):  # which install() has named, or will
        diagnosis.say(diagnosis.uwsgi_without_hook(os.getpid()), stream=stream)


def _separates_applications(api: Api) -> bool:
    """True where each mounted application has an interpreter of its own."""
    return "mount" in api.opt and not _is_on(api, "single-interpreter", "single-interp")


def _is_on(api: Api, *names: str) -> bool:
    """Whether a switch was set, under any of its names, to something else than uWSGI's words for no."""
    return any(name in api.opt and _text(api.opt[name]).lower() not in NO for name in names)


def _text(value: Any) -> str:
    """What an option was set to: uWSGI has bytes, True for nothing, a list of what came again."""
    last = value[-1] if isinstance(value, list) else value
    return last.decode(errors="replace") if isinstance(last, bytes) else str(last)


def _tells_half_of_a_fork(api: Api) -> bool:
    """True where Python hears of a fork in the child only; where both are set, uWSGI takes the other option."""
    return _is_on(api, "py-call-osafterfork") and not _is_on(api, "py-call-uwsgi-fork-hooks")


def _role(api: Api) -> str:
    if api.mule_id() > 0:
        return "mule"
    if api.i_am_the_spooler():
        return "spooler"
    return "worker" if api.worker_id() > 0 else "master"


def _keep_alive(api: Api) -> bool:
    """Have uWSGI interrupt its wait for requests once a second, so that Python's threads get a turn."""
    number = _on_signal(api, _give_turn)
    if number is not None:
        api.add_timer(number, 1)
    return number is not None


def _warm(_number: int) -> None:
    worker.warm()


def _on_signal(api: Api, handler: Callable[[int], None]) -> int | None:
    """Have `handler` run in each worker at a uWSGI signal of our own; only the master can arrange that.

    The number is the highest one that is free: uwsgidecorators hands them out from 0.
    """
    if _role(api) != "master" or not api.masterpid():
        return None
    number = next((number for number in range(255, -1, -1) if not api.signal_registered(number)), None)
    if number is not None:
        api.register_signal(number, "workers", handler)
    return number


def _give_turn(_number: int) -> None:
    native.poll().poll(TURN_MS)


def _chain(api: Api, name: str, ours: Callable[[], None]) -> None:
    """Make `ours` the hook `name`, calling the one that was there before it."""
    before = getattr(api, name, None)

    def chained() -> None:
        try:
            if before is not None:
                before()
        finally:
            ours()

    setattr(api, name, chained)


def _join_decorators(api: Api) -> bool:
    """Join uwsgidecorators' chain, so that its later import cannot take our place; False where there is none.

    Importing it replaces three attributes of `uwsgi`; what an application had set there before is put back.
    """
    names = ("post_fork_hook", "spooler", "mule_msg_hook")
    before = {name: value for name in names if (value := getattr(api, name, None)) is not None}
    try:
        decorators = importlib.import_module("uwsgidecorators")
    except ImportError:
        return False
    theirs = getattr(api, "post_fork_hook", None)
    for name, value in before.items():
        setattr(api, name, value)
    if theirs is not None and before.get("post_fork_hook", theirs) is not theirs:
        _chain(api, "post_fork_hook", theirs)
    decorators.postfork_chain.append(after_fork)
    return True


def _find() -> Api | None:
    try:
        return cast(Api, importlib.import_module("uwsgi"))
    except ImportError:
        return None


if (_api := _find()) is not None:
    install(_api)
