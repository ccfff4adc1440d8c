"""`wsgi-messaging check [URL]`: the way to the broker step by step, each with its time, cause and remedy.

Every host of the URL is tried, not only the first that works: a host that is only needed when another dies is best
found broken now. A failed step ends that host, except where the next ones still tell something (permissions).

Layer 5: imports settings, transport, the approach, the steps.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import ssl
import statistics
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from ..connection.hosts import Broker
from ..errors import BrokerBlocked, MessagingError
from ..runtime import native
from ..settings import URL_VARIABLES, Settings
from ..transport import Transport
from . import _approach as approach
from ._conversation import Blocked, Conversation, Greeting, HungUp, NotAmqp, Proposal, Refused, Trouble
from ._names import LONGEST, name_up_to
from ._numbers import seconds, whole
from ._permissions import Trial
from ._steps import Step, Steps, Stopped, print_step
from ._versions import meaning
from .output import coloured, counted, print_json

SHORT_HEARTBEAT = 5.0
FAR_AWAY_MS = 50.0
SUFFIX = 12
"""Characters that make the temporary queue's name one of its own."""


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "check",
        description="Try every step of the way to the broker: name, TCP, TLS, AMQP, login, virtual host, permissions,"
        " heartbeat, confirms. What fails is named with its cause and remedy. It declares one temporary queue.",
        epilog="Exit status: 0 every host of the URL works (warnings may be shown), 1 a step failed, 2 wrong usage or"
        " configuration. No password is shown.",
    )
    parser.add_argument("url", nargs="?", metavar="URL", help=f"the broker (default: {', '.join(URL_VARIABLES)})")
    parser.add_argument("--timeout", type=seconds, default=5.0, metavar="SECONDS", help="for each step (default 5)")
    parser.add_argument(
        "--count", type=whole(1), default=20, metavar="N", help="confirmed publishes to time (default 20)"
    )
    parser.add_argument(
        "--name",
        type=name_up_to(LONGEST - len("-") - SUFFIX),
        default="wsgi-messaging-check",
        metavar="PREFIX",
        help="what the temporary queue's name begins with; permissions are patterns of names (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="the findings as JSON")


def settings_of(url: str | None) -> Settings:
    """The settings that an application with this URL, or with this environment, would have."""
    return Settings.from_environ({**os.environ, "WSGI_MESSAGING_URL": url} if url else None)


def run(args: argparse.Namespace) -> int:
    """Check host after host."""
    settings = settings_of(args.url)
    reports = []
    for broker in settings.brokers:
        if not args.json:
            print(coloured(f"{broker} as user {broker.userid!r}{_source(args.url)}", "bold"))
        steps = Steps((lambda _step: None) if args.json else print_step)
        with contextlib.suppress(Stopped):
            _Check(broker, settings, args, steps).run()
        reports.append({"broker": str(broker), "ok": not steps.has_failed, "steps": steps.as_json()})
    is_ok = all(report["ok"] for report in reports)
    if args.json:
        print_json({"ok": is_ok, "brokers": reports})
    else:
        broken = sum(not report["ok"] for report in reports)
        failed = f"{broken} of {counted(len(reports), 'host')} failed"
        print(coloured("all well", "green") if is_ok else coloured(failed, "red"))
    return 0 if is_ok else 1


def _source(url: str | None) -> str:
    if url:
        return ""
    variable = next((name for name in URL_VARIABLES if os.environ.get(name)), None)
    return f" (from {variable})" if variable else f" (the default: none of {', '.join(URL_VARIABLES)} is set)"


class _Check:
    """The steps at one broker."""

    def __init__(self, broker: Broker, settings: Settings, args: argparse.Namespace, steps: Steps) -> None:
        self._broker = broker
        self._settings = settings
        self._seconds: float = args.timeout
        self._count: int = args.count
        self._queue = f"{args.name}-{uuid.uuid4().hex[:SUFFIX]}"
        self._steps = steps

    def run(self) -> None:
        """Raises: `Stopped`, at the first step that all others need."""
        with contextlib.ExitStack() as stack:
            conversation = self._reach(stack)
            may_publish = self._try_permissions(conversation)
            if may_publish:
                self._steps.take("confirm", self._round_trip)
            else:
                self._steps.skip("confirm", "this user cannot publish")

    def _reach(self, stack: contextlib.ExitStack) -> Conversation:
        broker, steps, seconds = self._broker, self._steps, self._seconds
        addresses = self._resolve()
        sock: Any = steps.take("TCP", lambda step: self._connect(step, addresses))
        stack.callback(lambda: sock.close())
        if broker.is_tls:
            sock = steps.take("TLS", lambda step: self._secure(step, sock))
        conversation = stack.enter_context(Conversation(sock, seconds))
        greeting = steps.take("AMQP", lambda step: self._greet(step, conversation))
        steps.say("version", lambda step: step.notes.extend(_version(step, greeting)))
        method = self._settings.login_method
        proposal = steps.take("login", lambda step: self._log_in(step, conversation, greeting, method))
        frame_max = approach.agreed(self._settings.frame_max, proposal.frame_max)
        steps.take("virtual host", lambda step: self._open(step, conversation, proposal, frame_max))
        steps.say("heartbeat", lambda step: self._heartbeat(step, proposal))
        steps.say("frame_max", lambda step: _frame_max(step, self._settings.frame_max, proposal.frame_max, frame_max))
        return conversation

    def _resolve(self) -> list[approach.Address]:
        if approach.is_literal(self._broker.host):
            self._steps.skip("DNS", "the host is an address")
            return approach.resolve(self._broker, self._seconds)

        def look_up(step: Step) -> list[approach.Address]:
            found = approach.resolve(self._broker, self._seconds)
            step.detail = ", ".join(dict.fromkeys(str(address[0]) for _family, address in found))
            return found

        return self._steps.take("DNS", look_up)

    def _connect(self, step: Step, addresses: list[approach.Address]) -> Any:
        sock, failed = approach.connect(self._broker, addresses, self._seconds)
        step.detail = f"connected to {sock.getpeername()[0]} port {self._broker.port}"
        if failed:
            step.warn(f"an address before it failed ({failed})", "Each connect loses time there: mend it, or the DNS")
        return sock

    def _secure(self, step: Step, plain: Any) -> ssl.SSLSocket:
        sock = approach.secure(plain, self._broker, self._settings, self._seconds)
        name = self._settings.tls_server_name or self._broker.host
        if self._settings.tls_verify:
            until = (sock.getpeercert() or {}).get("notAfter", "?")
            step.detail = f"{sock.version()}, certificate for {name!r}, valid until {until}"
        else:
            step.detail = f"{sock.version()}"
            step.warn("the certificate is not checked (tls_verify)", "Turn it on: anybody can pose as the broker")
        return sock

    def _greet(self, step: Step, conversation: Conversation) -> Greeting:
        greeting = approach.greet(conversation, self._broker)
        step.detail = f"0-9-1; logins: {', '.join(greeting.mechanisms)}"
        return greeting

    def _log_in(self, step: Step, conversation: Conversation, greeting: Greeting, method: str) -> Proposal:
        proposal = approach.log_in(conversation, self._broker, greeting, method)
        step.detail = f"user {self._broker.userid!r}, {method}"
        return proposal

    def _open(self, step: Step, conversation: Conversation, proposal: Proposal, frame_max: int) -> bool:
        approach.open_virtual_host(conversation, self._broker, proposal, frame_max)
        step.detail = repr(self._broker.virtual_host)
        return True

    def _heartbeat(self, step: Step, proposal: Proposal) -> None:
        ours, agreed = self._settings.heartbeat, approach.agreed_heartbeat(self._settings.heartbeat, proposal.heartbeat)
        step.detail = f"{agreed} s agreed; the broker proposes {proposal.heartbeat} s, we {ours:g} s"
        if not agreed:
            step.warn(
                "no heartbeats: a dead broker is noticed late, and a proxy in between cuts an idle connection",
                "Set heartbeat=20 (WSGI_MESSAGING_HEARTBEAT), or 'heartbeat = 60' in rabbitmq.conf",
            )
        elif agreed < SHORT_HEARTBEAT:
            step.warn(
                f"a stall of {2 * agreed} s on either side ends the connection",
                "Use 10 s or more: WSGI_MESSAGING_HEARTBEAT here, 'heartbeat' in rabbitmq.conf there; the smaller wins",
            )

    # With a virtual host open.

    def _try_permissions(self, conversation: Conversation) -> bool:
        """Declare, bind, publish, get; True when this user may publish."""
        trial, steps = Trial(conversation, self._broker, self._queue), self._steps
        has_queue = steps.attempt("declare", _guarded(trial.declare))
        if has_queue:
            steps.attempt("bind", _guarded(trial.bind))
        else:
            steps.skip("bind", "there is no queue to bind")
        may_publish = steps.attempt("publish", _guarded(trial.publish))
        steps.attempt("get", _guarded(trial.get))
        return bool(may_publish)

    def _round_trip(self, step: Step) -> bool:
        """As the application does it: through a transport. The first one has the connecting in it."""
        settings = self._settings.with_changes(
            url=_url_of(self._broker), app="wsgi-messaging-check", connect_timeout=self._seconds
        )
        times = []
        try:
            with Transport(settings=settings) as transport:
                for _number in range(self._count + 1):
                    started_at = native.monotonic()
                    transport.publish(b"check", self._queue, mandatory=False, timeout=self._seconds)
                    times.append(1000 * (native.monotonic() - started_at))
                (connection,) = transport.status().connections
        except BrokerBlocked as exc:
            raise approach.blocked(Blocked(str(exc))) from exc
        except MessagingError as exc:
            raise Trouble(str(exc), "The steps before this one worked: see the broker's log for the reason") from exc
        median = statistics.median(times[1:])
        step.detail = (
            f"median {median:.2f} ms of {self._count}, {min(times[1:]):.2f} to {max(times[1:]):.2f} ms; the first, with"
            f" connecting, {times[0]:.1f} ms; heartbeat {connection.heartbeat:g} s"
        )
        if median > FAR_AWAY_MS:
            step.warn(
                f"a confirmed publish takes {median:.0f} ms",
                "The broker is far away or busy: publish_soon() and publish_many() have many messages on their way",
            )
        return True


def _guarded(act: Callable[[], str]) -> Callable[[Step], bool]:
    """A trial as a step; what breaks the connection is trouble, too."""

    def guarded(step: Step) -> bool:
        try:
            step.detail = act()
        except Blocked as exc:
            raise approach.blocked(exc) from exc
        except TimeoutError as exc:
            raise Trouble("the broker does not answer", "It may be overloaded; try --timeout with more") from exc
        except (OSError, HungUp, NotAmqp, Refused) as exc:
            raise Trouble(f"the connection broke ({exc})", "See the broker's log for the reason") from exc
        return True

    return guarded


def _version(step: Step, greeting: Greeting) -> list[str]:
    cluster = greeting.properties.get("cluster_name")
    step.detail = f"{greeting.product} {greeting.version}" + (f", cluster {cluster}" if cluster else "")
    return meaning(greeting.product, greeting.version)


def _frame_max(step: Step, ours: int, theirs: int, agreed: int) -> None:
    step.detail = f"{agreed} octets agreed; the broker proposes {theirs}, we {ours}"
    if agreed < 8192:
        step.warn("a client with frames below 8192 octets is refused from RabbitMQ 4.1 on", "Raise frame_max")


def _url_of(broker: Broker) -> str:
    scheme = "amqps" if broker.is_tls else "amqp"
    user, password = quote(broker.userid, safe=""), quote(broker.password, safe="")
    return f"{scheme}://{user}:{password}@{broker.address}/{quote(broker.virtual_host, safe='')}"
