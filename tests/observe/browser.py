"""A real Chromium without a window, spoken to over the two pipes of its DevTools protocol: no driver, no library."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.harness import processes

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Chromium takes commands from descriptor 3 and answers on 4.
_AS_3_AND_4 = (
    "import os, sys; r, w = map(int, sys.argv[1:3]); os.dup2(r, 3), os.dup2(w, 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def find() -> str | None:
    """Path of a Chromium, or None."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Refused(AssertionError):
    """The browser did not carry out a command."""


class Browser:
    """One page of one browser. A context manager; what the page complained of is in `complaints`."""

    def __init__(self, program: str) -> None:
        self.complaints: list[str] = []
        self._folder = Path(tempfile.mkdtemp(prefix="wsgi-messaging-chromium-"))
        self._numbers = itertools.count(1)
        self._unread = b""
        self._session: str | None = None
        its_in, self._out = os.pipe()
        self._in, its_out = os.pipe()
        command = [
            *(program, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self._folder}"),
            # In a container there are no user namespaces for its sandbox, and /dev/shm is small.
            *("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
            *("--disable-background-networking", "--disable-sync", "--disable-extensions", "about:blank"),
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _AS_3_AND_4, str(its_in), str(its_out), *command],
            env=processes.environment(HOME=str(self._folder)),
            pass_fds=(its_in, its_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(its_in), os.close(its_out)

    def __enter__(self) -> Browser:
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")
        return self

    def __exit__(self, *_error: object) -> None:
        processes.stop(self._process)
        os.close(self._in), os.close(self._out)
        shutil.rmtree(self._folder, ignore_errors=True)

    def command(self, method: str, **params: Any) -> Any:
        """One command's result. Raises: `Refused` with the browser's words."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 30.0
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") == number:
                if "error" in answer:
                    raise Refused(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _next(self, deadline: float, method: str) -> Any:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            received = os.read(self._in, 1 << 20) if ready else b""
            assert received, f"the browser did not answer {method}"
            self._unread += received
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))

    def go(self, url: str) -> None:
        """Open a page and wait until it is there."""
        result = self.command("Page.navigate", url=url)
        assert not result.get("errorText"), result
        deadline = time.monotonic() + 10.0
        while self.ask("document.readyState") != "complete" or self.ask("location.href") == "about:blank":
            assert time.monotonic() < deadline, f"{url} did not load"
            time.sleep(0.05)

    def ask(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page."""
        found = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def cells(self) -> list[list[str]]:
        """The text of the table's rows, as a reader sees it."""
        rows: list[list[str]] = self.ask(
            "[...document.querySelectorAll('#rows tr')].map(row => [...row.cells].map(cell => cell.textContent))"
        )
        return rows

    def source(self) -> str:
        """The document's HTML, also where no script may run; empty while one page follows another."""
        try:
            root = self.command("DOM.getDocument", depth=0)["root"]["nodeId"]
            html: str = self.command("DOM.getOuterHTML", nodeId=root)["outerHTML"]
        except Refused:
            return ""
        return html

    def size(self, width: int, height: int) -> None:
        """The window's."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def scheme(self, name: str) -> None:
        """ "light" or "dark", as a reader's system says."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self) -> bytes:
        """PNG."""
        return base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"])
