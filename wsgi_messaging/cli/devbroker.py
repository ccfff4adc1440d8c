"""`wsgi-messaging devbroker`: the embedded broker in the foreground.

Prints one line when it is ready, with the URL; ends cleanly, exit status 0, on SIGINT and SIGTERM.

Layer 5: imports devbroker, errors.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

from ..devbroker import DevBroker
from ..errors import ConfigurationError
from ._foreground import signals_awaited
from ._numbers import port, whole
from .output import counted


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "devbroker",
        description="Run an AMQP 0-9-1 broker in memory, on loopback: for development and tests only, not for"
        " production. It follows RabbitMQ's semantics; stopping it loses every message.",
        epilog="Exit status: 0 stopped by a signal, 1 the port cannot be had, 2 wrong usage.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="loopback address (default %(default)s)")
    parser.add_argument("--port", type=port, default=5672, help="0 takes a free one (default %(default)s)")
    parser.add_argument(
        "--heartbeat",
        type=whole(0, 65535),
        default=60,
        metavar="SECONDS",
        help="the interval that is proposed to clients, 0 for none (default %(default)s)",
    )
    parser.add_argument(
        "--user",
        action="append",
        metavar="NAME:PASSWORD",
        help="may be repeated (default guest:guest)",
    )
    parser.add_argument("--vhost", action="append", metavar="NAME", help="may be repeated (default /)")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    broker = DevBroker(
        port=args.port,
        host=args.host,
        heartbeat=args.heartbeat,
        users=dict(map(_credentials, args.user)) if args.user else None,
        vhosts=args.vhost or ["/"],
    )
    with _messages_on_stderr(), signals_awaited() as ending:
        try:
            broker.start()
        except OSError as exc:
            print(f"wsgi-messaging devbroker: {broker.host}:{broker.port}: {exc.strerror}", file=sys.stderr)
            return 1
        try:
            print(
                f"devbroker ready: {broker.url}  (in memory; for development and tests only, not for production)",
                flush=True,
            )
            ending.wait()
        finally:
            broker.stop()
    print(f"devbroker stopped: {counted(broker.accepted, 'connection')} served", flush=True)
    return 0


def _credentials(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not colon or not user:
        raise ConfigurationError("--user takes NAME:PASSWORD")
    return user, password


@contextlib.contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Show what the broker logs: clients that it refused or dropped."""
    logger = logging.getLogger("wsgi_messaging.devbroker")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("devbroker: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
