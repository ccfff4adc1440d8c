"""Who sees the status page, and what a browser is told to do with it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from tests.harness.waiting import wait_until
from wsgi_messaging import ConfigurationError, MessagingMiddleware, Transport
from wsgi_messaging.connection.status import ConnectionStatus
from wsgi_messaging.observe import markup
from wsgi_messaging.observe.page import StatusPage
from wsgi_messaging.observe.status import Board, RoundTripsSeen, Row

TOKEN = "0123456789abcdef"
LOCAL = {
    "REMOTE_ADDR": "127.0.0.1",
    "HTTP_HOST": "localhost:8000",
    "SERVER_PROTOCOL": "HTTP/1.1",
}
REMOTE = {**LOCAL, "REMOTE_ADDR": "192.0.2.7", "HTTP_HOST": "shop.example"}
HOSTILE = "<img src=x onerror=alert(1)>\"&'"


def ask(app: Any, **environ: Any) -> tuple[str, dict[str, str], bytes]:
    """One request; the answer's status, headers and body."""
    answer: list[Any] = []
    environ = {"PATH_INFO": "/status", "REQUEST_METHOD": "GET", **environ}
    body = b"".join(app(environ, lambda status, headers: answer.extend((status, dict(headers)))))
    return answer[0], answer[1], body


def is_shown(app: Any, **environ: Any) -> bool:
    status, _headers, body = ask(app, **environ)
    assert (status == "200 OK") == (b"<table>" in body)
    assert status in ("200 OK", "403 Forbidden")
    return status == "200 OK"


def no_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    return []


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The application behind a server; its URL."""
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def transport(make: Callable[..., Transport]) -> Transport:
    made = make()
    made.publish(b"x", "nobody", mandatory=False)
    return made


@pytest.fixture
def page(transport: Transport) -> StatusPage:
    return StatusPage(transport, "/status", "loopback")


@pytest.fixture
def guarded(transport: Transport) -> StatusPage:
    return StatusPage(transport, "/status", TOKEN)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:80", "[::1]:8000", "LOCALHOST"])
def test_this_host_sees_it(page: StatusPage, address: str, host: str) -> None:
    assert is_shown(page, **LOCAL | {"REMOTE_ADDR": address, "HTTP_HOST": host})


@pytest.mark.parametrize(
    "change",
    [
        {"REMOTE_ADDR": "192.0.2.7"},
        {"REMOTE_ADDR": "::ffff:192.0.2.7"},
        {"REMOTE_ADDR": ""},
        {"REMOTE_ADDR": "localhost"},
        {"HTTP_HOST": "evil.example"},
        {"HTTP_HOST": "127.0.0.1.evil.example"},
        {"HTTP_HOST": ""},
        {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
        {"HTTP_FORWARDED": "for=127.0.0.1"},
        {"HTTP_X_REAL_IP": "127.0.0.1"},
        {"HTTP_VIA": "1.1 proxy"},
        {"SERVER_PROTOCOL": "HTTP/1.0"},
        {"QUERY_STRING": f"token={TOKEN}"},
    ],
    ids=str,
)
def test_nobody_else_does(page: StatusPage, change: dict[str, str]) -> None:
    """Fails when a proxy on this host, or a name that was made to resolve to it, passes for this host."""
    local = LOCAL if "QUERY_STRING" not in change else REMOTE
    assert not is_shown(page, **local | change)


def test_without_a_token_nobody_sees_it(transport: Transport) -> None:
    """Fails when the default is open to what a proxy on this host passes on."""
    status, _headers, body = ask(MessagingMiddleware(no_app, transport, status_path="/status"), **LOCAL)
    assert status == "403 Forbidden" and b"set status_token" in body
    assert is_shown(MessagingMiddleware(no_app, transport, status_path="/status", status_token="loopback"), **LOCAL)


def test_a_missing_address_is_nobody(page: StatusPage) -> None:
    assert not is_shown(page)


def test_a_token_opens_it_from_anywhere(guarded: StatusPage) -> None:
    for shown in (
        {"HTTP_X_STATUS_TOKEN": TOKEN},
        {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}"},
        {"HTTP_COOKIE": f"other=1; wsgi_messaging_status={TOKEN}"},
    ):
        assert is_shown(guarded, **REMOTE | shown)


@pytest.mark.parametrize(
    "other", ["name=John Doe", "logged-in", 'prefs={"dark":1}', "path", "\xe4=1", "", "=", "a b=c"]
)
def test_cookies_of_other_applications_do_not_hide_the_tokens(guarded: StatusPage, other: str) -> None:
    """Fails when the header is read by a parser that gives everything up at the first thing that it does not know."""
    ours = f"wsgi_messaging_status={TOKEN}"
    for header in (f"{ours}; {other}", f"{other}; {ours}", f"wsgi_messaging_status=old; {other};{ours}"):
        assert is_shown(guarded, **REMOTE | {"HTTP_COOKIE": header}), header


def test_without_the_token_this_host_is_refused_too(guarded: StatusPage) -> None:
    """A proxy on this host need not say that it is one: nginx's defaults do not."""
    assert not is_shown(guarded, **LOCAL)


