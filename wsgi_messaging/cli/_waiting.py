"""Whoever waits for a broker at a terminal is told which one, and why it cannot be had.

Layer 5: imports transport, errors, connection.state.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

from ..connection.state import State
from ..errors import ConnectFailed, ConnectTimeout
from ..transport import Transport
from .output import plain

PATIENCE = 2.0
"""Seconds of waiting before it is said."""


@contextlib.contextmanager
def broker_awaited(command: str, transport: Transport) -> Iterator[None]:
    """Say on standard error, once, what is waited for; nothing while the connections are open.

    An error that means that no broker was reached becomes what the broker's host, or the way to it, has to say.
    """
    timer = threading.Timer(PATIENCE, _tell, (command, transport))
    timer.daemon = True
    timer.start()
    try:
        yield
    except (ConnectFailed, ConnectTimeout) as exc:
        failure = next((each.last_failure for each in transport.status().connections if each.last_failure), None)
        if failure is None:
            raise
        raise type(exc)(failure) from exc
    finally:
        timer.cancel()


def _tell(command: str, transport: Transport) -> None:
    reason = _reason(transport)
    if reason is not None:
        with contextlib.suppress(OSError):
            print(f"wsgi-messaging {command}: waiting for {plain(reason)}", file=sys.stderr, flush=True)


def _reason(transport: Transport) -> str | None:
    for connection in transport.status().connections:
        if connection.blocked is not None:
            return f"{connection.broker}: the broker takes no messages ({connection.blocked})"
        if connection.state in (State.CONNECTING.value, State.WAITING.value):
            return connection.last_failure or f"{', '.join(map(str, transport.settings.brokers))}: no answer yet"
    return None
