"""Is this process alive, and can it take requests? Answered from memory, at once, whatever the broker does.

Liveness never depends on the broker: a restart would not mend it, and restarting all workers in its absence makes an
outage of it. Readiness says what the connection's thread knows at this moment; it begins to connect where nothing
did yet, and does not wait for it.

Layer 5.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..connection.state import State
from ..connection.status import ConnectionStatus
from ..connection.timing import SILENT_INTERVALS
from ..errors import ConfigurationError
from ..transport import Transport
from .options import checked_path

LIVE, READY = "/livez", "/readyz"

_CAUSES = {
    "login refused for user": "login refused",
    "the broker hung up when it got the credentials": "login refused",
    "the function for the credentials failed": "no credentials",
    "refused for user": "virtual host refused",
    "TLS files cannot be used": "TLS files cannot be used",
    "the certificate was refused": "certificate refused",
    "the TLS handshake": "no TLS",
    "TLS handshake failed": "no TLS",
    "not an AMQP 0-9-1 broker": "not AMQP",
    "connected, but no AMQP": "no answer",
    "hung up before the AMQP": "hung up",
    "the broker is going down": "broker is away",
    "connection refused": "broker is away",
    "no answer to the connect": "broker is away",
    "cannot connect": "broker is away",
    "the host name cannot be resolved": "host name unknown",
}
"""What may be shown of a failed attempt to connect, by what `connection.link` says of it; the first that fits."""


@dataclass(frozen=True, slots=True)
class Health:
    """An answer; `reasons` names what is wrong, and no host, so that it may be shown to anybody."""

    is_ok: bool
    reasons: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {"status": "ok" if self.is_ok else "unavailable", "reasons": list(self.reasons)}


def liveness() -> Health:
    """That this process answers. It depends on nothing else."""
    return Health(True)


def readiness(transport: Transport) -> Health:
    """Whether what is published now would go out at once: every connection that is open here takes messages.

    Blocks: never; no input or output. Where nothing was opened yet, connecting begins in the background and the
    answer is no. Raises: nothing.
    """
    connections = transport.status().connections
    if not connections:
        try:
            transport.warm()
        except ConfigurationError as exc:  # what only this host's files can show
            return Health(False, (f"cannot connect{_cause(str(exc))}",))
        return Health(False, ("not connected yet",))
    reasons = tuple(reason for connection in connections if (reason := _problem(connection)))
    return Health(not reasons, reasons)


def _problem(connection: ConnectionStatus) -> str:
    if connection.state == State.BLOCKED.value:
        return f"{connection.role}: the broker takes no messages"
    if connection.state != State.READY.value:
        return f"{connection.role}: {connection.state}{_cause(connection.last_failure)}"
    # The thread gives a silent broker up after so long; if it has not, it does not run.
    silence = connection.received_age or 0.0
    if connection.heartbeat and silence > connection.heartbeat * SILENT_INTERVALS + 1.0:
        return f"{connection.role}: nothing was heard of the broker for {silence:.0f} s"
    return ""


def _cause(failure: str | None) -> str:
    """Why the last attempt failed, in words that name no host and no user."""
    if failure is None:
        return ""
    return f" ({next((shown for said, shown in _CAUSES.items() if said in failure), 'no connection')})"


class HealthEndpoints:
    """A WSGI application for `<path>/livez` and `<path>/readyz`: 200 or 503, with a little JSON.

    Raises: `ConfigurationError`, naming the setting.
    """

    def __init__(self, transport: Transport, path: str = "") -> None:
        prefix = path and checked_path("health_path", path, "; '' stands for the root")
        self._answers: dict[str, Callable[[], Health]] = {
            prefix + LIVE: liveness,
            prefix + READY: lambda: readiness(transport),
        }

    @property
    def paths(self) -> tuple[str, ...]:
        """What it answers for."""
        return tuple(self._answers)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = self._answers.get(environ.get("PATH_INFO", ""))
        if answer is None:
            return _respond(start_response, "404 Not Found", b"not found\n", "text/plain")
        if environ.get("REQUEST_METHOD", "GET") not in ("GET", "HEAD"):
            return _respond(
                start_response, "405 Method Not Allowed", b"GET or HEAD\n", "text/plain", ("Allow", "GET, HEAD")
            )
        health = answer()
        body = json.dumps(health.as_json()).encode() + b"\n"
        status = "200 OK" if health.is_ok else "503 Service Unavailable"
        written = _respond(start_response, status, body, "application/json")
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else written


def _respond(
    start_response: Callable[..., Any], status: str, body: bytes, kind: str, *headers: tuple[str, str]
) -> list[bytes]:
    start_response(
        status,
        [
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *headers,
        ],
    )
    return [body]
