"""Open a connection: addresses, TCP, TLS, SASL, AMQP's handshake; and say in our words why it did not open.

py-amqp leads the handshake, over our reader and writer, which its constructor takes; nothing in it blocks beyond
the deadline, because every wait goes through the `wait` of the caller. Errors of py-amqp, ssl and the operating
system are translated here and nowhere else. Once open, a `Link` is a stream, a reader and what was agreed.

Layer 1.
"""

from __future__ import annotations

import errno
import logging
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import amqp
from amqp import sasl

from ..errors import ConfigurationError, ConnectFailed, MessagingError
from ..runtime import native
from .frames import FrameError, FrameReader, handshake_reader, handshake_writer
from .hosts import Broker
from .stream import PlainStream, Stream, TlsStream

_AMQP_LOGGER = logging.getLogger("amqp")
_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"

Wait = Callable[[native.Socket, int, float], None]
"""wait(sock, poll events, deadline): returns when one of the events is there; raises TimeoutError at the deadline and
`Interrupted` when the connection is no longer wanted."""


class Interrupted(Exception):
    """The connection is to be closed while it is still being opened."""


def _permanent(text: str) -> ConnectFailed:
    return ConnectFailed(text, is_permanent=True)


@dataclass(frozen=True, slots=True)
class Tls:
    """How to check the broker's certificate and which one to show. Chain and host name are checked by default."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    is_verified: bool = True
    server_name: str | None = None

    def context(self) -> tuple[ssl.SSLContext, Any]:
        """A context and the `ssl` module it is of. Reads files: call it on the application's side."""
        module = native.tls_module()
        context: ssl.SSLContext = module.SSLContext(module.PROTOCOL_TLS_CLIENT)
        context.minimum_version = module.TLSVersion.TLSv1_2
        if not self.is_verified:
            context.check_hostname = False
            context.verify_mode = module.CERT_NONE
        try:
            if self.ca_file:
                context.load_verify_locations(self.ca_file)
            else:
                context.load_default_certs()
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as exc:
            files = ", ".join(filter(None, (self.ca_file, self.cert_file, self.key_file)))
            raise ConfigurationError(f"TLS files cannot be used ({files}): {exc}") from exc
        return context, module


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """What every attempt to open a connection has in common."""

    connect_timeout: float = 5.0
    """Seconds for one attempt, behind the name look-up, to the broker's open-ok."""
    heartbeat: float = 20.0
    frame_max: int = 131072
    max_body: int = 134217728
    login_method: str = "PLAIN"
    tls: Tls = Tls()
    client_properties: Mapping[str, Any] = field(default_factory=dict)
    credentials: Callable[[], tuple[str, str]] | None = field(default=None, repr=False)
    """Gives user and password for each attempt, instead of the URL's."""


@dataclass(slots=True)
class Link:
    """One open connection."""

    broker: Broker
    stream: Stream
    reader: FrameReader
    heartbeat: float
    frame_max: int
    channel_max: int
    server_properties: Mapping[str, Any]
    unacknowledged_ms: int
    """Milliseconds for which data may stay unacknowledged."""
    has_early: bool = False
    """True when frames came with the last ones of the handshake: no poll of the socket tells of them."""

    def await_reading(self, is_blocked: bool) -> None:
        """A broker that takes no messages reads nothing, for as long as it likes: that is no sign of its death."""
        native.limit_unacknowledged(self.stream.sock, 0 if is_blocked else self.unacknowledged_ms)

    def close(self) -> None:
        """Close the socket. Not a word to the broker: that is AMQP's closing handshake, which the loop leads."""
        self.stream.close()

    def forget(self) -> None:
        """In a forked child: let go of the inherited socket without a byte."""
        native.close_inherited(self.stream.sock)


class _Wire:
    """What py-amqp calls its transport: frames over a stream, every wait bounded by one deadline."""

    connected = True

    def __init__(self, stream: Stream, reader: FrameReader, wait: Wait, deadline: float) -> None:
        self.stream = stream
        self._reader = reader
        self._wait = wait
        self._deadline = deadline
        self.frames: list[tuple[int, int, bytes]] = []

    def connect(self) -> None:
        self.write(_PROTOCOL_HEADER)

    @contextmanager
    def having_timeout(self, _timeout: float | None) -> Iterator[None]:
        yield

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest or self.stream.wants_write:
            if rest:
                rest = rest[self.stream.send(rest) or 0 :]
            else:
                self.stream.flush()
            if rest or self.stream.wants_write:
                self._wait(self.stream.sock, native.POLLOUT, self._deadline)

    def read_frame(self) -> tuple[int, int, bytes]:
        while not self.frames:
            received = self.stream.recv_into(self._reader.free())
            if received is None:
                self._wait(self.stream.sock, native.POLLIN, self._deadline)
            else:
                self.frames = self._reader.frames(received)
        return self.frames.pop(0)

    def close(self) -> None:
        """py-amqp closes politely and with shutdown(2); the socket is the link's."""


