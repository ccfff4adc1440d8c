"""Publishes from where a careful application would not: each scenario ends with nothing pending."""

from __future__ import annotations

import atexit
import gc
import importlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from kombu import Queue

from tests.green.hubs import Hub
from tests.green.program import Case
from tests.green.scenarios import Kept, listen
from wsgi_messaging import Closed, Message, MessagingError, RemoteError, Settings, Transport
from wsgi_messaging.connection.pending import Outgoing
from wsgi_messaging.notify import Notifier
from wsgi_messaging.rpc import RPCClient, RPCServer, Target
from wsgi_messaging.runtime import native
from wsgi_messaging.runtime.waiting import Completion

Report = dict[str, Any]

SIGNALLING = 3.0
EVERY = 0.004
SWITCHES = 8

last_words: list[Callable[[], None]] = []
"""Called at the very end: registered with `atexit` before any transport is made, so after ours."""
atexit.register(lambda: [say() for say in last_words])


def settled(case: Case) -> dict[str, Any]:
    """What is still pending once all calls have ended: in flight, queued, entries alive, waiters not taken off."""
    ended_at = native.monotonic() + 10.0
    while True:
        gc.collect()
        alive = gc.get_objects()
        left = {
            "in_flight": sum(status.in_flight for status in case.transport.status().connections),
            "queued": sum(status.queued for status in case.transport.status().connections),
            # One that is done may live on in the frames of a greenlet that was killed, which eventlet keeps.
            "entries": sum(type(each) is Outgoing and not each.is_done for each in alive),
            "waiters": sum(len(each._wakers) for each in alive if type(each) is Completion),
        }
        del alive
        if not any(left.values()) or native.monotonic() > ended_at:
            return left
        case.hub.sleep(0.02)


class Publishers:
    """Publishes from many places; keeps what went wrong and the longest that one took."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self.errors: list[str] = []
        self.confirmed = 0
        self.slowest = 0.0

    def publish(self, times: int = 1) -> None:
        for _ in range(times):
            began_at = native.monotonic()
            try:
                self._case.transport.publish("mixed", self._case.queue, timeout=20.0)
            except Exception as exc:  # noqa: BLE001  (the test reads them)
                self.errors.append(repr(exc))
            else:
                self.confirmed += 1
            self.slowest = max(self.slowest, native.monotonic() - began_at)

    def report(self) -> Report:
        return {
            "errors": self.errors[:5],
            "confirmed": self.confirmed,
            "slowest": self.slowest,
            "left": settled(self._case),
        }


def _until(hub: Hub, condition: Callable[[], object], timeout: float = 20.0) -> bool:
    ended_at = native.monotonic() + timeout
    while not condition():
        if native.monotonic() > ended_at:
            return False
        hub.sleep(0.005)
    return True


def native_thread(case: Case) -> Report:
    """Real threads and greenlets publish at the same time."""
    publishers = Publishers(case)
    case.transport.publish("warm", case.queue)
    threads = [native.NativeThread(f"native {number}", lambda: publishers.publish(50)) for number in range(4)]
    for thread in threads:
        thread.start()
    case.hub.join([case.hub.spawn(publishers.publish, 20) for _ in range(20)])
    _until(case.hub, lambda: publishers.confirmed + len(publishers.errors) == 600)
    return {**publishers.report(), "ended": all(thread.join(10.0) for thread in threads)}


def first_use_on_a_native_thread(case: Case) -> Report:
    """The first to use the transport is no greenlet; the log lines of the connection must come all the same."""
    kept = Kept()
    listen("wsgi_messaging.connection", kept)
    publishers = Publishers(case)
    first = native.NativeThread("first", publishers.publish)
    first.start()
    _until(case.hub, lambda: publishers.confirmed)
    ended = first.join(10.0)
    case.hub.join([case.hub.spawn(publishers.publish, 5) for _ in range(10)])
    case.hub.sleep(1.2)
    case.tell("ready")
    case.wait_for("lost")
    _until(case.hub, lambda: any("lost" in line for line in kept.lines))
    return {**publishers.report(), "ended": ended, "lines": kept.lines}


def first_use_in_the_hub(case: Case) -> Report:
    """The hub's own greenlet is the first to use the transport."""
    publishers = Publishers(case)
    case.hub.call_in_hub(publishers.publish)
    _until(case.hub, lambda: publishers.confirmed == 1)
    return publishers.report()


def hub(case: Case) -> Report:
    """The hub's own greenlet publishes: it waits for the broker as a thread does."""
    publishers = Publishers(case)
    case.transport.publish("warm", case.queue)
    for _ in range(10):
        case.hub.call_in_hub(publishers.publish)
        case.hub.join([case.hub.spawn(publishers.publish, 5) for _ in range(4)])
    _until(case.hub, lambda: publishers.confirmed == 210)
    return publishers.report()


