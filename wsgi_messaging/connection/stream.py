"""A connected, non-blocking byte stream over a native socket: plain or TLS.

TLS runs over memory buffers, so the socket below is always the operating system's own, whatever a monkey patch made
of `ssl`'s sockets. `recv_into` and `send` give None where they would block; then `wants_write` tells what to poll
for. An ended stream raises `EOFError`.

Layer 1.
"""

from __future__ import annotations

import ssl
from typing import Any, Protocol

from ..runtime import native
from ..runtime.octets import Octets

TLS_CHUNK = 65536


class Stream(Protocol):
    """What the connection's thread needs of a socket."""

    sock: native.Socket
    octets: Octets

    def recv_into(self, buffer: memoryview) -> int | None:
        """Octets received; None for none now. Raises: OSError, EOFError at the end."""

    def send(self, data: memoryview) -> int | None:
        """Octets accepted; None for none now. Raises: OSError."""

    @property
    def wants_write(self) -> bool:
        """True while accepted octets still wait for the socket to take them."""

    @property
    def has_pending(self) -> bool:
        """True while octets wait here that no poll of the socket will tell of."""

    def flush(self) -> None:
        """Give the socket what it takes of them now. Raises: OSError."""

    def close(self) -> None: ...


class PlainStream:
    """TCP as it is."""

    wants_write = False
    has_pending = False

    def __init__(self, sock: native.Socket) -> None:
        self.sock = sock
        self.octets = Octets(sock)

    def recv_into(self, buffer: memoryview) -> int | None:
        try:
            received = self.octets.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return None
        if not received:
            raise EOFError("the broker closed the connection without a word")
        return received

    def send(self, data: memoryview) -> int | None:
        try:
            return self.octets.send(data)
        except (BlockingIOError, InterruptedError):
            return None

    def flush(self) -> None:
        """Nothing is kept here."""

    def close(self) -> None:
        self.sock.close()


class TlsStream:
    """TLS over memory buffers; `tls` is the `ssl` module whose classes made `context`."""

    def __init__(self, sock: native.Socket, context: ssl.SSLContext, server_hostname: str, tls: Any) -> None:
        self.sock = sock
        self.octets = Octets(sock)
        self._received = memoryview(bytearray(TLS_CHUNK))
        self._tls = tls
        self._incoming = tls.MemoryBIO()
        self._outgoing = tls.MemoryBIO()
        self._unsent = b""
        self._has_ended = False
        self._object: Any = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)

    @property
    def wants_write(self) -> bool:
        return bool(self._unsent) or bool(self._outgoing.pending)

    @property
    def has_pending(self) -> bool:
        return self._has_ended or bool(self._incoming.pending) or self._object.pending() > 0

    def shake_hands(self) -> bool:
        """Go on with the TLS handshake as far as the socket lets; True when it is over.

        Raises: ssl.SSLError, OSError, EOFError.
        """
        while True:
            try:
                self._object.do_handshake()
            except self._tls.SSLWantReadError:
                self.flush()
                if self.wants_write or not self._receive():
                    return False
            else:
                self.flush()
                return True

    def _receive(self) -> bool:
        try:
            received = self.octets.recv_into(self._received)
        except (BlockingIOError, InterruptedError):
            return False
        if not received:
            raise EOFError("the broker closed the TLS connection without a word")
        self._incoming.write(self._received[:received])
        return True

    def recv_into(self, buffer: memoryview) -> int | None:
        total = 0
        while len(buffer) > total:
            try:
                received = self._object.read(len(buffer) - total, buffer[total:])
            except self._tls.SSLWantReadError:
                if total or not self._receive():
                    break
                continue
            except self._tls.SSLZeroReturnError:
                received = 0
            if not received:
                self._has_ended = True  # what came before it comes first: confirms, the reason for the end
                if total:
                    break
                raise EOFError("the broker closed the TLS connection")
            total += received
        return total or None

    def send(self, data: memoryview) -> int | None:
        self.flush()
        if self.wants_write:
            return None
        written: int = self._object.write(data[:TLS_CHUNK])
        self.flush()
        return written

    def flush(self) -> None:
        while self.wants_write:
            if not self._unsent:
                self._unsent = self._outgoing.read()
            try:
                sent = self.octets.send(memoryview(self._unsent))
            except (BlockingIOError, InterruptedError):
                return
            self._unsent = self._unsent[sent:]

    def close(self) -> None:
        self.sock.close()
