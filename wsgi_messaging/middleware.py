"""WSGI middleware: the worker's transport, in every request's environ.

It returns the application's iterable itself, never a wrapper, but for a generator's under a deadline: uWSGI and others
decide by its identity whether they may send a file without copying it. Nothing of a request's cost depends on the
broker.

Layer 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from types import GeneratorType
from typing import Any, Protocol
from weakref import ReferenceType, ref

from .errors import ConfigurationError
from .observe.options import checked_token
from .runtime import deadlines, native
from .servers import observe_first_request
from .settings import Settings
from .transport import Transport

ENVIRON_KEY = "wsgi_messaging.transport"
_ENDS_AT = "wsgi_messaging.ends_at"
"""Of the environ: when a request's time is over (monotonic), for a second middleware in it."""

LONGEST = 1e9
"""Seconds; a deadline is below it."""

StartResponse = Callable[..., Any]
WsgiApplication = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

_current: ContextVar[ReferenceType[Transport] | None] = ContextVar("wsgi_messaging_transport", default=None)
"""Weak, for a server's idle threads keep what their last request has set: mod_wsgi's, when it has loaded a changed
script again, would keep the connections of the transports before."""
_getpid, _get_current = native.getpid, _current.get
"""Looked up once: every request asks."""


class Pages(Protocol):
    """A WSGI application that says which paths are its own."""

    @property
    def paths(self) -> tuple[str, ...]: ...

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]: ...


class MessagingMiddleware:
    """Puts `transport` into `environ["wsgi_messaging.transport"]`.

    `deadline`: seconds that a request may take; every publish and RPC call made in it ends by then, and the endpoint
    that is called knows (`remaining_time()`). `deadline_header` names a header in which a client says how many seconds
    it waits; the shorter of the two counts. It holds until the application returns, and in a body that is a generator.

    With `status_path` it answers itself for that path and `<path>.json` with the page of all workers' connections: for
    whoever presents `status_token`; where that is "loopback", for this host, on which no proxy may stand in front then.
    With `health_path` it answers for `<path>/livez` and `<path>/readyz`; "" puts them at the root.

    Without a transport one is made from the environment and `settings` (the names of `Settings`). The first request
    of each process is looked at once: a server whose hook did not run is named in one log line.

    Raises: `ConfigurationError`, naming the setting.
    """

    def __init__(
        self,
        app: WsgiApplication,
        transport: Transport | None = None,
        *,
        deadline: float | None = None,
        deadline_header: str | None = None,
        status_path: str | None = None,
        status_token: str | None = None,
        health_path: str | None = None,
        **settings: Any,
    ) -> None:
        if transport is not None and not isinstance(transport, Transport):
            raise ConfigurationError(f"transport: a Transport is wanted, not {type(transport).__name__}")
        if transport is not None and settings:
            raise ConfigurationError(f"{next(iter(settings))}: give settings to the transport, or no transport")
        self.app = app
        self.transport = transport or Transport(settings=Settings.from_environ().with_changes(**settings))
        self._reference = ref(self.transport)
        self._observed_pid = 0
        self._deadline = _checked_deadline(deadline)
        self._deadline_key = _environ_key(deadline_header)
        self._has_deadlines = deadline is not None or deadline_header is not None
        self._pages: dict[str, WsgiApplication] = {}
        if status_token is not None:
            checked_token(status_token)
        if status_path is not None:
            from .observe.page import StatusPage  # only where it was asked for

            self._serve(StatusPage(self.transport, status_path, status_token))
        if health_path is not None:
            from .observe.health import HealthEndpoints

            self._serve(HealthEndpoints(self.transport, health_path))

    def _serve(self, pages: Pages) -> None:
        self._pages.update(dict.fromkeys(pages.paths, pages))

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if self._observed_pid != _getpid():
            self._observe(environ)
        if self._pages:
            page = self._pages.get(environ.get("PATH_INFO", ""))
            if page is not None:
                return page(environ, start_response)
        environ[ENVIRON_KEY] = self.transport
        if _get_current() is not self._reference:
            _current.set(self._reference)
        if self._has_deadlines:
            return self._call_in_time(environ, start_response)
        return self.app(environ, start_response)

    def _call_in_time(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        seconds = self._seconds_for(environ.get(self._deadline_key))
        end, outer = None if seconds is None else native.monotonic() + seconds, environ.get(_ENDS_AT)
        end = environ[_ENDS_AT] = outer if end is None else end if outer is None else min(end, outer)
        token = deadlines.begin_at(end)
        try:
            body = self.app(environ, start_response)
        except BaseException:
            deadlines.end(token)
            raise
        deadlines.end(token)
        return _InTime(body, end) if isinstance(body, (GeneratorType, _InTime)) else body  # that has yet to run

    def _seconds_for(self, said: str | None) -> float | None:
        """How long the request may take; a header that is no number of seconds, or is one that no clock takes ("inf"),
        is passed over: what is called with `remaining_time()` would fail on it."""
        try:
            seconds = float(said or "nan")
        except ValueError:
            return self._deadline
        if not seconds < LONGEST:  # what is not a number is neither
            return self._deadline
        return max(0.0, seconds if self._deadline is None else min(seconds, self._deadline))

    def _observe(self, environ: dict[str, Any]) -> None:
        advice = observe_first_request(environ)
        self.transport.is_one_shot = advice.one_shot
        self._observed_pid = _getpid()


class _InTime:
    """A response that is still being produced. Its deadline holds while it is asked for more, and not in between: a
    server may go on with another response in the same thread (`uwsgi --async`)."""

    def __init__(self, body: GeneratorType[bytes, None, None] | _InTime, ends_at: float | None) -> None:
        self._body = body
        self._ends_at = ends_at

    def __iter__(self) -> _InTime:
        return self

    def __next__(self) -> bytes:
        token = deadlines.begin_at(self._ends_at)
        try:
            return next(self._body)
        finally:
            self._ends_at = deadlines.ends_at()  # it may be in the middle of a block with a deadline of its own
            deadlines.end(token)

    def close(self) -> None:
        """Close what produces it. Raises: what that raises."""
        token = deadlines.begin_at(self._ends_at)
        try:
            self._body.close()
        finally:
            deadlines.end(token)


def _checked_deadline(seconds: object) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 < seconds < LONGEST:
        return seconds
    raise ConfigurationError(f"deadline: {seconds!r} is not a number of seconds above 0")


def _environ_key(header: object) -> str:
    """Where the environ has a header; "" for none."""
    if not header:
        return ""
    if not isinstance(header, str):
        raise ConfigurationError(f"deadline_header: {header!r} is not the name of a header")
    return f"HTTP_{header.upper().replace('-', '_')}"


def get_transport(environ: dict[str, Any]) -> Transport:
    """The transport of a request. Raises: `ConfigurationError` when the application is not wrapped."""
    transport = environ.get(ENVIRON_KEY)
    if not isinstance(transport, Transport):
        raise ConfigurationError(
            f"environ has no {ENVIRON_KEY!r}: wrap the application in wsgi_messaging.MessagingMiddleware"
        )
    return transport


class CurrentTransport:
    """Stands for the transport of the request that this thread, or greenlet, is serving; calling it gives it.

    Raises: `ConfigurationError` outside a request.
    """

    def __call__(self) -> Transport:
        transport = _referred()
        if transport is None:
            raise ConfigurationError("no request is being served here: pass the transport, or call it in a request")
        return transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self(), name)

    def __repr__(self) -> str:
        return f"<current_transport {_referred()!r}>"


def _referred() -> Transport | None:
    reference = _current.get()
    return None if reference is None else reference()


current_transport = CurrentTransport()
