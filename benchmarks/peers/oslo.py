"""oslo.messaging with its defaults (threading executor). Publishing is its cast, which awaits the confirm.

Its publishes name no exchange of ours: the queue is bound to its topic exchange. Every message of it is persistent;
where the workload is transient its queue is.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial

import oslo_messaging
from oslo_config import cfg

from benchmarks.plan import Figures, NotOffered, Plan
from benchmarks.preload import Preloaded, notification
from benchmarks.sessions import Operation, Session

logging.disable(logging.CRITICAL)


def _url(plan: Plan) -> str:
    hosts = ",".join(f"guest:guest@127.0.0.1:{port}" for port in plan.ports)
    return f"rabbit://{hosts}//"


def _configure(plan: Plan) -> cfg.ConfigOpts:
    """Only the global one works for a client (18.3: a private one raises NoSuchOptError at the first send)."""
    cfg.CONF([], project="benchmarks", default_config_files=[])
    oslo_messaging.get_rpc_transport(cfg.CONF, _url(plan))  # registers the options
    cfg.CONF.set_override("heartbeat_timeout_threshold", plan.heartbeat, "oslo_messaging_rabbit")
    return cfg.CONF


def operations(plan: Plan, action: str) -> list[Operation]:
    conf = _configure(plan)
    if action == "notify":
        return [_notifier(plan, conf)] * plan.callers
    topic = plan.topic if action == "call" else plan.queue
    client = oslo_messaging.get_rpc_client(
        oslo_messaging.get_rpc_transport(conf, _url(plan)), oslo_messaging.Target(topic=topic)
    )
    body = plan.body()

    def call() -> None:
        if client.call({}, "add", a=1, b=2) != 3:
            raise RuntimeError("a wrong answer")

    def cast() -> None:
        client.cast({}, "add", a=1, b=2)

    def publish() -> None:
        client.cast({}, "order", body=body)

    return [{"call": call, "cast": cast}.get(action, publish)] * plan.callers


def _notifier(plan: Plan, conf: cfg.ConfigOpts) -> Operation:
    transport = oslo_messaging.get_notification_transport(conf, _url(plan))
    notifier = oslo_messaging.Notifier(transport, "bench.host1", driver="messagingv2", topics=[plan.queue])
    body = plan.body()
    return partial(notifier.info, {}, "order.created", body)


class Endpoint:
    """What is called."""

    def add(self, _context: object, a: int, b: int) -> int:
        return a + b


class Serving:
    """A server that runs until the process ends."""

    def run(self, _seconds: float) -> Figures:
        return {"operations": 0}


def serve(plan: Plan) -> Session:
    transport = oslo_messaging.get_rpc_transport(_configure(plan), _url(plan))
    target = oslo_messaging.Target(topic=plan.topic, server="bench")
    server = oslo_messaging.get_rpc_server(transport, target, [Endpoint()], executor="threading")
    server.start()
    return Serving()


def listen(plan: Plan) -> Session:
    return Preloaded(plan, partial(_listen, plan), notification, suffix=".info")


class _Sink:
    def __init__(self, count: int) -> None:
        self._missing = count
        self.is_done = threading.Event()

    def info(self, *_args: object) -> None:
        self._missing -= 1
        if self._missing == 0:
            self.is_done.set()


def _listen(plan: Plan, count: int) -> float:
    sink = _Sink(count)
    transport = oslo_messaging.get_notification_transport(_configure(plan), _url(plan))
    listener = oslo_messaging.get_notification_listener(
        transport, [oslo_messaging.Target(topic=plan.queue)], [sink], executor="threading"
    )
    begun = time.perf_counter()
    listener.start()
    if not sink.is_done.wait(120):
        raise NotOffered("not all notifications came within 120 s")
    taken = time.perf_counter() - begun
    listener.stop()
    listener.wait()
    return taken
