"""`wsgi-messaging dlq list|show|replay`: what was dead-lettered, why, and back to where it came from.

A replayed message is acknowledged in the dead-letter queue when the broker has confirmed it elsewhere, never before.
Ctrl-C ends a replay after the batch that is under way; whatever ends it in the middle leaves a message in both places
at worst, with the same message_id. What cannot be replayed stays. A message that the broker refuses by closing the
channel is found by sending those of its batch that are not confirmed one at a time: some of them may come twice.

Layer 5: imports settings, the approach, the foreground, the letters, the management.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..connection import codec, topology
from ..connection.hosts import Broker
from ..errors import ConfigurationError
from ..settings import Settings
from ._approach import conversation_with_any
from ._conversation import PROBES, Conversation, Fetched, Parcel, Refused, Trouble
from ._foreground import interruption_awaited
from ._letters import delivery_count, first_death, replayed
from ._management import Management
from ._names import amqp_name
from ._numbers import whole
from .check import settings_of
from .output import Progress, coloured, plain, print_json
from .queues import COLUMNS, add_broker_arguments, ask, check_names, show

BATCH = 100
BATCH_OCTETS = 8 * 1024 * 1024
BODY_SHOWN = 60
LIST_COLUMNS = {"queue": "QUEUE", "messages": "READY", "consumers": "CONSUMERS", "from": "DEAD LETTERS OF"}
SHOW_COLUMNS = {
    "number": "NO", "queue": "DIED IN", "reason": "REASON", "count": "TIMES", "time": "AT", "exchange": "EXCHANGE",
    "routing_key": "ROUTING KEY", "octets": "OCTETS", "message_id": "MESSAGE ID", "body": "BODY",
}  # fmt: skip


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "dlq",
        description="Dead-letter queues: list them, show what is in one, replay it to where it came from.",
        epilog="Exit status: 0 done, 1 something stayed in the queue or the broker cannot be had, 2 wrong usage,"
        " 130 interrupted.",
    )
    actions = parser.add_subparsers(dest="action", metavar="list|show|replay", required=True)
    listing = actions.add_parser(
        "list",
        description="Dead-letter queues, their depth, and whose dead letters they get: all of them, or those named,"
        " with --management. Without it the depth of the queues named, whatever they are.",
    )
    listing.add_argument("names", nargs="*", type=amqp_name, metavar="QUEUE")
    showing = actions.add_parser(
        "show",
        description="Show messages and why they died; they stay where they are. For a queue with a delivery limit it"
        " counts as a delivery.",
    )
    replaying = actions.add_parser(
        "replay",
        description="Publish each message again where it was published first (x-death), wait for the confirm, then"
        " take it out of the dead-letter queue. Other queues bound there get it again, too; --to-queue avoids that."
        " For a queue with a delivery limit each message that stays has had one delivery more, after --dry-run, too.",
    )
    for each in (showing, replaying):
        each.add_argument("queue", type=amqp_name, metavar="QUEUE", help="the dead-letter queue")
    showing.add_argument("--limit", type=whole(1), default=20, metavar="N", help="(default %(default)s)")
    replaying.add_argument(
        "--limit", type=whole(1), metavar="N", help="(default: what is in the queue at the beginning)"
    )
    replaying.add_argument("--dry-run", action="store_true", help="only say what would go where")
    replaying.add_argument("--to-queue", action="store_true", help="straight to the queue in which it died")
    for each in (showing, replaying):
        each.add_argument("--quiet", action="store_true", help="show no progress (on standard error)")
    for each in (listing, showing, replaying):
        add_broker_arguments(each)


def run(args: argparse.Namespace) -> int:
    settings = settings_of(args.url)
    if args.action == "list":
        return _list(args, settings)
    if args.action == "show":
        with _opened(args, settings) as (_broker, conversation, depth):
            rows = _fetched(conversation, args, min(depth, args.limit))
        show(rows, SHOW_COLUMNS, as_json=args.json)
        return 0
    replay: _Replay | None = None
    try:
        with _opened(args, settings) as (broker, conversation, depth):
            replay = _Replay(conversation, broker.userid, args, min(depth, args.limit or depth))
            return replay.run()
    finally:
        if replay is not None:
            replay.report()


@contextlib.contextmanager
def _opened(args: argparse.Namespace, settings: Settings) -> Iterator[tuple[Broker, Conversation, int]]:
    """A conversation with the broker, and the queue's depth. Nothing is printed in it: what breaks there is its own."""
    with conversation_with_any(settings, args.timeout) as (broker, conversation):
        try:
            depth, _consumers = conversation.depth(args.queue)
            yield broker, conversation, depth
        except Refused as exc:
            cause = f"queue {args.queue!r} cannot be read ({exc})"
            raise Trouble(cause, "Check its name and this user's permissions") from exc


