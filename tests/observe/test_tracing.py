"""One trace from the publisher to the consumer, through a broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness.waiting import wait_until
from wsgi_messaging import Delivery, Message, Transport, Unroutable
from wsgi_messaging.devbroker import DevBroker

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

    return wait_until(lambda: found() if len(found()) >= count else [], 5.0, f"{count} spans {name!r}")


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
    wait_until(lambda: len(seen) == 3, 5.0, "three messages")
    created = {f"{span.context.span_id:016x}" for span in spans(exporter, "create", 3)}
    assert {text.split("-")[2] for text in seen} == created


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


def test_rpc_and_notifications_have_the_context_among_the_keys(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    """As oslo.messaging puts it: `traceparent` in the context, `_context_traceparent` on the wire."""
    with tracing.requesting("call", "topic", "method") as keys:
        assert set(keys) >= {"traceparent"}
    with tracing.serving("topic", "method", {"user": 7, **keys}):
        pass
    (call,), (process,) = spans(exporter, "call topic"), spans(exporter, "process topic")
    assert process.parent.span_id == call.context.span_id
    assert process.attributes["rpc.method"] == "method"


def test_without_an_instrument_nothing_is_added(make: Callable[..., Transport]) -> None:
    transport, seen = make(run_dir=None), []
    transport.consume(Queue("plain", durable=False), lambda delivery: seen.append(dict(delivery.headers)))
    transport.publish(b"x", "plain")
    wait_until(lambda: seen, 5.0, "the message")
    assert seen == [{}]
