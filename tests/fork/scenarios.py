"""What a forking application does, one scenario for each run: `python -m tests.fork.scenarios NAME URL QUEUE`.

Each function is the whole life of the parent. It prints one JSON object, which the test reads. A child tells by its
exit status whether all went well.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from wsgi_messaging import Transport, Unavailable

Report = dict[str, object]
CHILD_WITHIN = 5.0
"""Seconds that the first publish of a child may take: in vain, it is 10."""


def sockets() -> list[str]:
    """The sockets that this process holds."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.append(f"{descriptor} {target}")
    return found


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def in_child(work: Callable[[], object], *, exit_handlers: bool = False, fork: Callable[[], int] = os.fork) -> int:
    """Forks; the child does `work`; its pid."""
    pid = fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001  (nothing of the parent's may run in the child)
        traceback.print_exc()
    if exit_handlers:
        sys.exit(status)
    os._exit(status)


def wait_for(*pids: int) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def publish_in_time(transport: Transport, body: str, queue: str) -> None:
    began_at = time.monotonic()
    transport.publish(body, queue)
    took = time.monotonic() - began_at
    assert took < CHILD_WITHIN, f"the child's publish took {took:.2f} s"


def tell(report: Report) -> None:
    """One line in one write: children share the output."""
    os.write(1, json.dumps(report).encode() + b"\n")


def serve_child(transport: Transport, queue: str, *, close: bool = True) -> None:
    assert transport.status().connections == (), "a child begins with nothing open"
    publish_in_time(transport, f"child {os.getpid()}", queue)
    [status] = transport.status().connections
    assert f":publish:{os.getpid()}@" in status.name
    hold(transport, queue)
    if close:
        assert transport.close()


def hold(transport: Transport, queue: str) -> None:
    """Say that the connection is open, and wait until the test has looked."""
    tell({"open": transport.status().connections[0].name})
    while not os.path.exists(os.environ["LOOKED"]):
        time.sleep(0.02)


def after_use(transport: Transport, queue: str) -> Report:
    transport.publish("parent before", queue)
    children = [in_child(lambda: serve_child(transport, queue)) for _ in range(2)]
    codes = wait_for(*children)
    transport.publish("parent after", queue)
    [status] = transport.status().connections
    return {"codes": codes, "reconnects": status.reconnects, "confirmed": status.confirmed}


def after_use_without_close(transport: Transport, queue: str) -> Report:
    """The child just exits, exit handlers and all."""
    transport.publish("parent before", queue)
    codes = wait_for(in_child(lambda: serve_child(transport, queue, close=False), exit_handlers=True))
    transport.publish("parent after", queue)
    [status] = transport.status().connections
    return {"codes": codes, "reconnects": status.reconnects, "confirmed": status.confirmed}


def without_hooks(transport: Transport, queue: str) -> Report:
    """A fork that Python does not learn of, as uWSGI's: the pid alone tells."""
    transport.publish("parent before", queue)
    fork = ctypes.PyDLL(None).fork
    codes = wait_for(in_child(lambda: serve_hookless_child(transport, queue), fork=fork))
    transport.publish("parent after", queue)
    [status] = transport.status().connections
    return {"codes": codes, "reconnects": status.reconnects, "confirmed": status.confirmed}


def serve_hookless_child(transport: Transport, queue: str) -> None:
    serve_child(transport, queue, close=False)
    assert transport.close()


def closing_what_was_inherited(transport: Transport, queue: str) -> Report:
    """A child that uses nothing and closes, as an exit handler does."""
    transport.publish("parent before", queue)

    def close() -> None:
        began_at = time.monotonic()
        assert transport.close()
        assert time.monotonic() - began_at < 4.0

    codes = wait_for(in_child(close), in_child(close, exit_handlers=True))
    transport.publish("parent after", queue)
    [status] = transport.status().connections
    return {"codes": codes, "reconnects": status.reconnects, "confirmed": status.confirmed}


def child_of_child(transport: Transport, queue: str) -> Report:
    transport.publish("parent before", queue)

    def generation() -> None:
        publish_in_time(transport, f"child {os.getpid()}", queue)
        assert wait_for(in_child(lambda: serve_child(transport, queue))) == [0]
        transport.publish(f"child {os.getpid()} after its own child", queue)
        [status] = transport.status().connections
        assert status.reconnects == 0
        assert transport.close()

    codes = wait_for(in_child(generation))
    transport.publish("parent after", queue)
    [status] = transport.status().connections
    return {"codes": codes, "reconnects": status.reconnects, "confirmed": status.confirmed}


def with_multiprocessing(transport: Transport, queue: str) -> Report:
    transport.publish("parent before", queue)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=serve_child, args=(transport, queue))
    process.start()
    process.join(20.0)
    transport.publish("parent after", queue)
    [status] = transport.status().connections
    return {"codes": [process.exitcode], "reconnects": status.reconnects, "confirmed": status.confirmed}


