"""A WSGI API as OpenStack's are put together: the messaging is one section of api-paste.ini.

    POST /orders   {"item": "tea"}    publishes the order; answers 202 when the broker has confirmed it
    GET  /health/readyz               200 while the worker is connected

    gunicorn -c hooks/gunicorn.conf.py examples.paste_api:application

The broker comes from WSGI_MESSAGING_URL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kombu import Queue
from paste.deploy import loadapp

from wsgi_messaging import MessagingError, get_transport

ORDERS = Queue("example-orders", durable=True, expires=300)  # it goes five minutes after its last use


def api(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    try:
        order = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        messaging = get_transport(environ)
        messaging.declare(ORDERS, timeout=2.0)
        messaging.publish(order, routing_key=ORDERS.name, timeout=2.0)
        status, answer = "202 Accepted", {"accepted": order}
    except MessagingError as exc:
        status, answer = "503 Service Unavailable", {"error": str(exc), "maybe_sent": exc.maybe_sent}
    body = json.dumps(answer).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def app_factory(global_conf: dict[str, str], **local_conf: str) -> Callable[..., Iterable[bytes]]:
    return api


application = loadapp(f"config:{Path(__file__).with_name('api-paste.ini')}")
