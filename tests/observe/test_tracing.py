"""One trace from the publisher to the consumer, through a broker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness.waiting import wait_until
from wsgi_messaging import (
    ConfirmTimeout,
    Delivery,
    InvalidMessage,
    Message,
    NotificationListener,
    Notifier,
    Transport,
    Unroutable,
)
from wsgi_messaging.devbroker import DevBroker
from wsgi_messaging.notify import NotificationFilter

pytest.importorskip("opentelemetry.sdk")

from kombu import Queue  # noqa: E402
from opentelemetry import trace  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

from wsgi_messaging.observe.tracing import Tracing  # noqa: E402


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Iterator[Tracing]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Tracing(provider)
    provider.shutdown()


@pytest.fixture
def transport(make: Callable[..., Transport], tracing: Tracing) -> Transport:
    made = make(run_dir=None)
    made.instrument = tracing
    return made


def spans(exporter: InMemorySpanExporter, name: str, count: int = 1) -> list[Any]:
    def found() -> list[Any]:
        return [span for span in exporter.get_finished_spans() if span.name.startswith(name)]

    return wait_until(lambda: found() if len(found()) >= count else [], what=f"{count} spans {name!r}")


def test_the_consumer_goes_on_with_the_publishers_trace(transport: Transport, exporter: InMemorySpanExporter) -> None:
    current: list[Any] = []
    headers: list[Any] = []

    def callback(delivery: Delivery) -> None:
        headers.append(dict(delivery.headers))
        current.append(trace.get_current_span().get_span_context())

    transport.consume(Queue("traced", durable=False), callback)
    transport.publish(b"body", "traced", headers={"mine": 1}, message_id="m-1", correlation_id="c-1")
    (send,), (process,) = spans(exporter, "send"), spans(exporter, "process")
    assert process.context.trace_id == send.context.trace_id
    assert process.parent.span_id == send.context.span_id
    assert current[0].span_id == process.context.span_id, "what the callback calls is under its span"
    assert headers[0]["mine"] == 1 and headers[0]["traceparent"].split("-")[1] == f"{send.context.trace_id:032x}"
    assert (send.kind, process.kind) == (trace.SpanKind.PRODUCER, trace.SpanKind.CONSUMER)
    for span in (send, process):
        assert span.attributes["messaging.system"] == "rabbitmq"
        assert span.attributes["messaging.destination.name"] == "traced"
        assert span.attributes["messaging.rabbitmq.destination.routing_key"] == "traced"
        assert span.attributes["messaging.message.id"] == "m-1"
        assert span.attributes["messaging.message.conversation_id"] == "c-1"
        assert span.attributes["messaging.message.body.size"] == 4
    assert send.attributes["messaging.operation.type"] == "send"
    assert process.attributes["messaging.operation.type"] == "process"


def test_the_applications_own_span_is_the_parent(
    transport: Transport, tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    with tracing._tracer.start_as_current_span("request") as request:
        transport.publish(b"x", "nobody", mandatory=False)
        transport.publish_soon(b"x", "nobody", mandatory=False).wait(5.0)
        transport.publish_many([Message(body=b"x", routing_key="nobody", mandatory=False)] * 2)
    for span in [*spans(exporter, "send nobody", 2), *spans(exporter, "create nobody", 2)]:
        assert span.parent.span_id == request.get_span_context().span_id


def test_each_message_of_a_batch_carries_a_context_of_its_own(
    transport: Transport, exporter: InMemorySpanExporter
) -> None:
    seen: list[str] = []
    transport.consume(Queue("batch", durable=False), lambda delivery: seen.append(delivery.headers["traceparent"]))
    transport.publish_many([Message(body=b"x", routing_key="batch")] * 3)
    wait_until(lambda: len(seen) == 3, what="three messages")
    created = {f"{span.context.span_id:016x}" for span in spans(exporter, "create", 3)}
    assert {text.split("-")[2] for text in seen} == created


@pytest.mark.parametrize(
    "wrong", [{"routing_key": 5}, {"routing_key": {}}, {"headers": 7}, {"headers": [1]}, {"exchange": ["x"]}], ids=repr
)
def test_what_cannot_be_sent_is_refused_as_without_it(transport: Transport, wrong: dict[str, Any]) -> None:
    """A TypeError came out of the middle of a batch, whose rest was not sent."""
    transport.declare(Queue("traced", durable=False))
    good, bad = {"body": b"x", "routing_key": "traced"}, {"body": b"x", "routing_key": "traced", **wrong}
    results = transport.publish_many([Message(**good), Message(**bad), Message(**good)])
    assert [type(result) for result in results] == [type(None), InvalidMessage, type(None)]
    with pytest.raises(InvalidMessage):
        transport.publish(**bad)


def test_a_failure_is_the_spans_and_the_callers(transport: Transport, exporter: InMemorySpanExporter) -> None:
    with pytest.raises(Unroutable):
        transport.publish(b"x", "no-such-queue")
    (send,) = spans(exporter, "send")
    assert send.attributes["error.type"] == "Unroutable" and not send.status.is_ok
    assert not send.events, "no text of an exception, which may hold what others must not see"


def test_a_failing_callback(transport: Transport, exporter: InMemorySpanExporter) -> None:
    def callback(delivery: Delivery) -> None:
        raise LookupError("private")

    transport.consume(Queue("fails", durable=False), callback, tries=1)
    transport.publish(b"x", "fails")
    (process,) = spans(exporter, "process")
    assert process.attributes["error.type"] == "LookupError" and "private" not in process.to_json()


@pytest.mark.parametrize("junk", ["", "junk", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "\u1234" * 500])
def test_a_hostile_context_begins_a_trace_of_its_own(
    transport: Transport, broker: DevBroker, exporter: InMemorySpanExporter, junk: str
) -> None:
    handled: list[bytes] = []
    transport.consume(Queue("hostile", durable=False), lambda delivery: handled.append(delivery.body))
    with Transport(broker.url, name="stranger") as stranger:
        stranger.publish(b"x", "hostile", headers={"traceparent": junk, "tracestate": 7})
    (process,) = spans(exporter, "process")
    assert process.parent is None and handled == [b"x"]


def test_rpc_has_the_context_among_the_keys(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    """As oslo.messaging puts it: `traceparent` in the context, `_context_traceparent` on the wire."""
    with tracing.requesting("call", "topic", "method") as keys:
        assert set(keys) >= {"traceparent"}
    with tracing.serving("topic", "method", {"user": 7, **keys}):
        pass
    (call,), (process,) = spans(exporter, "call topic"), spans(exporter, "process topic")
    assert process.parent.span_id == call.context.span_id
    assert process.attributes["rpc.method"] == "method"


class Images:
    """An endpoint that keeps the span that it runs under, and what it is called with."""

    def __init__(self, error: Exception | None = None) -> None:
        self.seen: list[tuple[int, Any]] = []
        self._error = error

    def info(self, *arguments: Any) -> None:
        self.seen.append((trace.get_current_span().get_span_context().span_id, arguments))
        if self._error is not None:
            raise self._error


@pytest.fixture
def topic(unique: Callable[[str], str]) -> str:
    return unique("topic")


@pytest.mark.parametrize(("driver", "soon"), [("messagingv2", False), ("messaging", False), ("messagingv2", True)])
def test_a_listener_goes_on_with_the_notifiers_trace(
    transport: Transport, tracing: Tracing, exporter: InMemorySpanExporter, topic: str, driver: str, soon: bool
) -> None:
    endpoint = Images()
    notifier = Notifier(transport, "api.host1", topics=[topic], drivers=driver, soon=soon)
    with NotificationListener(transport, [topic], [endpoint]):
        with tracing._tracer.start_as_current_span("request") as request:
            notifier.info({}, "image.create", {"id": 7})
        (process,) = spans(exporter, "process")
    notifier.close()
    (send,) = spans(exporter, "send")
    assert send.parent.span_id == request.get_span_context().span_id
    assert process.context.trace_id == send.context.trace_id
    assert process.parent.span_id == send.context.span_id
    ((span_id, (ctxt, *_rest, metadata)),) = endpoint.seen
    assert span_id == process.context.span_id, "what the endpoint calls is under its span"
    assert ctxt["traceparent"].split("-")[1:3] == [f"{send.context.trace_id:032x}", f"{send.context.span_id:016x}"]
    assert (send.kind, process.kind) == (trace.SpanKind.PRODUCER, trace.SpanKind.CONSUMER)
    assert {span.name for span in exporter.get_finished_spans()} == {
        "request",
        f"send openstack:{topic}.info",
        f"process openstack:{topic}.info",
    }, "one span for the sending and one for the method, none of the messages below them"
    for span in (send, process):
        assert span.attributes["messaging.system"] == "rabbitmq"
        assert span.attributes["messaging.destination.name"] == f"openstack:{topic}.info"
        assert span.attributes["messaging.rabbitmq.destination.routing_key"] == f"{topic}.info"
        assert span.attributes["messaging.message.id"] == metadata["message_id"]
        assert span.attributes["wsgi_messaging.notification.event_type"] == "image.create"
        assert "rpc.method" not in span.attributes
    assert send.attributes["messaging.operation.type"] == "send"
    assert process.attributes["messaging.operation.type"] == "process"


def test_a_notification_to_several_topics_is_one_span(
    transport: Transport, exporter: InMemorySpanExporter, topic: str
) -> None:
    Notifier(transport, "p", topics=[topic, f"{topic}-2"], exchange="nova").error({}, "e", 1)
    (send,) = spans(exporter, "send")
    assert send.name == "send nova" and send.attributes["messaging.batch.message_count"] == 2


def test_the_context_is_where_oslo_messaging_has_it(transport: Transport, broker: DevBroker, topic: str) -> None:
    """In the message, beside the user's context, and not in the AMQP headers, which its messages leave empty."""
    heard: list[Delivery] = []
    Notifier(transport, "p", topics=[topic]).info({}, "e", 1)
    with Transport(broker.url) as plain:
        plain.consume(f"{topic}.info", heard.append)
        wait_until(lambda: heard, what="the notification")
    inner = json.loads(heard[0].json()["oslo.message"])
    assert inner["_context_traceparent"].startswith("00-")
    assert dict(heard[0].headers) == {}


