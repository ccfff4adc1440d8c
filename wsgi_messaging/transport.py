"""`Transport`: what an application holds. One object, in every process its own connections.

Constructing it opens nothing and starts nothing; the first publish, consumer or warm-up does, in the process that
makes it. After a fork the child finds, by its pid, that it has no connections yet; what it inherited is let go of
without a byte.

Layer 3.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .confirms import Confirm, settle
from .connection.frames import Inbound
from .connection.pending import Outgoing
from .connection.status import ConnectionStatus
from .connection.subscription import Delivered, Subscription
from .connection.topology import Declaration
from .connections import Connections
from .consumer import Callback, Consumer, check_consumer
from .errors import (
    Closed,
    ConfigurationError,
    DeclarationRefused,
    MessagingError,
    Rejected,
    Unavailable,
    Unroutable,
)
from .lifetime import CONSUME, PUBLISH
from .messages import UNENCODABLE, Message
from .runtime import deadlines, native, worker
from .runtime.mailbox import Mailbox
from .runtime.process import PerProcess
from .runtime.waiting import Completion
from .settings import Settings

if TYPE_CHECKING:
    from .observe.instrument import Instrument

_LASTING: AbstractContextManager[None] = nullcontext()
"""Around the work of a transport that stays open behind it."""


@dataclass(frozen=True, slots=True)
class TransportStatus:
    """What a transport has open in this process."""

    pid: int
    name: str
    connections: tuple[ConnectionStatus, ...]


class Transport:
    """A RabbitMQ transport that is right in every process of a WSGI server.

    `url` may name several hosts; without it, and without `settings`, the environment is read (WSGI_MESSAGING_URL,
    AMQP_URL, RABBITMQ_URL, CLOUDAMQP_URL, WSGI_MESSAGING_<SETTING>). `name` is how the broker shows the application.

    Threads: every method may be called from any thread, greenlet, signal handler or exit handler.
    After fork: the child uses connections of its own; the parent's go on undisturbed.
    Raises: `ConfigurationError`, naming the setting.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None, name: str | None = None) -> None:
        if settings is None:
            environ = {**os.environ, "WSGI_MESSAGING_URL": url} if url else None
            settings = Settings.from_environ(environ)
        elif url is not None:
            settings = settings.with_changes(url=url)
        self.settings = settings.with_changes(app=name) if name else settings
        self.is_one_shot = False
        """True where the process ends with the request (Werkzeug's processes=N): nothing is kept open after a call."""
        self.instrument: Instrument | None = None
        """Is told of each message that goes and comes; `wsgi_messaging.observe.tracing.Tracing`, for example."""
        self._process = PerProcess(lambda: Connections(self.settings), Connections.forget)
        worker.enlist(self)

    def __repr__(self) -> str:
        where = ", ".join(str(broker) for broker in self.settings.brokers)
        status = self.status()
        if not status.connections:
            return f"<Transport {where} NEW>"
        return f"<Transport {where} {'; '.join(map(_summary, status.connections))}>"

    def __enter__(self) -> Transport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Publishing.

    def publish(
        self,
        body: Any,
        routing_key: str,
        exchange: str = "",
        *,
        headers: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        persistent: bool = True,
        mandatory: bool = True,
        expiration: float | None = None,
        priority: int | None = None,
        message_id: str | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        retry: int | None = None,
        properties: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Return when the broker has taken responsibility for the message (a publisher confirm).

        Bytes are sent as they are, text as UTF-8, anything else as JSON. `expiration` is seconds; `properties` may
        hold the other basic properties (type, app_id, user_id, timestamp); a message gets a `message_id` of its own
        unless one is given ("" for none). With `mandatory` a message that no queue takes is an error. A message in
        flight when the connection breaks is sent again, with the same message_id, on the next one (so it may arrive
        twice), unless `retry` is 0.

        Blocks: up to `timeout` seconds (the setting `timeout` by default), and never beyond the deadline of the request
        or block it is called in (`wsgi_messaging.deadline`), whatever the broker does.
        Raises: `Unroutable`, `Rejected`, `InvalidMessage`: it will not get through as it is; `DeclarationRefused`: its
        queue was declared here, is gone, and is refused now; `ConnectFailed`, `ConnectTimeout`, `ConfirmTimeout`,
        `BrokerBlocked`, `ConnectionLost`: no broker in time, `maybe_sent` says whether one may have it; `Closed`.
        """
        message = Message(
            body=body,
            routing_key=routing_key,
            exchange=exchange,
            headers=headers,
            content_type=content_type,
            persistent=persistent,
            mandatory=mandatory,
            expiration=expiration,
            priority=priority,
            message_id=message_id,
            correlation_id=correlation_id,
            reply_to=reply_to,
            retry=retry,
            properties=properties,
        )
        if self.instrument is None:
            self._publish(message, self._deadline(timeout))
            return
        with self.instrument.sending(message) as told:
            self._publish(told, self._deadline(timeout))

    def _publish(self, message: Message, deadline: float) -> None:
        connections = self._process.get()
        try:
            self._publish_one(connections, message, deadline)
        except (Unroutable, Rejected) as exc:
            if exc.reply_code not in (312, 404) or not self._declare_again(connections, message, deadline):
                raise
            self._publish_one(connections, message, deadline)
        finally:
            if self.is_one_shot:
                self._end_one_shot(deadline)

    def _publish_one(self, connections: Connections, message: Message, deadline: float) -> None:
        entry, completion = self._prepare(connections, message, deadline)
        connections.submit(entry, is_alone=True)
        connections.await_confirm(entry, completion)

    def _declare_again(self, connections: Connections, message: Message, deadline: float) -> bool:
        """The route is gone from the broker: make it again if it was declared through us."""
        route = connections.topology.of_route(message.exchange, message.routing_key)
        for declaration in route:
            try:
                connections.request(declaration, deadline)
            except DeclarationRefused as exc:
                if exc.reply_code != 404 and not declaration.is_named_by_broker:  # 404: it was to be there
                    raise
        return bool(route)

    def publish_soon(
        self, body: Any, routing_key: str, exchange: str = "", *, timeout: float | None = None, **options: Any
    ) -> Confirm:
        """Hand a message over and go on; the handle tells later whether the broker confirmed it.

        The arguments are those of `publish`. Blocks: never (in a process that ends with its request, as `publish`).
        Raises: `InvalidMessage`; `Unavailable` when `max_queued` messages wait already; `Closed`.
        """
        message = Message(body=body, routing_key=routing_key, exchange=exchange, **options)
        if self.instrument is None:
            return self._hand_over(message, timeout)
        with self.instrument.sending(message) as told:
            return self._hand_over(told, timeout)

    def _hand_over(self, message: Message, timeout: float | None) -> Confirm:
        connections = self.connections()
        entry, completion = self._prepare(connections, message, self._deadline(timeout))
        connections.submit(entry)
        confirm = Confirm(connections, entry, completion)
        if self.is_one_shot:  # the process may end before the message is out: there is no later
            with suppress(MessagingError):
                confirm.wait()
            self._end_one_shot(entry.deadline)
        return confirm

    def publish_many(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[MessagingError | None]:
        """Publish a batch, pipelined; gives for each message, in order, None or why it was not confirmed.

        Blocks: up to `timeout` seconds for the whole batch. Raises: `Closed`; a message that cannot be encoded is an
        `InvalidMessage` in the list, and the others go out.
        """
        connections = self.connections()
        deadline = self._deadline(timeout)
        window, waiting_bytes = max(1, self.settings.max_queued // 2), 0
        results: list[MessagingError | None] = []
        waiting: list[tuple[int, Outgoing, Completion]] = []
        with self.one_shot():
            for message in messages:
                results.append(None)
                try:
                    told = message if self.instrument is None else self.instrument.created(message)
                    entry, completion = self._prepare(connections, told, deadline)
                    connections.submit(entry)
                    waiting.append((len(results) - 1, entry, completion))
                    waiting_bytes += len(entry.body)
                except Closed:
                    raise
                except MessagingError as exc:
                    results[-1] = exc
                if len(waiting) >= window or waiting_bytes >= self.settings.max_queued_bytes // 2:
                    settle(connections, waiting, results, keep=len(waiting) // 2)
                    waiting_bytes = sum(len(entry.body) for _, entry, _ in waiting)
            settle(connections, waiting, results, keep=0)
        return results

    def _prepare(self, connections: Connections, message: Message, deadline: float) -> tuple[Outgoing, Completion]:
        header, body = message.encoded(connections.next_message_id())
        completion = Completion()
        entry = connections.outgoing(
            (message.exchange, message.routing_key),
            header,
            body,
            deadline=deadline,
            on_done=completion.set,
            mandatory=message.mandatory,
            may_repeat=message.retry != 0,
        )
        return entry, completion

    def _deadline(self, timeout: float | None) -> float:
        seconds = self.settings.timeout if timeout is None else _checked_seconds(timeout)
        deadline = native.monotonic() + seconds
        ends_at = deadlines.ends_at()
        return deadline if ends_at is None or deadline < ends_at else ends_at

    # Declaring and consuming.

    def declare(self, entity: object, *, timeout: float | None = None) -> str:
        """Declare a kombu Exchange or Queue, with its bindings; gives its name. It is declared again if it vanishes.

        Blocks: up to `timeout`. Raises: `DeclarationRefused` (403, 404, 405, 406) with the broker's reason;
        `ConnectFailed`, `ConnectTimeout`, `ConfirmTimeout`.
        """
        return self._declare(entity, self._deadline(timeout))

    def _declare(self, entity: object, deadline: float) -> str:
        from .connection import entities  # kombu's entities cost a third of the package's import time

        connections = self.connections()
        role = CONSUME if entities.is_exclusive(entity) else None

        def carry_out(declaration: Declaration) -> Inbound:
            return connections.request(declaration, deadline, role)

        with self.one_shot():
            return entities.declare(entity, carry_out, connections.topology.record)

    def consume(
        self,
        queue: object,
        callback: Callback,
        prefetch: int | None = None,
        *,
        threads: int = 1,
        exclusive: bool = False,
        auto_ack: bool = True,
        tries: int = 3,
        arguments: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Consumer:
        """Have `callback(delivery)` called for each message of `queue`, on `threads` threads of their own.

        `queue` is the name of a queue, or a kombu Queue, which is declared first.
        A delivery is acknowledged when the callback returns; with `auto_ack=False` the application settles each one,
        whenever it likes and from any thread. A message on which the callback raises goes back to its queue, and is
        rejected (dead-lettered where the queue says so) the `tries`-th time. The consumer comes back
        after a reconnect, and after the broker cancelled it; a queue that the broker named (`Queue("")`) and that is
        gone is replaced by another one with the same bindings. `prefetch` 0 means no limit.

        Blocks: up to `timeout` in all, until the broker has accepted the consumer. Raises: `DeclarationRefused`,
        `ConnectFailed`, `ConnectTimeout`, `ConfirmTimeout`; `ConfigurationError` for a callback that takes other
        arguments, or is `async def`.
        After fork: a consumer stays with the process that started it.
        """
        prefetch = self.settings.prefetch if prefetch is None else prefetch
        check_consumer(callback, threads, prefetch, tries)
        connections = self.connections()
        deadline = self._deadline(timeout)
        name = queue if isinstance(queue, str) else self._declare(queue, deadline)
        subscribed = Completion()
        mailbox: Mailbox[Delivered] = Mailbox()
        try:
            subscription = Subscription(
                name,
                tag=connections.next_message_id(),
                prefetch=prefetch,
                mailbox=mailbox,
                notify=subscribed.set,
                exclusive=exclusive,
                arguments=dict(arguments or {}),
            )
        except UNENCODABLE as exc:
            raise ConfigurationError(f"queue {name!r:.60} or its consumer's arguments: {exc}") from exc
        callback = self._told(callback, name)
        consumer = Consumer(
            subscription, mailbox, callback, threads, auto_ack=auto_ack, tries=tries, on_end=connections.discharge
        )
        loop = connections.subscribe(subscription, subscribed, deadline)
        connections.enlist(consumer)
        consumer.start(loop)
        return consumer

    def _told(self, callback: Callback, queue: str) -> Callback:
        return callback if self.instrument is None else self.instrument.handling(callback, queue)

    # The whole.

    @property
    def longest_wait(self) -> float:
        """Seconds that a call waits for the broker at most, where its caller names no timeout."""
        return self.settings.timeout

    def status(self) -> TransportStatus:
        """What is open in this process, now. Never blocks, never connects."""
        connections = self._process.peek()
        now = native.monotonic()
        loops = connections.loops() if connections else []
        return TransportStatus(os.getpid(), self.settings.app, tuple(loop.status(now) for loop in loops))

    def warm(self) -> None:
        """Start to connect in the background, so that the first publish finds the connection open.

        Blocks: never. Raises: nothing for a broker that is away; the first publish will tell.
        """
        with suppress(Closed, Unavailable):
            self._process.get().loop(PUBLISH)

    def close(self, timeout: float = 5.0) -> bool:
        """End in this process: consumers finish what they handle, accepted messages are confirmed, threads end.

        Blocks: up to `timeout`. False when something was still running then, as it is in a callback of a consumer: the
        end then comes behind the callback, which has `timeout` for that. Closing again, or in a process that
        never used the transport, returns at once.
        """
        connections = self._process.peek()
        return True if connections is None else connections.close(timeout)

    def connections(self) -> Connections:
        """This process's connections, for what is built on a transport (RPC, notifications). Opens nothing."""
        return self._process.get()

    def one_shot(self) -> AbstractContextManager[None]:
        """Where the process ends with the request, nothing stays open behind the block; elsewhere it does nothing."""
        return self._one_shot() if self.is_one_shot else _LASTING

    @contextmanager
    def _one_shot(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._end_one_shot(native.monotonic() + self.settings.timeout)

    def _end_one_shot(self, until: float) -> None:
        self._process.take_out().close(max(0.0, until - native.monotonic()))


def _checked_seconds(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9:
        return value
    raise ConfigurationError(f"timeout: {value!r} is not a number of seconds from 0 up")


def _summary(status: ConnectionStatus) -> str:
    age = "" if status.sent_age is None else f" beat={status.sent_age:.1f}s"
    blocked = " blocked" if status.blocked else ""
    return f"{status.role} {status.state.upper()} in-flight={status.in_flight}{age}{blocked}"
