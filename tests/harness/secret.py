"""One password for every broker of the suite, and a watch that finds it wherever it is written.

It stands for a deployer's secret: no log record at any level, no line of a server, no output of a command holds it.
`tests/conftest.py` sets the watch on every test, with every logger at DEBUG.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

from wsgi_messaging.devbroker import DevBroker

if TYPE_CHECKING:  # the benchmarks use the harness, and know no pytest
    import pytest

USER = "guest"
PASSWORD = "m4rker-s3cret"


def dev_broker(**options: Any) -> DevBroker:
    """The embedded broker, which lets in who knows the password."""
    return DevBroker(users={USER: PASSWORD}, **options)


def assert_kept(text: str | bytes | None, where: str) -> None:
    """Fails the test, with the line, if the password is in what was written."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    told = [line for line in (text or "").splitlines() if PASSWORD in line]
    assert not told, f"{where} holds the password: {told[0]}"


def watch_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a child writes to a pipe of ours is looked through."""
    original = subprocess.Popen.communicate

    def communicate(self: subprocess.Popen[Any], *arguments: Any, **options: Any) -> Any:
        written = original(self, *arguments, **options)
        for text in written:
            assert_kept(text, f"the output of {self.args!r}")
        return written

    monkeypatch.setattr(subprocess.Popen, "communicate", communicate)
