"""A small web API, in plain WSGI, that publishes to RabbitMQ through its worker's own transport.

    POST /orders    {"item": "tea"}     publishes the order; answers 202 when the broker has confirmed it
    GET  /status                        the transport of the worker that answers: connection, heartbeats, counts

    gunicorn -c hooks/gunicorn.conf.py examples.api:application        (or any other WSGI server)
    curl -d '{"item": "tea"}' http://127.0.0.1:8000/orders

The broker comes from WSGI_MESSAGING_URL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from kombu import Queue

from wsgi_messaging import InvalidMessage, MessagingError, MessagingMiddleware, get_transport

ORDERS = Queue("example-orders", durable=True, expires=300)  # it goes five minutes after its last use

Environ = dict[str, Any]


def create_order(environ: Environ) -> tuple[str, object]:
    """Publish the order. Declaring the queue again costs little, and makes it where it is missing."""
    order = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    transport = get_transport(environ)
    transport.declare(ORDERS, timeout=2.0)
    transport.publish(order, routing_key=ORDERS.name, timeout=2.0)
    return "202 Accepted", {"accepted": order}


def show_status(environ: Environ) -> tuple[str, object]:
    return "200 OK", asdict(get_transport(environ).status())


ROUTES: dict[tuple[str, str], Callable[[Environ], tuple[str, object]]] = {
    ("POST", "/orders"): create_order,
    ("GET", "/status"): show_status,
}


def api(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    handler = ROUTES.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
    try:
        status, answer = handler(environ) if handler else ("404 Not Found", {"error": "POST /orders or GET /status"})
    except (json.JSONDecodeError, InvalidMessage) as exc:
        status, answer = "400 Bad Request", {"error": str(exc)}
    except MessagingError as exc:
        # maybe_sent: whether sending the order again may make two of it.
        status, answer = "503 Service Unavailable", {"error": str(exc), "maybe_sent": exc.maybe_sent}
    body = json.dumps(answer).encode() + b"\n"
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


application = MessagingMiddleware(api)
