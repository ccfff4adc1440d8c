"""The serving side: three queues of a topic, a pool that executes, replies that go out by themselves.

Deliveries come over the consuming connection and wait, unacknowledged and bounded by `prefetch`, until a worker takes
them up. `ack="early"`: acknowledged when execution begins, so this server executes a request at most once and, killed,
loses what it was executing, nothing more. `ack="late"`: acknowledged when it was executed and its reply confirmed, so
none is lost and one may be executed twice.

Layer 4.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any
from uuid import uuid4

from ..connection.subscription import Delivered
from ..connections import Connections
from ..errors import Closed, ConfigurationError, ConnectTimeout, DeclarationRefused, MessagingError, Unavailable
from ..oslo import envelope
from ..oslo.envelope import Request
from ..runtime import deadlines, native
from ..runtime.waiting import Completion, is_exit
from ..transport import Transport
from . import executor, wire
from .access import RPCAccessPolicy
from .bindings import Bindings
from .dispatcher import ExpectedException, RPCDispatcher, RPCDispatcherError, expected_elsewhere
from .duplicates import SeenIds, UnderWay
from .executor import Pool
from .expiry import Expiry
from .flags import QueueFlags, explained
from .monitoring import begin_to_beat
from .replying import Replier
from .serializer import Serializer
from .status import RPCServerStatus
from .target import Target, check
from .timer import Timer

logger = logging.getLogger("wsgi_messaging.rpc")

TIMER_ENDS_WITHIN = IDLE_ENDS_WITHIN = 0.2
REPLIES_WITHIN = 5.0
"""Seconds that the last replies get when `wait` had no end."""

_executing_for: ContextVar[RPCServer | None] = ContextVar("wsgi_messaging_executing_for", default=None)
"""The server whose worker this thread, or greenlet, is."""


class RPCServer:
    """Serves the methods of `endpoints` to the callers of a topic.

    `target` needs a topic and a server; the server consumes the queues `topic`, `topic.server` and its own fanout
    queue. `executor` is "threading": threads, or greenlets where the process is patched; up to `pool_size` requests
    are executed at a time. `prefetch` requests of each queue wait here at most (`pool_size` by default).

    Threads: the methods are for any thread. After fork: a server stays with the process that started it.
    Raises: `ConfigurationError`, naming the setting.
    """

    def __init__(
        self,
        transport: Transport,
        target: Target,
        endpoints: Sequence[object],
        executor: str = "threading",
        pool_size: int = 64,
        access_policy: RPCAccessPolicy | type[RPCAccessPolicy] | None = None,
        serializer: Serializer | None = None,
        *,
        ack: str = "early",
        prefetch: int | None = None,
        flags: QueueFlags | None = None,
        ping: bool = False,
        with_traceback: bool = True,
    ) -> None:
        check(transport, target)
        _check(target, executor, pool_size, ack, prefetch)
        self.transport = transport
        self.target = target
        self.fanout_queue = f"{target.topic}_fanout_{uuid4().hex}"
        self._dispatcher = RPCDispatcher(endpoints, serializer, access_policy, ping=ping)
        self._is_late = ack == "late"
        self._prefetch = pool_size if prefetch is None else prefetch
        self._flags = flags or QueueFlags()
        self._flags.declarations(target, self.fanout_queue)  # names and flags that cannot be had are told here
        self._with_traceback = with_traceback
        self._pool_size = pool_size
        self._counts = RPCServerStatus()
        self._running: _Running | None = None
        self._start_token = native.allocate_lock()  # whoever takes it starts; kept while the server is started
        self._started = Completion()  # another one takes its place, and it is set, too, when a start fails
        self._is_cancelled = False  # stopped, be it while it starts
        self._ended = Completion()

    def __repr__(self) -> str:
        state = "new" if self._running is None else "stopped" if self._ended.is_set else "serving"
        return f"<RPCServer {self.target!r} {state} executed={self._counts.executed}>"

    def status(self) -> RPCServerStatus:
        """The counters now."""
        status = RPCServerStatus(**{name: getattr(self._counts, name) for name in self._counts.__slots__})
        if self._running is not None:
            status.busy, status.workers = self._running.pool.busy, self._running.pool.workers
            status.replies = self._running.replier.sent
            status.undeliverable = self._running.replier.undeliverable
        return status

    def start(self, timeout: float | None = None) -> None:
        """Declare the queues and begin to serve. Starting again does nothing; while another thread starts, this waits
        for it, and tries it itself where that fails. What was stopped is made anew; stopped while it starts, it serves
        nothing.

        Blocks: up to `timeout` (the transport's setting by default), until the broker has accepted all three
        consumers. Raises: `DeclarationRefused`, which names the flag that another server of the topic has set
        otherwise; `Closed` where it was stopped; `ConnectFailed`, `ConnectTimeout`, `ConfirmTimeout`; `Unavailable`
        when no thread can be started. Nothing is left behind then.
        """
        if self._ended.is_set:
            raise Closed("the server was stopped; make a new one")
        deadline = native.monotonic() + (self.transport.settings.timeout if timeout is None else timeout)
        while not (started := self._started).is_set:
            if self._start_token.acquire(False):
                self._start_first(deadline)
            elif not started.wait_until(deadline):
                raise ConnectTimeout("another thread starts the server, and has not done so in time")

    def _start_first(self, deadline: float) -> None:
        self._is_cancelled = False
        try:
            self._start(deadline)
        except BaseException:
            failed, self._started = self._started, Completion()
            self._start_token.release()
            failed.set()
            raise
        self._started.set()
        if self._is_cancelled:  # looked at behind that, and `stop` does it the other way round: one sees the other
            self.stop()

    def _start(self, deadline: float) -> None:
        connections = self.transport.connections()
        declarations = self._flags.declarations(self.target, self.fanout_queue)
        try:
            for declaration in declarations:
                wire.declare(connections, declaration, deadline)
        except DeclarationRefused as exc:
            raise explained(exc) from exc
        self._running = running = _Running(self, connections, Bindings(connections, declarations))
        try:
            running.start(deadline)
        except BaseException:
            self._running = None
            running.abandon(deadline)
            raise
        connections.enlist(self)

    def stop(self, timeout: float = 5.0) -> bool:
        """Take no more requests, finish those that are executed, send their replies, end.

        What had only been prefetched goes back to its queue. Blocks: up to `timeout`; False when a request is still
        being executed then, which `wait` waits for, or while another call starts it, which ends that. In a method of
        its own it does not wait.
        """
        if self._start_token.locked():
            self._is_cancelled = True
            if not self._started.is_set:
                return False
        running = self._running
        if running is None or running.pid != os.getpid() or self._ended.is_set:
            return True
        is_over = running.stop(0.0 if _executing_for.get() is self else timeout)
        if is_over:
            self._end(running)
        return is_over

    cancel = stop

    def wait(self, timeout: float | None = None) -> bool:
        """Return when the server has ended: after `stop`, or the transport's end. Blocks: up to `timeout`."""
        running = self._running
        if running is None or running.pid != os.getpid() or self._ended.is_set:
            return True
        if not running.pool.wait(timeout):
            return False
        if not self._ended.is_set:
            running.finish(REPLIES_WITHIN)
            self._end(running)
        return True

    def _end(self, running: _Running) -> None:
        running.connections.discharge(self)
        self._ended.set()

    # One request, on a worker.

    def handle(self, running: _Running, delivered: Delivered, received_at: float) -> None:
        """Take up a delivery; the pool calls it."""
        _executing_for.set(self)
        if not wire.is_current(delivered):
            return
        self._counts.received += 1
        try:
            request = self._decoded(delivered)
        except envelope.MalformedMessage as exc:
            self._counts.malformed += 1
            logger.warning("%r: a message was rejected: %s", self, exc)
            wire.reject(running.connections, delivered)
            return
        if not self._is_late:
            wire.acknowledge(running.connections, delivered, is_alone=running.pool.is_alone())
        elif running.under_way.joins(request.unique_id, delivered):
            self._counts.duplicates += 1
            return
        done = partial(running.acknowledge, request.unique_id, delivered) if self._is_late else _nothing
        now = native.monotonic()
        until = running.expiry.until(request, received_at, now)
        if not running.seen.is_new(request.unique_id, now):
            self._counts.duplicates += 1
        elif until is not None and until <= now:
            self._counts.expired += 1
        else:
            self._carry_out(running, request, until, done)
            return
        done()

    def _decoded(self, delivered: Delivered) -> Request:
        inbound = delivered.inbound
        if inbound.body is None:
            raise envelope.MalformedMessage(f"a body of {inbound.body_size} bytes is beyond max_message_bytes")
        most = self.transport.settings.max_message_bytes
        return envelope.read_request(*envelope.opened(inbound.header, inbound.body, most))

    def _carry_out(self, running: _Running, request: Request, until: float | None, done: Callable[[], None]) -> None:
        """Execute it and reply; `done` is called behind that."""
        error: BaseException | None = None
        result = None
        beating = begin_to_beat(running.timer, running.replier, request)
        token = deadlines.begin_at(until)
        try:
            result = self._execute(request)
        except ExpectedException as exc:
            error = exc.exception
        except RPCDispatcherError as exc:
            logger.info("%r: %s", self, exc)
            error = exc
        except BaseException as exc:
            error = expected_elsewhere(exc)
            if error is None:
                logger.exception("%r: %.100r failed", self, request.method)
                error = exc
        finally:
            deadlines.end(token)
            if beating is not None:
                beating.end()
        self._counts.executed += 1
        self._counts.failed += error is not None
        if not request.is_call:
            done()
        elif error is None:
            running.replier.reply(request, result, until, done)
        else:
            running.replier.fail(request, error, until, done)
        if error is not None and is_exit(error):
            raise error

    def _execute(self, request: Request) -> Any:
        instrument = self.transport.instrument
        if instrument is None:
            return self._dispatcher.dispatch(request)
        with instrument.serving(self.target.topic or "", str(request.method), request.context):
            return self._dispatcher.dispatch(request)


def _nothing() -> None:
    """What is to be done behind a request that is acknowledged already."""


def _check(target: Target, kind: str, pool_size: int, ack: str, prefetch: int | None) -> None:
    if not target.topic or not target.server:
        raise ConfigurationError(f"target: a server needs a topic and a server name; {target!r} has not both")
    if target.fanout:
        raise ConfigurationError("target: fanout is for clients; a server serves its fanout queue anyway")
    executor.check(kind, pool_size)
    if ack not in ("early", "late"):
        raise ConfigurationError(f"ack: {ack!r} is neither early nor late")
    if prefetch is not None and not 0 < prefetch <= 65535:
        raise ConfigurationError(f"prefetch: {prefetch!r} is not between 1 and 65535")


class _Running:
    """What a started server has in its process."""

    def __init__(self, server: RPCServer, connections: Connections, bindings: Bindings) -> None:
        self.pid = os.getpid()
        self.connections = connections
        name = f"{server.target.topic}-{self.pid}"
        self.seen = SeenIds()
        self.expiry = Expiry()
        self.under_way = UnderWay()
        self.timer = Timer(f"wsgi-messaging-rpc-timer-{name}")
        self.pool = Pool(
            name,
            server._pool_size,
            partial(server.handle, self),
            partial(wire.requeue, connections),
            None if native.is_patched() else lambda: self._feeds[0].reading(),
        )
        self.replier = Replier(
            server.transport,
            connections,
            self.timer,
            is_alone=self.pool.is_alone,
            with_traceback=server._with_traceback,
            confirm=server._is_late or server._flags.transient_quorum,
        )
        self._server = server
        self._bindings = bindings
        self._changed = Completion()
        target = server.target
        feed = partial(wire.Feed, connections, sink=self.pool, prefetch=server._prefetch, on_change=self._on_change)
        self._feeds = [feed(queue) for queue in (str(target.topic), f"{target.topic}.{target.server}")]
        self._feeds.append(feed(server.fanout_queue, on_replaced=self._on_replaced))

    def start(self, deadline: float) -> None:
        """Raises: `DeclarationRefused`, `ConnectTimeout`, ..."""
        try:
            self.timer.start()
        except RuntimeError as exc:
            raise Unavailable(f"no thread can be started: {exc}") from exc
        self.pool.start()
        for feed in self._feeds:
            feed.start()
        while not (self._server._is_cancelled or all(feed.is_active for feed in self._feeds)):
            changed = self._changed
            problem: MessagingError | None = next((feed.error for feed in self._feeds if feed.error), None)
            if problem is not None:
                raise problem
            if native.monotonic() >= deadline:
                raise ConnectTimeout("the server's queues could not be consumed in time")
            changed.wait(min(0.05, max(0.0, deadline - native.monotonic())))
        self._bindings.watch(self.timer)

    def acknowledge(self, unique_id: str | None, delivered: Delivered) -> None:
        """Acknowledge a request behind its execution. Threads: any, the connections' own included."""
        self.seen.renew(unique_id, native.monotonic())
        for each in self.under_way.end(unique_id, delivered):
            wire.acknowledge(self.connections, each)

    def _on_change(self) -> None:
        """A consumer was accepted: the first time, or again, and then what it was bound to may be gone."""
        changed, self._changed = self._changed, Completion()
        changed.set()
        self._bindings.check_soon()

    def _on_replaced(self, queue: str, name: str) -> None:
        """The fanout queue's node is down, or hangs."""
        self._server.fanout_queue = name
        self._bindings.rename(queue, name)

    def stop(self, timeout: float) -> bool:
        """Take no more; False when something is still executed after `timeout`."""
        ends_at = native.monotonic() + timeout
        self._take_no_more()
        return self.pool.wait(timeout) and self.finish(max(0.1, ends_at - native.monotonic()))

    def abandon(self, deadline: float) -> None:
        """The start failed: leave nothing behind. Blocks: to the deadline, while something is executed already."""
        self._take_no_more()
        self.pool.wait(max(IDLE_ENDS_WITHIN, deadline - native.monotonic()))
        self.finish(max(0.1, deadline - native.monotonic()))

    def _take_no_more(self) -> None:
        self._bindings.stop()
        for feed in self._feeds:
            feed.stop()
        self.pool.stop()

    def finish(self, timeout: float) -> bool:
        """Nothing is executed any more: see the replies through, and leave nothing behind. Blocks: up to `timeout`."""
        ends_at = native.monotonic() + timeout
        is_over = self.replier.wait(timeout)
        for feed in self._feeds:
            feed.remove()
        wire.forget_queue(self.connections, self._server.fanout_queue, max(0.1, ends_at - native.monotonic()))
        self.timer.stop(TIMER_ENDS_WITHIN)
        return is_over
