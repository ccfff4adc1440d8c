"""Makes the picture of the status page for the documentation. Not a test:

    .venv/bin/python -m tests.observe.screenshot docs/status-page.png

Real workers of gunicorn on a real RabbitMQ, publishing for some seconds, seen by Chromium.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import wait_until
from tests.observe import browser as browsers
from tests.observe.browser import Browser
from tests.observe.fleet import by_page, gunicorn

SECONDS_OF_TRAFFIC = 25


def main(target: str) -> None:
    """Writes the PNG to `target`."""
    program = browsers.find()
    if program is None:
        raise SystemExit("no Chromium: apt-get install chromium")
    broker, folder = RabbitMQ().start(), Path(tempfile.mkdtemp())
    server = gunicorn("shop", broker, folder / "run", workers=3)
    try:
        broker.declare_queue("orders")
        server.start(path="/pid")
        wait_until(lambda: len(by_page(server)) == 3, 10.0, "three ready connections")
        server.get("/consume?queue=orders")
        with Browser(program) as browser, ThreadPoolExecutor(3) as pool:
            browser.size(1600, 300)
            browser.go(f"{server.url}/status")
            for _ in range(SECONDS_OF_TRAFFIC * 4):
                list(pool.map(server.get, ["/publish?queue=orders"] * 6))
                wait_until(lambda: browser.ask("new Promise(done => setTimeout(() => done(true), 200))"), 5.0)
            Path(target).parent.mkdir(exist_ok=True)
            Path(target).write_bytes(browser.screenshot())
    finally:
        server.discard()
        broker.stop()


if __name__ == "__main__":
    main(sys.argv[1])
