"""What the gate counts: `python -m tests.gate.counted COUNT WORK URL OPERATIONS` does the work and prints figures.

COUNT is calls (Python functions and C functions entered, on all threads), memory (blocks and garbage left behind, and
bytes of a message in flight), or plain (nothing is counted in here: the work is for strace to look at). Counting begins
after a warm-up, so that connecting, declaring and the caches are not in it.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

from wsgi_messaging import Message, Transport

QUEUE = "gate"
BODY = {"id": 1234567, "event": "order.created", "text": "x" * 970}
WARM_UP = 50
SETTLED_AFTER = 0.5

Work = Callable[[int], None]
"""Does so many operations."""


def publish(transport: Transport) -> Work:
    def work(operations: int) -> None:
        for _ in range(operations):
            transport.publish(BODY, QUEUE)

    return work


def publish_many(transport: Transport) -> Work:
    def work(operations: int) -> None:
        transport.publish_many([Message(body=BODY, routing_key=QUEUE) for _ in range(operations)])

    return work


class Endpoint:
    """What is called."""

    def add(self, _context: object, a: int, b: int) -> int:
        return a + b


def call(transport: Transport) -> Work:
    """Client and server in one process, each with a transport of its own: both sides are counted."""
    from wsgi_messaging.rpc import RPCClient, RPCServer, Target

    server_transport = Transport(settings=transport.settings)
    RPCServer(server_transport, Target(topic="gate-topic", server="gate"), [Endpoint()]).start()
    client = RPCClient(transport, Target(topic="gate-topic"))

    def work(operations: int) -> None:
        for _ in range(operations):
            if client.call({}, "add", a=1, b=2) != 3:
                raise RuntimeError("a wrong answer")

    return work


WORKS = {"publish": publish, "publish_many": publish_many, "call": call}


def count_calls(work: Work, operations: int, switch: Callable[[bool], None]) -> dict[str, float]:
    """Function calls for each operation."""
    switch(True)
    work(operations)
    switch(False)
    return {name: (next(counter) - 1) / operations for name, counter in _counters.items()}


_counters = {"python": itertools.count(), "c": itertools.count()}
_is_counting = False


def _profile(_frame: FrameType, event: str, _argument: Any) -> None:
    if _is_counting:
        if event == "call":
            next(_counters["python"])
        elif event == "c_call":
            next(_counters["c"])


def _switch(on: bool) -> None:
    global _is_counting
    if on:
        for counter in _counters:
            _counters[counter] = itertools.count(1)
    _is_counting = on


def _blocks() -> int:
    """Allocated now, when the broker has been asked about everything and has answered."""
    time.sleep(SETTLED_AFTER)
    gc.collect()
    return sys.getallocatedblocks()


def count_memory(work: Work, operations: int) -> dict[str, float]:
    """What an operation leaves behind, and the bytes at the peak for each operation of a batch."""
    work(operations)
    before = _blocks()
    gc.disable()
    work(operations)
    time.sleep(SETTLED_AFTER)
    garbage = gc.collect() / operations
    gc.enable()
    left = (_blocks() - before) / operations
    tracemalloc.start()
    work(operations)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"blocks_left": left, "garbage": garbage, "peak_bytes": peak / operations}


def main(count: str, name: str, url: str, operations: int) -> None:
    if count == "calls":
        threading.setprofile(_profile)
        sys.setprofile(_profile)
    with Transport(url) as transport:
        transport.publish(BODY, QUEUE, mandatory=False)
        work = WORKS[name](transport)
        work(WARM_UP)
        found: dict[str, float] = {}
        if count == "calls":
            found = count_calls(work, operations, _switch)
        elif count == "memory":
            found = count_memory(work, operations)
        else:
            work(operations)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
