"""Queues filled beforehand, for the workloads that empty them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

import amqp

from benchmarks.plan import Figures, Plan
from benchmarks.sessions import cpu_seconds

PER_SECOND = 4000
"""Messages that are laid in for each second that a round is to last."""


def notification(plan: Plan) -> bytes:
    """A notification as oslo.messaging puts it on the wire, with an id of its own."""
    inner = {
        "message_id": str(uuid.uuid4()),
        "publisher_id": "bench.host1",
        "event_type": "order.created",
        "priority": "INFO",
        "payload": plan.body(),
        "timestamp": "2026-01-01 00:00:00.000000",
        "_unique_id": uuid.uuid4().hex,
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)}).encode()


def order(plan: Plan) -> bytes:
    """A plain JSON message."""
    return json.dumps(plan.body()).encode()


def fill(plan: Plan, queue: str, make: Callable[[Plan], bytes], count: int) -> None:
    """Publish `count` messages and wait until the broker has them all."""
    with amqp.Connection(host=f"127.0.0.1:{plan.ports[0]}") as connection:
        channel = connection.channel()
        for _ in range(count):
            message = amqp.Message(
                make(plan), content_type="application/json", content_encoding="utf-8", delivery_mode=2, priority=0
            )
            channel.basic_publish(message, exchange="", routing_key=queue)
        # One channel's methods are served in order: the answer means that the publishes before it were.
        channel.queue_declare(queue, passive=True)


class Preloaded:
    """Fills the queue, then times `empty(count)`, which gives the seconds it took to handle them all."""

    def __init__(
        self,
        plan: Plan,
        empty: Callable[[int], float],
        make: Callable[[Plan], bytes] = order,
        suffix: str = "",
    ) -> None:
        self._plan = plan
        self._empty = empty
        self._make = make
        self._queue = plan.queue + suffix

    def run(self, seconds: float) -> Figures:
        count = max(500, int(seconds * PER_SECOND))
        fill(self._plan, self._queue, self._make, count)
        cpu = cpu_seconds()
        taken = self._empty(count)
        cpu = cpu_seconds() - cpu
        return {"operations": count, "rate": count / taken, "client_us": cpu / count * 1e6}