def pool(case: Case) -> Report:
    """The threads of the library's own pool, all at once, and greenlets."""
    publishers = Publishers(case)
    pooled = [case.hub.spawn(case.hub.call_in_pool, lambda: publishers.publish(20)) for _ in range(10)]
    case.hub.join([*pooled, *(case.hub.spawn(publishers.publish, 20) for _ in range(10))])
    return publishers.report()


def notified_from_a_pool(case: Case) -> Report:
    """A buffered notifier's first use is on a thread of the library's own pool; then a greenlet uses it."""
    notifier = Notifier(case.transport, "p", topics=[case.queue], exchange=case.queue, soon=True)
    case.hub.join([case.hub.spawn(case.hub.call_in_pool, lambda: notifier.info({}, "e", "pool"))])
    notifier.info({}, "e", "greenlet")
    flushed = notifier.flush(20.0)
    last = Notifier(case.transport, "p", topics=[case.queue], exchange=case.queue, soon=True)
    case.hub.join([case.hub.spawn(case.hub.call_in_pool, lambda: last.info({}, "e", "pool"))])
    return {"flushed": flushed, "closed": last.close(20.0), "sent": [notifier.status().sent, last.status().sent]}


def signal_handler(case: Case) -> Report:
    """A timer's signal comes again and again in the middle of publishes; its handler publishes, too."""
    publishers, handled = Publishers(case), Publishers(case)
    is_inside = False

    def handle(_number: int, _frame: object) -> None:
        nonlocal is_inside
        if not is_inside:
            is_inside = True
            handled.publish()
            is_inside = False

    case.transport.publish("warm", case.queue)
    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, EVERY, EVERY)
    until = time.monotonic() + SIGNALLING

    def publish() -> None:
        while time.monotonic() < until:
            publishers.publish()

    case.hub.join([case.hub.spawn(publish) for _ in range(10)])
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    _until(case.hub, lambda: not is_inside, 24.0)
    return {**publishers.report(), "handled": handled.report()}


def killed(case: Case) -> Report:
    """Waiters of every kind are ended while the broker is silent: by a Timeout, by GreenletExit."""
    hub, transport = case.hub, case.transport
    transport.publish("warm", case.queue)
    case.tell("ready")
    case.wait_for("frozen")
    ended: list[str] = []
    within = 1.5  # for so long eventlet's timer holds a waiter that was killed, and with it the entry
    calls: dict[str, Callable[[], object]] = {
        "publish": lambda: transport.publish("killed", case.queue, timeout=within),
        "publish_soon": lambda: transport.publish_soon("killed", case.queue, timeout=within).wait(),
        "publish_many": lambda: transport.publish_many(
            [Message(body="killed", routing_key=case.queue)], timeout=within
        ),
        "declare": lambda: transport.declare(Queue(f"{case.queue}-killed", auto_delete=True), timeout=within),
        "consume": lambda: transport.consume(case.queue, print, timeout=within),
    }

    def timed(name: str) -> None:
        with hub.timeout(0.2):
            calls[name]()
            ended.append(f"{name} returned")
        ended.append(name)

    def killable(name: str) -> None:
        try:
            calls[name]()
        finally:
            ended.append(name)

    hub.join([hub.spawn(timed, name) for name in calls])
    kept = transport.publish_soon("waited for, by one that is killed", case.queue, timeout=within)
    doomed = [hub.spawn(killable, name) for name in calls]
    doomed += [hub.spawn(kept.wait) for _ in range(3)]
    hub.sleep(0.2)
    waiting = len(kept._completion._wakers)
    for greenlet in doomed:
        hub.kill(greenlet)
    del doomed, greenlet  # a dead greenlet holds its last frames, and they the entry
    expected = sorted([*calls, *calls])
    still_waiting = len(kept._completion._wakers)
    del kept
    case.tell("killed")
    case.wait_for("healed")
    publishers = Publishers(case)
    publishers.publish(5)
    report = {"all_ended": sorted(ended) == expected, "ended": sorted(ended), **publishers.report()}
    consuming = [status for status in transport.status().connections if status.role == "consume"]
    consumers = sum(status.consumers for status in consuming)
    return {**report, "consumers": consumers, "waiting": waiting, "still_waiting": still_waiting}


