"""Ordinary work in a patched process: beats under a blocked hub, log records, consumers, many greenlets at once."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

from tests.green.program import Case, compute, threads_of_the_system
from wsgi_messaging import Closed
from wsgi_messaging.runtime import native
from wsgi_messaging.runtime.journal import Journal

Report = dict[str, Any]

GREENLETS = 200
EACH = 25
ROUNDS = 5
TICK = 0.005
BLOCKED = 10.0
HELD = 4.5
RECORDS = 300


class Kept(logging.Handler):
    """Keeps each line with the thread that wrote it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.threads: set[int] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.threads.add(native.get_ident())


def listen(name: str, handler: logging.Handler) -> logging.Logger:
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    return logger


def blocked(case: Case) -> Report:
    """Greenlets publish, then one of them computes and nothing else of the application runs."""

    def publish() -> None:
        for number in range(5):
            case.transport.publish(f"from a greenlet {number}", case.queue)

    case.hub.join([case.hub.spawn(publish) for _ in range(20)])
    case.hub.join([case.hub.spawn(compute, BLOCKED)])
    # Now that a journal's thread, which an unpatched process has for a second, is over.
    threads = threads_of_the_system() - case.tasks
    [status] = case.transport.status().connections
    began_at = time.monotonic()
    case.transport.publish("after", case.queue)
    return {
        "threads": threads,
        "beats": status.beats_sent,
        "lateness": status.lateness_worst,
        "confirmed": status.confirmed,
        "reconnects": case.transport.status().connections[0].reconnects,
        "next_publish": time.monotonic() - began_at,
    }


def throughput(case: Case) -> Report:
    """Rounds of many greenlets publishing at once beside one that only ticks; the test says when each begins."""
    case.transport.publish("warm", case.queue)
    rates, held_up = [], []
    for number in range(ROUNDS):
        case.wait_for(f"go-{number}")
        rate, worst = _round(case)
        rates.append(rate)
        held_up.append(worst)
        case.tell(f"done-{number}")
    [status] = case.transport.status().connections
    return {"rates": rates, "held_up": held_up, "confirmed": status.confirmed, "reconnects": status.reconnects}


def _round(case: Case) -> tuple[float, float]:
    gaps: list[float] = []
    is_over: list[bool] = []

    def tick() -> None:
        last = time.monotonic()
        while not is_over:
            case.hub.sleep(TICK)
            now = time.monotonic()
            gaps.append(now - last - TICK)
            last = now

    def publish() -> None:
        for _ in range(EACH):
            case.transport.publish(b"x" * 1024, case.queue)

    ticker = case.hub.spawn(tick)
    began_at = time.monotonic()
    case.hub.join([case.hub.spawn(publish) for _ in range(GREENLETS)])
    elapsed = time.monotonic() - began_at
    is_over.append(True)
    case.hub.join([ticker])
    return GREENLETS * EACH / elapsed, max(gaps)


def records(case: Case) -> Report:
    """A native thread writes to a journal while greenlets log through the same handler."""
    kept = Kept()
    logger = listen("green.records", kept)
    journal = Journal(logger)
    journal.ensure_writer()

    def write() -> None:
        for number in range(RECORDS):
            journal.warning(f"native {number}")

    def log(name: int) -> None:
        for number in range(RECORDS):
            logger.info("green %d %d", name, number)
            case.hub.sleep(0)

    thread = native.NativeThread("records", write)
    greenlets = [case.hub.spawn(log, name) for name in range(3)]
    thread.start()
    case.hub.join(greenlets)
    ended = native.monotonic() + 20.0
    while len(kept.lines) < 4 * RECORDS and native.monotonic() < ended:
        case.hub.sleep(0.01)
    journal.close()
    native_lines = [line for line in kept.lines if line.startswith("native")]
    return {
        "in_order": native_lines == [f"native {number}" for number in range(RECORDS)],
        "lines": len(kept.lines),
        "on_other_threads": len(kept.threads - {native.get_ident()}),
        "ended": thread.join(10.0),
    }


def state_changes(case: Case) -> Report:
    """What the connection says of its losses, which the test brings about, appears in order."""
    kept = Kept()
    listen("wsgi_messaging.connection", kept)
    case.transport.publish("warm", case.queue)
    case.tell("ready")
    case.wait_for("lost")
    began_at = native.monotonic()

    def has_said(word: str) -> bool:
        return any(word in line for line in kept.lines)

    # It goes on publishing: where the patch came after the first use, the writer begins at the next.
    while not has_said("lost") and native.monotonic() < began_at + 20.0:
        case.transport.publish("again", case.queue)
        case.hub.sleep(0.05)
    took = native.monotonic() - began_at
    return {"lines": kept.lines, "took": took, "on_other_threads": len(kept.threads - {native.get_ident()})}


class Slow(logging.Handler):
    """Holds its lock up to a point in time, and then publishes what it was given."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self._case = case
        self.holds_until = 0.0
        self.published = 0

    def emit(self, record: logging.LogRecord) -> None:
        while time.monotonic() < self.holds_until:
            self._case.hub.sleep(0.01)
        with suppress(Closed):  # a line about the end is written after the end
            self._case.transport.publish(record.getMessage(), self._case.queue)
            self.published += 1


def slow_handler(case: Case) -> Report:
    """The connection is lost; who writes the line about it holds the handler's lock for more than two intervals."""
    slow = Slow(case)
    case.transport.publish("warm", case.queue)
    slow.holds_until = time.monotonic() + 60.0
    logger = listen("wsgi_messaging.connection", slow)
    case.tell("ready")
    case.wait_for("lost")
    lost_at = time.monotonic()
    case.hub.sleep(0.2)
    other = case.hub.spawn(logger.warning, "another line, which waits for the same lock")
    began_at = time.monotonic()
    case.transport.publish("while the handler holds its lock", case.queue)
    took, published = time.monotonic() - began_at, slow.published
    slow.holds_until = lost_at + HELD
    case.hub.join([other])
    return {"took": took, "published_before": published, "published": slow.published}


def publishing_handler(case: Case) -> Report:
    """Whoever warns in the first use of a transport may not assume that nobody publishes to write the warning."""
    handler = Slow(case)
    listen("wsgi_messaging.connection", handler)
    began_at = time.monotonic()
    case.transport.publish("first", case.queue)
    took = time.monotonic() - began_at
    while not handler.published and time.monotonic() < began_at + 20.0:
        case.hub.sleep(0.01)
    return {"took": took, "published": handler.published}


def callbacks(case: Case) -> Report:
    """A consumer's callbacks wait and publish like any greenlet."""
    threads, bodies = set(), []

    def callback(delivery: Any) -> None:
        threads.add(native.get_ident())
        case.hub.sleep(0.02)
        if not delivery.body.startswith(b"answer"):
            case.transport.publish(b"answer to " + delivery.body, case.queue)
        bodies.append(delivery.body)

    consumer = case.transport.consume(case.queue, callback, threads=3)
    for number in range(20):
        case.transport.publish(f"{number}", case.queue)
    ended = native.monotonic() + 30.0
    while len(bodies) < 40 and native.monotonic() < ended:
        case.hub.sleep(0.01)
    report = {
        "bodies": len(bodies),
        "on_other_threads": len(threads - {native.get_ident()}),
        "failed": consumer.failed,
        "cancelled": consumer.cancel(),
        "closed": case.transport.close(),
    }
    while threads_of_the_system() > case.tasks and native.monotonic() < ended:
        case.hub.sleep(0.01)
    return {**report, "threads": threads_of_the_system() - case.tasks}
