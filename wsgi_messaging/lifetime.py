"""The connections of one transport in one process: at most one that publishes and one that consumes.

They are kept apart because a memory alarm makes the broker stop reading from connections that publish, and because
an exclusive queue belongs to the connection that declared it. Each is made at its first need. No lock: the first to
put its connection into the dictionary wins, so a signal handler can come in at any point.

Layer 3.
"""

from __future__ import annotations

import itertools
import logging
import os
import platform
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from .connection.loop import Loop
from .connection.state import State
from .connection.topology import Topology
from .connection.watch import Posting
from .errors import Closed, Unavailable
from .runtime import native, worker
from .runtime.journal import Journal
from .runtime.waiting import can_run_greenlets, start_application_thread
from .settings import Settings
from .version import __version__

logger = logging.getLogger("wsgi_messaging.connection")

T = TypeVar("T")

PUBLISH, CONSUME = "publish", "consume"
_CLOSED = "the transport was closed in this process; make a new one"
SHORT_HEARTBEAT = 5.0
"""Below this a garbage collection or a busy machine can cost the connection."""
ENDS_WITHIN = 0.4
"""Seconds that a thread gets to end after its time to close is over."""


class Member(Protocol):
    """What wants to end before the connections do: a consumer, an RPC server, the queue for replies."""

    def cancel(self, timeout: float) -> object:
        """Blocks: up to `timeout`; not on a thread of its own. False when it has not ended by then."""


