"""WSGI middleware that tells of every request and every response, as oslo.messaging's RequestNotifier does.

A request is never delayed and never failed by it: notifications go into the notifier's buffer, and whatever goes
wrong here is counted and logged once. The application's iterable is returned itself, never a wrapper; so a failure
while it is iterated is not seen.

Layer 4: imports errors, transport.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from ..errors import ConfigurationError
from .notifier import Notifier

logger = logging.getLogger("wsgi_messaging.notify")

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApplication = Callable[[Environ, StartResponse], Iterable[bytes]]

WITHHELD = ("HTTP_X_AUTH_TOKEN",)
"""What never travels. oslo.messaging withholds this one, and lets cookies and HTTP_AUTHORIZATION through."""


class RequestNotifications:
    """Sends `http.request` before and `http.response` after each request, at priority INFO.

    The payload has the CGI variables and HTTP headers of the environ, but for those in `withheld`; of the response
    its status and headers, or the exception. As with oslo.messaging's, HTTP_X_SERVICE_NAME is put into the environ:
    `service_name`, or the host that was asked for. Requests whose method is in `ignored_methods` pass untouched.

    The notifier must be one with `soon=True`. `failures` counts the notifications that could not even be handed to
    it; what became of the others is in its `status()`. Raises: `ConfigurationError`.
    """

    def __init__(
        self,
        app: WsgiApplication,
        notifier: Notifier,
        *,
        service_name: str | None = None,
        ignored_methods: Collection[str] = (),
        withheld: Collection[str] = WITHHELD,
    ) -> None:
        if not notifier.is_soon:
            raise ConfigurationError("notifier: make it with soon=True, so that no request waits for the broker")
        if isinstance(ignored_methods, str):
            raise ConfigurationError(f"ignored_methods: {ignored_methods!r} is not a list of methods")
        self.app = app
        self.failures = 0
        if notifier.publisher_id is None:
            notifier = notifier.prepare(publisher_id=os.path.basename(sys.argv[0]))
        self._notifier = notifier
        self._service_name = service_name
        self._ignored = frozenset(method.upper().strip() for method in ignored_methods)
        self._withheld = frozenset(withheld)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("REQUEST_METHOD") in self._ignored:
            return self.app(environ, start_response)
        environ["HTTP_X_SERVICE_NAME"] = self._service_name or _host(environ)
        self._notify("http.request", environ, dict)
        exchange = _Exchange(self, environ, start_response)
        try:
            iterable = self.app(environ, exchange.start_response)
        except Exception as exc:
            self._notify("http.response", environ, partial(_told, exc))
            raise
        exchange.returned()
        return iterable

    def _notify(self, event_type: str, environ: Environ, result: Callable[[], dict[str, Any]]) -> None:
        try:
            request = {name: value for name, value in environ.items() if name.isupper() and name not in self._withheld}
            self._notifier.info({}, event_type, {"request": request, **result()})
        except Exception:
            self.failures += 1
            if self.failures == 1:
                logger.warning("a request could not be notified; further failures are only counted", exc_info=True)


class _Exchange:
    """One request and the response that is given to it."""

    def __init__(self, middleware: RequestNotifications, environ: Environ, start_response: StartResponse) -> None:
        self._middleware = middleware
        self._environ = environ
        self._start_response = start_response
        self._response: dict[str, Any] | None = None
        self._has_returned = False

    def start_response(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        """What the application calls; a generator does so when it is first iterated, after it was returned."""
        write = self._start_response(status, headers, *exc_info)
        is_first = self._response is None
        self._response = {"status": status, "headers": dict(headers)}
        if self._has_returned and is_first:
            self._tell()
        return write

    def returned(self) -> None:
        """The application has returned its iterable."""
        self._has_returned = True
        if self._response is not None:
            self._tell()

    def _tell(self) -> None:
        self._middleware._notify("http.response", self._environ, lambda: {"response": self._response})


def _told(exc: Exception) -> dict[str, Any]:
    """What is said of an exception. Raises: whatever its own `__repr__` does."""
    return {"exception": {"value": repr(exc), "traceback": traceback.format_tb(exc.__traceback__)}}


def _host(environ: Environ) -> str:
    return environ.get("HTTP_HOST") or f"{environ.get('SERVER_NAME', '')}:{environ.get('SERVER_PORT', '')}"
