"""What `call` and `cast` have in common: whom a request is for, its arguments, and what is said when it fails.

Layer 5: imports rpc, settings, transport, errors.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import ConfigurationError, Expired, MessagingError, RemoteError, ReplyTimeout, Unavailable, Unroutable
from ..rpc import RPCClient, Target
from ..settings import URL_VARIABLES
from ._names import amqp_name
from .output import paragraph, plain

FAILED, REMOTE_ERROR, NO_REPLY, NOBODY = 1, 3, 4, 5
"""Exit statuses beside 0 and 2."""
_UNSENDABLE = ("self", "ctxt", "method")
"""Names of arguments that neither our client nor oslo.messaging's can send."""
_REMOTE_REMEDIES = {
    "NoSuchMethod": "Check METHOD; a server may have it under another --namespace",
    "UnsupportedVersion": "Give a --version with the server's major number and a minor one not above its own",
    "TypeError": "Check the names and the number of the arguments; --verbose shows where it was raised",
}


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """Topic, method, arguments; and what else makes a target."""
    parser.add_argument("topic", type=amqp_name, metavar="TOPIC")
    parser.add_argument("method", metavar="METHOD")
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="KEY=VALUE",
        help="the method's arguments; a VALUE that is no JSON is a text",
    )
    parser.add_argument("--json", metavar="OBJECT", help="the arguments as one JSON object; - reads it from stdin")
    parser.add_argument("--server", type=amqp_name, metavar="NAME", help="this server of the topic (default: any)")
    parser.add_argument("--namespace", metavar="NAME", help="of the endpoint's target")
    parser.add_argument("--version", metavar="N.M", help="of the endpoint's target (default: 1.0)")
    parser.add_argument(
        "--exchange", type=amqp_name, metavar="NAME", help="oslo.messaging's control_exchange (default openstack)"
    )
    parser.add_argument("--context", default="{}", metavar="OBJECT", help="the request's context as JSON (default {})")
    parser.add_argument("--url", help=f"the broker (default: {', '.join(URL_VARIABLES)})")


def target_of(args: argparse.Namespace) -> Target:
    return Target(
        exchange=args.exchange,
        topic=args.topic,
        server=args.server,
        namespace=args.namespace,
        version=args.version,
        fanout=getattr(args, "fanout", None),
    )


def context_of(args: argparse.Namespace) -> dict[str, Any]:
    return _object("--context", args.context)


def arguments_of(args: argparse.Namespace) -> dict[str, Any]:
    """The method's arguments. Blocks: with `--json -` until the end of standard input. Raises: `ConfigurationError`."""
    if args.json is None:
        found = _pairs(args.arguments)
    elif args.arguments:
        raise ConfigurationError("--json: it has all arguments; leave KEY=VALUE away")
    else:
        found = _object("--json", _standard_input() if args.json == "-" else args.json)
    for name in _UNSENDABLE:
        if name in found:
            raise ConfigurationError(f"arguments: none can be named {name!r}, which clients use themselves")
    return found


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"--json: standard input is not JSON: no {exc.encoding} at octet {exc.start}") from exc


def _pairs(texts: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise ConfigurationError(f"arguments: {text!r} is not KEY=VALUE")
        if name in found:
            raise ConfigurationError(f"arguments: {name!r} is given twice")
        try:
            found[name] = parsed(value)
        except (ValueError, RecursionError):
            found[name] = value
    return found


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        found = parsed(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{option}: not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise ConfigurationError(f"{option}: a JSON object is wanted, not {text.strip()!r:.40}")
    return found


def parsed(text: str) -> Any:
    """What the JSON says. Raises: `ValueError`, `RecursionError`."""
    return json.loads(text, parse_constant=_refused)


def _refused(name: str) -> NoReturn:
    """NaN and its like are Python's and not JSON's: a peer in another language could not read them."""
    raise ValueError(f"{name} is not JSON")


class ShellClient(RPCClient):
    """A client to which every failure of a method is a `RemoteError`: a shell shows names and texts."""

    def rebuilt(self, text: str) -> Exception:
        error = super().rebuilt(text)
        if isinstance(error, RemoteError):
            return error
        parts = json.loads(text)  # an object: an exception was built from it
        lines = parts.get("tb") or ""
        return RemoteError(str(parts["class"]), str(parts.get("message") or ""), "".join(map(str, lines)))


def failed(args: argparse.Namespace, error: MessagingError) -> int:
    """Say what went wrong and what to do, on standard error; gives the exit status."""
    cause, status = str(error), FAILED
    if isinstance(error, RemoteError):
        status = REMOTE_ERROR
        cause = f"the method failed: {error.exc_type}" + (f": {error.value}" if error.value else "")
    elif isinstance(error, Unroutable):
        status = NOBODY
        cause = f"not delivered: no queue takes a request for {target_of(args)!r} ({error.reply_code})"
    elif isinstance(error, ReplyTimeout):
        status = NO_REPLY
    print(f"wsgi-messaging {args.command}: {plain(cause)}", file=sys.stderr)
    if isinstance(error, RemoteError) and args.verbose:
        for line in error.traceback.splitlines():
            print(f"  {plain(line)}", file=sys.stderr)
    print(paragraph("remedy", _remedy(args, error), 2), file=sys.stderr)
    return status


def _remedy(args: argparse.Namespace, error: MessagingError) -> str:
    queue = f"{args.topic}.{args.server}" if args.server else args.topic
    look = f"'wsgi-messaging queues {queue}' shows whether a server listens there"
    if isinstance(error, RemoteError):
        otherwise = "See the server's log" + ("" if args.verbose else ", or its traceback with --verbose")
        return _REMOTE_REMEDIES.get(error.exc_type, otherwise)
    if isinstance(error, Unroutable):
        return f"Start a server, or correct TOPIC, --server or --exchange: {look}"
    if isinstance(error, ReplyTimeout):
        return f"{look}; give a long method more --timeout. It may have run: call again only if it may run twice"
    if isinstance(error, (Unavailable, Expired)):
        return "'wsgi-messaging check' goes the way to the broker and says where it ends (with the same --url)"
    return "See the broker's log"