class Lifetime:
    """What one process has open, from its first need to its end. Making it opens and starts nothing."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.topology = Topology()
        self._members: dict[Member, int] = {}
        self._extensions: dict[str, Any] = {}
        self.is_closed = False
        self.pid = os.getpid()
        self._loops: dict[str, Loop] = {}
        weakref.finalize(self, _stop, self._loops).atexit = False
        self._id_prefix = os.urandom(12).hex()
        self._id_numbers = itertools.count(1)

    @property
    def is_inherited(self) -> bool:
        """True in a child of the process that made them: nothing runs here that they would need."""
        return self.pid != native.getpid()

    def next_message_id(self) -> str:
        """An id that no other process and no other message has."""
        return f"{self._id_prefix}-{next(self._id_numbers)}"

    def extension(self, name: str, make: Callable[[], T]) -> T:
        """The one object of that name that belongs to these connections, made at its first use."""
        found: T | None = self._extensions.get(name)
        return self._extensions.setdefault(name, make()) if found is None else found

    def enlist(self, member: Member, turn: int = 0) -> None:
        """Have a member end when the transport is closed here; those of a lower `turn` first. Raises: `Closed`."""
        self._members[member] = turn
        if self.is_closed:  # looked at behind that: `close` looks for members behind closing
            self.discharge(member)
            member.cancel(0.0)
            raise Closed(_CLOSED)

    def discharge(self, member: Member) -> None:
        """It has ended by itself."""
        self._members.pop(member, None)

    def loops(self) -> list[Loop]:
        return list(self._loops.values())

    def peek(self, role: str) -> Loop | None:
        return self._loops.get(role)

    def loop(self, role: str) -> Loop:
        """The connection of a role, made and its thread started at the first call.

        Raises: `Closed`; `ConfigurationError` where the server lets no thread run to its end.
        """
        loop = self._loops.get(role)
        if self.is_closed or (loop is not None and loop.state is State.CLOSED):
            raise Closed(_CLOSED)
        if loop is None:
            worker.prepare()
            loop = self._loops.setdefault(role, made := self._make(role))
            if self.is_closed:
                raise Closed(_CLOSED)
            if loop is made:
                self._warn_about_settings(loop)
        loop.journal.ensure_writer()
        if loop.state is State.NEW:
            self._open(role, loop)
        if loop.is_own_thread():
            raise Unavailable("called from the connection's own thread, which cannot wait for itself")
        return loop

    def _open(self, role: str, loop: Loop) -> None:
        if loop.start.is_under_way_here:
            raise Unavailable("called in a signal handler that came while its thread opened the connection")
        try:
            loop.open()
        except BaseException:  # from outside, be it: nobody knows how far it had come, so the next caller makes another
            self._loops.pop(role, None)
            loop.close(native.monotonic())
            raise

    def _make(self, role: str) -> Loop:
        settings = self.settings
        name = f"{settings.app}:{role}:{self.pid}@{os.uname().nodename}"
        options = replace(
            settings.link_options,
            client_properties={
                "product": "wsgi_messaging",
                "version": __version__,
                "platform": f"Python {platform.python_version()}",
                "connection_name": name,
                "capabilities": {"publisher_confirms": True, "basic.nack": True},
            },
        )
        context = options.tls.context() if any(broker.is_tls for broker in settings.brokers) else None
        thread_name = f"wsgi-messaging-{role}-{self.pid}"
        loop = Loop(role, name, thread_name, settings.brokers, options, context, self.topology, Journal(logger))
        if settings.run_dir is not None:
            loop.watch.make_posting = partial(_post, loop, settings)
        return loop

    def _warn_about_settings(self, loop: Loop) -> None:
        heartbeat = self.settings.heartbeat
        if 0 < heartbeat < SHORT_HEARTBEAT:
            loop.journal.warning(
                f"{loop.name}: heartbeat={heartbeat:g}: below {SHORT_HEARTBEAT:g} s a short stall ends the connection"
            )

    def close(self, timeout: float) -> bool:
        """Finish what was accepted and end. Blocks: up to `timeout`. False when a thread has not ended by then.

        In a callback of a consumer, which cannot wait for itself, the end comes behind the callback.
        """
        ended_at = native.monotonic() + timeout
        ends_within = min(ENDS_WITHIN, timeout / 4)
        members = dict(self._members)
        own = self._cancel(members, ended_at - 2 * ends_within)  # first of all: a callback may publish, or consume
        self.is_closed = True
        late = {member: turn for member, turn in dict(self._members).items() if member not in members}
        own.update(self._cancel(late, ended_at - 2 * ends_within))
        if own and can_run_greenlets():
            with suppress(RuntimeError):  # the interpreter is ending and starts no thread any more
                start_application_thread("wsgi-messaging-close", partial(self._end_behind, own, ended_at, ends_within))
                return False
        return self._end(ended_at, ends_within)

    def _end_behind(self, members: dict[Member, int], ended_at: float, ends_within: float) -> None:
        """Have what is being handled settled first: over the connection that goes with it, it would come again."""
        self._cancel(members, ended_at - 2 * ends_within)
        self._end(ended_at, ends_within)

    def _end(self, ended_at: float, ends_within: float) -> bool:
        loops = self.loops()
        for loop in loops:
            loop.close(max(native.monotonic(), ended_at - ends_within))
        ended = [loop.join(max(0.05, ended_at - native.monotonic())) for loop in loops]
        for loop in loops:
            loop.journal.join(max(0.05, ended_at - native.monotonic()))
        return all(ended)

    def _cancel(self, members: dict[Member, int], until: float) -> dict[Member, int]:
        """Gives those that did not wait for their end: the caller is one of their threads."""
        own = {}
        for member in sorted(members, key=members.__getitem__):
            is_over = member.cancel(max(0.0, until - native.monotonic()))
            if is_over is False and native.monotonic() < until:
                own[member] = members[member]
        return own

    def forget(self) -> None:
        """In a forked child: let go of what the parent owns."""
        for loop in self.loops():
            loop.forget()


def _post(loop: Loop, settings: Settings) -> Posting | None:
    """Have a connection shown in the run directory."""
    from .observe.posting import post  # only where it was asked for

    posting = post(loop, loop.role, settings.app, str(settings.run_dir))
    if posting is not None:
        loop.publisher.on_round_trip = posting.round_trips.add
    return posting


def _stop(loops: dict[str, Loop]) -> None:
    """The transport was dropped without a close: its threads must not outlive it for long."""
    for loop in list(loops.values()):
        loop.close(native.monotonic() + 1.0)
