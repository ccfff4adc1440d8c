"""`Notifier`: tells what happened.

Layer 4: imports errors, transport, oslo, rpc.serializer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigurationError, InvalidMessage
from ..rpc.flags import QueueFlags
from ..rpc.serializer import NoOpSerializer, Serializer
from ..transport import Transport
from .buffer import Buffer
from .drivers import (
    Driver,
    LogDriver,
    MessagingDriver,
    NoopDriver,
    RoutingDriver,
    Rules,
    named_drivers,
    notify_each,
)
from .notification import new_message
from .sending import NotifierStatus, Sender, checked_count, checked_seconds

logger = logging.getLogger("wsgi_messaging.notify")

DRIVERS = ("messaging", "messagingv2", "log", "noop", "routing")
BUFFER_SIZE = 1000


class Notifier:
    """Sends notifications in oslo.messaging's format, to each topic and by each driver.

    `drivers` are names (messagingv2, messaging, log, noop, routing) or objects with a `notify` of their own; routing
    wants its rules in `routing`. `flags` are those of the exchange and the queues; they must equal those of the
    other parties, or the broker answers 406. The defaults are oslo.messaging's; RabbitMQ refuses them from 4.3 on,
    and there all parties set `durable` (amqp_durable_queues) or `quorum`. `declare=False` is for who may not
    configure the broker: then nothing is declared, and what no queue takes is lost. `retry`: 0 for one attempt, at
    once; None or -1 until the time is over.

    With `soon` a notification waits in a buffer of `buffer_size` and a thread sends it, so that `info` and its like
    never wait and never fail for the broker's sake: `status()` counts what was sent, failed and dropped. What is in
    the buffer is flushed by `close`, and at the end of the process.

    Threads: every method from any thread or greenlet. After fork: the child has a buffer of its own.
    Raises: `ConfigurationError`, naming the argument.
    """

    def __init__(
        self,
        transport: Transport,
        publisher_id: str | None = None,
        *,
        topics: Sequence[str] = ("notifications",),
        drivers: str | Driver | Sequence[str | Driver] = ("messagingv2",),
        exchange: str = "openstack",
        flags: QueueFlags | None = None,
        declare: bool = True,
        retry: int | None = None,
        serializer: Serializer | None = None,
        timeout: float | None = None,
        soon: bool = False,
        buffer_size: int = BUFFER_SIZE,
        routing: Rules | None = None,
    ) -> None:
        names = checked_topics(topics)
        if retry is not None:
            checked_count("retry", retry, -1)
        checked_count("buffer_size", buffer_size, 1)
        checked_seconds("timeout", timeout)
        self.publisher_id = publisher_id
        self.retry = retry
        self.is_soon = soon
        self._serializer: Serializer = serializer or NoOpSerializer()
        self._sender = Sender(transport, exchange, flags or QueueFlags(), declare=declare, timeout=timeout)
        if soon:
            _ = transport.settings  # `current_transport` has none here, and never in the buffer's thread: told now
        self._buffer = Buffer(self._sender, buffer_size) if soon else None
        self._drivers = self._made(drivers, names, routing)

    def __repr__(self) -> str:
        status = self.status()
        names = ", ".join(name for name, _driver in self._drivers)
        return (
            f"<Notifier {self.publisher_id} {names} sent={status.sent} failed={status.failed} "
            f"dropped={status.dropped} waiting={status.waiting}>"
        )

    def _made(
        self, wanted: str | Driver | Sequence[str | Driver], topics: tuple[str, ...], routing: Rules | None
    ) -> list[tuple[str, Driver]]:
        listed = wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted]
        return [
            (each, self._named(each, topics, routing)) if isinstance(each, str) else (type(each).__name__, each)
            for each in listed
        ]

    def _named(self, name: str, topics: tuple[str, ...], routing: Rules | None) -> Driver:
        match name:
            case "messagingv2" | "messaging":
                version = "2.0" if name == "messagingv2" else "1.0"
                return MessagingDriver(self._sender, topics, version, self._buffer)
            case "log":
                return LogDriver()
            case "noop":
                return NoopDriver()
            case "routing":
                rules = routing or {}
                names = {driver for driver, _criteria in named_drivers(rules)}
                if "routing" in names:
                    raise ConfigurationError("routing: it cannot route to itself")
                return RoutingDriver(rules, {driver: self._named(driver, topics, None) for driver in names})
        raise ConfigurationError(f"drivers: no driver {name!r}; there are {', '.join(DRIVERS)}")

    def prepare(self, publisher_id: str | None = None, retry: int | None = None) -> Notifier:
        """A notifier with another `publisher_id` or `retry`, which shares everything else, the buffer included."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.publisher_id = self.publisher_id if publisher_id is None else publisher_id
        other.retry = self.retry if retry is None else retry
        return other

    def is_enabled(self) -> bool:
        """False where nothing that is notified goes anywhere."""
        return any(not isinstance(driver, NoopDriver) for _name, driver in self._drivers)

    def audit(self, ctxt: Any, event_type: str, payload: Any) -> None:
        """Notify at priority AUDIT; see `info`."""
        self._notify(ctxt, event_type, payload, "AUDIT")

    def debug(self, ctxt: Any, event_type: str, payload: Any) -> None:
        """Notify at priority DEBUG; see `info`."""
        self._notify(ctxt, event_type, payload, "DEBUG")

    def info(self, ctxt: Any, event_type: str, payload: Any) -> None:
        """Notify at priority INFO. Returns when every topic's message is confirmed, or, with `soon`, at once.

        Of `ctxt` only what its `redacted_copy()` gives travels: a plain mapping, which may hold credentials, does
        not, as in oslo.messaging.

        Blocks: up to `timeout` seconds in all; with `soon` never.
        Raises: `InvalidMessage` for what JSON cannot hold. Without `soon` also why a message was not confirmed
        (`Unavailable`, `Expired`, `NotDelivered`, `DeclarationRefused`); `NotificationFailed` when several failed.
        """
        self._notify(ctxt, event_type, payload, "INFO")

    def warn(self, ctxt: Any, event_type: str, payload: Any) -> None:
        """Notify at priority WARN; see `info`."""
        self._notify(ctxt, event_type, payload, "WARN")

    warning = warn

    def error(self, ctxt: Any, event_type: str, payload: Any) -> None:
        """Notify at priority ERROR; see `info`."""
        self._notify(ctxt, event_type, payload, "ERROR")

    def critical(self, ctxt: Any, event_type: str, payload: Any) -> None:
        """Notify at priority CRITICAL; see `info`."""
        self._notify(ctxt, event_type, payload, "CRITICAL")

    def sample(self, ctxt: Any, event_type: str, payload: Any) -> None:
        """Notify at priority SAMPLE: for what happens often and is small; see `info`."""
        self._notify(ctxt, event_type, payload, "SAMPLE")

    def _notify(self, ctxt: Any, event_type: str, payload: Any, priority: str) -> None:
        payload = self._serializer.serialize_entity(ctxt, payload)
        context = self._serializer.serialize_context(_redacted(ctxt))
        message = new_message(self.publisher_id, event_type, priority, payload)
        notify_each(self._drivers, context, message, priority, self.retry)

    def status(self) -> NotifierStatus:
        """What became of the messages of this notifier, and of those prepared from it, in this process."""
        tally = self._sender.tally
        waiting = 0 if self._buffer is None else self._buffer.waiting
        return NotifierStatus(tally.sent, tally.failed, tally.dropped, waiting)

    def flush(self, timeout: float = 5.0) -> bool:
        """Blocks: until what is in the buffer was sent or given up, up to `timeout`. False when it was not."""
        return self._buffer is None or self._buffer.flush(timeout)

    def close(self, timeout: float = 5.0) -> bool:
        """Send what is in this process's buffer and take no more.

        Blocks: up to `timeout`. False when some was not sent.
        """
        return self._buffer is None or self._buffer.close(timeout)


def checked_topics(topics: object) -> tuple[str, ...]:
    """The names of topics. Raises: `ConfigurationError`."""
    if isinstance(topics, Sequence) and not isinstance(topics, str) and topics:
        names = tuple(topic for topic in topics if isinstance(topic, str) and topic)
        if len(names) == len(topics):
            return names
    raise ConfigurationError(f"topics: {topics!r} is not a list of names")


def _redacted(ctxt: Any) -> Any:
    redacted_copy = getattr(ctxt, "redacted_copy", None)
    if redacted_copy is None:
        if ctxt is None or isinstance(ctxt, Mapping):
            return {}
        logger.warning("the context of a notification (%s) has no redacted_copy(): left out", type(ctxt).__name__)
        return {}
    copy = redacted_copy()
    if not isinstance(copy, Mapping) and not hasattr(copy, "to_dict"):
        raise InvalidMessage(f"ctxt: redacted_copy() of {type(ctxt).__name__} gives no mapping and has no to_dict()")
    return copy
