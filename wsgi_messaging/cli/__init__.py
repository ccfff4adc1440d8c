"""The command `wsgi-messaging`: one module per command, imported when it is the one that was asked for.

Each has `add_parser(subparsers)` and `run(args) -> int`. Exit status: 0 done, 1 failed, 2 wrong usage or
configuration, 130 interrupted.

Layer 5: imports errors; the module of one command.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from ..errors import ConfigurationError, MessagingError

COMMANDS = {
    "check": "try every step of the way to the broker; name what is wrong, and the remedy",
    "doctor": "read a deployment's configuration files; name what breaks, why, and the line to write",
    "queues": "show how many messages and consumers queues have",
    "dlq": "list, show and replay the messages of dead-letter queues",
    "serve": "serve a WSGI application with Werkzeug: N lasting processes on one port",
    "hooks": "list the drop-in configuration files for the servers, or copy them",
    "rpc-server": "serve RPC requests with the endpoints of a module",
    "call": "call a method of an RPC server and show its reply",
    "cast": "have a method of one RPC server, or of all, invoked without a reply",
    "status": "show the connections of all workers, live",
    "notify": "send one notification",
    "listen": "show notifications as they come",
    "devbroker": "run the embedded AMQP broker, for development and tests only",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the answer is the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="wsgi-messaging", description="A RabbitMQ messaging transport for WSGI applications."
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    if name not in COMMANDS:
        for command, purpose in COMMANDS.items():
            subparsers.add_parser(command, help=purpose)
        parser.parse_args(arguments)  # prints the help, or what is wrong, and exits
        return 2
    command_module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    command_module.add_parser(subparsers)
    try:
        return int(command_module.run(parser.parse_args(arguments)))
    except MessagingError as exc:
        print(f"wsgi-messaging {name}: {exc}", file=sys.stderr)
        return 2 if isinstance(exc, ConfigurationError) else 1
    except KeyboardInterrupt:
        return 130
