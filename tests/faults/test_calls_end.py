"""Under every fault every public call ends within its timeout, with an error that names cause and remedy.

"Before" means that the fault is there when the first connection is opened, "amid" that it begins on an open one.
An error that says `maybe_sent=False` is held against the broker: the message must not be there.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.faults.calls import PATIENT, PUBLISHING, TIMEOUT, Callers, Outcome, errors_of
from tests.harness.processes import free_port
from tests.harness.proxy import DOWN, UP, FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.waiting import stays, wait_until
from wsgi_messaging import (
    BrokerBlocked,
    ConfirmTimeout,
    ConnectFailed,
    ConnectTimeout,
    MessagingError,
    Settings,
    Transport,
)


def callers(url: str, **settings: object) -> Callers:
    made = Settings(url=url, app="faults").with_changes(**{"connect_timeout": 0.4, **settings})
    return Callers(lambda: Transport(settings=made))


def texts(errors: dict[str, BaseException]) -> str:
    return "\n".join(str(error) for error in errors.values())


def assert_truthful(outcomes: dict[str, Outcome], rabbitmq: RabbitMQ, queue: str) -> None:
    """Nothing that `maybe_sent=False` was said of is in the queue."""
    received = {message["payload"].split()[0] for message in rabbitmq.messages(queue)}
    lies = [name for name in PUBLISHING if not outcomes[name].maybe_sent and outcomes[name].error and name in received]
    assert not lies, f"on the broker although maybe_sent is False: {lies}"


def assert_nothing_sent(outcomes: dict[str, Outcome]) -> None:
    unsure = [str(outcome) for outcome in outcomes.values() if outcome.maybe_sent]
    assert not unsure, f"there was never a connection, and these say maybe_sent: {unsure}"


@pytest.fixture
def http_server() -> Iterator[int]:
    """A port that answers anything with an HTTP error, as nginx does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _address = listener.accept()
            except OSError:
                return
            with peer:
                peer.recv(1024)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(2.0)


# Before: the first connection meets the fault.


def test_connection_refused() -> None:
    port = free_port()
    outcomes = callers(f"amqp://127.0.0.1:{port}//").run("q")
    errors = errors_of(outcomes, ConnectTimeout)
    assert all(f"127.0.0.1:{port}" in str(error) and "refused" in str(error) for error in errors.values())
    assert_nothing_sent(outcomes)


def test_silent_port(proxy: FaultProxy) -> None:
    proxy.silent()
    outcomes = callers(proxy.url()).run("q", 3 * TIMEOUT)
    errors = errors_of(outcomes, ConnectTimeout)
    assert all(str(proxy.port) in str(error) and "is the broker alive" in str(error) for error in errors.values())
    assert_nothing_sent(outcomes)


def test_silent_port_for_longer_than_the_call_may_take(proxy: FaultProxy) -> None:
    proxy.silent()
    outcomes = callers(proxy.url(), connect_timeout=30.0).run("q")
    errors = errors_of(outcomes, ConnectTimeout)
    assert all(str(proxy.port) in str(error) for error in errors.values())
    assert_nothing_sent(outcomes)


def test_http_server(http_server: int) -> None:
    outcomes = callers(f"amqp://127.0.0.1:{http_server}//", connect_timeout=PATIENT).run("q", PATIENT)
    errors = errors_of(outcomes, ConnectFailed)
    assert all("web server" in str(error) and str(http_server) in str(error) for error in errors.values())
    assert max(outcome.seconds for outcome in outcomes.values()) < PATIENT / 2, "said at once, not at the deadline"
    assert_nothing_sent(outcomes)


def test_black_hole(proxy: FaultProxy) -> None:
    proxy.freeze()
    outcomes = callers(proxy.url()).run("q")
    errors_of(outcomes, ConnectTimeout)
    assert_nothing_sent(outcomes)


def test_wrong_password(proxy: FaultProxy) -> None:
    outcomes = callers(proxy.url(password="marker-password"), connect_timeout=PATIENT).run("q", PATIENT)
    errors = errors_of(outcomes, ConnectFailed)
    assert all("check user name and password" in str(error) and "'guest'" in str(error) for error in errors.values())
    assert "marker-password" not in texts(errors)
    assert_nothing_sent(outcomes)


