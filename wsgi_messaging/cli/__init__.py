"""The command `wsgi-messaging`: one module per command, imported when it is the one that was asked for.

Each has `add_parser(subparsers)` and `run(args) -> int`. Exit status: 0 done, 1 failed, 2 wrong usage or
configuration, 130 interrupted, 141 when whoever read its output has left.

Layer 5: imports errors, version; the module of one command.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigurationError, MessagingError
from ..version import __version__

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


NO_READER = 141
"""The exit status that a shell gives to a program that SIGPIPE has ended."""
_UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What standard output and standard error can fail with. A file's error has its name, a broker's is translated."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the answer is the exit status."""
    _open_what_is_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error: a name must not end the command
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            print(end="", flush=True)  # when the interpreter ends, nobody could tell what went wrong
    except OSError as exc:
        if exc.errno not in _UNWRITABLE or exc.filename is not None:
            raise
        _give_output_up()
        if exc.errno == errno.EPIPE:
            return NO_READER
        print(f"wsgi-messaging: the output cannot be written: {exc.strerror}", file=sys.stderr)
        return 1


def _open_what_is_closed() -> None:
    """A standard stream that was closed from the beginning (`>&-`) is None; the commands look whether it is a terminal,
    and the first socket would get its descriptor."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (for as long as the process runs)


def _give_output_up() -> None:
    """Let go of what could not be written, or the interpreter would try again at its end, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="wsgi-messaging", description="A RabbitMQ messaging transport for WSGI applications."
    )
    parser.add_argument("--version", action="version", version=f"wsgi-messaging {__version__}")
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
        return int(command_module.run(_parsed(parser, subparsers.choices[name], arguments)))
    except MessagingError as exc:
        from .output import plain  # only where something is wrong

        print(f"wsgi-messaging {name}: {plain(exc)}", file=sys.stderr)
        return 2 if isinstance(exc, ConfigurationError) else 1
    except KeyboardInterrupt:
        return 130


def _parsed(parser: argparse.ArgumentParser, of_command: Any, arguments: list[str]) -> argparse.Namespace:
    """Takes KEY=VALUE behind an option, too, where argparse expects no more of them."""
    args, left = parser.parse_known_args(arguments)
    if hasattr(args, "arguments"):
        args.arguments = [*args.arguments, *(each for each in left if not each.startswith("-"))]
        left = [each for each in left if each.startswith("-")]
    if left:
        of_command.error(f"unrecognized arguments: {' '.join(left)}")
    return args
