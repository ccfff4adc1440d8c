"""Traces by OpenTelemetry's API (the extra `opentelemetry`): a span for each publish and each delivery handled, each
RPC call and execution, each notification sent and each method of an endpoint that it comes to.

    transport.instrument = Tracing()

The context goes with a message as its headers `traceparent` and `tracestate` (W3C Trace Context), and with an RPC
request or a notification as the keys `_context_traceparent`, where oslo.messaging puts and looks for it. Names and
attributes follow the semantic conventions for messaging and for RabbitMQ. Which exporter, and whether any, is the
application's affair.

Layer 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.util.types import AttributeValue

from ..consumer import Callback, Delivery
from ..messages import Message
from ..version import __version__
from .instrument import Heard

EVENT_TYPE = "wsgi_messaging.notification.event_type"
"""An attribute of ours: the conventions have none for it."""


class Tracing:
    """An `Instrument` that makes spans. One may serve several transports; it holds nothing of a process."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("wsgi_messaging", __version__, provider)

    @contextmanager
    def sending(self, message: Message) -> Iterator[Message]:
        """The span `send`: until the confirm for a `publish`, until the hand-over for a `publish_soon`."""
        with self._span(SpanKind.PRODUCER, "send", "send", _destination(message), _facts(message)):
            yield _with_context(message)

    def created(self, message: Message) -> Message:
        """The span `create`, of no length: a batch is sent as a whole."""
        with self._span(SpanKind.PRODUCER, "create", "create", _destination(message), _facts(message)):
            return _with_context(message)

    def handling(self, callback: Callback, queue: str) -> Callback:
        """A callback with the span `process` around it, whose parent is the sender's."""

        def traced(delivery: Delivery) -> object:
            destination = _joined(delivery.exchange, delivery.routing_key, queue)
            facts = _delivery_facts(delivery)
            with self._span(SpanKind.CONSUMER, "process", "process", destination, facts, delivery.headers):
                return callback(delivery)

        return traced

    @contextmanager
    def requesting(self, operation: str, topic: str, method: str) -> Iterator[Mapping[str, str]]:
        """The span of a call or a cast."""
        with self._span(SpanKind.PRODUCER, operation, "send", topic, {"rpc.method": method}):
            keys: dict[str, str] = {}
            propagate.inject(keys)
            yield keys

    @contextmanager
    def serving(self, topic: str, method: str, context: Mapping[str, Any]) -> Iterator[None]:
        """The span of an execution, whose parent is the caller's."""
        with self._span(SpanKind.CONSUMER, "process", "process", topic, {"rpc.method": method}, context):
            yield

    @contextmanager
    def notifying(
        self, exchange: str, routing_keys: Sequence[str], event_type: str, message_id: str
    ) -> Iterator[Mapping[str, str]]:
        """The span `send`: until every topic's message is confirmed, or, of a notifier with `soon`, handed over."""
        destination, facts = _route(exchange, routing_keys)
        facts |= {"messaging.message.id": message_id, EVENT_TYPE: event_type}
        with self._span(SpanKind.PRODUCER, "send", "send", destination, facts):
            keys: dict[str, str] = {}
            propagate.inject(keys)
            yield keys

    def hearing(self, heard: Sequence[Heard]) -> AbstractContextManager[None]:
        """The span `process`, whose parent is the notifier's; for a batch, which has many, it is linked to each."""
        return self._hearing(heard[0]) if len(heard) == 1 else self._hearing_batch(heard)

    @contextmanager
    def _hearing(self, one: Heard) -> Iterator[None]:
        destination = _joined(one.delivery.exchange, one.delivery.routing_key)
        facts = _delivery_facts(one.delivery)
        for name, value in (("messaging.message.id", one.message_id), (EVENT_TYPE, one.event_type)):
            if isinstance(value, str):
                facts[name] = value
        with self._span(SpanKind.CONSUMER, "process", "process", destination, facts, one.context):
            yield

    @contextmanager
    def _hearing_batch(self, heard: Sequence[Heard]) -> Iterator[None]:
        exchange = heard[0].delivery.exchange
        destination, facts = _route(exchange, [one.delivery.routing_key for one in heard])
        facts["messaging.batch.message_count"] = len(heard)
        senders = (trace.get_current_span(propagate.extract(_texts(one.context), Context())) for one in heard)
        links = [Link(context) for sender in senders if (context := sender.get_span_context()).is_valid]
        with self._span(SpanKind.CONSUMER, "process", "process", destination, facts, links=links):
            yield

    @contextmanager
    def _span(
        self,
        kind: SpanKind,
        name: str,
        operation: str,
        destination: str,
        facts: Mapping[str, AttributeValue],
        carrier: Mapping[str, Any] | None = None,
        links: Sequence[Link] = (),
    ) -> Iterator[Span]:
        attributes: dict[str, AttributeValue] = {
            "messaging.system": "rabbitmq",
            "messaging.operation.name": name,
            "messaging.operation.type": operation,
            "messaging.destination.name": destination,
            **facts,
        }
        parent = None if carrier is None else propagate.extract(_texts(carrier))
        with self._tracer.start_as_current_span(
            f"{name} {destination}",
            parent,
            kind,
            attributes,
            links,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as exc:
                # The type only: a span goes to people who may see less than the log's readers.
                span.set_attribute("error.type", type(exc).__qualname__)
                span.set_status(Status(StatusCode.ERROR))
                raise


def _with_context(message: Message) -> Message:
    given: object = message.headers or {}
    if not isinstance(given, Mapping):
        return message  # it is refused where it is encoded
    headers: dict[str, Any] = dict(given)
    propagate.inject(headers)
    return replace(message, headers=headers)


def _texts(carrier: Mapping[Any, Any]) -> dict[str, str]:
    """What of a message's headers can be context; names in lower case, as the specification has them."""
    return {name.lower(): value for name, value in carrier.items() if isinstance(name, str) and isinstance(value, str)}


def _joined(*parts: object) -> str:
    """The destination by the conventions: the parts that there are, or the default exchange's stand-in."""
    texts = [part for part in parts if isinstance(part, str) and part]  # what is no text is refused behind this
    return ":".join(dict.fromkeys(texts)) or "amq.default"


def _route(exchange: str, routing_keys: Sequence[str]) -> tuple[str, dict[str, AttributeValue]]:
    """The destination of several messages to one exchange, and its facts: a key where they share it."""
    if len(set(routing_keys)) == 1:
        key = routing_keys[0]
        return _joined(exchange, key), {"messaging.rabbitmq.destination.routing_key": key}
    return _joined(exchange), {"messaging.batch.message_count": len(routing_keys)}


def _destination(message: Message) -> str:
    return _joined(message.exchange, message.routing_key)


def _facts(message: Message) -> dict[str, AttributeValue]:
    body = message.body
    return _known(
        {
            "messaging.rabbitmq.destination.routing_key": message.routing_key,
            "messaging.message.id": message.message_id,
            "messaging.message.conversation_id": message.correlation_id,
            "messaging.message.body.size": len(body) if isinstance(body, (bytes, bytearray)) else None,
        }
    )


def _delivery_facts(delivery: Delivery) -> dict[str, AttributeValue]:
    return _known(
        {
            "messaging.rabbitmq.destination.routing_key": delivery.routing_key,
            "messaging.message.id": delivery.message_id,
            "messaging.message.conversation_id": delivery.properties.get("correlation_id"),
            "messaging.message.body.size": len(delivery.body),
        }
    )


def _known(facts: Mapping[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    return {name: value for name, value in facts.items() if value not in (None, "")}
