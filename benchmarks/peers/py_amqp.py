"""py-amqp used directly: a connection for each thread, confirms awaited one by one. The baseline of most rows."""

from __future__ import annotations

import json
import time
from functools import partial

import amqp

from benchmarks.plan import NotOffered, Plan
from benchmarks.preload import Preloaded
from benchmarks.sessions import Operation, Session


def connect(plan: Plan, port: int) -> amqp.Connection:
    """Open, with publisher confirms."""
    connection = amqp.Connection(
        host=f"127.0.0.1:{port}", confirm_publish=True, heartbeat=plan.heartbeat, connect_timeout=5
    )
    connection.connect()
    return connection


class _Publisher:
    """One caller with a connection of its own; after an error, by hand, the next host every 20 ms."""

    def __init__(self, plan: Plan, is_persevering: bool = False) -> None:
        self._plan = plan
        self._is_persevering = is_persevering
        self._host = 0
        self._channel: amqp.Channel | None = None
        self._body = plan.body()
        self._mode = 2 if plan.is_persistent else 1

    def __call__(self) -> None:
        while True:
            try:
                self._publish()
                return
            except OSError:
                if not self._is_persevering:
                    raise
                self._channel = None
                self._host += 1
                if self._host % len(self._plan.ports) == 0:
                    time.sleep(0.02)

    def _publish(self) -> None:
        if self._channel is None:
            port = self._plan.ports[self._host % len(self._plan.ports)]
            self._channel = connect(self._plan, port).channel()
        message = amqp.Message(
            json.dumps(self._body), content_type="application/json", content_encoding="utf-8", delivery_mode=self._mode
        )
        self._channel.basic_publish_confirm(message, exchange="", routing_key=self._plan.queue)


def operations(plan: Plan, action: str) -> list[Operation]:
    if action not in ("publish", "outage"):
        raise NotOffered(f"no {action}")
    return [_Publisher(plan, action == "outage") for _ in range(plan.callers)]


def consume(plan: Plan) -> Session:
    return Preloaded(plan, partial(_consume, plan))


def _consume(plan: Plan, count: int) -> float:
    connection = connect(plan, plan.ports[0])
    channel = connection.channel()
    channel.basic_qos(0, 100, False)
    handled = []

    def on_message(message: amqp.Message) -> None:
        handled.append(json.loads(message.body))
        channel.basic_ack(message.delivery_tag)

    begun = time.perf_counter()
    channel.basic_consume(plan.queue, callback=on_message)
    while len(handled) < count:
        connection.drain_events(timeout=10)
    taken = time.perf_counter() - begun
    connection.close()
    return taken
