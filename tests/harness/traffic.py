"""Light traffic on a server while it is reloaded or stopped: what was confirmed, what failed."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from types import TracebackType

from tests.harness.servers import Server


@dataclass
class Traffic:
    """`with Traffic(server, queue) as traffic:` publishes from a few threads until the block is left."""

    server: Server
    queue: str
    threads: int = 2
    pause: float = 0.03
    confirmed: list[str] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _ended: threading.Event = field(default_factory=threading.Event)
    _running: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        self._running = [threading.Thread(target=self._publish, daemon=True) for _ in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._running:
            thread.join(30.0)

    def _publish(self) -> None:
        while not self._ended.is_set():
            name = f"{self.server.name}-{id(self)}-{next(self._numbers)}"
            try:
                answer = self.server.get(f"/publish?queue={self.queue}&id={name}")
            except OSError as error:
                self.failures.append(f"{name}: {error!r}")
            else:
                if answer.status == 200:
                    self.confirmed.append(name)
                    self.pids.add(answer.json()["pid"])
                else:
                    self.failures.append(f"{name}: {answer.status} {answer.body.decode(errors='replace')[:2000]}")
            self._ended.wait(self.pause)
