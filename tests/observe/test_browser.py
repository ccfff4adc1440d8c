"""The page in a real browser: it is live, it is readable in both schemes, it works without a script."""

from __future__ import annotations

import importlib.util
import os
import signal
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.harness.servers import Gunicorn
from tests.harness.waiting import wait_until
from tests.observe import browser as browsers
from tests.observe.browser import Browser
from tests.observe.fleet import by_page, gunicorn
from tests.observe.test_page import served
from wsgi_messaging import Transport
from wsgi_messaging.observe.markup import COLUMNS
from wsgi_messaging.observe.page import StatusPage

PID, STATE, CONFIRMED = COLUMNS.index("pid"), COLUMNS.index("state"), COLUMNS.index("confirmed")


@pytest.fixture
def browser() -> Iterator[Browser]:
    program = browsers.find()
    if program is None:
        missing("no Chromium: apt-get install chromium")
    with Browser(program) as started:
        started.size(1600, 500)
        yield started


@pytest.fixture
def server(rabbitmq: RabbitMQ, run_dir: Path, unique: Callable[[str], str]) -> Iterator[Gunicorn]:
    made = gunicorn(unique("shop"), rabbitmq, run_dir)
    if made.missing() or importlib.util.find_spec("prometheus_client") is None:
        missing("gunicorn or prometheus_client is not installed: make test")
    try:
        made.start(path="/pid")
        wait_until(lambda: len(by_page(made)) == 2, 10.0, "two ready connections")
        yield made
    finally:
        made.discard()


def shown_pids(browser: Browser) -> set[int]:
    return {int(row[PID]) for row in browser.cells()}


def confirmed(browser: Browser) -> int:
    return sum(int(row[CONFIRMED]) for row in browser.cells())


def has_more(browser: Browser, before: int) -> bool:
    return confirmed(browser) > before


def test_it_is_live_without_a_reload(browser: Browser, server: Gunicorn, queue: str) -> None:
    browser.go(f"{server.url}/status")
    browser.ask("window.isTheSamePage = true")
    before = server.pids()
    assert shown_pids(browser) == before and {row[STATE] for row in browser.cells()} == {"ready"}
    for _ in range(3):
        before_it = confirmed(browser)
        server.reach_workers(f"/publish?queue={queue}")
        wait_until(partial(has_more, browser, before_it), what="more confirms")
    wait_until(lambda: browser.ask("document.querySelectorAll('#rows svg polyline').length") >= 2, 10.0, "a chart")

    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in shown_pids(browser), what="the end of the killed worker's row")
    wait_until(lambda: shown_pids(browser) == server.pids(), 10.0, "the row of the new worker")
    server.reload()
    wait_until(lambda: not shown_pids(browser) & before and len(browser.cells()) == 2, 20.0, "rows of new workers only")
    assert browser.ask("window.isTheSamePage"), "the page was not loaded again"
    assert not browser.complaints, "the policy, the script and the style fit each other"

    server.stop()
    wait_until(lambda: "no answer" in browser.ask("document.getElementById('alarm').textContent"), what="the alarm")


def test_both_schemes_are_readable(browser: Browser, server: Gunicorn) -> None:
    browser.go(f"{server.url}/status")
    colours = {}
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        paper, ink = browser.ask("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
        state = browser.ask("getComputedStyle(document.querySelector('td.state')).color")
        assert contrast(paper, ink) >= 7.0 and contrast(paper, state) >= 4.5, f"{scheme}: {paper} {ink} {state}"
        width, height = struct.unpack(">II", browser.screenshot()[16:24])
        assert (width, height) == (1600, 500)
        colours[scheme] = paper
    assert luminance(colours["light"]) > 0.8 and luminance(colours["dark"]) < 0.1


def test_it_works_without_a_script(browser: Browser, server: Gunicorn) -> None:
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    browser.command("Page.navigate", url=f"{server.url}/status")
    first = min(server.pids())
    wait_until(lambda: f">{first}</td>" in browser.source(), 10.0, "the table")
    os.kill(first, signal.SIGKILL)

    def is_without_it() -> bool:
        source = browser.source()
        return 'id="rows"' in source and f">{first}</td>" not in source

    wait_until(is_without_it, 10.0, "the table without the dead worker")


def test_a_link_of_another_site_opens_it(browser: Browser) -> None:
    """Fails with a cookie that is `Strict`: the browser keeps it back, and the page is refused, reloaded or not."""
    token = "0123456789abcdef"
    with served(StatusPage(Transport("amqp://127.0.0.1:1//"), "/status", token)) as page:
        link = f'<a href="{page}/status?token={token}">workers</a>'.encode()

        def wiki(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            start_response("200 OK", [("Content-Type", "text/html")])
            return [link]

        with served(wiki) as other:
            browser.go(other.replace("127.0.0.1", "localhost"))  # another site to a browser
            browser.ask("document.querySelector('a').click()")
            wait_until(lambda: browser.ask("location.href") == f"{page}/status", 10.0, "the page")
            wait_until(lambda: "worker by worker" in browser.ask("document.body.innerText"), 10.0, "its heading")


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" (WCAG 2.1)."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio (WCAG 2.1); 4.5 is level AA for text, 7 is AAA."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