class _Handshake(amqp.Connection):  # type: ignore[misc]
    """py-amqp's connection, on our wire."""

    def __init__(self, wire: _Wire, **options: Any) -> None:
        self._wire = wire
        super().__init__(frame_handler=handshake_reader, frame_writer=handshake_writer, **options)

    def Transport(self, *_args: Any, **_options: Any) -> _Wire:  # noqa: N802  (py-amqp's name)
        return self._wire

    @property
    def stage(self) -> str:
        """How far it came, for an error's text."""
        if not self.server_properties:
            return "greeting"
        return "login" if self.heartbeat is None else "virtual host"


def open_link(
    broker: Broker,
    options: LinkOptions,
    context: tuple[ssl.SSLContext, Any] | None,
    wait: Wait,
    now: Callable[[], float] = native.monotonic,
) -> Link:
    """A connection to `broker`, ready for channels.

    Blocks: until `options.connect_timeout` has passed, plus the resolver's own time.
    Raises: `ConnectFailed` (`is_permanent` when trying again cannot help); `Interrupted`.
    """
    found = _addresses(broker)
    deadline = now() + options.connect_timeout
    sock = _connect(broker, found, options, wait, deadline)
    try:
        stream = _secure(sock, broker, options, context, wait, deadline)
        return _shake_hands(stream, broker, options, wait, deadline)
    except BaseException:
        sock.close()
        raise


def _addresses(broker: Broker) -> list[tuple[int, Any]]:
    try:
        return native.addresses(broker.host, broker.port)
    except (OSError, ValueError) as exc:  # ValueError: it cannot be a host name
        raise ConnectFailed(f"{broker}: the host name cannot be resolved ({exc}); check its spelling and DNS") from exc


def _connect(
    broker: Broker, found: list[tuple[int, Any]], options: LinkOptions, wait: Wait, deadline: float
) -> native.Socket:
    failure: OSError | None = None
    for left, (family, address) in zip(range(len(found), 0, -1), found, strict=True):
        # An address that drops packets must leave the others their share of the time.
        until = native.monotonic() + (deadline - native.monotonic()) / left
        try:
            return _connect_one(family, address, _unacknowledged_ms(options), wait, until)
        except OSError as exc:
            failure = exc
    raise _tcp_failure(broker, failure) from failure


def _unacknowledged_ms(options: LinkOptions) -> int:
    """Two heartbeat intervals, the time after which the peer is given up anyway; half a minute without heartbeats."""
    return int(2000 * options.heartbeat) or 30000


def _connect_one(family: int, address: Any, unacknowledged_ms: int, wait: Wait, deadline: float) -> native.Socket:
    sock = native.tcp_socket(family, unacknowledged_ms=unacknowledged_ms)
    try:
        code = sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            wait(sock, native.POLLOUT, deadline)
            code = native.socket_error(sock)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def _tcp_failure(broker: Broker, cause: OSError | None) -> ConnectFailed:
    if isinstance(cause, TimeoutError):
        return ConnectFailed(f"{broker}: no answer to the connect; a firewall may drop it, or the host is down")
    if cause is not None and cause.errno == errno.ECONNREFUSED:
        return ConnectFailed(f"{broker}: connection refused; no broker listens on that port (yet)")
    return ConnectFailed(f"{broker}: cannot connect ({cause}); check host, port and network")


