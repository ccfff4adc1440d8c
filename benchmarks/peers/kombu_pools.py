"""kombu's producer pools with as many connections as callers, `confirm_publish` on, `retry` where the broker fails."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import time
from functools import partial

from kombu import pools
from kombu.connection import Connection
from kombu.entity import Queue

from benchmarks.plan import NotOffered, Plan
from benchmarks.preload import Preloaded
from benchmarks.sessions import Operation, Session

RETRY = {"max_retries": 20, "interval_start": 0, "interval_step": 0.05, "interval_max": 0.2}


def operations(plan: Plan, action: str) -> list[Operation]:
    if action not in ("publish", "outage"):
        raise NotOffered(f"no {action}")
    connection = Connection(
        plan.urls(), transport_options={"confirm_publish": True}, heartbeat=plan.heartbeat, connect_timeout=5
    )
    pools.set_limit(max(10, plan.callers))
    producers, body = pools.producers[connection], plan.body()
    mode = 2 if plan.is_persistent else 1

    def publish() -> None:
        with producers.acquire(block=True) as producer:
            producer.publish(
                body,
                exchange="",
                routing_key=plan.queue,
                serializer="json",
                delivery_mode=mode,
                retry=action == "outage",
                retry_policy=RETRY,
            )

    return [publish] * plan.callers


def consume(plan: Plan) -> Session:
    return Preloaded(plan, partial(_consume, plan))


def _consume(plan: Plan, count: int) -> float:
    handled = []

    def on_message(body: object, message: object) -> None:
        handled.append(body)
        message.ack()  # type: ignore[attr-defined]

    with Connection(plan.urls()) as connection:
        queue = Queue(plan.queue, durable=True, no_declare=True)
        begun = time.perf_counter()
        with connection.Consumer(queue, callbacks=[on_message], accept=["json"], prefetch_count=100):
            while len(handled) < count:
                connection.drain_events(timeout=10)
            return time.perf_counter() - begun
