"""TLS: one client connects, all others are refused before a byte of AMQP is sent.

The good case and the missing client certificate are RabbitMQ's own; certificates that no broker should have are
shown by a TLS server of the test, which notes what it is sent.
"""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.harness.processes import free_port
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.harness.secret import PASSWORD, USER
from tests.harness.waiting import wait_until
from wsgi_messaging import ConnectFailed, Expired, Settings, Transport
from wsgi_messaging.connection.stream import TlsStream
from wsgi_messaging.runtime import native

try:
    import trustme
except ImportError:
    trustme = None

PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
LONG_PAST = datetime.datetime(2019, 1, 1, tzinfo=datetime.timezone.utc)


@dataclass
class Certificates:
    """Files of one authority: its own, a client's."""

    authority: trustme.CA
    folder: Path
    ca_file: str = field(init=False)

    def __post_init__(self) -> None:
        self.ca_file = self._file("ca.pem", self.authority.cert_pem)

    def _file(self, name: str, *blobs: trustme.Blob) -> str:
        path = self.folder / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return str(path)

    def files(self, name: str, issued: trustme.LeafCert) -> tuple[str, str]:
        """(certificate, key) of what was issued."""
        return (
            self._file(f"{name}.pem", *issued.cert_chain_pems),
            self._file(f"{name}.key", issued.private_key_pem),
        )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if trustme is None:
        missing("trustme is not installed")
    return Certificates(trustme.CA(), tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_rabbitmq(certificates: Certificates, rabbitmq: RabbitMQ) -> Iterator[tuple[RabbitMQ, int]]:
    """A RabbitMQ that wants a certificate of its clients, and its TLS port."""
    cert_file, key_file = certificates.files("broker", certificates.authority.issue_cert("localhost", "127.0.0.1"))
    port = free_port()
    broker = RabbitMQ(
        f"listeners.ssl.1 = 127.0.0.1:{port}\n"
        f"ssl_options.cacertfile = {certificates.ca_file}\n"
        f"ssl_options.certfile = {cert_file}\n"
        f"ssl_options.keyfile = {key_file}\n"
        "ssl_options.verify = verify_peer\n"
        "ssl_options.fail_if_no_peer_cert = true\n"
    )
    broker.start()
    yield broker, port
    broker.stop()


def settings(certificates: Certificates, port: int, host: str = "localhost", **changes: object) -> Settings:
    given = {
        "url": f"amqps://{USER}:{PASSWORD}@{host}:{port}//",
        "tls_ca_file": certificates.ca_file,
        "heartbeat": 20.0,
    }
    return Settings.from_mapping({**given, **changes})


def client_files(certificates: Certificates) -> dict[str, object]:
    cert_file, key_file = certificates.files("client", certificates.authority.issue_cert("client.test"))
    return {"tls_cert_file": cert_file, "tls_key_file": key_file}


def test_a_client_that_has_all_it_takes(tls_rabbitmq: tuple[RabbitMQ, int], certificates: Certificates) -> None:
    broker, port = tls_rabbitmq
    broker.declare_queue("tls")
    with Transport(settings=settings(certificates, port, **client_files(certificates))) as transport:
        for body in (b"x", b"y" * 1_000_000):
            transport.publish(body, "tls")
        received: list[int] = []
        consumer = transport.consume("tls", lambda delivery: received.append(len(delivery.body)))
        transport.publish(b"z", "tls")
        wait_until(lambda: len(received) == 3, 10.0, "three deliveries")
        consumer.cancel()
        assert sum(received[:2]) == 1_000_001


def test_without_the_certificate_that_the_broker_wants(
    tls_rabbitmq: tuple[RabbitMQ, int], certificates: Certificates
) -> None:
    broker, port = tls_rabbitmq
    with (
        Transport(settings=settings(certificates, port), name="bare-handed") as transport,
        pytest.raises((ConnectFailed, Expired), match="client certificate"),
    ):
        transport.publish(b"x", "tls", timeout=3.0)
    assert "bare-handed" not in broker.log_text()


class Impostor:
    """A TLS server with a certificate of its own; notes every byte that comes after the handshake."""

    def __init__(self, cert_file: str, key_file: str) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(cert_file, key_file)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self.received = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            with connection:
                connection.settimeout(5)
                try:
                    with self._context.wrap_socket(connection, server_side=True) as secured:
                        self.received += secured.recv(100)
                except OSError:
                    continue

    def close(self) -> None:
        self._listener.close()


def impostor(certificates: Certificates, case: str) -> Impostor:
    authority = certificates.authority
    match case:
        case "wrong host":
            issued = authority.issue_cert("elsewhere.test")
        case "expired":
            issued = authority.issue_cert("localhost", not_before=LONG_PAST, not_after=PAST)
        case "unknown authority":
            issued = trustme.CA().issue_cert("localhost")
        case _:
            issued = authority.issue_cert("localhost")
    return Impostor(*certificates.files(case.replace(" ", "-"), issued))


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("wrong host", "[Hh]ostname mismatch"),
        ("expired", "expired"),
        ("unknown authority", "unable to get local issuer certificate|self.signed"),
    ],
)
def test_a_broker_that_is_not_whom_we_meant(certificates: Certificates, case: str, reason: str) -> None:
    server = impostor(certificates, case)
    with Transport(settings=settings(certificates, server.port)) as transport:
        with pytest.raises(ConnectFailed, match=reason) as raised:
            transport.publish(b"x", "tls", timeout=20.0)
        assert raised.value.is_permanent
        assert not raised.value.maybe_sent
        assert "tls_ca_file" in str(raised.value)
    server.close()
    assert server.accepted >= 1
    assert server.received == b""


