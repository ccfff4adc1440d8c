"""Drives `oslo_peer.py`: the real oslo.messaging in its own process; every answer is awaited with a bound."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.harness import processes
from tests.harness.requirements import missing

SCRIPT = Path(__file__).with_name("oslo_peer.py")
PATIENCE = 40.0
START_WITHIN = 60.0


def interpreter() -> str:
    """The Python that has oslo.messaging: of `make environments`, or OSLO_PYTHON."""
    chosen = os.environ.get("OSLO_PYTHON") or str(processes.ROOT / ".venv-oslo" / "bin" / "python")
    if not Path(chosen).exists():
        missing("oslo.messaging is not installed: make environments")
    return chosen


class PeerError(Exception):
    """The peer's call raised; `kinds` are the names of the exception's classes, the nearest first."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(f"{answer['error'][0]}: {answer['text']}")
        self.kinds: list[str] = answer["error"]
        self.text: str = answer["text"]
        self.exc_type: str | None = answer["exc_type"]
        self.color: str | None = answer["color"]


class Peer:
    """One process. `peer(do="send", ...)` gives the result or raises `PeerError`."""

    def __init__(self, url: str, **options: Any) -> None:
        self._process = subprocess.Popen(
            [interpreter(), "-W", "ignore", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=processes.environment(PYTHONPATH=None),
            cwd=str(SCRIPT.parent),
            text=True,
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        assert self._answer(START_WITHIN) == {"ready": True}
        self._say({"url": url.replace("amqp://", "rabbit://"), "options": options})

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        with stdout:
            for line in stdout:
                self._answers.put(line)
        self._answers.put("")

    def _say(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _answer(self, timeout: float) -> Any:
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty as exc:
            raise AssertionError(f"oslo.messaging did not answer within {timeout:g} s") from exc
        assert line, f"the process of oslo.messaging has ended: {self._process.wait()}"
        return json.loads(line)

    def __call__(self, **command: Any) -> Any:
        self._say(command)
        answer = self._answer(PATIENCE)
        if "error" in answer:
            raise PeerError(answer)
        return answer["result"]

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; its own clean-up takes seconds and is not what is tested."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
