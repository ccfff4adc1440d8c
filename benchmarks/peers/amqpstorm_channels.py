"""AMQPStorm: one connection for all threads, a channel for each, `confirm_deliveries`."""

from __future__ import annotations

import json

from amqpstorm.connection import Connection

from benchmarks.plan import NotOffered, Plan
from benchmarks.sessions import Operation


class _Publisher:
    def __init__(self, plan: Plan, connection: Connection) -> None:
        self._queue = plan.queue
        self._channel = connection.channel()
        self._channel.confirm_deliveries()
        self._body = plan.body()
        self._properties = {
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_mode": 2 if plan.is_persistent else 1,
        }

    def __call__(self) -> None:
        body = json.dumps(self._body)
        self._channel.basic.publish(body, self._queue, exchange="", properties=dict(self._properties))


def operations(plan: Plan, action: str) -> list[Operation]:
    if action != "publish":
        raise NotOffered(f"no {action}")
    connection = Connection("127.0.0.1", "guest", "guest", port=plan.ports[0], heartbeat=plan.heartbeat)
    return [_Publisher(plan, connection) for _ in range(plan.callers)]
