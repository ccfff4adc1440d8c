"""`wsgi-messaging call TOPIC METHOD KEY=VALUE...`: an RPC call, whose reply is printed as JSON.

Layer 5: imports rpc, transport, errors.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import ConfigurationError, MessagingError
from ..transport import Transport
from ._numbers import seconds
from ._requests import ShellClient, add_request_arguments, arguments_of, context_of, failed, target_of
from ._waiting import broker_awaited
from .output import print_json


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "call",
        description="Have a server of a topic, ours or oslo.messaging's, invoke a method; print its reply as JSON.",
        epilog="Exit status: 0 replied, 1 the broker cannot be had or refuses it, 2 wrong usage, 3 the method failed,"
        " 4 no reply in time (the method may have run), 5 nobody serves the topic, 130 interrupted.",
    )
    add_request_arguments(parser)
    parser.add_argument(
        "--timeout", type=seconds, default=60.0, metavar="SECONDS", help="connecting and the reply (default 60)"
    )
    parser.add_argument("--verbose", action="store_true", help="show the traceback of a method that failed")


def run(args: argparse.Namespace) -> int:
    """Call and print the reply."""
    arguments, context = arguments_of(args), context_of(args)
    with Transport(args.url, name="wsgi-messaging-call") as transport:
        client = ShellClient(transport, target_of(args), args.timeout)
        try:
            with broker_awaited(args.command, transport):
                reply = client.call(context, args.method, **arguments)
        except ConfigurationError:
            raise
        except MessagingError as exc:
            return failed(args, exc)
    print_json(reply)
    return 0
