"""The way to a broker in stages, from its name to an open virtual host; where one fails, why, and what to do.

Rules: a stage ends within its seconds; no text has a password in it; what the texts advise can be copied.

Layer 5: imports settings, connection.hosts, the conversation.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import shlex
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

from ..connection import codec
from ..connection.hosts import Broker
from ..errors import ConfigurationError
from ..runtime import native
from ..settings import Settings
from ._conversation import Blocked, Conversation, Greeting, HungUp, NotAmqp, Proposal, Refused, Trouble

Address = tuple[int, Any]

_HOSTNAME_MISMATCH = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_EXPIRED, _NOT_YET_VALID = 10, 9


def resolve(broker: Broker, seconds: float) -> list[Address]:
    """The addresses of the broker's host."""
    found: list[Address] = []
    failures: list[Exception] = []

    def look_up() -> None:
        try:
            found.extend(native.addresses(broker.host, broker.port))
        except (OSError, UnicodeError) as exc:
            failures.append(exc)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive() or any(getattr(exc, "errno", None) == socket.EAI_AGAIN for exc in failures):
        raise Trouble(
            f"the name service does not answer for {broker.host!r}",
            "Check the name servers in /etc/resolv.conf and that this machine reaches them",
        )
    if failures:
        raise Trouble(
            f"the host name {broker.host!r} is not known ({failures[0]})",
            f"Check its spelling; 'getent hosts {broker.host}' must answer here (in a container: in its network)",
        )
    return found


