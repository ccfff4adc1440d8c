"""A small Pyramid API that publishes to RabbitMQ through `request.messaging`.

    POST /orders   {"item": "tea"}    publishes the order; answers 202 when the broker has confirmed it
    GET  /health/readyz               200 while the worker is connected

    gunicorn -c hooks/gunicorn.conf.py examples.pyramid_api:application

The broker comes from WSGI_MESSAGING_URL.
"""

from __future__ import annotations

from typing import Any

from kombu import Queue
from pyramid.config import Configurator
from pyramid.request import Request

from wsgi_messaging import MessagingError, MessagingMiddleware

ORDERS = Queue("example-orders", durable=True, expires=300)  # it goes five minutes after its last use


def create_order(request: Request) -> dict[str, Any]:
    request.messaging.declare(ORDERS, timeout=2.0)
    request.messaging.publish(request.json_body, routing_key=ORDERS.name, timeout=2.0)
    request.response.status_int = 202
    return {"accepted": request.json_body}


def unavailable(error: MessagingError, request: Request) -> dict[str, Any]:
    request.response.status_int = 503
    return {"error": str(error), "maybe_sent": error.maybe_sent}


def main(global_config: dict[str, str], **settings: str) -> MessagingMiddleware:
    with Configurator(settings=settings) as config:
        config.include("wsgi_messaging.frameworks.pyramid")
        config.add_route("orders", "/orders", request_method="POST")
        config.add_view(create_order, route_name="orders", renderer="json")
        config.add_exception_view(unavailable, context=MessagingError, renderer="json")
    # The wrapper is for health, status page and deadlines; without it request.messaging is the same.
    return MessagingMiddleware(config.make_wsgi_app(), config.registry["wsgi_messaging"], health_path="/health")


application = main({}, **{"wsgi_messaging.app": "pyramid-api"})
