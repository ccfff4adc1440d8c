"""What the broker and the kernel allow: encoded once, one connection, a window of as many messages as callers.

After the handshake there is nothing but the socket: a block of frames goes out, acks are counted as they come in and
as many frames follow. No library can be faster on one connection.
"""

from __future__ import annotations

import json
import socket
import struct
import time

import amqp

from benchmarks.plan import Figures, NotOffered, Plan
from benchmarks.sessions import Session, cpu_seconds, figures
from wsgi_messaging.connection import codec, frames

_ACK = struct.Struct(">BHIIQB")
_ACK_SIZE = 21


class Blaster:
    """A confirming channel, by hand."""

    def __init__(self, plan: Plan, window: int) -> None:
        self._connection = amqp.Connection(host=f"127.0.0.1:{plan.ports[0]}", heartbeat=0)
        self._connection.connect()
        channel = self._connection.channel()
        channel.confirm_select()
        self._socket: socket.socket = self._connection.transport.sock
        self._socket.settimeout(30)
        properties = {
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_mode": 2 if plan.is_persistent else 1,
        }
        one = frames.message_frames(
            channel.channel_id,
            frames.encoded_route("", plan.queue, False),
            codec.properties(properties),
            json.dumps(plan.body()).encode(),
            self._connection.frame_max,
        )
        self._size = len(one)
        self._block = memoryview(one * window)
        self._window = window
        self._lowest = 1
        self._early: set[int] = set()
        self._buffer = bytearray(65536)
        self._kept = 0

    def run(self, seconds: float) -> Figures:
        latencies: list[float] = []
        clock = time.perf_counter
        cpu, begun = cpu_seconds(), clock()
        written_at = begun
        open_ones, done = self._window, 0
        self._socket.sendall(self._block)
        while open_ones:
            answered = self._answered()
            now = clock()
            if self._window == 1 and answered:
                latencies.append(now - written_at)
                written_at = now
            done += answered
            if now - begun < seconds:
                self._socket.sendall(self._block[: answered * self._size])
            else:
                open_ones -= answered
        return figures(done, clock() - begun, cpu_seconds() - cpu, latencies)

    def _answered(self) -> int:
        """How many messages the acks that came in now stand for."""
        received = self._socket.recv_into(memoryview(self._buffer)[self._kept :])
        if not received:
            raise EOFError("the broker closed the connection")
        filled, offset, answered = self._kept + received, 0, 0
        while filled - offset >= _ACK_SIZE:
            kind, _channel, size, method, tag, multiple = _ACK.unpack_from(self._buffer, offset)
            if (kind, size, method) != (frames.METHOD, 13, frames.BASIC_ACK):
                raise RuntimeError(f"frame of type {kind}, method {method:#x}, where an ack was expected")
            answered += self._count(tag, bool(multiple))
            offset += _ACK_SIZE
        self._kept = filled - offset
        self._buffer[: self._kept] = self._buffer[offset:filled]
        return answered

    def _count(self, tag: int, multiple: bool) -> int:
        """How many messages an ack stands for that no ack stood for before."""
        early = self._early
        if multiple:
            known = [number for number in early if number <= tag]
            early.difference_update(known)
            answered = tag - self._lowest + 1 - len(known)
            self._lowest = tag + 1
        else:
            answered = 1
            early.add(tag)
        while self._lowest in early:
            early.remove(self._lowest)
            self._lowest += 1
        return answered


def session(plan: Plan) -> Session:
    if plan.action not in ("publish", "publish_many"):
        raise NotOffered(f"no {plan.action}")
    return Blaster(plan, plan.batch if plan.action == "publish_many" else plan.callers)
