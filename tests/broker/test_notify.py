"""Notifications on the embedded broker and on a real RabbitMQ: the same tests.

Each line of "What the peer does badly" that is about notifications is here: deadlines, retry=0, duplicates, the
exchange that vanishes, stopping, acknowledgements, threads.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest
from kombu import Exchange, Queue

from tests.broker.semantics_client import Address, Client, depth, get_all, ready
from tests.broker.semantics_client import publish as raw_publish
from tests.harness.processes import ROOT, environment, free_port
from tests.harness.secret import PASSWORD, USER, dev_broker
from tests.harness.waiting import wait_until
from wsgi_messaging import (
    BrokerBlocked,
    ConnectFailed,
    ConnectTimeout,
    DeclarationRefused,
    Expired,
    Settings,
    Transport,
    Unavailable,
)
from wsgi_messaging.connection.consuming import ACK_WITHIN
from wsgi_messaging.devbroker import DevBroker
from wsgi_messaging.notify import NotificationListener, NotificationResult, Notifier, buffer
from wsgi_messaging.rpc import QueueFlags

Name = Callable[[str], str]
LATE = 3.0
"""Seconds after its timeout by which everything has ended on a busy machine, too; what waits for something else, like
the 5 s of `connect_timeout`, has not."""
PRIORITIES = ["audit", "debug", "info", "warn", "error", "critical", "sample"]


@pytest.fixture
def transport(broker: Address) -> Iterator[Transport]:
    with Transport(broker.url, name="notifying") as made:
        yield made


@pytest.fixture
def topic(witness: Any, unique: Name) -> Iterator[str]:
    """A topic of an exchange of the same name; everything of it is deleted afterwards."""
    name = unique("notify")
    yield name
    for queue in [f"{name}.{priority}" for priority in PRIORITIES] + [f"{name}-pool"]:
        witness.queue_delete(queue)
    witness.exchange_delete(name)


class Endpoint:
    """Listens to info and error."""

    def __init__(self) -> None:
        self.payloads: list[Any] = []
        self.result: Any = None

    def info(self, ctxt: Any, publisher_id: str, event_type: str, payload: Any, metadata: Any) -> Any:
        self.payloads.append(payload)
        return self.result

    error = info


def notifier_of(transport: Transport, topic: str, **options: Any) -> Notifier:
    return Notifier(transport, "pub", topics=[topic], exchange=topic, **options)


def listener_of(transport: Transport, topic: str, *endpoints: Any, **options: Any) -> NotificationListener:
    return NotificationListener(transport, [topic], endpoints, exchange=topic, **options)


def test_there_and_back(transport: Transport, topic: str) -> None:
    endpoint = Endpoint()
    with listener_of(transport, topic, endpoint) as listener:
        notifier = notifier_of(transport, topic)
        for number in range(20):
            notifier.info({}, "e", number)
        wait_until(lambda: listener.status().handled == 20, what="20 notifications")
    assert sorted(endpoint.payloads) == list(range(20))


def test_what_nobody_listens_to_waits(transport: Transport, topic: str, witness: Any) -> None:
    notifier = notifier_of(transport, topic)
    for priority in PRIORITIES:
        getattr(notifier, priority)({}, "e", priority)
    assert [depth(witness, f"{topic}.{priority}") for priority in PRIORITIES] == [1] * 7
    endpoint = Endpoint()
    with listener_of(transport, topic, endpoint):
        wait_until(lambda: sorted(endpoint.payloads) == ["error", "info"], what="what waited")


def test_the_frame_has_the_peers_properties(transport: Transport, topic: str, witness: Any) -> None:
    notifier_of(transport, topic).info({}, "e", 1)
    (message,) = get_all(witness, f"{topic}.info")
    assert message.properties == {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "application_headers": {},
        "delivery_mode": 2,
        "priority": 0,
    }


def test_requeue_and_pool_and_batch(transport: Transport, topic: str) -> None:
    endpoint, pooled = Endpoint(), Endpoint()
    batches: list[list[int]] = []

    class Batch:
        def error(self, messages: list[dict[str, Any]]) -> None:
            batches.append([message["payload"] for message in messages])

    endpoint.result = NotificationResult.REQUEUE
    with (
        listener_of(transport, topic, endpoint, allow_requeue=True) as listener,
        listener_of(transport, topic, pooled, pool=f"{topic}-pool"),
    ):
        notifier_of(transport, topic).info({}, "e", 1)
        wait_until(lambda: len(endpoint.payloads) >= 3, what="redeliveries")
        endpoint.result = NotificationResult.HANDLED
        wait_until(lambda: listener.status().handled == 1, what="the end of it")
        wait_until(lambda: pooled.payloads == [1], what="the pool's copy")
    notifier = notifier_of(transport, topic)
    for number in range(25):
        notifier.error({}, "e", number)
    with NotificationListener(
        transport, [topic], [Batch()], exchange=topic, batch_size=10, batch_timeout=1.0, pool_size=1
    ) as batching:
        wait_until(lambda: batching.status().handled == 25, what="25 in batches")
    assert [number for batch in batches for number in batch] == list(range(25))
    assert [len(batch) for batch in batches] == [10, 10, 5]


@pytest.mark.parametrize("size", [20_000, 70_000])
def test_a_batch_beyond_what_a_prefetch_can_count(transport: Transport, topic: str, size: int) -> None:
    """Without it `start` failed, and named a prefetch that nobody had set."""
    sizes: list[int] = []

    class Batch:
        def info(self, messages: list[dict[str, Any]]) -> None:
            sizes.append(len(messages))

    with NotificationListener(transport, [topic], [Batch()], exchange=topic, batch_size=size, batch_timeout=0.5):
        notifier = notifier_of(transport, topic)
        for number in range(20):
            notifier.info({}, "e", number)
        wait_until(lambda: sum(sizes) == 20, what="all of them")


def test_a_duplicate_does_not_stall_prefetch_1(transport: Transport, topic: str, witness: Any) -> None:
    """The peer drops it unacknowledged; with prefetch 1 that is the last thing its listener does."""
    endpoint = Endpoint()
    inner = '{\\"priority\\": \\"INFO\\", \\"payload\\": 1, \\"_unique_id\\": \\"same\\"}'
    body = f'{{"oslo.version": "2.0", "oslo.message": "{inner}"}}'
    with listener_of(transport, topic, endpoint, prefetch=1, pool_size=1) as listener:
        options = {"exchange": topic, "content_type": "application/json"}
        raw_publish(witness, f"{topic}.info", body, body, "{", body, **options)
        raw_publish(witness, f"{topic}.info", body, exchange=topic, content_type="text/plain")
        raw_publish(witness, f"{topic}.info", body.replace("same", "another"), **options)
        wait_until(lambda: listener.status().handled == 2, what="the first and the last")
        status = listener.status()
    assert (status.received, status.duplicates, status.rejected) == (6, 2, 2)
    assert depth(witness, f"{topic}.info") == 0


def test_acknowledgements_are_immediate(transport: Transport, topic: str) -> None:
    """With prefetch 1 the next message comes only after the acknowledgement; the peer's waits up to 5 s for a poll."""
    endpoint = Endpoint()
    notifier = notifier_of(transport, topic, soon=True)
    for number in range(300):
        notifier.info({}, "e", number)
    assert notifier.flush(20.0)
    with listener_of(transport, topic, endpoint, prefetch=1, pool_size=1) as listener:
        began_at = time.monotonic()
        wait_until(lambda: listener.status().handled == 300, 30.0, "300 messages", interval=0.005)
        assert time.monotonic() - began_at < 300 * ACK_WITHIN / 2, "one acknowledgement in twice that time"
    assert endpoint.payloads == list(range(300))


