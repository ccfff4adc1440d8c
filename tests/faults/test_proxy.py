"""The fault proxy does what its names say: checked with plain sockets, so that a fault test can rely on it."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.harness.proxy import DOWN, UP, FaultProxy
from tests.harness.waiting import wait_until


@pytest.fixture
def echo() -> Iterator[FaultProxy]:
    """A proxy in front of a server that sends everything back."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(peer: socket.socket) -> None:
        with peer:
            try:
                while data := peer.recv(65536):
                    peer.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                peer, _address = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with FaultProxy(listener.getsockname(), record=True) as proxy:
        yield proxy
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=10.0)


def receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        assert more, f"end of stream after {len(data)} of {size} bytes"
        data += more
    return data


def test_forwards_and_counts_amqp_frames(echo: FaultProxy) -> None:
    frame = struct.pack(">BHI", 1, 0, 3) + b"abc\xce"
    heartbeat = struct.pack(">BHI", 8, 0, 0) + b"\xce"
    sent = b"AMQP\x00\x00\x09\x01" + frame + heartbeat + frame
    with connect(echo) as client:
        for byte in sent:  # frames torn into single bytes are counted the same
            client.sendall(bytes([byte]))
        assert receive(client, len(sent)) == sent
        [pair] = echo.pairs
        for direction in (UP, DOWN):
            traffic = pair.traffic[direction]
            assert (traffic.octets, traffic.frames, traffic.heartbeats) == (len(sent), 3, 1)
            assert bytes(traffic.recorded) == sent
            assert traffic.largest_gap() < 10.0
    wait_until(lambda: not echo.open_pairs, what="the end of the pair")


def test_large_transfers_pass_whole(echo: FaultProxy) -> None:
    data = bytes(range(256)) * 8192
    with connect(echo) as client:
        threading.Thread(target=client.sendall, args=(data,), daemon=True).start()
        assert receive(client, len(data)) == data


def test_freeze_holds_and_heal_delivers(echo: FaultProxy) -> None:
    with connect(echo) as client:
        client.sendall(b"1")
        assert receive(client, 1) == b"1"
        echo.freeze(DOWN)
        client.sendall(b"2")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        wait_until(lambda: echo.pairs[0].traffic[UP].octets == 2, what="the way up is open")
        echo.freeze()
        client.sendall(b"3")
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert echo.pairs[0].traffic[UP].octets == 2
        echo.heal()
        client.settimeout(10.0)
        assert receive(client, 2) == b"23"


def test_cut_resets(echo: FaultProxy) -> None:
    with connect(echo) as client:
        client.sendall(b"1")
        receive(client, 1)
        assert echo.cut() == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(echo) as client:
        client.sendall(b"1")
        assert receive(client, 1) == b"1"


def test_refuse_and_heal(echo: FaultProxy) -> None:
    with connect(echo) as client:
        client.sendall(b"1")
        receive(client, 1)
        echo.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(echo)
        client.sendall(b"2")
        assert receive(client, 1) == b"2"
        echo.heal()
        with connect(echo) as second:
            second.sendall(b"3")
            assert receive(second, 1) == b"3"


def test_silent_accepts_and_says_nothing(echo: FaultProxy) -> None:
    echo.silent()
    with connect(echo) as client:
        client.sendall(b"1")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_slow_keeps_to_the_rate(echo: FaultProxy) -> None:
    with connect(echo) as client:
        client.sendall(b"1")
        receive(client, 1)
        echo.slow(100)
        start = time.monotonic()
        client.sendall(b"x" * 50)
        receive(client, 50)
        assert 0.4 <= time.monotonic() - start <= 5.0


def test_half_close_leaves_the_other_way_open(echo: FaultProxy) -> None:
    with connect(echo) as client:
        client.sendall(b"1")
        receive(client, 1)
        echo.half_close(DOWN)
        assert client.recv(1) == b""
        client.sendall(b"22")
        wait_until(lambda: echo.pairs[0].traffic[UP].octets == 3, what="the way up is open")
        assert echo.open_pairs


def test_a_target_that_is_down_resets_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    # The reset may come as early as the end of connect().
    with FaultProxy(address) as proxy, pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)