def is_literal(host: str) -> bool:
    """True for an IP address, for which there is nothing to look up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def connect(broker: Broker, addresses: list[Address], seconds: float) -> tuple[socket.socket, str]:
    """A TCP connection to the first address that takes one; and what was wrong with those before it."""
    failed: list[str] = []
    failure: OSError | None = None
    for family, address in addresses:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(seconds / len(addresses))
        try:
            sock.connect(address)
        except OSError as exc:
            sock.close()
            failure = exc
            failed.append(f"{address[0]}: {exc.strerror or exc}")
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock, "; ".join(failed)
    raise _unreachable(broker, failure)


def _unreachable(broker: Broker, failure: OSError | None) -> Trouble:
    if failure is not None and failure.errno == errno.ECONNREFUSED:
        return Trouble(
            f"connection refused: nothing listens on {broker.address}",
            "Start the broker, or correct the port: 'rabbitmq-diagnostics listeners' on its host shows them"
            " (5672 is AMQP, 5671 AMQP with TLS)",
        )
    if isinstance(failure, TimeoutError):
        return Trouble(
            f"no answer from {broker.address}: a firewall drops the packets, or the host is down",
            f"Check the way there ('nc -vz {broker.host} {broker.port}'), firewalls and security groups",
        )
    return Trouble(f"cannot connect to {broker.address} ({failure})", "Check host, port and the network between")


def secure(sock: socket.socket, broker: Broker, settings: Settings, seconds: float) -> ssl.SSLSocket:
    """TLS over the socket, checked as the transport checks it."""
    try:
        context, _module = settings.link_options.tls.context()
    except ConfigurationError as exc:
        raise Trouble(str(exc), "Correct tls_ca_file, tls_cert_file or tls_key_file") from exc
    sock.settimeout(seconds)
    name = settings.tls_server_name or broker.host
    try:
        return context.wrap_socket(sock, server_hostname=name)
    except ssl.SSLCertVerificationError as exc:
        raise _bad_certificate(broker, name, settings, exc) from exc
    except TimeoutError as exc:
        raise Trouble(
            f"no answer to the TLS handshake within {seconds:g} s",
            "Is that the TLS port (5671)? A plain AMQP port waits for AMQP and says nothing to TLS",
        ) from exc
    except (OSError, ValueError) as exc:
        raise _no_tls(broker, exc) from exc


def _bad_certificate(broker: Broker, name: str, settings: Settings, exc: ssl.SSLCertVerificationError) -> Trouble:
    cause = f"the certificate was refused: {exc.verify_message}"
    if exc.verify_code in _HOSTNAME_MISMATCH:
        return Trouble(
            f"the certificate is not for {name!r} ({exc.verify_message})",
            "Write the host name that is in the certificate into the URL, or set tls_server_name to it"
            f" ('openssl s_client -connect {broker.address} </dev/null | openssl x509 -noout -ext subjectAltName')",
        )
    if exc.verify_code in (_EXPIRED, _NOT_YET_VALID):
        return Trouble(cause, "Renew the broker's certificate, or correct the clock of one of the two machines")
    trusted = settings.tls_ca_file or "the system's authorities"
    return Trouble(
        f"{cause}; trusted are those of {trusted}",
        "Set tls_ca_file (WSGI_MESSAGING_TLS_CA_FILE, or ?cacertfile= in the URL) to the authority that signed it",
    )


def _no_tls(broker: Broker, exc: Exception) -> Trouble:
    reason = str(getattr(exc, "reason", "") or "")
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return _wants_certificate(reason)
    return Trouble(
        f"no TLS on {broker.address} ({exc})",
        f"If that port speaks plain AMQP write amqp://{broker.address} ; AMQP with TLS is on 5671 by default",
    )


def _wants_certificate(reason: str) -> Trouble:
    return Trouble(
        f"the broker wants a client certificate ({reason})",
        "Set tls_cert_file and tls_key_file (WSGI_MESSAGING_TLS_CERT_FILE, WSGI_MESSAGING_TLS_KEY_FILE)",
    )


def greet(conversation: Conversation, broker: Broker) -> Greeting:
    """Hear whether that is AMQP, and who it is."""
    try:
        return conversation.greet()
    except NotAmqp as exc:
        raise _not_amqp(broker, exc.first, str(exc)) from exc
    except HungUp as exc:
        raise _not_amqp(broker, exc.first, "it hung up without a word") from exc
    except TimeoutError as exc:
        raise Trouble(
            f"{broker.address} takes connections and says nothing",
            "Is that RabbitMQ's port (not that of another service, or amqp:// on the TLS port)? If it is, the broker"
            " hangs: 'rabbitmq-diagnostics check_running' on its host",
        ) from exc
    except ssl.SSLError as exc:
        raise _wants_certificate(str(exc.reason)) from exc
    except (OSError, codec.MalformedValue) as exc:
        raise _not_amqp(broker, b"", str(exc)) from exc


def _not_amqp(broker: Broker, first: bytes, otherwise: str) -> Trouble:
    if first[:1] == b"\x15":
        return Trouble("the port speaks TLS, and the URL says amqp://", f"Write amqps://{broker.address}")
    if first[:4] == b"HTTP":
        return Trouble(
            f"{broker.address} is a web server (15672 is RabbitMQ's management page)", "AMQP is on 5672 by default"
        )
    if first[:4] == b"AMQP":
        version = ".".join(map(str, first[5:8])) if first[4] in (0, 1) else f"1.0, SASL or TLS layer {first[4]}"
        return Trouble(f"the peer speaks another AMQP: {version}", "This package speaks AMQP 0-9-1, as RabbitMQ does")
    if first:
        shown = first[:24].decode("ascii", "replace")
        return Trouble(f"that is not AMQP: it begins with {shown!r}", "Correct the port: AMQP is on 5672 by default")
    tls = "" if broker.is_tls else f"a TLS port (then write amqps://{broker.address}), "
    return Trouble(f"that is not AMQP: {otherwise}", f"Is it {tls}a proxy without a broker behind it, or not RabbitMQ?")


def log_in(conversation: Conversation, broker: Broker, greeting: Greeting, method: str) -> Proposal:
    """Give the credentials; hear what the broker proposes."""
    if method not in greeting.mechanisms:
        remedy = {
            "EXTERNAL": "Enable the plug-in rabbitmq_auth_mechanism_ssl and 'auth_mechanisms.1 = EXTERNAL' there",
        }.get(method, "Allow it there ('auth_mechanisms.1 = PLAIN' in rabbitmq.conf), or set login_method")
        raise Trouble(f"the broker offers {' '.join(greeting.mechanisms)}, and not {method}", remedy)
    response = "" if method == "EXTERNAL" else f"\0{broker.userid}\0{broker.password}"
    try:
        return conversation.log_in(method, response.encode())
    except (Refused, HungUp) as exc:
        said = f" ({exc.text})" if isinstance(exc, Refused) else ""
        user = shlex.quote(broker.userid)
        local = (
            "; RabbitMQ lets guest in from its own host only, so make a user: 'rabbitmqctl add_user NAME'"
            if broker.userid == "guest" and broker.host not in ("127.0.0.1", "::1", "localhost")
            else ""
        )
        raise Trouble(
            f"login refused for user {broker.userid!r}{said}",
            f"Check user name and password: 'rabbitmqctl authenticate_user {user}' on the broker's host; special"
            f" characters in the URL must be percent-encoded{local}",
        ) from exc
    except (OSError, NotAmqp, codec.MalformedValue) as exc:
        raise _lost("at the login", exc) from exc


def open_virtual_host(conversation: Conversation, broker: Broker, proposal: Proposal, frame_max: int) -> None:
    """Enter the virtual host."""
    name = broker.virtual_host
    try:
        conversation.open(proposal, frame_max, name)
    except Refused as exc:
        quoted, user = shlex.quote(name), shlex.quote(broker.userid)
        if "not found" in exc.text:
            raise Trouble(
                f"there is no virtual host {name!r} ({exc.text})",
                f"Correct the URL's path (a / in the name is %2F), or make it: 'rabbitmqctl add_vhost {quoted}'",
            ) from exc
        if "limit" in exc.text:
            raise Trouble(
                f"virtual host {name!r} takes no more connections ({exc.text})",
                "Raise the limit (rabbitmqctl set_vhost_limits, set_user_limits), or run fewer workers",
            ) from exc
        raise Trouble(
            f"user {broker.userid!r} may not enter virtual host {name!r} ({exc.text})",
            f'Give permissions: \'rabbitmqctl set_permissions -p {quoted} {user} ".*" ".*" ".*"\'',
        ) from exc
    except (OSError, HungUp, NotAmqp) as exc:
        raise _lost(f"at virtual host {name!r}", exc) from exc


def _lost(where: str, exc: Exception) -> Trouble:
    return Trouble(
        f"the connection broke {where} ({exc})",
        "See the broker's log for the reason; a proxy in between may have cut it",
    )


def agreed(ours: float, theirs: float) -> int:
    """What becomes of two proposals of which 0 is none: the smaller one, or the only one (AMQP 0-9-1, 1.4.2.6)."""
    return int(min(ours, theirs) if ours and theirs else max(ours, theirs))


def agreed_heartbeat(ours: float, theirs: float) -> int:
    """As `agreed`; but 0 of ours is no heartbeat at all, whatever the broker proposes (as py-amqp has it)."""
    return agreed(ours, theirs) if ours else 0


@contextlib.contextmanager
def conversation_with_any(settings: Settings, seconds: float) -> Iterator[tuple[Broker, Conversation]]:
    """An open conversation with the first broker that lets us in. Raises: `Trouble`, the last broker's."""
    trouble: Trouble | None = None
    for broker in settings.brokers:
        try:
            conversation = _enter(broker, settings, seconds)
        except Trouble as exc:
            trouble = Trouble(f"{broker}: {exc.cause}", exc.remedy)
            continue
        with conversation, _told(broker):
            yield broker, conversation
        return
    if trouble is not None:
        raise trouble