def test_a_notification_of_a_peer(
    transport: Transport, broker: DevBroker, exporter: InMemorySpanExporter, topic: str
) -> None:
    peers = {"junk": None, "00-" + "a" * 32 + "-" + "b" * 16 + "-01": int("b" * 16, 16)}
    with NotificationListener(transport, [topic], [Images()]), Transport(broker.url) as stranger:
        for traceparent in peers:
            inner = {"priority": "INFO", "event_type": 7, "message_id": None, "_context_traceparent": traceparent}
            stranger.publish(json.dumps(inner), f"{topic}.info", "openstack", content_type="application/json")
        found = spans(exporter, "process", 2)
    assert {span.parent and span.parent.span_id for span in found} == set(peers.values())
    assert all("wsgi_messaging.notification.event_type" not in span.attributes for span in found), "7 is none"


def test_a_batch_is_linked_to_each_of_its_notifiers(
    transport: Transport, exporter: InMemorySpanExporter, topic: str
) -> None:
    endpoint, aside = Images(), Images()
    aside.filter_rule = NotificationFilter(event_type="two")  # type: ignore[attr-defined]
    notifier = Notifier(transport, "p", topics=[topic])
    with NotificationListener(transport, [topic], [endpoint, aside], batch_size=3, batch_timeout=5.0):
        for event_type in ("one", "two", "three"):
            notifier.info({}, event_type, {})
        found = sorted(spans(exporter, "process", 2), key=lambda span: len(span.links))
    sent = {span.attributes["wsgi_messaging.notification.event_type"]: span for span in spans(exporter, "send", 3)}
    alone, whole = found
    assert [link.context.span_id for link in whole.links] == [
        sent[event_type].context.span_id for event_type in ("one", "two", "three")
    ]
    assert whole.parent is None and whole.attributes["messaging.batch.message_count"] == 3
    assert (alone.parent.span_id, len(alone.links)) == (sent["two"].context.span_id, 0), "it took one of the three"
    assert endpoint.seen[0][0] == whole.context.span_id


