"""`wsgi-messaging rpc-server module:endpoints --topic T`: an RPC server in the foreground.

The name may stand for one endpoint, a list of them, a class, or a function that gives either. The server ends cleanly
on SIGTERM and SIGINT: what is executed is finished first.

Layer 5: imports rpc, transport, errors.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from ..errors import ConfigurationError
from ..rpc import QueueFlags, RPCServer, Target
from ..settings import Settings
from ..transport import Transport
from ._foreground import signals_awaited
from ._names import amqp_name
from ._numbers import seconds_or_none
from ._objects import imported, is_module_name, look_here
from ._waiting import broker_awaited
from .output import counted, plain


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "rpc-server",
        description="Serve the methods of a Python object to the callers of a topic, ours and oslo.messaging's.",
        epilog="Exit status: 0 ended by a signal with everything finished, 1 a request was still executed when the"
        " grace was over, or the broker cannot be had; 2 wrong usage or configuration.",
    )
    parser.add_argument("endpoints", metavar="MODULE:NAME", help="an endpoint, a list of them, a class or a function")
    parser.add_argument("--topic", type=amqp_name, required=True)
    host = os.uname().nodename
    parser.add_argument("--server", type=amqp_name, default=host, help="this server's name (default %(default)s)")
    parser.add_argument("--exchange", type=amqp_name, help="oslo.messaging's control_exchange (default openstack)")
    parser.add_argument("--name", help="as the broker and 'status' show it (default: WSGI_MESSAGING_APP, or rpc-TOPIC)")
    parser.add_argument("--url", help="the broker; without it the environment says (WSGI_MESSAGING_URL, ...)")
    parser.add_argument("--pool-size", type=int, default=64, metavar="N", help="requests at a time (default 64)")
    parser.add_argument("--prefetch", type=int, metavar="N", help="requests of a queue that wait here (default N)")
    parser.add_argument("--ack", choices=("early", "late"), default="early", help="(default early)")
    parser.add_argument("--durable", action="store_true", help="as amqp_durable_queues")
    parser.add_argument("--auto-delete", action="store_true", help="as amqp_auto_delete")
    parser.add_argument("--quorum", action="store_true", help="as rabbit_quorum_queue")
    parser.add_argument("--ping", action="store_true", help="as rpc_ping_enabled: answer to oslo_rpc_server_ping")
    parser.add_argument("--grace", type=seconds_or_none, default=30.0, metavar="SECONDS", help="to finish (default 30)")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    look_here()
    endpoints = load(args.endpoints)
    transport = Transport(settings=_settings(args))
    with _messages_on_stderr(), signals_awaited() as ending, transport:
        server = RPCServer(
            transport,
            Target(exchange=args.exchange, topic=args.topic, server=args.server),
            endpoints,
            pool_size=args.pool_size,
            prefetch=args.prefetch,
            ack=args.ack,
            flags=QueueFlags(durable=args.durable, auto_delete=args.auto_delete, quorum=args.quorum),
            ping=args.ping,
        )
        ending.before(lambda: _start(server))
        ending.wait()
        is_over = server.stop(args.grace)
        status = server.status()
    print(
        f"rpc-server stopped: {counted(status.executed, 'request')} executed, {status.failed} of them failed",
        flush=True,
    )
    return 0 if is_over else 1


def _start(server: RPCServer) -> None:
    with broker_awaited("rpc-server", server.transport):
        server.start()
    print(f"rpc-server ready: {server.target!r}", flush=True)


def _settings(args: argparse.Namespace) -> Settings:
    """The environment's, under a name that tells this server from others."""
    environ = dict(os.environ)
    if args.url:
        environ["WSGI_MESSAGING_URL"] = args.url
    if args.name or not environ.get("WSGI_MESSAGING_APP"):
        environ["WSGI_MESSAGING_APP"] = args.name or f"rpc-{args.topic}"
    return Settings.from_environ(environ)


def load(name: str) -> Sequence[object]:
    """The endpoints that `module:name` means. Raises: `ConfigurationError`."""
    module_name, colon, attribute = name.partition(":")
    if not colon or not attribute or not is_module_name(module_name):
        raise ConfigurationError(f"endpoints: {name!r} is not module:name, such as package.module:Endpoint")
    found = imported("endpoints", module_name, attribute)
    if isinstance(found, type) or callable(found):
        found = found()
    endpoints = list(found) if isinstance(found, (list, tuple)) else [found]
    for endpoint in endpoints:
        if type(endpoint).__module__ == "builtins" and not isinstance(endpoint, ModuleType):
            raise ConfigurationError(
                f"endpoints: {name!r} has {plain(repr(endpoint))[:60]}, and no object with methods"
            )
    if not endpoints:
        raise ConfigurationError(f"endpoints: {name!r} is empty")
    return endpoints


@contextlib.contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Show what the package logs, unless the application has configured logging."""
    logger = logging.getLogger("wsgi_messaging")
    if logging.getLogger().handlers:
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