def _list(args: argparse.Namespace, settings: Settings) -> int:
    if not args.management:
        if not args.names:
            raise ConfigurationError("name the queues, or give --management http://host:15672 to find them")
        check_names(args)
        rows = ask(args.names, settings, args.timeout)
        show(rows, COLUMNS, as_json=args.json)
        print("the queues named; --management tells which of them get dead letters, and whose", file=sys.stderr)
        return 0 if all(row["state"] == "running" for row in rows) else 1
    management = Management(args.management, settings.brokers[0], args.timeout)
    queues = {each["name"]: each for each in management.queues()}
    sources: dict[str, list[str]] = collections.defaultdict(list)
    for name, queue in queues.items():
        for target in _targets(queue, management):
            sources[target].append(name)
    rows = [
        {
            "queue": name,
            "messages": queues.get(name, {}).get("messages_ready"),
            "consumers": queues.get(name, {}).get("consumers"),
            "from": _origin(sources.get(name, []), is_missing=name not in queues),
        }
        for name in sorted(set(args.names) or sources)
    ]
    show(rows, LIST_COLUMNS, as_json=args.json)
    return 0 if all(row["queue"] in queues for row in rows) else 1


def _origin(names: Sequence[str], *, is_missing: bool) -> str:
    if not names:
        return "(this queue is missing)" if is_missing else "(none: this is no dead-letter queue)"
    return ", ".join(names) + (" (this queue is missing: they are lost)" if is_missing else "")


def _targets(queue: dict[str, Any], management: Management) -> Iterator[str]:
    """The queues to which a queue's dead letters may go; arguments win over policies."""
    policy = queue.get("effective_policy_definition") or {}
    given = {**policy, **{name.removeprefix("x-"): value for name, value in queue.get("arguments", {}).items()}}
    exchange = given.get("dead-letter-exchange")
    if exchange == "":
        yield given.get("dead-letter-routing-key", queue["name"])
    elif exchange is not None:
        bound = management.bindings_from(exchange)
        yield from dict.fromkeys(each["destination"] for each in bound if each["destination_type"] == "queue")


