"""A server that is killed: writes down what it begins and has done. Arguments: URL, exchange, topic, ack, file."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

from wsgi_messaging import Transport
from wsgi_messaging.rpc import QueueFlags, RPCServer, Target


class Recorder:
    def __init__(self, path: str) -> None:
        self._file = open(path, "a", buffering=1)  # noqa: SIM115  (for the life of the process)

    def note(self, ctxt: dict[str, Any], number: int) -> None:
        self._file.write(f"begun {number}\n")
        time.sleep(0.01)  # so that a kill meets it in between
        self._file.write(f"done {number}\n")


def main() -> None:
    url, exchange, topic, ack, path = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with Transport(url) as transport:
        server = RPCServer(
            transport,
            Target(exchange=exchange, topic=topic, server="recorder"),
            [Recorder(path)],
            pool_size=1,
            prefetch=1,
            ack=ack,
            flags=QueueFlags(durable=False),
            ping=True,
        )
        server.start()
        signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    main()
