"""oslo.messaging's driver on our connections: `transport_url = wsgi+rabbit://user:password@host:5672/vhost`.

A service written to oslo.messaging's API (RPC clients and servers, notifiers and notification listeners) runs
unchanged on it, with the configuration that it has, and with peers on the rabbit driver on the other side. In each
process there are two connections for all senders, calls and listeners of a transport.

oslo.messaging looks for a driver by what stands before the first `+` of the URL's scheme, so the entry point is
`wsgi`; `wsgi://...` works as well.

What differs from the rabbit driver, and why, is in tests/interop/driver_differences.rst.

Layer 5: imports oslo.messaging.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from oslo_messaging import exceptions
from oslo_messaging._drivers import base

from ..errors import Closed, ConfigurationError, Expired, MessagingError, Unroutable
from ..rpc.replies import replies_of
from ..runtime import native
from ..transport import Transport
from . import driver_options, driver_topology, driver_wire
from .driver_listening import NotificationSubscriber, Plan, RpcSubscriber
from .driver_sending import FOREVER, Calling, Sending

_DECLARED = "oslo driver: declared"
_EXECUTORS = 64
"""Default of oslo.messaging's executor_thread_pool_size."""


class WsgiRabbitDriver(base.BaseDriver):  # type: ignore[misc]
    """What oslo.messaging makes for a transport. Constructing it opens nothing.

    Threads: every method may be called from any thread or greenlet. After fork: the child uses connections of its
    own; listeners stay with the process that began them. Raises: `RuntimeError`, naming the option.
    """

    def __init__(
        self,
        conf: Any,
        url: Any,
        default_exchange: str | None = None,
        allowed_remote_exmods: Sequence[str] | None = None,
    ) -> None:
        conf = driver_options.registered(conf, url)
        super().__init__(conf, url, default_exchange, allowed_remote_exmods)
        try:
            self._options = driver_options.read(conf, url)
        except ConfigurationError as exc:
            raise RuntimeError(str(exc)) from exc  # oslo.messaging makes a DriverLoadFailure of it
        self.prefetch_size = self._options.prefetch
        self.transport = Transport(settings=self._options.settings)

    def __repr__(self) -> str:
        return f"<WsgiRabbitDriver {self.transport!r}>"

    def require_features(self, requeue: bool = True) -> None:
        """There is nothing that it cannot do."""

    def cleanup(self) -> None:
        """End in this process. Blocks: up to 5 s, until accepted messages are confirmed."""
        self.transport.close()

    # Sending.

    def send(
        self,
        target: Any,
        ctxt: Any,
        message: dict[str, Any],
        wait_for_reply: bool | None = None,
        timeout: float | None = None,
        call_monitor_timeout: float | None = None,
        retry: int | None = None,
        transport_options: Any = None,
    ) -> Any:
        """Send a request; for a call, give its result.

        Blocks: a call up to `timeout`, a cast as long as `retry` says. Raises: `MessagingTimeout`,
        `MessageDeliveryFailure`, `MessageUndeliverable` (with at_least_once), and what the remote method raised.
        """
        sending = self._sending(
            target, timeout, retry, is_mandatory=bool(getattr(transport_options, "at_least_once", False))
        )
        with self.transport.one_shot(), _translating(sending, is_call=bool(wait_for_reply)):
            if not wait_for_reply:
                sending.body = driver_wire.encoded(driver_wire.pack(message, ctxt))
                sending.confirm()
                return None
            return self._call(sending, ctxt, message, call_monitor_timeout)

    def _sending(self, target: Any, timeout: float | None, retry: int | None, *, is_mandatory: bool) -> Sending:
        now = native.monotonic()
        flags = self._options.flags
        where = self._exchange(target)
        if target.fanout:
            route = (driver_topology.fanout_name(target.topic), "")
            entity = driver_topology.fanout_exchange(target.topic, flags)
            is_mandatory, timeout_of_message = False, None
        else:
            route = (where, f"{target.topic}.{target.server}" if target.server else target.topic)
            entity = driver_topology.topic_exchange(where, flags)
            timeout_of_message = timeout
        return Sending(
            connections=self.transport.connections(),
            route=route,
            body=b"",
            mandatory=is_mandatory,
            ends_at=now + (FOREVER if timeout is None else timeout),
            gives_up_at=now + min(self._options.patience(retry), FOREVER),
            may_repeat=retry != 0,
            is_compressed=self._options.is_compressed,
            expires=timeout_of_message is not None,
            entities=(entity,),
        )

    def _call(self, sending: Sending, ctxt: Any, message: dict[str, Any], monitor: float | None) -> Any:
        """A request without at_least_once that nobody takes is tried again until its time is over."""
        replies = replies_of(sending.connections, self._options.transient_ttl_ms)
        sending.ready(replies)
        msg_id = driver_wire.new_id()
        sending.inbox = replies.expect(msg_id)  # from here on it is told when another queue takes the place of this
        allowed = list(self._allowed_remote_exmods)
        try:
            keys = {"_msg_id": msg_id, "_reply_q": replies.queue, "_timeout": monitor}
            sending.body = driver_wire.encoded(driver_wire.pack(message, ctxt, **keys))
            sending.waits_for_servers = not sending.mandatory
            sending.mandatory = True
            sending.has_confirm = self._options.flags.quorum or not sending.may_repeat
            return Calling(
                sending=sending,
                replies=replies,
                msg_id=msg_id,
                monitor=monitor,
                rebuilt=lambda text: driver_wire.remote_exception(text, allowed),
            ).result()
        finally:
            replies.forget(msg_id)

    def send_notification(
        self, target: Any, ctxt: Any, message: dict[str, Any], version: float, retry: int | None = None
    ) -> None:
        """Return when the broker has stored a notification in the queue of its topic, made where it is missing.

        Blocks: as long as `retry` says. Raises: `MessageDeliveryFailure`.
        """
        sending = self._sending(target(fanout=False, server=None), None, retry, is_mandatory=True)
        where, key = sending.route
        flags = self._options.flags
        sending.has_queue = True
        sending.entities = driver_topology.for_notifications([(where, key)], None, flags)
        sending.body = driver_wire.encoded(driver_wire.pack(message, ctxt), has_envelope=version == 2.0)
        with self.transport.one_shot(), _translating(sending, is_call=False):
            known: set[tuple[str, str]] = sending.connections.extension(_DECLARED, set)
            if sending.route not in known:
                sending.declare()
                known.add(sending.route)
            sending.confirm()

    # Listening.

    def listen(self, target: Any, batch_size: int, batch_timeout: float | None) -> base.PollStyleListenerAdapter:
        """A listener for the requests of a server. Blocks: until the broker can be had."""
        where, topic = self._exchange(target), target.topic
        fanout_queue = f"{driver_topology.fanout_name(topic)}_{driver_wire.new_id()}"
        options = self._options
        plan = Plan(
            entities=driver_topology.for_server(
                where, topic, target.server, fanout_queue, options.transient_ttl_ms, options.flags
            ),
            queues=(topic, f"{topic}.{target.server}", fanout_queue),
            prefetch=options.prefetch or self._pool_size(),
            batch_limit=options.prefetch,
            own_queue=fanout_queue,
            reply_patience=options.reply_patience,
        )
        return self._listening(RpcSubscriber(self.transport, plan), batch_size, batch_timeout)

    def listen_for_notifications(
        self,
        targets_and_priorities: Sequence[tuple[Any, str]],
        pool: str | None,
        batch_size: int,
        batch_timeout: float | None,
    ) -> base.PollStyleListenerAdapter:
        """A listener for notifications. Blocks: until the broker can be had."""
        routes = [(self._exchange(target), f"{target.topic}.{priority}") for target, priority in targets_and_priorities]
        options = self._options
        plan = Plan(
            entities=driver_topology.for_notifications(routes, pool, options.flags),
            queues=list(dict.fromkeys(pool or key for _where, key in routes)),
            prefetch=options.prefetch or min(65535, (self._pool_size() + 1) * batch_size),
            batch_limit=options.prefetch,
        )
        return self._listening(NotificationSubscriber(self.transport, plan), batch_size, batch_timeout)

    def _listening(
        self, subscriber: Any, batch_size: int, batch_timeout: float | None
    ) -> base.PollStyleListenerAdapter:
        try:
            subscriber.start()
        except MessagingError as exc:
            raise exceptions.MessageDeliveryFailure(str(exc)) from exc
        return base.PollStyleListenerAdapter(subscriber, batch_size, batch_timeout)

    def _exchange(self, target: Any) -> str:
        return str(target.exchange or self._default_exchange or "")

    def _pool_size(self) -> int:
        """As many as are executed at a time may wait behind them."""
        size = self.conf.executor_thread_pool_size if "executor_thread_pool_size" in self.conf else _EXECUTORS
        return min(65535, max(1, int(size)))


@contextmanager
def _translating(sending: Sending, *, is_call: bool) -> Iterator[None]:
    """Our errors as those that oslo.messaging's callers know."""
    try:
        yield
    except Unroutable as exc:
        raise exceptions.MessageUndeliverable(exc, *sending.route, sending.body) from exc
    except Closed as exc:
        raise exceptions.MessageDeliveryFailure(str(exc)) from exc
    except MessagingError as exc:
        is_over = native.monotonic() >= sending.ends_at
        if is_call and (is_over or (isinstance(exc, Expired) and (exc.maybe_sent or sending.is_patient))):
            raise exceptions.MessagingTimeout(str(exc)) from exc
        raise exceptions.MessageDeliveryFailure(str(exc)) from exc