def test_a_failing_endpoint_and_a_notification_that_is_not_confirmed(
    transport: Transport, broker: DevBroker, exporter: InMemorySpanExporter, topic: str
) -> None:
    well, fails = Images(), Images(LookupError("private"))
    notifier = Notifier(transport, "p", topics=[topic], timeout=0.5)
    with NotificationListener(transport, [topic], [well, fails]):
        notifier.info({}, "e", 1)
        found = spans(exporter, "process", 2)
    errors = {span.attributes.get("error.type"): span for span in found}
    assert set(errors) == {None, "LookupError"} and "private" not in errors["LookupError"].to_json()
    broker.hold_confirms()
    try:
        with pytest.raises(ConfirmTimeout):
            notifier.info({}, "e", 2)
    finally:
        broker.release_confirms()
    send = spans(exporter, "send", 2)[-1]
    assert send.attributes["error.type"] == "ConfirmTimeout" and not send.status.is_ok


def test_a_notification_without_an_instrument_has_no_context(make: Callable[..., Transport], topic: str) -> None:
    transport, endpoint = make(run_dir=None), Images()
    with NotificationListener(transport, [topic], [endpoint]):
        Notifier(transport, "p", topics=[topic]).info({}, "e", 1)
        wait_until(lambda: endpoint.seen, what="the notification")
    ((span_id, (ctxt, *_rest)),) = endpoint.seen
    assert (span_id, ctxt) == (0, {})


def test_without_an_instrument_nothing_is_added(make: Callable[..., Transport]) -> None:
    transport, seen = make(run_dir=None), []
    transport.consume(Queue("plain", durable=False), lambda delivery: seen.append(dict(delivery.headers)))
    transport.publish(b"x", "plain")
    wait_until(lambda: seen, what="the message")
    assert seen == [{}]
