"""Apache's mod_wsgi: end the connection's thread before the interpreter is destroyed.

Python starts after Apache's fork, so nothing is ever inherited; what matters is the end. A thread alive in a
sub-interpreter that is destroyed is a segmentation fault (6 of 8 shutdowns), and joined in atexit is too
late; so we subscribe to mod_wsgi's shutdown event, let requests in flight finish, close and join. Apache
kills the process about 3 s after the event: both together stay below 2.5 s. The event may come twice (Python
3.13). MPM prefork ends a child in its signal handler, on top of the request that it serves: that one is cut off.

The first connection subscribes, or the middleware at the first request. A WSGI script that wants to be connected
before it calls `start()`.

Layer 5: imports runtime.worker, runtime.native.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol, cast

from ..errors import Closed, ConfigurationError
from ..runtime import native, worker
from . import diagnosis

DRAIN_SECONDS = 1.8
CLOSE_SECONDS = 0.7
DRAIN_STEP_MS = 20


class Api(Protocol):
    """The part of the module `mod_wsgi` that is used here; inside Apache only, it has these attributes."""

    process_group: str
    application_group: str
    active_requests: dict[str, Any]


_subscribed = False
_stopped = False
_is_over = False


def start() -> bool:
    """Begin to connect before the first request; for the end of a WSGI script. False outside Apache.

    Raises: ConfigurationError: as `subscribe`.
    """
    if not subscribe():
        return False
    worker.warm()
    return True


def subscribe() -> bool:
    """Have everything of ours ended before this interpreter is; once per interpreter. False outside Apache.

    Raises: ConfigurationError: this is a sub-interpreter and mod_wsgi cannot tell when it is destroyed; use
    WSGIApplicationGroup %{GLOBAL}, or upgrade mod_wsgi.
    """
    global _subscribed
    api = _find()
    if api is None:
        return False
    if _subscribed:
        return True
    subscribe_shutdown: Callable[..., object] | None = getattr(api, "subscribe_shutdown", None)
    if subscribe_shutdown is None and api.application_group:
        raise ConfigurationError(diagnosis.SUB_INTERPRETER_REFUSED.format(group=api.application_group))
    if api.application_group and "gevent.monkey" in sys.modules and native.is_patched():
        raise ConfigurationError(diagnosis.SUB_INTERPRETER_GEVENT.format(group=api.application_group))
    _subscribed = True
    worker.mark("mod_wsgi", api.process_group, application_group=api.application_group)
    if subscribe_shutdown is None:
        return False  # the main interpreter is not destroyed under a live thread; atexit closes
    subscribe_shutdown(_on_shutdown)
    return True


def prepare() -> None:
    """Somebody is about to start a thread. Raises: ConfigurationError: as `subscribe`; Closed: the interpreter ends."""
    if _is_over:
        raise Closed("this process is ending, and a thread that is started now would crash it")
    subscribe()


def _on_shutdown(*_arguments: Any, **_facts: Any) -> None:
    global _stopped, _is_over
    api = _find()
    if _stopped or api is None:
        return
    _stopped = True
    ends_at = native.monotonic() + (0.0 if _is_amid_request(sys._getframe()) else DRAIN_SECONDS)
    waiting = native.poll()
    while api.active_requests and native.monotonic() < ends_at:
        waiting.poll(DRAIN_STEP_MS)
    _is_over = bool(api.application_group)  # the main one may serve what comes late; it ends with its threads
    if not worker.stop(CLOSE_SECONDS) and api.application_group:  # in the main interpreter it ends with the process
        diagnosis.say(
            diagnosis.THREAD_LEFT.format(group=api.application_group, pid=os.getpid()),
            level=logging.CRITICAL,
        )


def _is_amid_request(called: FrameType) -> bool:
    """True where what Apache has called stands on a request of this thread's, which goes on after it, or not at all."""
    return called.f_back is not None


def _find() -> Api | None:
    """The module as Apache provides it; the one that pip installs has no process group."""
    try:
        module = importlib.import_module("mod_wsgi")
    except ImportError:
        return None
    return cast(Api, module) if hasattr(module, "process_group") else None
