"""What may answer where a broker was expected: a TLS end, a web server, a silent one, another version of RabbitMQ."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType

from wsgi_messaging.connection import codec, frames

Handle = Callable[[socket.socket], None]


class Peer:
    """Listens on loopback and gives each connection to `handle`, on a thread of its own."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _address = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._handle(connection)


def silent(connection: socket.socket) -> None:
    """Takes what comes and says nothing."""
    while connection.recv(4096):
        pass


def saying(text: bytes) -> Handle:
    """Answers the first bytes with `text`, and hangs up."""

    def handle(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(4096)
        connection.close()

    return handle


def broker_of(version: str, *, heartbeat: int = 60) -> Handle:
    """A RabbitMQ of any version, as far as the open virtual host."""
    properties = {"product": "RabbitMQ", "version": version}
    start = codec.arguments("ooFSS", 0, 9, properties, b"PLAIN AMQPLAIN", b"en_US")
    answers = [
        (8, frames.method_frame(0, frames.method_id(10, 10), start)),
        (1, frames.method_frame(0, frames.CONNECTION_TUNE, codec.arguments("BlB", 2047, 131072, heartbeat))),
        (1, frames.method_frame(0, frames.method_id(10, 41), b"\0")),
        (1, frames.method_frame(0, frames.CONNECTION_CLOSE_OK)),
    ]

    def handle(connection: socket.socket) -> None:
        for _least, answer in answers:
            received = connection.recv(4096)
            if received.count(bytes((frames.END,))) > 1 and answer is answers[2][1]:
                pass  # tune-ok and open came together, as they may
            elif answer is answers[2][1]:
                connection.recv(4096)
            connection.sendall(answer)
        connection.close()

    return handle


def tls_end(context: ssl.SSLContext, port: int) -> Handle:
    """Ends TLS and passes on to `port`, as a balancer does."""

    def handle(connection: socket.socket) -> None:
        with (
            context.wrap_socket(connection, server_side=True) as outer,
            socket.create_connection(("127.0.0.1", port)) as inner,
        ):
            threading.Thread(target=_pump, args=(inner, outer), daemon=True).start()
            _pump(outer, inner)

    return handle


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)
