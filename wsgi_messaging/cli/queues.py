"""`wsgi-messaging queues NAME...`: how many messages and consumers, and whether the queue can be used at all.

Over AMQP it asks for each name by a passive declare, which any user may; a name list of all queues takes the management
API.

Layer 5: imports settings, the approach, the management.
"""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigurationError
from ..settings import URL_VARIABLES, Settings
from ._approach import conversation_with_any
from ._conversation import Conversation, Refused
from ._management import Management
from ._names import amqp_name
from ._numbers import seconds
from .check import settings_of
from .output import print_json, print_table

COLUMNS = {"queue": "QUEUE", "messages": "READY", "consumers": "CONSUMERS", "state": "STATE"}
MANAGED = {"queue": "QUEUE", "messages": "READY", "unacked": "UNACKED", "consumers": "CONSUMERS", "type": "TYPE"}
_STATES = {404: "missing", 403: "no permission", 405: "exclusive to another connection"}


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "queues",
        description="Show depth, consumers and state of queues. Names may have * and ? with --management.",
        epilog="Exit status: 0 every named queue can be used, 1 one cannot or the broker cannot be had, 2 wrong usage.",
    )
    parser.add_argument("names", nargs="*", type=amqp_name, metavar="NAME")
    add_broker_arguments(parser)


def add_broker_arguments(parser: argparse.ArgumentParser) -> None:
    """What all commands about queues have in common."""
    parser.add_argument("--url", help=f"the broker (default: {', '.join(URL_VARIABLES)})")
    parser.add_argument("--management", metavar="URL", help="RabbitMQ's management API, such as http://host:15672")
    parser.add_argument("--timeout", type=seconds, default=5.0, metavar="SECONDS", help="for each step (default 5)")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Ask for each queue."""
    settings = settings_of(args.url)
    if not args.names and not args.management:
        raise ConfigurationError("name the queues; AMQP cannot list them, --management http://host:15672 can")
    check_names(args)
    rows = _managed(args, settings) if args.management else ask(args.names, settings, args.timeout)
    show(rows, {**MANAGED, "state": "STATE"} if args.management else COLUMNS, as_json=args.json)
    return 0 if all(row["state"] in ("running", "idle", "flow") for row in rows) else 1


def check_names(args: argparse.Namespace) -> None:
    """Raises: `ConfigurationError` for a pattern of names where none can be looked up."""
    patterns = [] if args.management else [name for name in args.names if set(name) & set("*?[")]
    if patterns:
        raise ConfigurationError(
            f"{patterns[0]!r}: patterns need --management http://host:15672; AMQP takes whole names"
        )


def show(rows: Sequence[dict[str, Any]], columns: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        print_table(columns, rows)


def ask(names: Sequence[str], settings: Settings, seconds: float) -> list[dict[str, Any]]:
    """A row for each name, over AMQP."""
    with conversation_with_any(settings, seconds) as (_broker, conversation):
        return [_row(conversation, name) for name in names]


def _row(conversation: Conversation, name: str) -> dict[str, Any]:
    try:
        messages, consumers = conversation.depth(name)
    except Refused as exc:
        state = _STATES.get(exc.code, f"{exc.code}")
        is_down = exc.code == 404 and "no queue" not in exc.text
        return {"queue": name, "messages": None, "consumers": None, "state": f"down: {exc.text}" if is_down else state}
    return {"queue": name, "messages": messages, "consumers": consumers, "state": "running"}


def _managed(args: argparse.Namespace, settings: Settings) -> list[dict[str, Any]]:
    found = Management(args.management, settings.brokers[0], args.timeout).queues()
    rows = [
        {
            "queue": each["name"],
            "messages": each.get("messages_ready"),
            "unacked": each.get("messages_unacknowledged"),
            "consumers": each.get("consumers"),
            "type": each.get("type", "classic"),
            "state": each.get("state", "running"),
        }
        for each in found
        if not args.names or any(fnmatch.fnmatchcase(each["name"], name) for name in args.names)
    ]
    absent = [name for name in args.names if not any(fnmatch.fnmatchcase(row["queue"], name) for row in rows)]
    return rows + [{"queue": name, "state": "missing"} for name in absent]