def _secure(
    sock: native.Socket,
    broker: Broker,
    options: LinkOptions,
    context: tuple[ssl.SSLContext, Any] | None,
    wait: Wait,
    deadline: float,
) -> Stream:
    if not broker.is_tls or context is None:
        return PlainStream(sock)
    name = options.tls.server_name or broker.host
    try:
        stream = TlsStream(sock, context[0], name, context[1])
    except (TypeError, ValueError) as exc:
        raise _permanent(f"{broker}: {name!r} cannot be in a certificate ({exc}); check tls_server_name") from exc
    try:
        while not stream.shake_hands():
            wait(sock, native.POLLOUT if stream.wants_write else native.POLLIN, deadline)
        while stream.wants_write:
            wait(sock, native.POLLOUT, deadline)
            stream.flush()
    except ssl.SSLCertVerificationError as exc:
        raise _permanent(
            f"{broker}: the certificate was refused ({exc.verify_message}); check tls_ca_file and the host name"
        ) from exc
    except TimeoutError as exc:
        raise ConnectFailed(f"{broker}: no answer to the TLS handshake within {options.connect_timeout:g} s") from exc
    except (ssl.SSLError, EOFError, OSError) as exc:
        raise ConnectFailed(
            f"{broker}: TLS handshake failed ({exc}); is that the TLS port, and does it want a client certificate?",
            is_permanent=isinstance(exc, ssl.SSLError),
        ) from exc
    return stream


def _shake_hands(stream: Stream, broker: Broker, options: LinkOptions, wait: Wait, deadline: float) -> Link:
    reader = FrameReader(frame_max=options.frame_max, max_body=options.max_body)
    login = sasl.EXTERNAL() if options.login_method == "EXTERNAL" else sasl.PLAIN(broker.userid, broker.password)
    wire = _Wire(stream, reader, wait, deadline)
    handshake = _Handshake(
        wire,
        host=broker.address,
        authentication=(login,),
        virtual_host=broker.virtual_host,
        heartbeat=round(options.heartbeat),
        frame_max=options.frame_max,
        client_properties=dict(options.client_properties),
    )
    with native.quiet_logger(_AMQP_LOGGER), _translated(broker, options, handshake):
        handshake.connect()
    reader.frame_max = handshake.frame_max
    reader.keep_for_later(wire.frames)
    return Link(
        broker,
        stream,
        reader,
        heartbeat=float(handshake.heartbeat),
        frame_max=handshake.frame_max,
        channel_max=handshake.channel_max,
        server_properties=dict(handshake.server_properties),
        unacknowledged_ms=_unacknowledged_ms(options),
        has_early=bool(wire.frames),
    )


@contextmanager
def _translated(broker: Broker, options: LinkOptions, handshake: _Handshake) -> Iterator[None]:
    try:
        yield
    except (MessagingError, Interrupted):
        raise
    except TimeoutError as exc:
        raise ConnectFailed(
            f"{broker}: connected, but no AMQP {handshake.stage} within {options.connect_timeout:g} s; "
            "is that a RabbitMQ port, and is the broker alive?"
        ) from exc
    except FrameError as exc:
        raise _permanent(f"{broker}: not an AMQP 0-9-1 broker: {exc}") from exc
    except amqp.AMQPError as exc:
        raise _refusal(broker, handshake, exc) from exc
    except (EOFError, OSError) as exc:
        raise _hang_up(broker, handshake, exc) from exc
    except Exception as exc:
        raise _permanent(f"{broker}: the handshake failed: {type(exc).__name__}: {exc}") from exc


def _refusal(broker: Broker, handshake: _Handshake, exc: amqp.AMQPError) -> ConnectFailed:
    text = str(getattr(exc, "reply_text", None) or exc)
    if exc.reply_code == 403 and handshake.stage == "login":
        return _permanent(
            f"{broker}: login refused for user {broker.userid!r} ({text}); check user name and password "
            "(RabbitMQ lets guest in from localhost only)"
        )
    if exc.reply_code in (403, 530):
        return _permanent(
            f"{broker}: virtual host {broker.virtual_host!r} refused for user {broker.userid!r} ({text}); "
            "check that it exists and that the user has permissions in it"
        )
    if exc.reply_code == 320:
        return ConnectFailed(f"{broker}: the broker is going down ({text})")
    return _permanent(f"{broker}: the broker refused the connection ({text})")


def _hang_up(broker: Broker, handshake: _Handshake, exc: Exception) -> ConnectFailed:
    if handshake.stage == "login":
        return ConnectFailed(
            f"{broker}: the broker hung up when it got the credentials of {broker.userid!r}; "
            "check user name and password"
        )
    hint = "; does it want a client certificate (tls_cert_file)?" if broker.is_tls else ""
    return ConnectFailed(f"{broker}: the peer hung up before the AMQP {handshake.stage} ({exc}){hint}")
