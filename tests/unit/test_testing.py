"""The public test tools: the in-memory transport behaves as a transport with a broker behind it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Exchange, Queue

from tests.harness.processes import ROOT, environment
from tests.harness.waiting import wait_until
from wsgi_messaging import (
    Closed,
    ConfirmTimeout,
    DeclarationRefused,
    Delivery,
    InvalidMessage,
    Message,
    MessagingMiddleware,
    Rejected,
    Transport,
    Unroutable,
    get_transport,
)
from wsgi_messaging.rpc import RPCClient, RPCServer, Target
from wsgi_messaging.testing import MemoryTransport


@pytest.fixture
def transport() -> Iterator[MemoryTransport]:
    made = MemoryTransport()
    yield made
    made.close()


def test_it_is_a_transport(transport: MemoryTransport) -> None:
    assert isinstance(transport, Transport)
    seen = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(get_transport(environ))
        return []

    MessagingMiddleware(app, transport)({"REQUEST_METHOD": "GET"}, print)
    assert seen == [transport]


def test_what_was_published_is_recorded(transport: MemoryTransport) -> None:
    transport.publish({"id": 7}, "orders", mandatory=False, headers={"a": 1}, priority=3)
    (sent,) = transport.published
    assert (sent.exchange, sent.routing_key, sent.json(), sent.headers) == ("", "orders", {"id": 7}, {"a": 1})
    assert sent.properties["priority"] == 3
    assert repr(transport) == "<MemoryTransport published=1>"


def test_routes_are_the_brokers(transport: MemoryTransport) -> None:
    events = Exchange("events", "topic", durable=True)
    transport.declare(Queue("all", events, "#", durable=True))
    transport.declare(Queue("errors", events, "*.error", durable=True))
    transport.publish("1", "a.info", "events")
    transport.publish("2", "a.error", "events")
    assert [each.body for each in transport.waiting("all")] == [b"1", b"2"]
    assert [each.body for each in transport.waiting("errors")] == [b"2"]


def test_copies_go_where_a_broker_sends_them(transport: MemoryTransport) -> None:
    for name in ("orders", "audit"):
        transport.declare(Queue(name))
    transport.publish("1", "orders", headers={"CC": ["audit"]})
    transport.publish("2", "orders", headers={"BCC": ["audit"]})
    assert [(each.body, each.headers) for each in transport.waiting("audit")] == [(b"1", {"CC": ["audit"]}), (b"2", {})]
    assert transport.published[-1].headers == {"BCC": ["audit"]}


def test_nothing_is_published_to_an_internal_exchange(transport: MemoryTransport) -> None:
    with pytest.raises(Rejected, match="internal exchange") as rejected:
        transport.publish("x", "key", "amq.rabbitmq.trace", mandatory=False)
    assert rejected.value.reply_code == 403


def test_what_cannot_be_routed_is_said_as_by_a_broker(transport: MemoryTransport) -> None:
    with pytest.raises(Unroutable) as unroutable:
        transport.publish("x", "nowhere")
    assert unroutable.value.reply_code == 312
    with pytest.raises(Rejected) as rejected:
        transport.publish("x", "key", "no-such-exchange")
    assert rejected.value.reply_code == 404
    with pytest.raises(InvalidMessage):
        transport.publish(object(), "nowhere")
    assert transport.published == []


def test_declarations_that_differ_are_refused(transport: MemoryTransport) -> None:
    transport.declare(Queue("q", durable=True))
    with pytest.raises(DeclarationRefused, match="durable") as refused:
        transport.declare(Queue("q", durable=False))
    assert refused.value.reply_code == 406


def test_a_full_queue_refuses(transport: MemoryTransport) -> None:
    transport.declare(Queue("q", queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"}))
    transport.publish("1", "q")
    with pytest.raises(Rejected):
        transport.publish("2", "q")


def test_publish_soon_and_many(transport: MemoryTransport) -> None:
    transport.declare(Queue("q"))
    confirm = transport.publish_soon("1", "q")
    assert confirm.done
    confirm.wait()
    errors = transport.publish_many([Message(body="2", routing_key="q"), Message(body="3", routing_key="nowhere")])
    assert errors[0] is None
    assert isinstance(errors[1], Unroutable)


def test_a_broker_that_fails_on_demand(transport: MemoryTransport) -> None:
    transport.declare(Queue("q"))
    transport.fail_with(ConfirmTimeout("no answer", maybe_sent=True))
    with pytest.raises(ConfirmTimeout):
        transport.publish("1", "q")
    transport.fail_with(None)
    transport.publish("2", "q")
    assert [each.body for each in transport.published] == [b"2"]


def test_consumers_get_what_comes(transport: MemoryTransport) -> None:
    got: list[Any] = []
    transport.declare(Queue("q"))
    transport.publish({"n": 1}, "q")
    consumer = transport.consume("q", lambda delivery: got.append(delivery.json()))
    transport.publish({"n": 2}, "q")
    assert transport.drain()
    assert got == [{"n": 1}, {"n": 2}]
    assert consumer.cancel()
    transport.publish({"n": 3}, "q")
    assert len(transport.waiting("q")) == 1


def test_a_consumer_of_nothing_is_refused(transport: MemoryTransport) -> None:
    with pytest.raises(DeclarationRefused) as refused:
        transport.consume("no-such-queue", print)
    assert refused.value.reply_code == 404


def test_prefetch_and_redelivery(transport: MemoryTransport) -> None:
    entered, leave = threading.Semaphore(0), threading.Event()
    seen: list[tuple[bytes, bool]] = []

    def slow(delivery: Delivery) -> None:
        seen.append((delivery.body, delivery.redelivered))
        entered.release()
        assert leave.wait(10.0)
        if not delivery.redelivered:
            delivery.requeue()

    transport.declare(Queue("q"))
    for number in range(3):
        transport.publish(str(number), "q")
    transport.consume("q", slow, prefetch=1)
    assert entered.acquire(timeout=5.0)
    assert len(transport.waiting("q")) == 2
    leave.set()
    assert transport.drain()
    assert seen[0] == (b"0", False)
    assert sorted(body for body, redelivered in seen if redelivered) == [b"0", b"1", b"2"]


def test_an_exclusive_consumer_is_the_only_one(transport: MemoryTransport) -> None:
    transport.declare(Queue("q"))
    alone = transport.consume("q", print, exclusive=True)
    with pytest.raises(DeclarationRefused, match="in exclusive use") as caught:
        transport.consume("q", print)
    assert caught.value.reply_code == 403
    alone.cancel()
    transport.consume("q", print)


def test_the_consumer_of_the_highest_priority_is_first(transport: MemoryTransport) -> None:
    got: list[str] = []
    transport.declare(Queue("q"))
    transport.consume("q", lambda _: got.append("low"), arguments={"x-priority": 1})
    transport.consume("q", lambda _: got.append("high"), arguments={"x-priority": 10})
    for _ in range(4):
        transport.publish("x", "q")
        assert transport.drain()
    assert got == ["high"] * 4


def test_a_quorum_queue_counts_the_deliveries(transport: MemoryTransport) -> None:
    counts: list[object] = []

    def failing(delivery: Delivery) -> None:
        counts.append(delivery.headers.get("x-delivery-count"))
        raise ValueError

    transport.declare(Queue("q", queue_arguments={"x-queue-type": "quorum"}))
    transport.publish("x", "q", message_id="")
    consumer = transport.consume("q", failing, tries=3)
    wait_until(lambda: consumer.rejected == 1, what="the rejection")
    assert counts == [0, 1, 2]


def test_a_callback_may_publish(transport: MemoryTransport) -> None:
    transport.declare(Queue("in"))
    transport.declare(Queue("out"))
    transport.consume("in", lambda delivery: transport.publish(delivery.body, "out"))
    transport.publish("x", "in")
    wait_until(lambda: transport.waiting("out"), what="the answer")


def test_many_threads_at_once(transport: MemoryTransport) -> None:
    got: list[bytes] = []
    transport.declare(Queue("q"))
    transport.consume("q", lambda delivery: got.append(delivery.body), threads=4)

    def publish(name: int) -> None:
        for number in range(50):
            transport.publish(f"{name}-{number}", "q")

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert transport.drain()
    assert len(set(got)) == 200


def test_after_close_it_is_closed(transport: MemoryTransport) -> None:
    transport.declare(Queue("q"))
    assert transport.close()
    with pytest.raises(Closed):
        transport.publish("1", "q")


def test_status_and_warm(transport: MemoryTransport) -> None:
    transport.warm()
    (connection,) = transport.status().connections
    assert (connection.role, connection.state) == ("publish", "ready")


def test_calls_work_over_it(transport: MemoryTransport) -> None:
    class Endpoint:
        def add(self, ctxt: dict[str, Any], a: int, b: int) -> int:
            return a + b

    server = RPCServer(transport, Target(topic="sums", server="one"), [Endpoint()])
    server.start()
    assert RPCClient(transport, Target(topic="sums"), timeout=5.0).call({}, "add", a=1, b=2) == 3
    server.stop()
    assert server.wait(5.0)


GREEN = """
from gevent import monkey
monkey.patch_all()
import time
from wsgi_messaging.testing import MemoryTransport
transport = MemoryTransport()
transport.publish("x", "key", mandatory=False)
begun_at = time.monotonic()
assert transport.close(30.0)
print(time.monotonic() - begun_at)
"""


def test_it_closes_at_once_in_a_patched_process() -> None:
    """It took all the seconds that it might, after each test of an application's suite."""
    pytest.importorskip("gevent")
    command = [sys.executable, "-c", GREEN]
    done = subprocess.run(
        command, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 15.0


SUITE = """
import pytest

def test_memory(memory_transport):
    memory_transport.publish("x", "key", mandatory=False)
    assert memory_transport.published[0].body == b"x"

def test_broker(devbroker, devbroker_transport):
    from kombu import Queue
    devbroker_transport.declare(Queue("q"))
    devbroker_transport.publish("x", "q")
    assert devbroker_transport.status().connections[0].broker == f"127.0.0.1:{devbroker.port}"
"""


def test_the_fixtures_serve_another_suite(tmp_path: Any) -> None:
    """In a process of its own, as an application would use them."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["wsgi_messaging.testing"]\n')
    (tmp_path / "test_app.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_time_passes(transport: MemoryTransport) -> None:
    """What is out of time is neither waiting nor kept from the dead-letter queue until somebody publishes again."""
    dead_letter = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "retry"}
    transport.declare(Queue("retry"))
    transport.declare(Queue("delayed", message_ttl=0.05, queue_arguments=dead_letter))
    transport.publish("1", "delayed")
    time.sleep(0.1)  # longer than the queue's time to live
    assert transport.waiting("delayed") == []
    assert [each.body for each in transport.waiting("retry")] == [b"1"]
    got: list[bytes] = []
    transport.consume("retry", lambda delivery: got.append(delivery.body))
    transport.publish("2", "delayed")
    time.sleep(0.1)  # the same
    assert transport.drain()
    assert got == [b"1", b"2"]
