"""`wsgi-messaging notify`: send one notification, and say what became of it.

Layer 5: imports notify, transport.
"""

from __future__ import annotations

import argparse
import socket
from typing import Any

from ..errors import ConfigurationError
from ..notify import Notifier
from ..notify.notification import PRIORITIES
from ..rpc.flags import QueueFlags
from ..transport import Transport
from ._names import amqp_name
from ._numbers import seconds
from ._requests import parsed
from ._waiting import broker_awaited


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "notify",
        description="Send a notification in oslo.messaging's format; returns when the broker has confirmed it.",
        epilog="Exit status: 0 confirmed, 1 not confirmed, 2 wrong usage.",
    )
    parser.add_argument("payload", help="the payload as JSON")
    parser.add_argument("--event-type", default="test", metavar="TYPE", help="(default %(default)s)")
    parser.add_argument("--priority", default="info", choices=PRIORITIES, help="(default %(default)s)")
    parser.add_argument("--publisher-id", default=f"wsgi-messaging.{socket.gethostname()}", metavar="ID")
    parser.add_argument("--format", default="2.0", choices=("2.0", "1.0"), help="(default %(default)s)")
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="for connecting, sending and the confirm")
    add_route_arguments(parser)


def add_route_arguments(parser: argparse.ArgumentParser) -> None:
    """What sending and listening have in common: where, and declared how."""
    parser.add_argument("--url", help="of the broker (default: from the environment, as the application's)")
    parser.add_argument(
        "--topic", action="append", type=amqp_name, metavar="NAME", help="may be repeated (default notifications)"
    )
    parser.add_argument("--exchange", default="openstack", type=amqp_name, metavar="NAME", help="(default %(default)s)")
    parser.add_argument("--durable", action="store_true", help="as amqp_durable_queues of the other parties")
    parser.add_argument("--quorum", action="store_true", help="as rabbit_quorum_queue of the other parties")


def flags_of(args: argparse.Namespace) -> QueueFlags:
    """The flags that the arguments ask for."""
    return QueueFlags(durable=args.durable, quorum=args.quorum)


def run(args: argparse.Namespace) -> int:
    """Send it."""
    try:
        payload = parsed(args.payload)
    except (ValueError, RecursionError) as exc:
        raise ConfigurationError(f"payload: not JSON: {exc}") from exc
    topics = args.topic or ["notifications"]
    with Transport(args.url, name="wsgi-messaging-notify") as transport:
        notifier = Notifier(
            transport,
            args.publisher_id,
            topics=topics,
            exchange=args.exchange,
            drivers="messagingv2" if args.format == "2.0" else "messaging",
            flags=flags_of(args),
            timeout=args.timeout,
        )
        with broker_awaited("notify", transport):
            getattr(notifier, args.priority)({}, args.event_type, payload)
    keys = ", ".join(f"{topic}.{args.priority}" for topic in topics)
    print(f"confirmed: {args.event_type} to {keys} of exchange {args.exchange}")
    return 0
