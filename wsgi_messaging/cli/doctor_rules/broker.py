"""Rules for what the broker and the queues are: its version against the queues' flags, its heartbeat.

Layer 5: imports settings, the approach, the findings.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator

from ...connection.hosts import Broker
from ...settings import Settings
from .. import _approach as approach
from .._conversation import Conversation, Trouble
from .._findings import ERROR, NOTE, WARNING, Finding
from .._versions import parsed
from . import Unreadable

TRANSIENT, DURABLE, QUORUM = "transient", "durable", "quorum"
_OSLO = "oslo_messaging_rabbit"


def is_mine(_name: str, text: str) -> bool:
    return bool(re.search(rf"^\s*\[{_OSLO}\]", text, re.M))


def queues_of(text: str) -> str:
    """Which queues oslo.messaging declares by its configuration file. Raises: `Unreadable`."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        parser.read_string(text)
    except configparser.Error as exc:
        raise Unreadable(str(exc)) from exc

    def is_on(name: str) -> bool:
        return parser.get(_OSLO, name, fallback="false").strip().lower() in ("true", "1", "yes", "on")

    if is_on("rabbit_quorum_queue"):
        return QUORUM
    return DURABLE if is_on("amqp_durable_queues") else TRANSIENT


def examine_queues(queues: str, product: str, version: str, file: str = "") -> Iterator[Finding]:
    """A broker's version against the flags of the queues that are shared by several processes."""
    numbers = parsed(version)
    if product != "RabbitMQ" or numbers is None:
        return
    if queues == TRANSIENT and numbers >= (4, 3, 0):
        yield Finding(
            ERROR, "broker-transient-queues", "no RPC server and no listener can declare its queue",
            f"RabbitMQ {version} refuses transient queues that are not exclusive (from 4.3 on), and these are",
            "amqp_durable_queues = true    # [oslo_messaging_rabbit]; in Python QueueFlags(durable=True); the same on"
            " every side, and the old queues deleted first", file,
        )  # fmt: skip
    elif queues == TRANSIENT and numbers >= (4, 0, 0):
        yield Finding(
            NOTE, "broker-transient-queues", "the upgrade to RabbitMQ 4.3 will refuse these queues",
            f"transient queues that are not exclusive are deprecated; RabbitMQ {version} still takes them",
            "amqp_durable_queues = true    # or rabbit_quorum_queue = true", file,
        )  # fmt: skip
    elif queues == QUORUM and numbers < (3, 8, 0):
        yield Finding(
            ERROR, "broker-quorum-queues", "no quorum queue can be declared",
            f"RabbitMQ {version} has none; they came with 3.8", "rabbit_quorum_queue = false", file,
        )  # fmt: skip


def look(settings: Settings, seconds: float, queues: str | None, file: str) -> tuple[list[Finding], float | None]:
    """What the first broker that answers means; and the heartbeat that would be agreed with it."""
    findings: list[Finding] = []
    for broker in settings.brokers:
        try:
            product, version, heartbeat = _ask(broker, settings, seconds)
        except Trouble as exc:
            fix = f"{exc.remedy}\nwsgi-messaging check    # with the URL: step by step"
            findings.append(Finding(ERROR, "broker-unreachable", f"{broker} cannot be used", exc.cause, fix))
            continue
        if queues is not None:
            findings += examine_queues(queues, product, version, file)
        agreed = approach.agreed_heartbeat(settings.heartbeat, heartbeat)
        if not agreed:
            findings.append(_no_heartbeat(broker))
        return findings, agreed
    return findings, None


def _no_heartbeat(broker: Broker) -> Finding:
    return Finding(
        WARNING, "broker-heartbeat", "a broker that dies is noticed late", f"no heartbeat is agreed with {broker}",
        "WSGI_MESSAGING_HEARTBEAT=20",
    )  # fmt: skip


def _ask(broker: Broker, settings: Settings, seconds: float) -> tuple[str, str, int]:
    sock, _failed = approach.connect(broker, approach.resolve(broker, seconds), seconds)
    try:
        if broker.is_tls:
            sock = approach.secure(sock, broker, settings, seconds)
        with Conversation(sock, seconds) as conversation:
            greeting = approach.greet(conversation, broker)
            proposal = approach.log_in(conversation, broker, greeting, settings.login_method)
            frame_max = approach.agreed(settings.frame_max, proposal.frame_max)
            approach.open_virtual_host(conversation, broker, proposal, frame_max)
    finally:
        sock.close()
    return greeting.product, greeting.version, proposal.heartbeat