def test_an_idle_listener_stops_at_once(transport: Transport, topic: str) -> None:
    class Everything:
        pass

    for priority in PRIORITIES:
        setattr(Everything, priority, lambda *_arguments: None)
    listener = listener_of(transport, topic, Everything())
    listener.start()
    assert len(listener.status().queues) == 7
    began_at = time.monotonic()
    listener.stop()
    assert listener.wait(60.0)
    assert time.monotonic() - began_at < 4.0, "the peer's thread looks every 5 s"


def test_twenty_threads_share_one_connection(transport: Transport, topic: str, witness: Any) -> None:
    notifier = notifier_of(transport, topic)
    threads = [threading.Thread(target=notifier.info, args=({}, "e", number), daemon=True) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    ready(witness, f"{topic}.info", 20)
    assert [connection.role for connection in transport.status().connections] == ["publish"]


@pytest.mark.parametrize("soon", [False, True])
def test_a_queue_that_was_deleted_is_made_again(transport: Transport, topic: str, witness: Any, soon: bool) -> None:
    notifier = notifier_of(transport, topic, soon=soon)
    notifier.info({}, "e", 1)
    assert notifier.flush()
    witness.queue_delete(f"{topic}.info")
    notifier.info({}, "e", 2)
    assert notifier.flush()
    assert notifier.status().sent == 2
    ready(witness, f"{topic}.info", 1)


@pytest.mark.parametrize("soon", [False, True])
def test_an_exchange_that_was_deleted_is_made_and_bound_again(
    transport: Transport, topic: str, witness: Any, soon: bool
) -> None:
    """The peer stays deaf for ever."""
    endpoint = Endpoint()
    with listener_of(transport, topic, endpoint):
        notifier = notifier_of(transport, topic, soon=soon)
        notifier.info({}, "e", 1)
        wait_until(lambda: endpoint.payloads == [1], what="the first")
        witness.exchange_delete(topic)
        notifier.info({}, "e", 2)
        wait_until(lambda: endpoint.payloads == [1, 2], what="the second")
    assert notifier.status().failed == 0


def test_a_listener_outlives_its_queue(transport: Transport, topic: str, witness: Any) -> None:
    endpoint = Endpoint()
    with listener_of(transport, topic, endpoint) as listener:
        witness.queue_delete(f"{topic}.info")
        wait_until(lambda: f"{topic}.info" in listener.status().queues, what="the queue being made again")
        notifier_of(transport, topic).info({}, "e", 1)
        wait_until(lambda: endpoint.payloads == [1], what="the notification")


def test_flags_that_differ_are_named_and_others_go_on(transport: Transport, topic: str, witness: Any) -> None:
    notifier_of(transport, topic, flags=QueueFlags(durable=True)).info({}, "e", 1)
    with Transport(transport.settings.url) as another:
        with pytest.raises(DeclarationRefused, match="set flags=QueueFlags") as refused:
            notifier_of(another, topic).error({}, "e", 1)
        assert refused.value.reply_code == 406
    assert depth(witness, f"{topic}.info") == 1


def test_one_topic_that_is_refused_hides_no_other(transport: Transport, topic: str, witness: Any) -> None:
    witness.queue_declare(f"{topic}.info", durable=False, auto_delete=False, arguments={"x-max-length": 9})
    notifier = Notifier(transport, "pub", topics=[topic, f"{topic}-pool"], exchange=topic)
    try:
        with pytest.raises(DeclarationRefused):
            notifier.info({}, "e", 1)
        assert depth(witness, f"{topic}-pool.info") == 1
    finally:
        witness.queue_delete(f"{topic}-pool.info")


def test_without_declaring_nothing_is_declared(transport: Transport, topic: str, witness: Any) -> None:
    witness.exchange_declare(topic, "topic", durable=False, auto_delete=False)
    notifier_of(transport, topic, declare=False).info({}, "e", "lost")
    witness.queue_declare(f"{topic}.info", durable=False, auto_delete=False)
    witness.queue_bind(f"{topic}.info", topic, f"{topic}.info")
    notifier_of(transport, topic, declare=False).info({}, "e", "kept")
    ready(witness, f"{topic}.info", 1)


AT_EXIT = """
import sys
from wsgi_messaging import Transport
from wsgi_messaging.notify import Notifier
transport = Transport(sys.argv[1])
notifier = Notifier(transport, "pub", topics=[sys.argv[2]], exchange=sys.argv[2], soon=True)
for number in range(200):
    notifier.info({}, "e", number)
"""


def test_the_buffer_is_flushed_when_the_process_ends(broker: Address, topic: str, witness: Any) -> None:
    command = [sys.executable, "-c", AT_EXIT, broker.url, topic]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    ready(witness, f"{topic}.info", 200)


def test_the_connection_begins_with_the_first_notification(
    transport: Transport, topic: str, witness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not when the line's thread gets to it: a process that ends before could start none any more (Python 3.12)."""
    threads: list[Callable[[], None]] = []
    monkeypatch.setattr(buffer, "start_application_thread", lambda _name, run: threads.append(run))
    notifier = notifier_of(transport, topic, soon=True)
    notifier.info({}, "e", 1)
    assert [connection.role for connection in transport.status().connections] == ["publish"]
    threading.Thread(target=threads.pop(), daemon=True).start()
    assert notifier.flush()
    ready(witness, f"{topic}.info", 1)


def test_a_connection_that_cannot_even_begin_fails_no_caller(tmp_path: Path) -> None:
    """Who notifies never fails for the broker's sake: here the file with the authorities is none."""
    (tmp_path / "ca.pem").write_text("nonsense")
    settings = Settings(url=f"amqps://127.0.0.1:{free_port()}//", tls_ca_file=str(tmp_path / "ca.pem"))
    with Transport(settings=settings) as transport:
        notifier = Notifier(transport, "pub", soon=True, timeout=0.2)
        notifier.info({}, "e", 1)
        assert notifier.status().dropped == 0
        notifier.close(0.5)


AFTER_FORK = """
import os, sys
from wsgi_messaging import Transport
from wsgi_messaging.notify import Notifier
transport = Transport(sys.argv[1])
notifier = Notifier(transport, "pub", topics=[sys.argv[2]], exchange=sys.argv[2], soon=True)
notifier.info({}, "e", "parent")
assert notifier.flush()
child = os.fork()
notifier.info({}, "e", "child" if child == 0 else "parent again")
assert notifier.flush()
assert notifier.status().sent == (1 if child == 0 else 2), notifier
assert notifier.close()
transport.close()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_has_a_buffer_of_its_own(broker: Address, topic: str, witness: Any) -> None:
    command = [sys.executable, "-W", "ignore", "-c", AFTER_FORK, broker.url, topic]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    ready(witness, f"{topic}.info", 3)


INHERITED = """
import os, sys
from wsgi_messaging import Transport
from wsgi_messaging.notify import NotificationListener, Notifier
class Endpoint:
    def info(self, *arguments):
        pass
transport = Transport(sys.argv[1])
size = int(sys.argv[3]) or None
listener = NotificationListener(transport, [sys.argv[2]], [Endpoint()], exchange=sys.argv[2], batch_size=size)
listener.start()
child = os.fork()
if child == 0:
    listener.stop()
    assert listener.wait(0.0) and listener.close(0.0)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
Notifier(transport, "pub", topics=[sys.argv[2]], exchange=sys.argv[2]).info({}, "e", 1)
while listener.status().handled < 1:
    assert not listener.wait(0.01)
assert listener.close()
transport.close()
"""


@pytest.mark.parametrize("batch_size", ["0", "1"])
def test_a_forked_child_leaves_the_listener_to_its_parent(broker: Address, topic: str, batch_size: str) -> None:
    """It waits for none of the parent's threads."""
    command = [sys.executable, "-W", "ignore", "-c", INHERITED, broker.url, topic, batch_size]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


KILLED = """
import os, sys, time
from wsgi_messaging import Transport
from wsgi_messaging.notify import NotificationListener
class Endpoint:
    def info(self, ctxt, publisher_id, event_type, payload, metadata):
        time.sleep(0.01)  # so that the kill meets it at work
        os.write(1, b"%d\\n" % payload)
listener = NotificationListener(Transport(sys.argv[1]), [sys.argv[2]], [Endpoint()], exchange=sys.argv[2])
listener.start()
listener.wait()
"""


def test_a_listener_that_is_killed_loses_nothing(
    broker: Address, transport: Transport, topic: str, witness: Any
) -> None:
    """It acknowledges when the endpoint has returned; the peer's RPC server lost 175 of 200."""
    notifier = notifier_of(transport, topic, soon=True)
    for number in range(100):
        notifier.info({}, "e", number)
    assert notifier.flush()
    command = [sys.executable, "-c", KILLED, broker.url, topic]
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        handled = {int(child.stdout.readline()) for _ in range(20)}
    finally:
        child.kill()
        child.wait(20)
    rest = child.stdout.read()  # not communicate(), which passes over what readline() has read ahead
    child.stdout.close()
    handled.update(int(line) for line in rest.split())
    endpoint = Endpoint()
    with listener_of(transport, topic, endpoint):
        wait_until(lambda: handled | set(endpoint.payloads) == set(range(100)), what="all of them")


# A broker that is away, or takes nothing: on the embedded one, whose faults come at once.


@pytest.fixture
def faulty() -> Iterator[DevBroker]:
    with dev_broker() as broker:
        yield broker


def test_a_queue_that_went_with_a_restart_is_there_again(faulty: DevBroker) -> None:
    """Somebody else gets copies, so the broker does not say that the queue is gone: what came was for them alone."""
    with Transport(faulty.url) as transport, Transport(faulty.url) as other:
        notifier = Notifier(transport, "pub", topics=["restarted"])
        notifier.info({}, "e", 0)
        other.declare(Queue("copies", Exchange("openstack", "topic", durable=False), routing_key="restarted.#"))
        with amqp.Connection(f"127.0.0.1:{faulty.port}", USER, PASSWORD) as witness:
            witness.channel().queue_delete("restarted.info")
        faulty.drop_connections()
        wait_until(lambda: transport.status().connections[0].reconnects == 1, what="the loss")
        notifier.info({}, "e", 1)
        heard: list[bytes] = []
        other.consume("restarted.info", lambda delivery: heard.append(delivery.body))
        wait_until(lambda: len(heard) == 1, what="what waits for a listener")


@pytest.mark.parametrize("timeout", [0.5, 1.5])
def test_the_deadline_holds_when_nobody_answers(timeout: float) -> None:
    """The peer was still blocked at 15 s with a timeout of 2."""
    with Transport(f"amqp://127.0.0.1:{free_port()}") as transport:
        began_at = time.monotonic()
        with pytest.raises(ConnectTimeout):
            Notifier(transport, "pub", topics=["a", "b"], timeout=timeout).info({}, "e", 1)
        assert timeout - 0.1 < time.monotonic() - began_at < timeout + LATE


def test_the_deadline_holds_when_the_broker_is_frozen(faulty: DevBroker) -> None:
    with Transport(faulty.url) as transport:
        Notifier(transport, "pub").info({}, "e", 0)  # opens the connection: that needs more than a second now and then
        notifier = Notifier(transport, "pub", timeout=1.0)
        notifier.info({}, "e", 1)
        faulty.pause()
        began_at = time.monotonic()
        with pytest.raises(Expired) as expired:
            notifier.info({}, "e", 2)
        assert time.monotonic() - began_at < 1.0 + LATE
        assert expired.value.maybe_sent
        faulty.resume()


def test_the_deadline_holds_under_an_alarm(faulty: DevBroker) -> None:
    """The peer came back after 61.9 s."""
    with Transport(faulty.url) as transport:
        hasty = Notifier(transport, "pub", retry=0, timeout=30.0)
        hasty.info({}, "e", 1)
        notifier = Notifier(transport, "pub", timeout=1.0)
        notifier.info({}, "e", 1)
        faulty.block("low on memory")
        began_at = time.monotonic()
        with pytest.raises(BrokerBlocked, match="low on memory"):
            notifier.info({}, "e", 2)
        assert time.monotonic() - began_at < 1.0 + LATE
        began_at = time.monotonic()
        with pytest.raises(BrokerBlocked):
            hasty.info({}, "e", 2)
        assert time.monotonic() - began_at < 15.0
        faulty.unblock()


def test_retry_0_does_not_wait_for_a_broker_that_is_away() -> None:
    """The peer blocked for 32.5 s."""
    with Transport(f"amqp://127.0.0.1:{free_port()}") as transport:
        notifier = Notifier(transport, "pub", retry=0, timeout=30.0)
        for _ in range(3):
            began_at = time.monotonic()
            with pytest.raises(ConnectFailed) as failed:
                notifier.info({}, "e", 1)
            assert time.monotonic() - began_at < 15.0
            assert not failed.value.maybe_sent


def test_retry_0_is_sent_when_the_broker_is_there(faulty: DevBroker) -> None:
    with Transport(faulty.url) as transport:
        notifier = Notifier(transport, "pub", retry=0)
        notifier.info({}, "e", 1)
        notifier.info({}, "e", 2)
        assert notifier.status().sent == 2


def test_a_buffer_outlives_a_restart_of_the_broker(faulty: DevBroker) -> None:
    """The queue was transient: it is gone, and made again."""
    endpoint = Endpoint()
    with Transport(faulty.url) as transport:
        notifier = Notifier(transport, "pub", soon=True, timeout=0.5)
        with NotificationListener(transport, ["notifications"], [endpoint]):
            notifier.info({}, "e", 1)
            wait_until(lambda: endpoint.payloads == [1], what="the first")
            faulty.stop()
            notifier.info({}, "e", 2)
            notifier.info({}, "e", 3)
            assert notifier.flush(0.8) is False
            assert notifier.status().waiting == 2
            faulty.start()
            wait_until(lambda: sorted(endpoint.payloads) == [1, 2, 3], 30.0, "the rest")
            assert notifier.status().dropped == notifier.status().failed == 0


def test_a_listener_that_cannot_start_says_so_in_time() -> None:
    with Transport(f"amqp://127.0.0.1:{free_port()}") as transport:
        listener = NotificationListener(transport, ["notifications"], [Endpoint()], timeout=0.5)
        began_at = time.monotonic()
        with pytest.raises((Unavailable, Expired)):
            listener.start()
        assert time.monotonic() - began_at < 0.5 + LATE
        assert listener.close(10.0)


def test_a_batch_that_a_lost_connection_cut_is_made_of_what_comes_again(faulty: DevBroker) -> None:
    """What was collected before can no longer be acknowledged; it comes again and must be in the batch once."""
    batches: list[list[int]] = []

    class Batch:
        def info(self, messages: list[dict[str, Any]]) -> None:
            batches.append([message["payload"] for message in messages])

    with (
        Transport(faulty.url) as transport,
        NotificationListener(transport, ["notifications"], [Batch()], batch_size=5) as listener,
    ):
        notifier = Notifier(transport, "pub")
        for number in range(3):
            notifier.info({}, "e", number)
        wait_until(lambda: listener.status().received == 3, what="a part of a batch")
        faulty.drop_connections()
        wait_until(lambda: listener.status().received == 6, what="the same again")
        for number in range(3, 5):
            notifier.info({}, "e", number)
        wait_until(lambda: listener.status().handled == 5, what="the batch")
        assert [sorted(batch) for batch in batches] == [[0, 1, 2, 3, 4]]
        client = Client(Address("devbroker", faulty.host, faulty.port))
        assert depth(client.channel(), "notifications.info") == 0
        client.close()
