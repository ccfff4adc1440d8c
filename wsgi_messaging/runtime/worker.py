"""Which process this is, and what must be warmed at its start and stopped at its end.

A server's hook marks the process; a transport enlists itself; the end of the process (a hook's, or `atexit`)
stops every member. Rules: nothing here decides whether a connection may be used (the transport does, by the
pid); no lock is held, so none can be inherited locked over a fork; every step on shared data is one
atomic operation on a dict; members are held weakly; nothing raises into a server's hook.

Layer 1: imports runtime.native.
"""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from . import native

logger = logging.getLogger("wsgi_messaging.servers")

#: Seconds that the members get together when the process ends with no hook's help.
EXIT_TIMEOUT = 2.5


class Member(Protocol):
    """What can be warmed and stopped: a Transport."""

    def warm(self) -> None: ...

    def close(self, timeout: float) -> object:
        """False when a thread of the member has not ended within `timeout`; anything else when all have."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that a server started to serve requests, as that server's hook described it."""

    pid: int
    server: str
    label: str = ""
    facts: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


_marked: Worker | None = None
_members: dict[int, weakref.ref[Member]] = {}  # by id(), whatever the pid: a fork uses what its parent enlisted
_preparations: list[Callable[[], object]] = []
_stopping: dict[int, object] = {}  # by pid: a fork in the middle of a stop() must not silence the child's own
_exit_pid = 0


def mark(server: str, label: str = "", **facts: object) -> None:
    """Say that this process is a worker of `server`. Again in the same worker: the facts are added to."""
    global _marked
    known = current()
    if known is not None and known.server == server:
        facts = {**known.facts, **facts}
        label = label or known.label
    _marked = Worker(os.getpid(), server, label, MappingProxyType(facts))
    _stop_at_exit()


def current() -> Worker | None:
    """The worker that this process was marked as; None when nobody did (a parent's mark is not its)."""
    worker = _marked
    return worker if worker is not None and worker.pid == os.getpid() else None


def enlist(member: Member) -> None:
    """Have `member` warmed and stopped with this process and those forked from it, while it lives."""
    key = id(member)
    _members[key] = weakref.ref(member, _forget(key))
    _stop_at_exit()


def prepare_by(preparation: Callable[[], object]) -> None:
    """Have `preparation` called before a member connects: what a server wants of whoever starts threads."""
    _preparations.append(preparation)


def prepare() -> None:
    """A member is about to connect. Raises: `ConfigurationError` where its thread would crash the process."""
    for preparation in _preparations:
        preparation()


def members() -> list[Member]:
    """Those that are enlisted and alive."""
    return _alive()


def longest_wait() -> float:
    """The longest that a request of this process may wait for a broker; 0 with no member."""
    waits: list[float] = [getattr(member, "longest_wait", 0.0) for member in _alive()]
    return max(waits, default=0.0)


def warm() -> None:
    """Have each member begin to connect. Waits for nothing and never raises: servers' hooks call it."""
    for member in _alive():
        try:
            member.warm()
        except Exception:
            logger.warning("could not warm %r in pid %d", member, os.getpid(), exc_info=True)


def stop(timeout: float) -> bool:
    """Close every member in this process; True when nothing of theirs runs any more.

    Blocks: up to `timeout` seconds in all, as far as members keep to the time they are given. A call that
    comes while another is under way in this process (a signal handler's, another thread's) returns at once.
    """
    pid, this_call = os.getpid(), object()
    if _stopping.setdefault(pid, this_call) is not this_call:
        return False
    try:
        ends_at = native.monotonic() + timeout
        # Last in, first out, as atexit: what is built on a transport was enlisted after it.
        ended = [_close(member, max(0.0, ends_at - native.monotonic())) for member in reversed(_alive())]
    finally:
        _stopping.pop(pid, None)
    return all(ended)


def _close(member: Member, timeout: float) -> bool:
    try:
        return member.close(timeout) is not False
    except Exception:
        logger.warning("could not close %r in pid %d", member, os.getpid(), exc_info=True)
        return False


def _alive() -> list[Member]:
    return [member for reference in _members.copy().values() if (member := reference()) is not None]


def _forget(key: int) -> Callable[[object], None]:
    def forget(_reference: object) -> None:
        _members.pop(key, None)

    return forget


def _stop_at_exit() -> None:
    """Register with this process's atexit, once; in a fork anew, so that it runs before older entries."""
    global _exit_pid
    if _exit_pid != os.getpid():
        _exit_pid = os.getpid()
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)


def _at_exit() -> None:
    """Runs in unmarked forks too: they may have used what the parent enlisted; closing the unused is quick."""
    stop(EXIT_TIMEOUT)
