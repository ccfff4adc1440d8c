"""nova's API, as it is deployed under Apache mod_wsgi (MPM prefork) or uWSGI, in small.

It calls eventlet's monkey_patch, as nova does, unless EXAMPLE_PATCH is "none"; its heartbeat runs all the same.

    POST /servers                    cast `build_instance` to the topic compute; answers 202
    GET  /servers/<id>/diagnostics   call `get_diagnostics`, within the request's deadline of 5 s

    Include hooks/apache-mod_wsgi.conf after Define WSGI_SCRIPT .../examples/nova_api.py

The broker comes from WSGI_MESSAGING_URL.
"""

from __future__ import annotations

import os

if os.environ.get("EXAMPLE_PATCH", "eventlet") == "eventlet":
    import eventlet

    eventlet.monkey_patch()

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from wsgi_messaging import MessagingError, MessagingMiddleware, RPCClient, Target, Transport, Unroutable

transport = Transport(name="nova-api")
compute = RPCClient(transport, Target(exchange="nova", topic="compute", version="5.0"))


def build(context: dict[str, Any]) -> tuple[str, object]:
    server = uuid4().hex
    compute.cast(context, "build_instance", instance=server)
    return "202 Accepted", {"id": server}


def diagnostics(context: dict[str, Any], server: str) -> tuple[str, object]:
    return "200 OK", compute.call(context, "get_diagnostics", instance=server)


def nova(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    context = {"request_id": f"req-{uuid4()}", "user_id": environ.get("HTTP_X_USER_ID", "anonymous")}
    try:
        match environ["REQUEST_METHOD"], environ["PATH_INFO"].strip("/").split("/"):
            case "POST", ["servers"]:
                status, answer = build(context)
            case "GET", ["servers", server, "diagnostics"]:
                status, answer = diagnostics(context, server)
            case "GET", ["status"]:
                status, answer = "200 OK", asdict(transport.status())
            case _:
                status, answer = "404 Not Found", {"error": "POST /servers or GET /servers/<id>/diagnostics"}
    except Unroutable as exc:
        status, answer = "503 Service Unavailable", {"error": f"no compute service: {exc}"}
    except MessagingError as exc:
        status, answer = "504 Gateway Timeout", {"error": str(exc), "maybe_sent": exc.maybe_sent}
    body = json.dumps(answer).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


application = MessagingMiddleware(nova, transport, deadline=5.0, deadline_header="X-Timeout")
