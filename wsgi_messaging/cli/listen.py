"""`wsgi-messaging listen`: show notifications as they come, one line of JSON each.

It gets copies, in a queue of its own that goes with it; nothing is taken from those who listen for a living.

Layer 5: imports notify, oslo, transport.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import uuid
from typing import Any

from ..consumer import Delivery
from ..errors import ConfigurationError
from ..notify.notification import PRIORITIES, Notification, read
from ..oslo import envelope, topology
from ..runtime.waiting import Completion
from ..transport import Transport
from ._numbers import whole
from ._waiting import broker_awaited
from .notify import add_route_arguments, flags_of
from .output import as_json


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "listen",
        description="Show notifications as they come, one line of JSON each. It gets copies and takes nothing away.",
        epilog="Exit status: 0 ended by SIGTERM or after --count, 1 failed, 2 wrong usage, 130 interrupted.",
    )
    parser.add_argument(
        "--priority", action="append", choices=PRIORITIES, help="may be repeated (default: all of them)"
    )
    parser.add_argument("--event-type", metavar="REGEX", help="show only those whose type matches from its beginning")
    parser.add_argument("--count", type=whole(1), metavar="N", help="end after so many")
    add_route_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Show what comes, until it is enough."""
    keys = [f"{topic}.{each}" for topic in args.topic or ["notifications"] for each in args.priority or PRIORITIES]
    with Transport(args.url, name="wsgi-messaging-listen") as transport:
        tail = _Tail(args.event_type, args.count, transport.settings.max_message_bytes)
        exchange = topology.topic_exchange(args.exchange, flags_of(args))
        queue = topology.private_queue(f"wsgi-messaging-listen-{uuid.uuid4().hex}", exchange, keys)
        signal.signal(signal.SIGTERM, lambda _number, _frame: tail.enough.set())
        with broker_awaited("listen", transport):
            transport.consume(queue, tail.show)
        print(f"listening: {', '.join(keys)} of exchange {args.exchange}", file=sys.stderr, flush=True)
        tail.enough.wait()
    if tail.failure is not None:
        raise tail.failure
    return 0


class _Tail:
    """Prints what it is shown."""

    def __init__(self, event_type: str | None, count: int | None, max_bytes: int) -> None:
        try:
            self._wanted = re.compile(event_type or "")
        except re.error as exc:
            raise ConfigurationError(f"event_type: {event_type!r} is no regular expression: {exc}") from exc
        self._left = count
        self._max_bytes = max_bytes
        self.enough = Completion()
        self.failure: OSError | None = None
        """Why nothing more can be shown."""

    def show(self, delivery: Delivery) -> None:
        """Called for each message, on one thread. It raises nothing: that would only put the message back."""
        try:
            self._show(delivery)
        except OSError as exc:
            self.failure = exc
            self.enough.set()

    def _show(self, delivery: Delivery) -> None:
        try:
            notification = read(delivery.properties, delivery.body, self._max_bytes)
        except envelope.MalformedMessage as exc:
            print(f"no notification, by {delivery.routing_key}: {exc}", file=sys.stderr, flush=True)
            return
        if self.enough.is_set or not self._wanted.match(str(notification.event_type)):
            return
        print(_line(notification), flush=True)
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.enough.set()


def _line(notification: Notification) -> str:
    shown = {
        "priority": notification.priority,
        "event_type": notification.event_type,
        "publisher_id": notification.publisher_id,
        "timestamp": notification.metadata["timestamp"],
        "message_id": notification.metadata["message_id"],
        "ctxt": notification.context,
        "payload": notification.payload,
    }
    return as_json(shown)