@pytest.mark.parametrize("wrong", ["", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\u1234" * 16, "0"])
def test_a_wrong_token_is_refused(guarded: StatusPage, wrong: str) -> None:
    for shown in (
        {"HTTP_X_STATUS_TOKEN": wrong},
        {"HTTP_AUTHORIZATION": f"Bearer {wrong}"},
        {"HTTP_AUTHORIZATION": f"Basic {wrong}"},
        {"HTTP_COOKIE": f"wsgi_messaging_status={wrong}"},
        {"HTTP_COOKIE": f"\x00;={wrong}"},
        {"QUERY_STRING": f"token={wrong}"},
        {"QUERY_STRING": "&".join(["token"] * 50)},
    ):
        assert not is_shown(guarded, **REMOTE | shown)


def test_a_token_in_the_address_moves_into_a_cookie(transport: Transport) -> None:
    token = "a token; with=all+of%it"
    guarded = StatusPage(transport, "/status", token)
    query = "token=a+token%3B+with%3Dall%2Bof%25it"
    status, headers, _body = ask(guarded, **REMOTE | {"QUERY_STRING": query, "SCRIPT_NAME": "/shop"})
    assert (status, headers["Location"]) == ("303 See Other", "/shop/status")
    cookie, *attributes = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Lax", "Path=/shop/status.json"} == set(attributes)
    assert is_shown(guarded, **REMOTE | {"HTTP_COOKIE": cookie})
    _status, headers, _body = ask(guarded, **REMOTE | {"QUERY_STRING": query, "wsgi.url_scheme": "https"})
    assert headers["Set-Cookie"].endswith("; Secure")


@pytest.mark.parametrize(
    ("path", "token", "named"),
    [
        ("status", None, "^status_path: "),
        ("/", None, "^status_path: "),
        (7, None, "^status_path: 7 "),
        ("/s", "fifteen letters", "^status_token: it must have at least 16 characters, all printable ASCII$"),
        ("/s", "sixteen\tletters!", "^status_token: "),
        ("/s", "sixteen l\u00e9tters!", "^status_token: "),
        ("/s", 1234567890123456, "^status_token: "),
        (None, "short", "^status_token: "),
    ],
)
def test_bad_settings_are_named(transport: Transport, path: Any, token: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        MessagingMiddleware(no_app, transport, status_path=path, status_token=token)
    assert str(token) not in str(caught.value)
    with pytest.raises(ConfigurationError, match=named):
        StatusPage(transport, path or "/s", token)


def test_a_browser_shows_the_cookie_for_the_page_and_for_what_the_page_fetches(guarded: StatusPage) -> None:
    with served(guarded) as url:
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with browser.open(f"{url}/status?token={TOKEN}", timeout=5) as answer:
            assert answer.url == f"{url}/status"
        for path in ("/status", "/status.json"):
            with browser.open(url + path, timeout=5) as answer:
                assert answer.status == 200


def test_a_path_beyond_ascii_is_served(transport: Transport) -> None:
    """Fails when it is compared as it was written: a request has it in octets, and the application answers 404."""
    path = "/\u00fcbersicht-\u0142\u0105cza"
    with served(MessagingMiddleware(no_app, transport, status_path=path, status_token=TOKEN)) as url:
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with browser.open(f"{url}{quote(path)}?token={TOKEN}", timeout=5) as answer:
            assert answer.url == f"{url}{quote(path)}"
            (source,) = re.findall(r'data-source="([^"]*)"', answer.read().decode())
        assert source == f"{quote(path)}.json"
        with browser.open(url + source, timeout=5) as answer:
            assert answer.status == 200


def test_the_json_beside_it(page: StatusPage, transport: Transport) -> None:
    status, headers, body = ask(page, **LOCAL | {"PATH_INFO": "/status.json"})
    assert (status, headers["Content-Type"]) == ("200 OK", "application/json")
    (row,) = json.loads(body)["connections"]
    assert row["name"] == transport.status().connections[0].name and row["is_ready"]
    status, _headers, body = ask(page, **REMOTE | {"PATH_INFO": "/status.json"})
    assert status == "403 Forbidden" and b"seen" not in body


def test_other_methods(page: StatusPage) -> None:
    status, headers, body = ask(page, **LOCAL | {"REQUEST_METHOD": "HEAD"})
    assert status == "200 OK" and body == b"" and int(headers["Content-Length"]) > 1000
    assert ask(page, **LOCAL | {"REQUEST_METHOD": "POST"})[0].startswith("405")


def test_nothing_is_fetched_from_elsewhere_and_nothing_runs_that_is_not_ours(page: StatusPage) -> None:
    _status, headers, body = ask(page, **LOCAL)
    text = body.decode()
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.findall(r"""\b(?:src|href|style|on\w+)\s*=\s*["']""", text.replace("data-source", ""))
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")


def board_with(text: str) -> Board:
    connection = ConnectionStatus(
        *(text, text, text, text, 1.0, 1, 1, None, 1.0, 1.0, 1.0, 1, 1, 1, 1, 1, 1), blocked=text, consumers=1,
        last_failure=text,
    )  # fmt: skip
    trips = RoundTripsSeen(2, 0.1, (), ((2.0, 0.05, 0.06), (1.0, 0.002, 0.04)))
    return Board((Row(text, 1, 1, text, text, text, text, 0.0, connection, trips),), is_whole=False, note=text)


def test_what_comes_from_outside_is_escaped() -> None:
    text = markup.page(board_with(HOSTILE), f"/{HOSTILE}.json")
    assert "<img" not in text and "onerror=alert(1)>" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;&quot;&amp;&#x27;") > 5


def test_a_stalled_connection_is_marked_and_counted() -> None:
    """Fails when the page believes what a thread that does not run any more has written last."""
    (row,) = board_with("x").rows
    ready = replace(row, connection=replace(row.connection, state="ready", heartbeat=4.0, blocked=None))
    for age, shown in ((7.9, "ready"), (8.1, "stalled")):
        board = Board((replace(ready, updated_age=age),), is_whole=True)
        text = markup.page(board, "/s.json")
        assert f'<td class="state {shown}">{shown}</td>' in text
        assert ("1 NOT ready" in text, "no heartbeat for 8 s (due every 4 s)" in text) == (age > 8, age > 8)
        (told,) = board.as_json()["connections"]
        assert (told["state"], told["is_ready"]) == (shown, age < 8)
    assert f".state.{shown}" in markup.STYLE
    for change in ({"heartbeat": 0.0}, {"state": "waiting"}):
        other = replace(ready, updated_age=60.0, connection=replace(ready.connection, **change))
        assert not other.is_stalled, "no heartbeat is due"


def test_the_script_is_given_the_same_cells(page: StatusPage) -> None:
    board = board_with("plain")
    text = markup.page(board, "/s.json")
    row = json.loads(markup.as_json(board))["page"]["rows"][0]
    assert re.findall(r"<td[^>]*>(?:<svg.*?</svg>)?(.*?)</td>", text) == row["cells"]
    assert f'points="{row["lines"]["mean"]}"' in text and "50 ms" not in row["cells"][markup.CHART]
    assert "60 ms worst" in row["lines"]["label"]


def test_no_password_is_on_it(make: Callable[..., Transport]) -> None:
    transport = make(url="amqp://user:hunter2@127.0.0.1:1")
    transport.warm()
    page = StatusPage(transport, "/status", "loopback")
    shown = wait_until(lambda: re.search(b"refused", ask(page, **LOCAL)[2]), what="the failure on the page")
    assert b"hunter2" not in shown.string
    assert b"hunter2" not in ask(page, **LOCAL | {"PATH_INFO": "/status.json"})[2]
    (file,) = Path(str(transport.settings.run_dir)).iterdir()
    assert b"hunter2" not in file.read_bytes()


def test_a_mounted_page_asks_for_its_json_there(page: StatusPage) -> None:
    assert b'data-source="/shop/status.json"' in ask(page, **LOCAL | {"SCRIPT_NAME": "/shop"})[2]


def test_without_a_run_directory_it_says_so(make: Callable[..., Transport]) -> None:
    transport = make(run_dir=None)
    transport.publish(b"x", "nobody", mandatory=False)
    text = ask(StatusPage(transport, "/status", "loopback"), **LOCAL)[2].decode()
    assert "This process only" in text and "1 connection of 1 worker, all ready" in text


def test_the_middleware_serves_it_only_where_it_is_asked_to(transport: Transport) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [b"the application"]

    assert ask(MessagingMiddleware(app, transport), **LOCAL)[2] == b"the application"
    wrapped = MessagingMiddleware(app, transport, status_path="/status", status_token=TOKEN)
    assert ask(wrapped, **LOCAL)[0] == "403 Forbidden"
    assert is_shown(wrapped, **REMOTE | {"HTTP_X_STATUS_TOKEN": TOKEN})
    assert ask(wrapped, **LOCAL | {"PATH_INFO": "/status/"})[2] == b"the application"


def test_a_board_of_other_versions_is_still_a_page() -> None:
    empty = Board((), is_whole=True)
    assert "0 connections of 0 workers" in markup.page(empty, "/s.json")
    row = board_with("x").rows[0]
    assert markup.cells(replace(row, round_trips=RoundTripsSeen()))[markup.CHART] == "-"