def amid_publish(transport: Transport, queue: str) -> Report:
    """Forks at any moment of other threads' publishing."""
    over = threading.Event()
    failures: list[str] = []
    sent: list[str] = []

    def produce(name: str) -> None:
        number = 0
        while not over.is_set():
            body = f"parent {name} {number}"
            number += 1
            try:
                transport.publish(body, queue)
            except Exception as exc:  # noqa: BLE001  (told to the test)
                failures.append(repr(exc))
            else:
                sent.append(body)

    workers = [threading.Thread(target=produce, args=(str(number),)) for number in range(4)]
    for worker in workers:
        worker.start()
    while len(sent) < 20:
        time.sleep(0.01)

    def child() -> None:
        publish_in_time(transport, f"child {os.getpid()}", queue)
        assert transport.close()

    codes = []
    for _round in range(8):
        before = len(sent)
        codes += wait_for(in_child(child))
        while len(sent) < before + 5:
            time.sleep(0.005)
    over.set()
    for worker in workers:
        worker.join(10.0)
    [status] = transport.status().connections
    return {
        "codes": codes,
        "reconnects": status.reconnects,
        "failures": failures[:3],
        "sent": len(sent),
        "hanging": sum(worker.is_alive() for worker in workers),
    }


def many_forks(transport: Transport, queue: str) -> Report:
    transport.publish("parent before", queue)
    before = (len(sockets()), threads())
    codes = [wait_for(in_child(lambda: None, exit_handlers=number % 2 == 0))[0] for number in range(30)]
    transport.publish("parent after", queue)
    [status] = transport.status().connections
    return {"codes": codes, "reconnects": status.reconnects, "before": before, "after": (len(sockets()), threads())}


def children_inherit_nothing(transport: Transport, queue: str) -> Report:
    """A child that never uses the transport holds no socket of it and runs no thread."""
    transport.publish("parent before", queue)
    transport.consume(queue, lambda delivery: None)
    assert len(sockets()) >= 4
    assert threads() >= 3

    def look() -> None:
        assert threads() == 1, "threads"
        assert sockets() == [], sockets()
        assert transport.status().connections == ()

    codes = wait_for(in_child(look))
    return {"codes": codes}


def amid_handshake(transport: Transport, queue: str) -> Report:
    """The parent's thread is connecting (the test's proxy says nothing) when the fork comes."""
    transport.warm()
    while not any(each.state == "connecting" for each in transport.status().connections):
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(sockets()) == 3

    def look() -> None:
        assert sockets() == [], sockets()

    codes = wait_for(in_child(look))
    return {"codes": codes}


def never_used(transport: Transport, queue: str) -> Report:
    before = (sockets(), threads())
    codes = wait_for(in_child(lambda: None, exit_handlers=True))
    repr(transport), transport.status()
    with Transport("amqp://127.0.0.1:1//"):
        pass
    return {"codes": codes, "before": before, "after": (sockets(), threads())}


def consumer_stays_with_its_process(transport: Transport, queue: str) -> Report:
    received: list[tuple[int, str]] = []
    consumer = transport.consume(queue, lambda delivery: received.append((os.getpid(), delivery.body.decode())))

    def child() -> None:
        begun_at = time.monotonic()
        assert consumer.cancel(30.0), "it is not the child's to end"
        assert time.monotonic() - begun_at < 15.0, "it waited for threads that are not there"
        publish_in_time(transport, "from the child", queue)
        assert transport.close()
        assert received == []

    codes = wait_for(in_child(child))
    transport.publish("from the parent", queue)
    deadline = time.monotonic() + 5.0
    while len(received) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    mine = {pid for pid, _body in received} == {os.getpid()}
    return {"codes": codes, "received": [body for _pid, body in received], "all_in_parent": mine}


def a_confirm_stays_with_its_process(transport: Transport, queue: str) -> Report:
    """The child's `wait` took until the message's time was over, and then said that it was not sent."""
    nobody = Transport("amqp://127.0.0.1:1//")
    answered, open_one = transport.publish_soon("answered", queue), nobody.publish_soon("x", queue, timeout=60.0)
    answered.wait()

    def child() -> None:
        answered.wait()
        try:
            open_one.wait()
        except Unavailable as exc:
            assert exc.maybe_sent and f"process {os.getppid()} published it" in str(exc), exc
        else:
            raise AssertionError("it was not told")
        assert answered.error is None and open_one.done and open_one.error is not None and open_one.error.maybe_sent

    codes = wait_for(in_child(child))
    is_open = not open_one.done and open_one.error is None
    nobody.close(0.1)
    return {"codes": codes, "is_open": is_open}


def main() -> NoReturn:
    name, url, queue = sys.argv[1:]
    transport = Transport(url, name="forking")
    report = globals()[name](transport, queue)
    tell({"pid": os.getpid(), **report})
    transport.close()
    sys.exit(0)


if __name__ == "__main__":
    main()
