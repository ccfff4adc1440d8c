"""aodh's API after eventlet, on Werkzeug's server with processes and threads; its listener is aodh_listener.py.

    POST /alarms   announces `alarm.creation` and answers 202 when the broker has the notification

    wsgi-messaging serve examples.aodh_api:application --processes 4 --threads

The broker comes from WSGI_MESSAGING_URL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any
from uuid import uuid4

from wsgi_messaging import MessagingError, MessagingMiddleware, Notifier, Transport

transport = Transport(name="aodh-api")
notifier = Notifier(transport, "aodh.api", topics=("alarming",))


def aodh(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    status, answer = "404 Not Found", {"error": "POST /alarms"}
    if (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("POST", "/alarms"):
        alarm = {"alarm_id": uuid4().hex, "state": "insufficient data"}
        try:
            notifier.info({"user_id": environ.get("HTTP_X_USER_ID", "anonymous")}, "alarm.creation", alarm)
            status, answer = "202 Accepted", alarm
        except MessagingError as exc:
            status, answer = "503 Service Unavailable", {"error": str(exc)}
    body = json.dumps(answer).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


application = MessagingMiddleware(aodh, transport, deadline=10.0)