def test_no_such_virtual_host(proxy: FaultProxy) -> None:
    outcomes = callers(proxy.url(vhost="no-such"), connect_timeout=PATIENT).run("q", PATIENT)
    errors = errors_of(outcomes, ConnectFailed)
    assert all(
        "virtual host 'no-such'" in str(error) and "check that it exists" in str(error) for error in errors.values()
    )
    assert_nothing_sent(outcomes)


def test_one_byte_a_second(proxy: FaultProxy) -> None:
    proxy.slow(1)
    outcomes = callers(proxy.url()).run("q")
    errors_of(outcomes, ConnectTimeout)
    assert_nothing_sent(outcomes)


def test_no_such_host_name() -> None:
    outcomes = callers("amqp://no-such-host.invalid//").run("q")
    errors = errors_of(outcomes, ConnectTimeout)
    assert all("no-such-host.invalid" in str(e) and "spelling" in str(e) for e in errors.values())
    assert_nothing_sent(outcomes)


# Amid: the connection is open.


def test_black_hole_amid(proxy: FaultProxy, rabbitmq: RabbitMQ, queue: str) -> None:
    under_test = callers(proxy.url())
    under_test.connect(queue)
    proxy.freeze()
    outcomes = under_test.run(queue)
    errors = errors_of(outcomes, ConfirmTimeout)
    assert all(str(proxy.port) in str(error) and "overloaded or hung" in str(error) for error in errors.values())
    assert all(outcomes[name].maybe_sent for name in PUBLISHING), "the bytes are on their way"
    assert_truthful(outcomes, rabbitmq, queue)


def test_answers_get_lost_amid(proxy: FaultProxy, rabbitmq: RabbitMQ, queue: str) -> None:
    """The broker has every message and nobody learns of it: saying maybe_sent=False here would be the lie."""
    under_test = callers(proxy.url())
    under_test.connect(queue)
    proxy.freeze(DOWN)
    outcomes = under_test.run(queue)
    errors_of(outcomes, ConfirmTimeout)
    assert all(outcomes[name].maybe_sent for name in PUBLISHING)
    received = {message["payload"].split()[0] for message in rabbitmq.messages(queue)}
    assert received >= set(PUBLISHING)


def test_one_byte_a_second_amid(proxy: FaultProxy, rabbitmq: RabbitMQ, queue: str) -> None:
    under_test = callers(proxy.url())
    under_test.connect(queue)
    proxy.slow(1)
    outcomes = under_test.run(queue)
    errors_of(outcomes, ConfirmTimeout)
    proxy.heal()
    assert_truthful(outcomes, rabbitmq, queue)


@pytest.mark.parametrize("direction", [DOWN, UP])
def test_half_close_amid_is_survived(proxy: FaultProxy, rabbitmq: RabbitMQ, queue: str, direction: str) -> None:
    """The open connections are finished off one-sidedly; new ones work: no caller may see it."""
    under_test = callers(proxy.url(), connect_timeout=PATIENT)
    under_test.connect(queue)
    proxy.half_close(direction)  # type: ignore[arg-type]
    outcomes = under_test.run(queue, PATIENT)
    failed = [str(outcome) for outcome in outcomes.values() if outcome.error is not None]
    assert not failed
    received = {message["payload"].split()[0] for message in rabbitmq.messages(queue)}
    assert received >= set(PUBLISHING)


def test_reset_amid_is_survived(proxy: FaultProxy, queue: str) -> None:
    under_test = callers(proxy.url(), connect_timeout=PATIENT)
    under_test.connect(queue)
    assert proxy.cut() == len(under_test.transports) + 1, "the one that consumes has declared its queue, too"
    failed = [str(outcome) for outcome in under_test.run(queue, PATIENT).values() if outcome.error is not None]
    assert not failed


def test_reset_amid_a_frame_then_refused(proxy: FaultProxy, rabbitmq: RabbitMQ, queue: str) -> None:
    """Half of each request has passed when the connection is reset, and no new one opens."""
    under_test = callers(proxy.url())
    under_test.connect(queue)
    proxy.slow(20)
    proxy.refuse()
    killer = threading.Timer(TIMEOUT / 2, proxy.cut)
    killer.start()
    outcomes = under_test.run(queue)
    killer.join()
    errors = errors_of(outcomes, ConfirmTimeout, ConnectTimeout)
    assert all(outcomes[name].maybe_sent for name in PUBLISHING), texts(errors)
    assert_truthful(outcomes, rabbitmq, queue)