def _enter(broker: Broker, settings: Settings, seconds: float) -> Conversation:
    sock, _failed = connect(broker, resolve(broker, seconds), seconds)
    try:
        if broker.is_tls:
            sock = secure(sock, broker, settings, seconds)
        conversation = Conversation(sock, seconds)
        greeting = greet(conversation, broker)
        proposal = log_in(conversation, broker, greeting, settings.login_method)
        open_virtual_host(conversation, broker, proposal, agreed(settings.frame_max, proposal.frame_max))
    except BaseException:
        sock.close()
        raise
    return conversation


@contextlib.contextmanager
def _told(broker: Broker) -> Iterator[None]:
    """What breaks an open conversation, as a `Trouble`."""
    try:
        yield
    except Blocked as exc:
        raise blocked(exc) from exc
    except TimeoutError as exc:
        raise Trouble(f"{broker}: no answer in time", "Is the broker overloaded? Try --timeout with more") from exc
    except (OSError, HungUp, NotAmqp, codec.MalformedValue) as exc:
        raise Trouble(f"{broker}: the connection broke ({exc})", "See the broker's log for the reason") from exc


def blocked(exc: Blocked) -> Trouble:
    return Trouble(
        f"the broker takes no messages ({exc})",
        "An alarm: free its memory or disk ('rabbitmq-diagnostics alarms', 'rabbitmqctl list_queues name messages')",
    )
