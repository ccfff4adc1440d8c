"""aio-pika: one asyncio task for each caller, one channel with confirms. No peer for WSGI, but a yardstick."""

from __future__ import annotations

import asyncio
import json

import aio_pika

from benchmarks.plan import NotOffered, Plan
from benchmarks.sessions import Session, Tasks


async def _exchange(plan: Plan) -> aio_pika.abc.AbstractExchange:
    connection = await aio_pika.connect_robust(plan.urls(), heartbeat=plan.heartbeat)
    channel = await connection.channel(publisher_confirms=True)
    exchange: aio_pika.abc.AbstractExchange = channel.default_exchange
    return exchange


def session(plan: Plan) -> Session:
    if plan.action != "publish":
        raise NotOffered(f"no {plan.action}")
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    exchange = loop.run_until_complete(_exchange(plan))
    body, mode = plan.body(), aio_pika.DeliveryMode(2 if plan.is_persistent else 1)

    async def publish() -> None:
        message = aio_pika.Message(
            json.dumps(body).encode(), content_type="application/json", content_encoding="utf-8", delivery_mode=mode
        )
        await exchange.publish(message, routing_key=plan.queue)

    return Tasks(loop, publish, plan.callers)