def killed_at_first_use(case: Case) -> Report:
    """A greenlet is killed in the first use of a transport, after 0, 1, 2, ... switches; the next use works."""
    errors, slowest = [], 0.0
    for switches in range(SWITCHES):
        settings = case.transport.settings
        transport = Transport(settings=settings.with_changes(app=f"{case.hub.name}-first-{switches}"))
        greenlet = case.hub.spawn(lambda transport=transport: transport.publish("killed", case.queue, timeout=1.5))
        for _ in range(switches):
            case.hub.sleep(0)
        case.hub.kill(greenlet)
        del greenlet
        began_at = native.monotonic()
        try:
            transport.publish("after", case.queue, timeout=20.0)
        except MessagingError as exc:
            errors.append(f"after {switches} switches: {exc!r}")
        slowest = max(slowest, native.monotonic() - began_at)
        transport.close()
    return {"errors": errors, "slowest": slowest, "left": settled(case)}


def ended(case: Case) -> Report:
    """Callbacks and methods raise the library's Timeout and GreenletExit; then who waits for the next is killed."""
    from greenlet import GreenletExit, getcurrent

    logging.disable()
    library: Any = importlib.import_module(case.hub.name)
    workers: dict[str, Any] = {}
    causes = {b"timeout": library.Timeout, b"exit": GreenletExit}

    class Endpoint:
        def end(self, ctxt: Any, cause: str) -> None:
            raise causes[cause.encode()]

        def serve(self, ctxt: Any) -> str:
            workers["server"] = getcurrent()
            return "served"

    def callback(delivery: Any) -> None:
        workers["consumer"] = getcurrent()
        if delivery.body in causes:
            raise causes[delivery.body]

    def handled(times: int) -> bool:
        case.transport.publish("handled", case.queue)
        _until(case.hub, lambda: consumer.handled == times)
        return consumer.handled == times

    def said(method: str, **arguments: str) -> str:
        try:
            return str(client.call({}, method, **arguments))
        except MessagingError as exc:
            return exc.exc_type if isinstance(exc, RemoteError) else repr(exc)

    consumer = case.transport.consume(case.queue, callback, tries=2)
    server = RPCServer(case.transport, Target(topic=case.queue + "-rpc", server="s"), [Endpoint()], pool_size=1)
    server.start()
    client = RPCClient(case.transport, Target(topic=case.queue + "-rpc"), timeout=20.0)
    for body in causes:
        case.transport.publish(body, case.queue)
    report = {"handled": [handled(1)], "calls": [said("end", cause=cause.decode()) for cause in causes]}
    report["calls"].append(said("serve"))
    for worker in workers.values():
        library.kill(worker)
    case.hub.sleep(0.05)
    report["handled"].append(handled(2))
    report["calls"].append(said("serve"))
    return {
        **report,
        "failed": consumer.failed,
        "workers": server.status().workers,
        "ended": [consumer.cancel(), server.stop(), case.transport.close()],
    }


def at_exit(case: Case) -> Report:
    """Handlers registered after the transport was made still publish; one that runs after ours is told so."""
    case.transport.publish("warm", case.queue)

    def tell(what: str) -> None:
        os.write(1, f'{{"{what}": true}}\n'.encode())

    def publish() -> None:
        case.transport.publish("at exit", case.queue, timeout=20.0)
        case.hub.join([case.hub.spawn(case.transport.publish, "at exit, by a greenlet", case.queue)])
        tell("confirmed")

    def publish_too_late() -> None:
        try:
            case.transport.publish("too late", case.queue, timeout=20.0)
        except Closed:
            tell("closed")

    atexit.register(publish)
    last_words.append(publish_too_late)
    return {"exiting": True}


def contended_log(case: Case) -> Report:
    """Native threads publish for the first time, with a heartbeat that is warned of, while greenlets hold the log."""
    kept = Kept()
    logger = listen("wsgi_messaging.connection", kept)
    is_over: list[bool] = []

    def log() -> None:
        while not is_over:
            with kept.lock or native.allocate_lock():
                case.hub.sleep(0.001)
            logger.log(logging.INFO, "a greenlet")

    loggers = [case.hub.spawn(log) for _ in range(3)]
    publishers = Publishers(case)
    transports = [
        Transport(settings=Settings(url=case.transport.settings.url, heartbeat=2.0, app=f"log-{number}"))
        for number in range(3)
    ]
    for transport in transports:
        other = Case(case.hub, transport, case.queue, 0)
        mine = Publishers(other)
        thread = native.NativeThread("first", mine.publish)
        thread.start()
        _until(case.hub, lambda mine=mine: mine.confirmed or mine.errors)
        publishers.confirmed += mine.confirmed
        publishers.errors += mine.errors
        publishers.slowest = max(publishers.slowest, mine.slowest)
    is_over.append(True)
    case.hub.join(loggers)
    for transport in transports:
        transport.publish("by a greenlet, where lines can be written", case.queue)

    def warnings() -> int:
        return sum("heartbeat=2" in line for line in kept.lines)

    _until(case.hub, lambda: warnings() == len(transports))
    warned = warnings()
    closed = [transport.close(10.0) for transport in transports]
    return {**publishers.report(), "warned": warned, "closed": closed}
