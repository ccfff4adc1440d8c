"""The application that every real server of the tests serves.

It is wrapped as a deployer would wrap his own. Broker, heartbeat and name come from the environment:
WSGI_MESSAGING_URL, WSGI_MESSAGING_HEARTBEAT, WSGI_MESSAGING_APP. LIVE_LOG is the level from which on it logs.
"""

import dataclasses
import json
import logging
import os
import threading
import time
import traceback
from urllib.parse import parse_qsl

from wsgi_messaging import MessagingError, MessagingMiddleware, get_transport

if "LIVE_LOG" in os.environ:
    logging.basicConfig(level=os.environ["LIVE_LOG"])


def publish(environ, query):
    """One confirmed message with the id that was asked for; `hold` seconds keep the worker busy afterwards."""
    transport = get_transport(environ)
    began_at = time.monotonic()
    transport.publish({"id": query["id"], "pid": os.getpid()}, routing_key=query["queue"], message_id=query["id"])
    elapsed = time.monotonic() - began_at
    time.sleep(float(query.get("hold", 0)))
    return {"pid": os.getpid(), "id": query["id"], "elapsed": elapsed, "status": status_of(transport)}


def status(environ, query):
    """What the transport says of itself."""
    return {"pid": os.getpid(), "status": status_of(get_transport(environ))}


def pid(environ, query):
    """Who serves, without a look at the transport."""
    return {"pid": os.getpid(), "parent": os.getppid(), "thread": threading.current_thread().name}


def busy(environ, query):
    """Computes for `seconds` and lets other threads have the interpreter only when it takes it from us."""
    until = time.monotonic() + float(query["seconds"])
    turns = 0
    while time.monotonic() < until:
        turns += 1
    return {"pid": os.getpid(), "turns": turns}


def slow(environ, query):
    """Sleeps for `seconds`, then publishes if a queue is named."""
    time.sleep(float(query["seconds"]))
    return publish(environ, query) if "queue" in query else pid(environ, query)


def big(environ, query):
    """A response of `size` bytes beside its JSON."""
    return {"pid": os.getpid(), "padding": "x" * int(query.get("size", 1_000_000))}


def status_of(transport):
    return dataclasses.asdict(transport.status())


ROUTES = {f"/{route.__name__}": route for route in (publish, status, pid, busy, slow, big)}


def app(environ, start_response):
    query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
    try:
        code, answer = "200 OK", ROUTES[environ["PATH_INFO"]](environ, query)
    except MessagingError as error:
        code = "503 Service Unavailable"
        answer = {"pid": os.getpid(), "error": repr(error), "maybe_sent": error.maybe_sent}
    except Exception:  # noqa: BLE001  (the answer carries it to the test)
        code, answer = "500 Internal Server Error", {"pid": os.getpid(), "error": traceback.format_exc()}
    body = json.dumps(answer).encode()
    start_response(code, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


application = MessagingMiddleware(app)
