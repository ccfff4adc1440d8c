"""What a deployer would write to have everything shown: the page, the health endpoints, /metrics.

Broker, name, heartbeat and run directory come from the environment.
"""

import json
import os
from urllib.parse import parse_qsl

from prometheus_client import CollectorRegistry, make_wsgi_app

from wsgi_messaging import MessagingMiddleware, Transport, get_transport
from wsgi_messaging.observe.metrics import MessagingCollector

transport = Transport()
registry = CollectorRegistry()
registry.register(MessagingCollector(transport))
metrics = make_wsgi_app(registry)


def app(environ, start_response):
    query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
    match environ["PATH_INFO"]:
        case "/metrics":
            return metrics(environ, start_response)
        case "/publish":
            get_transport(environ).publish(b"x", query["queue"])
        case "/consume":
            get_transport(environ).consume(query["queue"], lambda delivery: None)
    body = json.dumps({"pid": os.getpid()}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


application = MessagingMiddleware(app, transport, status_path="/status", status_token="loopback", health_path="")
