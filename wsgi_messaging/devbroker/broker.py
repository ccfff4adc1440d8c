"""`DevBroker`: the embedded broker as tests and the command line use it, with its fault switches.

Layer 5, part of the embedded broker.
"""

from __future__ import annotations

import ipaddress
import itertools
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from urllib.parse import quote

from ..errors import ConfigurationError
from ..runtime import native
from .handshake import State
from .node import ConnectionInfo, Node
from .server import Server

_logger = logging.getLogger("wsgi_messaging.devbroker")
_logger.addHandler(logging.NullHandler())

_numbers = itertools.count(1)


class DevBroker:
    """An AMQP 0-9-1 broker in this process, on loopback, for development and tests only.

        with DevBroker() as broker:
            transport = Transport(broker.url)

    Everything is in memory. What is durable outlives `stop()` followed by `start()`, as it outlives a
    restart of RabbitMQ. `port=0` takes a free port at the first start and keeps it.

    Threads: every method from any thread; the switches return when the broker has taken them in.
    After fork: in the child it is not running and has no descriptors.
    Raises: `ConfigurationError` for a host that is not loopback.
    """

    def __init__(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        heartbeat: int = 60,
        users: Mapping[str, str] | None = None,
        vhosts: Sequence[str] = ("/",),
        *,
        max_message_bytes: int = 128 * 1024 * 1024,
    ) -> None:
        self.host = _loopback(host)
        self.events: deque[str] = deque(maxlen=1000)
        """One line for each refused or dropped client, the latest last."""
        self._users = dict(users) if users is not None else {"guest": "guest"}
        self._node = Node(
            users=self._users,
            vhosts=vhosts,
            heartbeat=heartbeat,
            clock_offset=native.wall_clock() - native.monotonic(),
            report=self._report,
        )
        self._node.rules.max_message_bytes = max_message_bytes
        self._server = Server(self._node, self.host, port, f"wsgi-messaging-devbroker-{next(_numbers)}")

    def __repr__(self) -> str:
        state = "running" if self._server.is_running else "stopped"
        return f"<DevBroker {self.host}:{self.port} {state} accepted={self._node.accepted}>"

    def __enter__(self) -> DevBroker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port that was asked for; after the first start the one that is listened on."""
        return self._server.port

    @property
    def url(self) -> str:
        """URL with the first user and the first virtual host."""
        user, password = next(iter(self._users.items()))
        vhost = quote(next(iter(self._node.vhosts)), safe="")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"amqp://{quote(user, safe='')}:{quote(password, safe='')}@{host}:{self.port}/{vhost}"

    @property
    def accepted(self) -> int:
        """Connections accepted since the beginning."""
        return self._node.accepted

    @property
    def missed_heartbeats(self) -> int:
        """Clients dropped because they were silent for two heartbeat intervals."""
        return self._node.missed_heartbeats

    @property
    def abrupt_closes(self) -> int:
        """Clients that went away without `connection.close`."""
        return self._node.abrupt_closes

    def start(self) -> DevBroker:
        """Itself, ready for clients. Raises: OSError if the port cannot be had."""
        if not self._server.is_running:
            self._server.start()
        return self

    def stop(self) -> None:
        """Close every connection (320 CONNECTION_FORCED), every descriptor and the thread. Idempotent."""
        self._server.stop()

    def connections(self) -> list[ConnectionInfo]:
        """The open connections, oldest first."""
        return self._server.call(
            lambda: [session.info for session in self._server.sessions() if session.state is State.RUNNING]
        )

    def pause(self) -> None:
        """Be a silent broker: TCP connects, nothing is read or written, no heartbeat."""

        def pause() -> None:
            self._server.is_paused = True

        self._server.call(pause)

    def refuse(self) -> None:
        """Refuse new connections; those that are open stay."""
        self._server.call(self._server.refuse)

    def resume(self) -> None:
        """End `pause` and `refuse`."""
        self._server.call(self._server.resume)

    def drop_connections(self) -> int:
        """Cut every connection with a TCP reset; their number."""
        return self._server.call(self._server.drop_all)

    def block(self, reason: str = "low on memory") -> None:
        """Raise an alarm: who publishes gets `connection.blocked`, is not read any more, and gets no confirm."""

        def block() -> None:
            self._node.blocked_reason = reason

        self._server.call(block)

    def unblock(self) -> None:
        """End `block`: `connection.unblocked`, and publishers are read again."""

        def unblock() -> None:
            self._node.blocked_reason = None
            for session in self._server.sessions():
                session.unblock(native.monotonic())

        self._server.call(unblock)

    def hold_confirms(self) -> None:
        """Take messages in, confirm none."""
        self._server.call(lambda: setattr(self._node.rules, "confirms_held", True))

    def release_confirms(self) -> None:
        """End `hold_confirms`; what was held is confirmed now."""

        def release() -> None:
            self._node.rules.confirms_held = False
            for session in self._server.sessions():
                session.flush_confirms()

        self._server.call(release)

    def nack_next(self, count: int = 1) -> None:
        """Refuse the next `count` confirmed publishes with `basic.nack`."""
        self._server.call(lambda: setattr(self._node.rules, "nack_next", count))

    def _report(self, line: str) -> None:
        """Log a line, unless a monkey patch has made the locks of `logging` green: those stop a native thread."""
        self.events.append(line)
        if not native.is_patched():
            _logger.warning(line)


def _loopback(host: str) -> str:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as exc:
        raise ConfigurationError(f"host: {host!r} is no IP address; the devbroker takes loopback only") from exc
    if not address.is_loopback:
        raise ConfigurationError(
            f"host: {host} is not loopback; the devbroker is for development and tests on this machine only"
        )
    return str(address)
