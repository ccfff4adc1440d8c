"""A process that tests run: `python -m tests.green.program MODULE SCENARIO LIBRARY WHEN URL QUEUE HEARTBEAT`.

WHEN says when the library patches: "before" our import, "after" it, or once the transport has been "used". The
scenario (a function of MODULE) gets the case and returns a report, which is printed as one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.green.hubs import HUBS, Hub

if TYPE_CHECKING:
    from wsgi_messaging import Transport


@dataclass
class Case:
    """What a scenario works with. `tasks` is how many threads the process had before the transport's first use."""

    hub: Hub
    transport: Transport
    queue: str
    tasks: int
    folder: str = field(default_factory=lambda: os.environ.get("GREEN_FOLDER", ""))

    def wait_for(self, name: str) -> None:
        """Until the test has made the file `name`."""
        while not os.path.exists(os.path.join(self.folder, name)):
            self.hub.sleep(0.01)

    def tell(self, name: str) -> None:
        """Make the file `name`, which the test awaits."""
        with open(os.path.join(self.folder, name), "w"):
            pass


def threads_of_the_system() -> int:
    return len(os.listdir("/proc/self/task"))


def compute(seconds: float) -> int:
    """Never gives the hub away."""
    until = time.monotonic() + seconds
    turns = 0
    while time.monotonic() < until:
        turns += 1
    return turns


def main(module: str, scenario: str, library: str, when: str, url: str, queue: str, heartbeat: str) -> None:
    hub = HUBS[library]()
    if when == "before":
        hub.patch()
    scenarios = importlib.import_module(f"tests.green.{module}")
    from wsgi_messaging import Settings, Transport

    if when == "after":
        hub.patch()
    transport = Transport(settings=Settings(url=url, heartbeat=float(heartbeat), app=f"{library}-{scenario}"))
    case = Case(hub, transport, queue, threads_of_the_system())
    if when == "used":
        transport.publish("before the patch", queue)
        hub.patch()
    report: dict[str, Any] = getattr(scenarios, scenario)(case)
    # A write of its own: greenlets and handlers may print, too.
    os.write(1, json.dumps(report).encode() + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
