"""`wsgi-messaging cast TOPIC METHOD KEY=VALUE...`: an RPC request without a reply, to one server or to all.

Unlike a client in a program it tells when nobody could get the request: it is sent as mandatory.

Layer 5: imports rpc, settings, transport, errors.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..connections import Connections
from ..errors import ConfigurationError, MessagingError, Unroutable
from ..transport import Transport
from ._numbers import seconds
from ._requests import ShellClient, add_request_arguments, arguments_of, context_of, failed, target_of
from ._waiting import broker_awaited
from .check import settings_of


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "cast",
        description="Have a server of a topic, or with --fanout all of them, invoke a method; wait for the broker's"
        " confirm and for no reply.",
        epilog="Exit status: 0 the broker has put it into a queue, 1 the broker cannot be had or refuses it, 2 wrong"
        " usage, 5 there is no queue of such a server, 130 interrupted.",
    )
    add_request_arguments(parser)
    parser.add_argument("--fanout", action="store_true", help="to all servers of the topic")
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="for connecting, sending and the confirm")


def run(args: argparse.Namespace) -> int:
    """Send it, and say where it went."""
    arguments, context = arguments_of(args), context_of(args)
    if args.fanout and args.server:
        raise ConfigurationError("--fanout: it goes to all servers; leave --server away")
    settings = settings_of(args.url)
    if args.timeout is not None:
        settings = settings.with_changes(timeout=args.timeout)
    target = target_of(args)
    with Transport(settings=settings, name="wsgi-messaging-cast") as transport:
        try:
            with broker_awaited(args.command, transport):
                _MandatoryClient(transport, target).cast(context, args.method, **arguments)
        except ConfigurationError:
            raise
        except MessagingError as exc:
            return failed(args, exc)
    whom = "all servers" if args.fanout else f"server {args.server}" if args.server else "one server"
    print(f"confirmed: {args.method} to {whom} of topic {args.topic}")
    return 0


class _MandatoryClient(ShellClient):
    """A client whose cast that no queue takes is an error."""

    def _cast(
        self, connections: Connections, route: tuple[str, str], body: bytes, deadline: float, mandatory: bool
    ) -> None:
        super()._cast(connections, route, body, deadline, True)

    def _cast_to_queue(self, connections: Connections, queue: str, body: bytes, deadline: float) -> None:
        if not queue:
            raise Unroutable(f"nobody serves {self.target}: there is no fanout exchange", reply_code=404)
        self._cast(connections, ("", queue), body, deadline, True)
