"""The calling side: a request goes to a topic, and for a call its reply comes back, within one deadline.

Layer 4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import copy
from typing import Any

from ..connection.pending import Outgoing
from ..connections import Connections
from ..errors import (
    BrokerBlocked,
    ConfigurationError,
    ConfirmTimeout,
    MessagingError,
    Rejected,
    ReplyTimeout,
    Unroutable,
)
from ..lifetime import PUBLISH
from ..observe.instrument import requesting
from ..oslo import envelope, failure
from ..runtime import deadlines, native
from ..runtime.ids import new_id
from ..runtime.waiting import Completion
from ..transport import Transport
from . import versions, wire
from .replies import Inbox, Replies, replies_of
from .serializer import Serializer
from .target import Target, check

_NOT_FOUND, _NO_ROUTE = 404, 312
_AGAIN_EVERY = 0.25
"""Seconds between two tries of a request that was under way when a connection broke, while nobody takes it."""
_RETRY_EVERY = 0.05
_SHORTEST_MONITOR = 2.0
"""Seconds. Servers, oslo.messaging's too, send a sign of life after half of the time, and none at all to who asks for
more than one a second (OSLO_WIRE section 8)."""
_PREPARED = ("timeout", "version_cap", "retry", "call_monitor_timeout")


class RPCClient:
    """Invokes methods of the servers of a topic, as oslo.messaging's client does and understood by its servers.

    `retry` 0: nothing is sent again, and a broker that cannot be reached is an error at once; otherwise a request in
    flight when a connection breaks is sent again under the same id, which a server of ours executes once; another
    server of the topic may execute it, too.
    `call_monitor_timeout`: seconds, from 2 up, without a sign of life of the server after which a call ends; for long
    calls.
    `confirm`: have the broker confirm the requests of calls too, whose reply is proof enough for most: for a topic of
    quorum queues, which may lose an unconfirmed one while they elect a leader.
    `allowed_remote_exmods`: modules whose exceptions are raised as they are, with Python's own (`ValueError`); all
    others become a `RemoteError`.

    Threads: every method may be called from any thread or greenlet.
    After fork: the child uses connections and a reply queue of its own.
    Raises: `ConfigurationError`, naming the setting.
    """

    def __init__(
        self,
        transport: Transport,
        target: Target,
        timeout: float | None = 60.0,
        version_cap: str | None = None,
        serializer: Serializer | None = None,
        retry: int | None = None,
        call_monitor_timeout: float | None = None,
        *,
        allowed_remote_exmods: Collection[str] = (),
        confirm: bool = False,
    ) -> None:
        self.transport = transport
        self.target = target
        self.timeout: float = 60.0 if timeout is None else timeout
        self.version_cap = version_cap
        self.retry = retry
        self.call_monitor_timeout = call_monitor_timeout
        self.confirm = confirm
        self._serializer = serializer
        self._allowed = frozenset(allowed_remote_exmods)
        self._check()

    def __repr__(self) -> str:
        return f"<RPCClient {self.target!r} timeout={self.timeout:g}>"

    def _check(self) -> None:
        for name in ("timeout", "call_monitor_timeout"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 <= value < 2**32 / 1000):
                raise ConfigurationError(f"{name}: {value!r} is not a number of seconds from 0 to 49 days")
        if 0 < (self.call_monitor_timeout or 0.0) < _SHORTEST_MONITOR:
            least = f"{_SHORTEST_MONITOR:g} up, or 0: no server sends more than a sign of life a second"
            raise ConfigurationError(f"call_monitor_timeout: {self.call_monitor_timeout!r} is not from {least}")
        if self.retry is not None and type(self.retry) is not int:
            raise ConfigurationError(f"retry: {self.retry!r} is not a whole number")
        check(self.transport, self.target)
        versions.checked("version_cap", self.version_cap)
        versions.checked("version", self.target.version)

    def prepare(self, **changes: Any) -> RPCClient:
        """A client like this one with another exchange, topic, namespace, version, server, fanout, timeout,
        version_cap, retry or call_monitor_timeout. Costs next to nothing; make one for a call.
        """
        prepared = copy(self)
        for name in _PREPARED:
            if name in changes:
                value = changes.pop(name)
                setattr(prepared, name, self.timeout if name == "timeout" and value is None else value)
        if changes:
            prepared.target = self.target(**changes)
        prepared._check()
        return prepared

    def can_send_version(self, version: str | None = None) -> bool:
        """True when the version cap allows requests for this version (the target's, if none is given)."""
        return versions.is_compatible(self.version_cap, version or self.target.version)

    # Cast.

    def cast(self, ctxt: Any, method: str, **kwargs: Any) -> None:
        """Have a method invoked and return when the broker has taken the request, whether or not anybody serves it.

        With `prepare(fanout=True)` every server of the topic gets it.

        Blocks: up to the transport's `timeout` setting, and never beyond the deadline of the current work.
        Raises: `RPCVersionCapError`, `InvalidMessage`, and what `Transport.publish` raises.
        """
        with requesting(self.transport.instrument, "cast", self.target.topic or "", method) as trace:
            self._cast_request(self._encoded(ctxt, method, kwargs, new_id(), trace))

    def _cast_request(self, body: bytes) -> None:
        deadline = native.monotonic() + self.transport.settings.timeout
        deadline = min(deadline, deadlines.ends_at() or deadline)
        route = self.target.route
        connections = self.transport.connections()
        with self.transport.one_shot():
            try:
                self._cast(connections, route, body, deadline, mandatory=False)
            except Rejected as exc:
                if exc.reply_code != _NOT_FOUND:
                    raise
                self._cast_to_queue(connections, route[1], body, deadline)

    def _cast_to_queue(self, connections: Connections, queue: str, body: bytes, deadline: float) -> None:
        """The exchange does not exist. Its queues may (it was deleted); else nobody serves the topic."""
        if queue:
            try:
                self._cast(connections, ("", queue), body, deadline, mandatory=True)
            except Unroutable:
                return

    def _cast(
        self, connections: Connections, route: tuple[str, str], body: bytes, deadline: float, mandatory: bool
    ) -> None:
        confirmed = Completion()
        entry = wire.publish(
            connections,
            route,
            envelope.header(),
            body,
            deadline=deadline,
            on_done=lambda _entry: confirmed.set(),
            mandatory=mandatory,
            may_repeat=self.retry != 0,
            is_alone=True,
        )
        if self.retry == 0:
            self._give_up_unless_reachable(connections, entry, confirmed)
        connections.await_confirm(entry, confirmed)

    def _give_up_unless_reachable(self, connections: Connections, entry: Outgoing, done: Completion) -> None:
        """With retry 0: while the message is not sent, see whether the broker can be reached at all."""
        while not (done.is_set or entry.maybe_sent) and native.monotonic() < entry.deadline:
            problem = connections.failure(PUBLISH)
            if problem is not None:
                entry.abandoned = True
                problem.maybe_sent = entry.maybe_sent  # looked at behind that, as the connection's thread does
                raise problem
            done.wait(min(_RETRY_EVERY, max(0.0, entry.deadline - native.monotonic())))

    # Call.

    def call(self, ctxt: Any, method: str, **kwargs: Any) -> Any:
        """Have a method invoked and return its result.

        One deadline covers connecting, the request and the reply; the request carries it, so that a server does not
        begin what nobody waits for.

        Blocks: up to `timeout`, and never beyond the deadline of the current work.
        Raises: what the method raised, if it is Python's own or its module is allowed, else `RemoteError`;
        `Unroutable` at once when nobody serves the topic; `ReplyTimeout` when the request went out and no reply came
        (`maybe_sent` is True: the method may have been executed, or may still be), `ReplyLost`, one of those, when none
        will; `ConnectFailed`, `ConnectTimeout`, `ConfirmTimeout`, `BrokerBlocked`, `Rejected`: the request did not get
        through; `RPCVersionCapError`, `InvalidMessage`.
        """
        if self.target.fanout:
            raise ConfigurationError(f"fanout: a call has one reply, so it cannot go to all servers of {self.target}")
        transport = self.transport
        if transport.instrument is None and not transport.is_one_shot:
            return self._call(ctxt, method, kwargs, {})
        with requesting(transport.instrument, "call", self.target.topic or "", method) as trace, transport.one_shot():
            return self._call(ctxt, method, kwargs, trace)

    def _call(self, ctxt: Any, method: str, kwargs: dict[str, Any], trace: Mapping[str, str]) -> Any:
        start = native.monotonic()
        deadline = start + self.timeout
        deadline = min(deadline, deadlines.ends_at() or deadline)
        route = self.target.route
        connections = self.transport.connections()
        replies = replies_of(connections)
        replies.ready(deadline, self.retry != 0)
        call = _Call(self, connections, replies, route, deadline)
        try:
            keys = envelope.call_keys(
                call.msg_id,
                replies.queue,  # from here on the call is told when another one takes its place
                self.call_monitor_timeout,
                native.wall_clock() + deadline - native.monotonic(),
            )
            body = self._encoded(ctxt, method, kwargs, call.msg_id, trace, keys)
            result = call.carry_out(body, envelope.header(max(0, int((deadline - start) * 1000))))
        finally:
            replies.forget(call.msg_id)
        return result if self._serializer is None else self._serializer.deserialize_entity(ctxt, result)

    def _encoded(
        self,
        ctxt: Any,
        method: str,
        kwargs: dict[str, Any],
        unique_id: str,
        trace: Mapping[str, str],
        keys: dict[str, Any] | None = None,
    ) -> bytes:
        target, serializer = self.target, self._serializer
        if not versions.is_compatible(self.version_cap, target.version):
            raise versions.RPCVersionCapError(target.version, str(self.version_cap))
        if serializer is not None:
            kwargs = {name: serializer.serialize_entity(ctxt, value) for name, value in kwargs.items()}
            ctxt = serializer.serialize_context(ctxt)
        return envelope.request(
            method,
            kwargs,
            {**envelope.context_items(ctxt), **trace} if trace else ctxt,
            unique_id=unique_id,
            namespace=target.namespace,
            version=target.version,
            call=keys,
        )

    def rebuilt(self, text: str) -> Exception:
        """The exception for a failure reply."""
        return failure.rebuild(text, self._allowed)


class _Call:
    """One call on its way."""

    __slots__ = ("_client", "_connections", "_deadline", "_inbox", "_replies", "_route", "msg_id")

    def __init__(
        self,
        client: RPCClient,
        connections: Connections,
        replies: Replies,
        route: tuple[str, str],
        deadline: float,
    ) -> None:
        self._client = client
        self._connections = connections
        self._replies = replies
        self._route = route
        self._deadline = deadline
        self.msg_id = new_id()
        self._inbox = replies.expect(self.msg_id)

    def carry_out(self, body: bytes, header: bytes) -> Any:
        """Send the request and give the result. Raises: as `RPCClient.call`."""
        inbox, route, was_under_way = self._inbox, self._route, False
        while True:
            try:
                return self._await(inbox, self._send(inbox, route, header, body))
            except (Rejected, Unroutable) as exc:
                if exc.reply_code not in (_NOT_FOUND, _NO_ROUTE):
                    raise
                was_under_way = was_under_way or exc.maybe_sent
                if was_under_way:
                    self._pause(inbox, exc)
                route = self._next_route(route, exc, was_under_way)

    def _next_route(self, route: tuple[str, str], error: MessagingError, was_under_way: bool) -> tuple[str, str]:
        """Where to send the request that nobody took. Raises: the error, when nobody will.

        One that was under way when a connection broke goes out again, for its server may be on its way back. Where
        the exchange does not exist its queues may (it was deleted, and their server will bind them again).
        """
        if was_under_way:
            return self._route
        if route is self._route and isinstance(error, Rejected):
            return "", route[1]
        exchange, queue = self._route
        lacks = "has no queue for" if route is self._route else "does not exist, nor does a queue"
        raise Unroutable(
            f"nobody serves {self._client.target}: exchange {exchange!r} {lacks} {queue!r}; start a server, or check "
            "topic, server and exchange",
            reply_code=_NO_ROUTE,
        ) from error

    def _pause(self, inbox: Inbox, error: MessagingError) -> None:
        """Wait a little, or until a reply comes; raises when the call's time is over."""
        left = self._deadline - native.monotonic()
        if left <= 0:
            raise ReplyTimeout(
                f"no reply of {self._client.target} in time: the connection broke while the request was under way, "
                f"and now nobody takes it ({error})",
                maybe_sent=True,
            ) from error
        item = inbox.get(min(_AGAIN_EVERY, left))
        if item is not None:
            inbox.put(item, first=True)

    def _send(self, inbox: Inbox, route: tuple[str, str], header: bytes, body: bytes) -> Outgoing:
        def settled(entry: Outgoing) -> None:
            if entry.error is not None:
                inbox.put(entry.error)
                self._replies.disturb()

        return wire.publish(
            self._connections,
            route,
            header,
            body,
            deadline=self._deadline,
            on_done=settled,
            mandatory=True,
            may_repeat=self._client.retry != 0,
            confirm=self._client.confirm or self._client.retry == 0,
            is_alone=self._replies.is_one_awaited,
        )

    def _await(self, inbox: Inbox, entry: Outgoing) -> Any:
        """Wait for the reply that ends the call; signs of life begin the monitor's time anew."""
        monitor = self._client.call_monitor_timeout or float("inf")
        quiet_until = native.monotonic() + monitor
        kept = None
        if self._client.retry != 0:
            self._replies.attend(inbox, min(self._deadline, quiet_until))
        try:
            while True:
                item = self._next(inbox, entry, min(self._deadline, quiet_until))
                if isinstance(item, MessagingError):
                    raise item
                reply = self._replies.decoded(self.msg_id, item)
                if reply is None:
                    continue
                if reply.failure is not None:
                    raise self._client.rebuilt(reply.failure)
                if reply.is_last:
                    return kept if reply.result is None else reply.result
                kept = kept if reply.result is None else reply.result
                quiet_until = native.monotonic() + monitor
        finally:
            entry.abandoned = True  # a reply proves that it was sent: nothing is to be sent again

    def _next(self, inbox: Inbox, entry: Outgoing, until: float) -> Any:
        """The next that comes for the call. Raises: why nothing did by `until`."""
        is_hasty = self._client.retry == 0
        while True:
            left = until - native.monotonic()
            item = inbox.get(min(left, _RETRY_EVERY) if is_hasty and not entry.maybe_sent else left)
            if item is not None:
                return self._timeout(entry) if isinstance(item, ConfirmTimeout) else item
            if native.monotonic() >= until:
                raise self._timeout(entry)
            problem = self._connections.failure(PUBLISH) if is_hasty and not entry.maybe_sent else None
            if problem is not None:
                entry.abandoned = True
                problem.maybe_sent = entry.maybe_sent
                raise problem

    def _timeout(self, entry: Outgoing) -> MessagingError:
        if entry.was_dropped or not entry.is_done:
            expiry = self._connections.expiry(entry)
            if isinstance(expiry, BrokerBlocked) or not entry.maybe_sent:
                return expiry
        target, monitor = self._client.target, self._client.call_monitor_timeout
        if not entry.is_done:
            why = "the request was sent, and the broker has not said that it has it"
        elif native.monotonic() < self._deadline:
            why = f"the broker has the request, and no server gave a sign of life for {monitor:g} s"
        else:
            why = "the broker has the request: no server took it in time, or it has not finished"
        self._replies.probe()
        return ReplyTimeout(f"no reply of {target} in time: {why}", maybe_sent=True)
