"""A small Falcon API that publishes to RabbitMQ. The middleware is all that it takes.

    POST /orders   {"item": "tea"}    publishes the order; answers 202 when the broker has confirmed it
    GET  /health/readyz               200 while the worker is connected

    gunicorn -c hooks/gunicorn.conf.py examples.falcon_api:application

The broker comes from WSGI_MESSAGING_URL.
"""

from __future__ import annotations

from typing import Any

import falcon
from kombu import Queue

from wsgi_messaging import MessagingError, MessagingMiddleware, Transport, get_transport

ORDERS = Queue("example-orders", durable=True, expires=300)  # it goes five minutes after its last use


class Orders:
    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        order = req.get_media()
        messaging = get_transport(req.env)
        messaging.declare(ORDERS, timeout=2.0)
        messaging.publish(order, routing_key=ORDERS.name, timeout=2.0)
        resp.status = falcon.HTTP_202
        resp.media = {"accepted": order}


def unavailable(req: falcon.Request, resp: falcon.Response, error: MessagingError, params: dict[str, Any]) -> None:
    resp.status = falcon.HTTP_503
    resp.media = {"error": str(error), "maybe_sent": error.maybe_sent}


api = falcon.App()
api.add_route("/orders", Orders())
api.add_error_handler(MessagingError, unavailable)
application = MessagingMiddleware(api, Transport(name="falcon-api"), health_path="/health")
