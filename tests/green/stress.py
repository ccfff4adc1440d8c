"""Beats every 50 ms against publishing greenlets, in one process, for as long as GREEN_SECONDS says.

No broker agrees on less than a second, so the beat is made denser at its source: twenty to an interval of one second.
Two connections beat. The publishing one does so in the pauses between bursts; the consuming one, which has nothing
else to send, all the time. A native thread of our own looks how long each has been silent.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from tests.green.program import Case, compute
from wsgi_messaging import Message
from wsgi_messaging.connection import timing
from wsgi_messaging.runtime import native

timing.BEATS_PER_INTERVAL = 20

GREENLETS = 40
BURST = 0.25
PAUSE = 0.25
LOOK_MS = 10
SLOW = 5.0


class Watcher:
    """The longest that each connection was silent, seen every 10 ms from a native thread."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._is_over = False
        self.silence: dict[str, float] = {}
        self.longest_pause = 0.0
        self._thread = native.NativeThread("watcher", self._look)
        self._thread.start()

    def _look(self) -> None:
        waiting, last = native.poll(), native.monotonic()
        while not self._is_over:
            waiting.poll(LOOK_MS)
            now = native.monotonic()
            self.longest_pause, last = max(self.longest_pause, now - last), now
            for status in self._case.transport.status().connections:
                age = status.sent_age or 0.0
                self.silence[status.role] = max(self.silence.get(status.role, 0.0), age)

    def stop(self) -> None:
        self._is_over = True
        assert self._thread.join(5.0)


def storm(case: Case) -> dict[str, Any]:
    """Bursts and pauses; greenlets killed in mid-wait, log records, a hub that is blocked now and then."""
    hub, transport = case.hub, case.transport
    counts = {"confirmed": 0, "killed": 0, "slow": 0}
    errors: list[str] = []
    consumer = transport.consume(f"{case.queue}-idle", lambda delivery: None)
    transport.publish("warm", case.queue)
    logger = logging.getLogger("wsgi_messaging.connection")
    logger.addHandler(logging.StreamHandler(open(os.devnull, "w")))  # noqa: SIM115  (for the life of the process)
    watcher = Watcher(case)
    until = time.monotonic() + float(os.environ["GREEN_SECONDS"])

    def publish(number: int, burst_until: float) -> None:
        while (began_at := time.monotonic()) < burst_until:
            try:
                if number % 8 == 0:
                    with hub.timeout(0.002):
                        transport.publish("killed, maybe", case.queue)
                    counts["killed"] += 1
                elif number % 8 == 1:
                    failed = transport.publish_many([Message(body="batch", routing_key=case.queue)] * 10)
                    counts["confirmed"] += failed.count(None)
                else:
                    transport.publish("confirmed", case.queue)
                    counts["confirmed"] += 1
            except Exception as exc:  # noqa: BLE001  (the test reads them)
                errors.append(repr(exc))
            counts["slow"] += time.monotonic() - began_at > SLOW

    while time.monotonic() < until:
        burst_until = time.monotonic() + BURST
        hub.join([hub.spawn(publish, number, burst_until) for number in range(GREENLETS)])
        logger.warning("between two bursts")
        compute(0.05)
        hub.sleep(PAUSE)
    watcher.stop()
    hub.sleep(0.3)
    statuses = {status.role: status for status in transport.status().connections}
    return {
        **counts,
        "errors": errors[:5],
        "silence": watcher.silence,
        "longest_pause": watcher.longest_pause,
        "beats": {role: status.beats_sent for role, status in statuses.items()},
        "lateness": {role: status.lateness_worst for role, status in statuses.items()},
        "reconnects": sum(status.reconnects for status in statuses.values()),
        "in_flight": sum(status.in_flight for status in statuses.values()),
        "cancelled": consumer.cancel(),
    }