def _fetched(conversation: Conversation, args: argparse.Namespace, total: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with Progress("fetched", total, is_quiet=args.quiet or args.json) as progress:
        while len(rows) < args.limit:
            batch = conversation.fetch(args.queue, min(BATCH, args.limit - len(rows)))
            if not batch:
                break
            rows += [_described(number, message) for number, message in enumerate(batch, len(rows) + 1)]
            progress.show(len(rows))
    return rows


def _described(number: int, message: Fetched) -> dict[str, Any]:
    death = first_death(message)
    return {
        "number": number,
        "queue": death.queue if death else None,
        "reason": death.reason if death else message.malformed or "no x-death",
        "count": death.count if death else None,
        "time": str(death.time) if death else None,
        "exchange": death.exchange if death else message.exchange,
        "routing_key": death.routing_keys[0] if death else message.routing_key,
        "octets": len(message.body),
        "message_id": message.properties.get("message_id"),
        "body": plain(message.body[:BODY_SHOWN].decode("utf-8", "replace")),
    }


Letter = tuple[int, Parcel]
"""The tag of a dead letter, and what it becomes."""


class _Replay:
    """One run over the queue: batch by batch, each fetched, published, confirmed, then acknowledged."""

    def __init__(self, conversation: Conversation, user: str, args: argparse.Namespace, total: int) -> None:
        self._conversation = conversation
        self._user = user
        self._args = args
        self._total = total
        self._exchanges: dict[str, str] = {"": ""}
        self._refusing: set[str] = set()
        """Exchanges to which one message is sent at a time: one more that is refused takes no other with it."""
        self._deliveries = 0
        self.seen = self.replayed = 0
        self.is_interrupted = False
        self.routes: collections.Counter[str] = collections.Counter()
        self.kept: collections.Counter[str] = collections.Counter()

    def run(self) -> int:
        """Blocks: as long as it takes; progress is shown. What is not acknowledged goes back at the end."""
        total = self._total
        what = "examined" if self._args.dry_run else "replayed"
        is_quiet = self._args.quiet or self._args.json
        try:
            with interruption_awaited() as is_interrupted, Progress(what, total, is_quiet=is_quiet) as progress:
                self._take_all(total, is_interrupted, progress)
                self.is_interrupted = is_interrupted() and self.seen < total
        except KeyboardInterrupt:
            self.is_interrupted = True
            raise
        return 130 if self.is_interrupted else 1 if self.kept else 0

    def _take_all(self, total: int, is_interrupted: Callable[[], bool], progress: Progress) -> None:
        size = 10
        while self.seen < total and not is_interrupted():
            batch = self._conversation.fetch(self._args.queue, min(size, total - self.seen))
            if not batch:
                break
            self._take(batch)
            self.seen += len(batch)
            largest = max(1, *(len(message.body) for message in batch))
            size = max(1, min(BATCH, BATCH_OCTETS // largest))
            progress.show(self.seen)

    def _take(self, batch: Sequence[Fetched]) -> None:
        by_exchange: dict[str, list[Letter]] = {}
        for message in batch:
            self._deliveries = max(self._deliveries, delivery_count(message))
            death = first_death(message)
            if death is None:
                self.kept[message.malformed or "no x-death header: it did not die, or not on RabbitMQ"] += 1
                continue
            try:
                parcel = replayed(message, death, self._user, to_queue=self._args.to_queue)
            except (codec.UnencodableValue, UnicodeEncodeError) as exc:
                self.kept[f"it cannot be encoded again ({exc})"] += 1
                continue
            by_exchange.setdefault(parcel.exchange, []).append((message.tag, parcel))
        for exchange, letters in by_exchange.items():
            problem = self._problem_with(exchange)
            if problem:
                self.kept[problem] += len(letters)
            elif self._args.dry_run:
                self._note(letters, [""] * len(letters))
            elif exchange in self._refusing:
                self._send_singly(letters)
            else:
                self._send(letters)

    def _problem_with(self, exchange: str) -> str:
        """Why nothing can be published there, asked once: a missing exchange would end the channel."""
        if exchange not in self._exchanges:
            declaration = topology.declare_exchange(
                exchange, "", passive=True, durable=False, auto_delete=False, internal=False, arguments={}
            )
            try:
                self._conversation.declare(declaration, PROBES)
                self._exchanges[exchange] = ""
            except Refused as exc:
                self._exchanges[exchange] = f"exchange {exchange!r}: {exc}"
        return self._exchanges[exchange]

    def _send_singly(self, letters: Sequence[Letter]) -> None:
        for letter in letters:
            self._send([letter])

    def _send(self, letters: Sequence[Letter]) -> None:
        """Publish and acknowledge. Raises: what ended it before all was heard, when what was is done."""
        published = self._conversation.publish([parcel for _tag, parcel in letters])
        results, fault = published.results, published.fault
        is_refusal = isinstance(fault, Refused) and self._conversation.is_open
        if is_refusal and len(letters) == 1:
            results = [str(fault)]
        self._conversation.acknowledge(self._note(letters, results))
        if is_refusal:
            self._refusing.update(parcel.exchange for _tag, parcel in letters)
            self._send_singly([letter for letter, result in zip(letters, results, strict=True) if result is None])
        elif fault is not None:
            raise fault

    def _note(self, letters: Sequence[Letter], results: Sequence[str | None]) -> list[int]:
        """Count what became of them; gives the tags of those that are where they belong."""
        done = []
        for (tag, parcel), problem in zip(letters, results, strict=True):
            where = f"{parcel.exchange or '(default exchange)'} / {parcel.routing_key}"
            if problem:
                self.kept[f"{where}: {problem}"] += 1
            elif problem is not None:
                self.routes[where] += 1
                done.append(tag)
        self.replayed += len(done)
        return done

    def report(self) -> None:
        """Print what was done."""
        verb = "would be replayed" if self._args.dry_run else "replayed"
        if self._args.json:
            counts = {"examined": self.seen, "replayed": self.replayed, "dry_run": self._args.dry_run}
            what = {"interrupted": self.is_interrupted, "routes": dict(self.routes), "kept": dict(self.kept)}
            print_json({**counts, **what})
            return
        for where, count in self.routes.most_common():
            print(f"{count:>8}  to {plain(where)}")
        for reason, count in self.kept.most_common():
            print(coloured(f"{count:>8}  kept: {plain(reason)}", "yellow"))
        ending = f"; interrupted, {self._total - self.seen} left as they were" if self.is_interrupted else ""
        kept = sum(self.kept.values())
        if self._deliveries > 1:
            text = f"one was delivered {self._deliveries} times before; at its delivery limit the queue gives it up"
            print(coloured(f"{plain(self._args.queue)}: {text}", "yellow"), file=sys.stderr)
        print(f"{self.replayed} of {self._total} {verb}, {kept} kept in {plain(self._args.queue)}{ending}")
