"""Keeps a server from going deaf: what its queues are bound to is declared again and again.

The broker tells a consumer when its queue is deleted, and nobody when an exchange is. A transient exchange is gone
after a restart of the broker while a durable queue is still there and consumed, unbound. Declaring what is there
changes nothing, so it is done after each reconnect and every few seconds.

Layer 4.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress

from ..connection.topology import Declaration, renamed
from ..connections import Connections
from ..errors import Closed, DeclarationRefused, MessagingError
from ..runtime import native
from .timer import Timer

logger = logging.getLogger("wsgi_messaging.rpc")

EVERY = 10.0
_WITHIN = 5.0


class Bindings:
    """The declarations of one server. Nothing blocks."""

    def __init__(self, connections: Connections, declarations: Sequence[Declaration]) -> None:
        self._connections = connections
        self._declarations = declarations
        self._timer: Timer | None = None
        self._is_stopped = False
        self._is_due = False
        self._was_refused = False

    def watch(self, timer: Timer) -> None:
        """Begin."""
        self._timer = timer
        timer.at(native.monotonic() + EVERY, self._check_again)

    def stop(self) -> None:
        self._is_stopped = True

    def rename(self, queue: str, name: str) -> None:
        """Another queue has taken the place of one of them. Threads: any."""
        self._declarations = [renamed(made, name) if made.queue == queue else made for made in self._declarations]

    def check_soon(self) -> None:
        """A consumer came back: see that it is bound. The connection's thread calls it; the timer's does it."""
        if self._timer is not None and not self._is_due:
            self._is_due = True
            self._timer.at(0.0, self._check)

    def _check(self) -> None:
        self._is_due = False
        deadline = native.monotonic() + _WITHIN
        with suppress(Closed):
            for declaration in () if self._is_stopped else self._declarations:
                self._connections.request_soon(declaration, deadline, self._refused)

    def _check_again(self) -> None:
        self._check()
        if self._timer is not None and not self._is_stopped:
            self._timer.at(native.monotonic() + EVERY, self._check_again)

    def _refused(self, error: MessagingError) -> None:
        """On the connection's thread, which does not log."""
        if isinstance(error, DeclarationRefused) and not self._was_refused and self._timer is not None:
            self._was_refused = True
            self._timer.at(0.0, lambda: logger.warning("requests may not get through any more: %s", error))
