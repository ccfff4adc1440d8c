"""Many workers lose the same broker in the same instant: they do not come back in the same instant."""

from __future__ import annotations

import socket
import threading
import time

from tests.harness.secret import dev_broker
from tests.harness.waiting import wait_until
from wsgi_messaging import Settings, Transport

WORKERS = 64
WINDOW = 0.1
WATCHED = 4.0


class Doorkeeper:
    """Notes when somebody comes to the port, and turns everybody away."""

    def __init__(self, port: int) -> None:
        self.came_at: list[float] = []
        self._listener = socket.create_server(("127.0.0.1", port), backlog=WORKERS * 4)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while True:
            try:
                visitor, _address = self._listener.accept()
            except OSError:
                return
            self.came_at.append(time.monotonic())
            visitor.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5.0)


def test_no_window_holds_a_quarter_of_the_attempts() -> None:
    broker = dev_broker().start()
    port = broker.port
    transports = [Transport(settings=Settings(url=broker.url, app=f"worker-{number}")) for number in range(WORKERS)]
    try:
        for transport in transports:
            transport.warm()
        wait_until(lambda: len(broker.connections()) == WORKERS, 20.0, "all workers are connected")
        time.sleep(1.1)  # a link that breaks younger than a second is not tried again at once
        broker.stop()
        door = Doorkeeper(port)
        time.sleep(WATCHED)
        door.close()
        with dev_broker(port=port) as again:
            wait_until(lambda: len(again.connections()) == WORKERS, 10.0, "all workers are back")
    finally:
        for transport in transports:
            transport.close(0.5)
    times = sorted(door.came_at)
    busiest = max(sum(start <= each < start + WINDOW for each in times) for start in times)
    assert len(times) >= 3 * WORKERS
    assert busiest <= len(times) / 4, f"{busiest} of {len(times)} attempts within {WINDOW} s"
