"""aodh's listener, on threads: takes the notifications of aodh_api.py.

    python -m examples.aodh_listener          until SIGTERM or SIGINT; prints each one

The broker comes from WSGI_MESSAGING_URL.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

from wsgi_messaging import NotificationListener, Target, Transport


class AlarmEndpoint:
    """What happened to alarms."""

    def info(
        self,
        ctxt: dict[str, Any],
        publisher_id: str,
        event_type: str,
        payload: dict[str, Any],
        metadata: dict[str, Any],
    ) -> None:
        print(f"{event_type} {payload['alarm_id']} from {publisher_id}", flush=True)


def main() -> None:
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    with Transport(name="aodh-listener") as transport:
        listener = NotificationListener(transport, [Target(topic="alarming")], [AlarmEndpoint()], pool_size=4)
        listener.start()
        print("listening", flush=True)
        ending.wait()
        listener.stop()
        listener.wait()


if __name__ == "__main__":
    main()