def test_without_retry_a_reset_is_an_error_at_once(proxy: FaultProxy, queue: str) -> None:
    with Transport(proxy.url(), name="faults") as transport:
        transport.publish("before", queue)
        proxy.freeze(DOWN)
        confirm = transport.publish_soon("once", queue, retry=0, timeout=30.0)
        wait_until(lambda: transport.status().connections[0].in_flight == 1, what="the message on its way")
        proxy.cut()
        proxy.heal()
        with pytest.raises(MessagingError, match="broke before the confirm") as caught:
            confirm.wait()
        assert caught.value.maybe_sent
        assert type(caught.value).__name__ == "ConnectionLost"


# The broker itself.


@pytest.fixture(scope="module")
def mortal() -> Iterator[RabbitMQ]:
    """A broker of this module's own: paused, alarmed and at the end killed."""
    broker = RabbitMQ()
    try:
        yield broker.start()
    finally:
        broker.stop()


@pytest.fixture
def mortal_queue(mortal: RabbitMQ, unique: Callable[[str], str]) -> str:
    name = unique("mortal")
    mortal.declare_queue(name)
    return name


def test_broker_stopped_amid(mortal: RabbitMQ, mortal_queue: str) -> None:
    """SIGSTOP: the kernel acknowledges, nobody answers."""
    under_test = callers(mortal.url)
    under_test.connect(mortal_queue)
    mortal.pause()
    try:
        outcomes = under_test.run(mortal_queue)
    finally:
        mortal.resume()
    errors_of(outcomes, ConfirmTimeout)
    assert all(outcomes[name].maybe_sent for name in PUBLISHING)


def test_memory_alarm(mortal: RabbitMQ, mortal_queue: str) -> None:
    under_test = callers(mortal.url)
    under_test.connect(mortal_queue)
    mortal.limit_memory("{absolute, 1000}")
    try:
        outcomes = under_test.run(mortal_queue, 3 * TIMEOUT)
    finally:
        mortal.limit_memory("0.4")
    for name in PUBLISHING:
        error = outcomes[name].error
        assert isinstance(error, BrokerBlocked), str(outcomes[name])
        assert "free its memory" in str(error)
    assert outcomes["declare"].error is None, "RabbitMQ blocks a connection when it publishes, not before"
    assert outcomes["consume"].error is None, "an alarm does not stop those that consume"
    assert_truthful(outcomes, mortal, mortal_queue)


def test_fresh_process_during_an_alarm_gets_its_message_through_when_it_ends(
    mortal: RabbitMQ, mortal_queue: str
) -> None:
    mortal.limit_memory("{absolute, 1000}")
    with Transport(mortal.url, name="faults") as transport:
        confirm = transport.publish_soon("patient", mortal_queue, timeout=20.0)
        wait_until(lambda: transport.status().connections[0].blocked, what="connection.blocked")
        assert transport.status().connections[0].state == "blocked"
        mortal.limit_memory("0.4")
        confirm.wait()
        assert transport.status().connections[0].blocked is None


def test_a_long_alarm_ends_no_connection(mortal: RabbitMQ, mortal_queue: str) -> None:
    """RabbitMQ reads nothing from who publishes meanwhile, for as long as it takes: no sign that it is dead."""
    with Transport(settings=Settings(url=mortal.url, app="faults", heartbeat=1.0)) as transport:
        transport.publish("warm", mortal_queue)
        mortal.limit_memory("{absolute, 1000}")
        try:
            more_than_the_kernels_take = [bytes(1_000_000)] * 20
            confirms = [transport.publish_soon(body, mortal_queue, timeout=60.0) for body in more_than_the_kernels_take]
            wait_until(lambda: transport.status().connections[0].blocked, what="connection.blocked")
            stays(lambda: not transport.status().connections[0].reconnects, 8.0, "the connection")
        finally:
            mortal.limit_memory("0.4")
        for confirm in confirms:
            confirm.wait()
        assert not transport.status().connections[0].reconnects


def test_broker_killed_amid(mortal: RabbitMQ, mortal_queue: str) -> None:
    """The last of this module: SIGKILL, and nobody comes back."""
    under_test = callers(mortal.url)
    under_test.connect(mortal_queue)
    killer = threading.Timer(0.1, mortal.kill)
    mortal.pause()  # so that every call is under way, unanswered, when the broker dies
    killer.start()
    outcomes = under_test.run(mortal_queue)
    killer.join()
    errors = errors_of(outcomes, ConfirmTimeout, ConnectTimeout)
    assert all(outcomes[name].maybe_sent for name in PUBLISHING), texts(errors)
