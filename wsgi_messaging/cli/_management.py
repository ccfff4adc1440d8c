"""RabbitMQ's management API, as far as queues and dead-lettering are concerned: read, never written.

The user is the URL's, or the broker's where that has none. No error has a password in it.

Layer 5: imports connection.hosts, the conversation's `Trouble`.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from ..connection.hosts import Broker
from ..errors import ConfigurationError
from ._conversation import Trouble

PAGE = 500


class Management:
    """One virtual host through the management API at `url`."""

    def __init__(self, url: str, broker: Broker, seconds: float) -> None:
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port or (15671 if parts.scheme == "https" else 15672)
        except ValueError as exc:
            raise ConfigurationError("--management: what stands for a host or a port is none") from exc
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError("--management: write http://host:15672")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.address = f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/')}"
        user = unquote(parts.username) if parts.username else broker.userid
        password = unquote(parts.password or "") if parts.username else broker.password
        self._token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._user = user
        self._vhost = quote(broker.virtual_host, safe="")
        self._seconds = seconds

    def queues(self) -> list[dict[str, Any]]:
        """Every queue of the virtual host."""
        found: list[dict[str, Any]] = []
        for page in range(1, 10000):
            answer = self._get(f"queues/{self._vhost}?page={page}&page_size={PAGE}")
            found += answer["items"]
            if page >= answer["page_count"]:
                break
        return found

    def bindings_from(self, exchange: str) -> list[dict[str, Any]]:
        """What is bound to an exchange."""
        answer: list[dict[str, Any]] = self._get(f"exchanges/{self._vhost}/{quote(exchange, safe='')}/bindings/source")
        return answer

    def _get(self, path: str) -> Any:
        request = urllib.request.Request(f"{self.address}/api/{path}")
        request.add_header("Authorization", f"Basic {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=self._seconds) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                raise self._refusal(exc.code) from exc
        except (OSError, HTTPException, ValueError) as exc:  # HTTPException: what answers speaks something else
            raise Trouble(
                f"no management API at {self.address} ({getattr(exc, 'reason', exc)})",
                "Enable it ('rabbitmq-plugins enable rabbitmq_management') and give its address (port 15672)",
            ) from exc

    def _refusal(self, code: int) -> Trouble:
        if code in (401, 403):
            return Trouble(
                f"the management API at {self.address} refuses user {self._user!r} ({code})",
                f"Give a user who may see it: 'rabbitmqctl set_user_tags {self._user} monitoring'",
            )
        return Trouble(f"the management API at {self.address} answers {code}", "Check the virtual host and the address")