def test_the_impostor_notes_what_it_is_sent(certificates: Certificates) -> None:
    """Without this the tests above could not fail."""
    server = impostor(certificates, "good")
    trusting = settings(certificates, server.port, connect_timeout=1.5)
    with Transport(settings=trusting) as transport, pytest.raises(Expired):
        transport.publish(b"x", "tls", timeout=2.0)
    server.close()
    assert server.received.startswith(b"AMQP")


def test_checking_can_be_turned_off(certificates: Certificates) -> None:
    server = impostor(certificates, "wrong host")
    unchecked = settings(certificates, server.port, tls_verify=False, connect_timeout=1.5)
    with Transport(settings=unchecked) as transport, pytest.raises(Expired):
        transport.publish(b"x", "tls", timeout=2.0)
    server.close()
    assert server.received.startswith(b"AMQP")


def test_each_host_is_checked_by_its_own_name(tls_rabbitmq: tuple[RabbitMQ, int], certificates: Certificates) -> None:
    """Failover: the first host shows a certificate for another name, the second one is good."""
    server = impostor(certificates, "wrong host")
    good = tls_rabbitmq[1]
    url = f"amqps://{USER}:{PASSWORD}@localhost:{server.port}//;amqps://{USER}:{PASSWORD}@127.0.0.1:{good}//"
    for _attempt in range(3):  # the order of the hosts is by chance
        changed = settings(certificates, good, url=url, **client_files(certificates))
        with Transport(settings=changed) as transport:
            transport.publish(b"x", "tls", mandatory=False)
            assert transport.status().connections[0].broker == f"127.0.0.1:{good}"
    server.close()
    assert server.received == b""


def test_what_came_before_the_end_is_given_first(certificates: Certificates) -> None:
    """Confirms, or the broker's reason to close, and its close_notify in one read."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(0.5)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificates.files("plain", certificates.authority.issue_cert("localhost")))

    def say_and_leave() -> None:
        with server.wrap_socket(theirs, server_side=True) as secured:
            secured.sendall(b"frames")
            with suppress(OSError):
                secured.unwrap()  # which waits for an answer that does not come

    leaving = threading.Thread(target=say_and_leave)
    leaving.start()
    client = ssl.create_default_context(cafile=certificates.ca_file)
    stream = TlsStream(native.Socket(fileno=ours.detach()), client, "localhost", ssl)
    wait_until(stream.shake_hands, what="the handshake")
    leaving.join()
    buffer = memoryview(bytearray(100))
    assert stream.recv_into(buffer) == 6 and bytes(buffer[:6]) == b"frames"
    assert stream.has_pending
    with pytest.raises(EOFError, match="closed the TLS connection"):
        stream.recv_into(buffer)
    stream.close()


@pytest.mark.parametrize("name", [".rabbit.example", "x" * 64 + ".example", "a\0b"])
def test_a_name_that_no_certificate_can_have(certificates: Certificates, name: str) -> None:
    impostor = Impostor(*certificates.files("plain", certificates.authority.issue_cert("localhost")))
    settings = Settings(
        url=f"amqps://localhost:{impostor.port}//", tls_ca_file=certificates.ca_file, tls_server_name=name
    )
    with Transport(settings=settings) as transport:
        for _ in range(2):
            with pytest.raises(ConnectFailed, match="check tls_server_name"):
                transport.publish("x", "q")


def test_files_that_cannot_be_used_are_named(certificates: Certificates) -> None:
    with (
        Transport(settings=settings(certificates, 1, tls_ca_file="/no/such/file")) as transport,
        pytest.raises(ValueError, match="/no/such/file"),
    ):
        transport.publish(b"x", "tls")
