"""The status page: every worker's connections, live, on loopback or with a token.

Who may see it: without a token, nobody; with one, whoever presents it, wherever from, and nobody else. With the word
`loopback` in its place, a browser on this host; no proxy may stand in front then: one need not say that it is one, and
what is refused are those that are known by what they send. No password and nothing of a message is on it.

Layer 5.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from ..transport import Transport
from . import markup
from .options import LOOPBACK, checked_path, checked_token
from .status import Board, board_of

COOKIE = "wsgi_messaging_status"
HEADER = "HTTP_X_STATUS_TOKEN"
_FORWARDING = (
    "HTTP_FORWARDED",
    "HTTP_VIA",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_FORWARDED_SERVER",
    "HTTP_X_REAL_IP",
    "HTTP_CF_CONNECTING_IP",
)
_SAFE_HEADERS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", markup.POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
)

_ONLY_TOKEN = "not allowed: with the token only"
_REFUSALS = {
    None: "not allowed: set status_token, or use the command wsgi-messaging status, which needs none",
    LOOPBACK: "not allowed: for a browser on this host; else set another status_token, or use wsgi-messaging status",
}

Environ = dict[str, Any]


class StatusPage:
    """A WSGI application for `path` (HTML) and `path`.json. Raises: `ConfigurationError`, naming the setting."""

    def __init__(self, transport: Transport, path: str, token: str | None = None) -> None:
        self._path = checked_path("status_path", path)
        self._json_path = f"{self._path}.json"
        self._token = None if token is None else checked_token(token)
        self._board: Callable[[], Board] = lambda: board_of(transport)

    @property
    def paths(self) -> tuple[str, ...]:
        """What it answers for."""
        return self._path, self._json_path

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ.get("REQUEST_METHOD", "GET")
        if not self._is_allowed(environ):
            status, headers, body = _refusal("403 Forbidden", _REFUSALS.get(self._token, _ONLY_TOKEN))
        elif method not in ("GET", "HEAD"):
            status, headers, body = _refusal("405 Method Not Allowed", "GET or HEAD")
            headers.append(("Allow", "GET, HEAD"))
        elif self._token != LOOPBACK and _query_token(environ) is not None:
            status, headers, body = self._taken_from_the_url(environ)
        else:
            status, headers, body = self._answer(environ)
        start_response(status, [*headers, ("Content-Length", str(len(body))), *_SAFE_HEADERS])
        return [] if method == "HEAD" else [body]

    def _answer(self, environ: Environ) -> tuple[str, list[tuple[str, str]], bytes]:
        if environ.get("PATH_INFO") == self._json_path:
            return "200 OK", [("Content-Type", "application/json")], markup.as_json(self._board())
        text = markup.page(self._board(), _mounted(environ, self._json_path))
        return "200 OK", [("Content-Type", "text/html; charset=utf-8")], text.encode("utf-8", "replace")

    def _taken_from_the_url(self, environ: Environ) -> tuple[str, list[tuple[str, str]], bytes]:
        """The token moves into a cookie: in the address it would stay in histories, logs and over shoulders.

        One for each path: that for `/status` is not sent to `/status.json` (RFC 6265, section 5.1.4). `Lax`: a browser
        that comes by a link on another site's page (a wiki, a chat) would not send a `Strict` one, here or to a reload.
        """
        value = f"{COOKIE}={quote(self._token or '', safe='')}"
        rest = "HttpOnly; SameSite=Lax" + ("; Secure" if environ.get("wsgi.url_scheme") == "https" else "")
        cookies = [("Set-Cookie", f"{value}; Path={_mounted(environ, path)}; {rest}") for path in self.paths]
        target = _mounted(environ, environ.get("PATH_INFO", self._path))
        return "303 See Other", [("Location", target), *cookies, ("Content-Type", "text/plain")], b""

    def _is_allowed(self, environ: Environ) -> bool:
        if self._token is None:
            return False
        if self._token == LOOPBACK:
            return _is_local(environ)
        expected = self._token.encode()
        return any(hmac.compare_digest(each.encode("utf-8", "replace"), expected) for each in _presented(environ))


def _refusal(status: str, text: str) -> tuple[str, list[tuple[str, str]], bytes]:
    return status, [("Content-Type", "text/plain; charset=utf-8")], f"{text}\n".encode()


def _mounted(environ: Environ, path: str) -> str:
    """A path of ours as the browser must ask for it."""
    return quote(str(environ.get("SCRIPT_NAME", "")) + path, safe="/", encoding="latin-1")


def _presented(environ: Environ) -> Iterable[str]:
    """The tokens that a request shows: two headers, the cookie, the query."""
    yield str(environ.get(HEADER, ""))
    scheme, _space, credentials = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    yield credentials.strip() if scheme.lower() == "bearer" else ""
    yield from _cookies(str(environ.get("HTTP_COOKIE", "")))
    yield _query_token(environ) or ""


def _cookies(header: str) -> Iterable[str]:
    """The values of ours, in whatever company: `http.cookies` gives none of a header in which another application's
    has a space or no value, and browsers send what they were given (RFC 6265, section 5.4)."""
    for each in header.split(";"):
        name, _sign, value = each.strip().partition("=")
        if name == COOKIE:
            yield unquote(value)


def _query_token(environ: Environ) -> str | None:
    try:
        return parse_qs(str(environ.get("QUERY_STRING", "")), max_num_fields=20).get("token", [None])[0]
    except ValueError:
        return None


def _is_local(environ: Environ) -> bool:
    """From this host, to this host by name, and not on behalf of somebody else as far as that can be seen.

    The name is asked for because a page from elsewhere can have its own name resolve to 127.0.0.1 (DNS rebinding).
    nginx with nothing but `proxy_pass http://127.0.0.1:8000` sends that name and no header that gives it away: before
    1.29.7 it speaks HTTP/1.0, since then it looks like a program on this host.
    """
    if any(name in environ for name in _FORWARDING) or environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        return False
    return _is_loopback(str(environ.get("REMOTE_ADDR", ""))) and _is_local_name(str(environ.get("HTTP_HOST", "")))


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def _is_local_name(host: str) -> bool:
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or _is_loopback(name)
