"""pika's BlockingConnection, one for each thread (it is not thread-safe), with `confirm_delivery`."""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import json
from typing import Any

import pika

from benchmarks.plan import NotOffered, Plan
from benchmarks.sessions import Operation


class _Publisher:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._channel: Any = None
        self._body = plan.body()
        self._properties = pika.BasicProperties(
            content_type="application/json", content_encoding="utf-8", delivery_mode=2 if plan.is_persistent else 1
        )

    def __call__(self) -> None:
        if self._channel is None:
            parameters = pika.ConnectionParameters("127.0.0.1", self._plan.ports[0], heartbeat=600)
            self._channel = pika.BlockingConnection(parameters).channel()
            self._channel.confirm_delivery()
        self._channel.basic_publish("", self._plan.queue, json.dumps(self._body).encode(), self._properties)


def operations(plan: Plan, action: str) -> list[Operation]:
    if action != "publish":
        raise NotOffered(f"no {action}")
    return [_Publisher(plan) for _ in range(plan.callers)]
