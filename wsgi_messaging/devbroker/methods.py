"""The methods of AMQP 0-9-1 that a broker meets, with the types of their arguments, and the frames they travel in.

Section numbers are those of the AMQP 0-9-1 specification; the letters are those of `codec.arguments`. The
extensions of RabbitMQ (confirms, nack, exchange-to-exchange bindings, `connection.blocked`) are included.

Layer 5, part of the embedded broker: imports `connection.codec` and the standard library.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

from ..connection import codec

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
FRAME_MIN_SIZE = 4096
EMPTY_FRAME_SIZE = 8
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
BASIC_CLASS = 60

FRAME = Struct(">BHI")
METHOD_ID = Struct(">HH")
CONTENT = Struct(">HHQ")

_TABLE = """
connection.start        10 10 ooFSS
connection.start_ok     10 11 FsSs
connection.tune         10 30 BlB
connection.tune_ok      10 31 BlB
connection.open         10 40 ssb
connection.open_ok      10 41 s
connection.close        10 50 BsBB
connection.close_ok     10 51 -
connection.blocked      10 60 s
connection.unblocked    10 61 -
channel.open            20 10 s
channel.open_ok         20 11 S
channel.flow            20 20 b
channel.flow_ok         20 21 b
channel.close           20 40 BsBB
channel.close_ok        20 41 -
exchange.declare        40 10 BssbbbbbF
exchange.declare_ok     40 11 -
exchange.delete         40 20 Bsbb
exchange.delete_ok      40 21 -
exchange.bind           40 30 BsssbF
exchange.bind_ok        40 31 -
exchange.unbind         40 40 BsssbF
exchange.unbind_ok      40 51 -
queue.declare           50 10 BsbbbbbF
queue.declare_ok        50 11 sll
queue.bind              50 20 BsssbF
queue.bind_ok           50 21 -
queue.purge             50 30 Bsb
queue.purge_ok          50 31 l
queue.delete            50 40 Bsbbb
queue.delete_ok         50 41 l
queue.unbind            50 50 BsssF
queue.unbind_ok         50 51 -
basic.qos               60 10 lBb
basic.qos_ok            60 11 -
basic.consume           60 20 BssbbbbF
basic.consume_ok        60 21 s
basic.cancel            60 30 sb
basic.cancel_ok         60 31 s
basic.publish           60 40 Bssbb
basic.return            60 50 Bsss
basic.deliver           60 60 sLbss
basic.get               60 70 Bsb
basic.get_ok            60 71 Lbssl
basic.get_empty         60 72 s
basic.ack               60 80 Lb
basic.reject            60 90 Lb
basic.recover_async     60 100 b
basic.recover           60 110 b
basic.recover_ok        60 111 -
basic.nack              60 120 Lbb
confirm.select          85 10 b
confirm.select_ok       85 11 -
tx.select               90 10 -
tx.commit               90 20 -
tx.rollback             90 30 -
"""

BY_ID: dict[tuple[int, int], tuple[str, str]] = {}
"""(class, method) -> (name, letters of the arguments)."""

_BY_NAME: dict[str, tuple[bytes, str]] = {}

for _line in _TABLE.split("\n"):
    if _line:
        _name, _class_id, _method_id, _kinds = _line.split()
        _kinds = _kinds.replace("-", "")
        BY_ID[int(_class_id), int(_method_id)] = (_name, _kinds)
        _BY_NAME[_name] = (METHOD_ID.pack(int(_class_id), int(_method_id)), _kinds)


def method_frame(channel: int, name: str, *values: Any) -> bytes:
    """A whole frame that carries the method."""
    head, kinds = _BY_NAME[name]
    payload = codec.arguments(kinds, *values)
    return b"%b%b%b\xce" % (FRAME.pack(METHOD, channel, 4 + len(payload)), head, payload)


def content_frames(channel: int, header: bytes, body: bytes, frame_max: int) -> bytes:
    """The header frame and the body frames of a message; `header` is its property flags and property list."""
    head = FRAME.pack(HEADER, channel, CONTENT.size + len(header)) + CONTENT.pack(BASIC_CLASS, 0, len(body))
    room = frame_max - EMPTY_FRAME_SIZE
    if len(body) <= room:
        if not body:
            return b"%b%b\xce" % (head, header)
        return b"%b%b\xce%b%b\xce" % (head, header, FRAME.pack(BODY, channel, len(body)), body)
    parts = [head, header, b"\xce"]
    for start in range(0, len(body), room):
        piece = body[start : start + room]
        parts += (FRAME.pack(BODY, channel, len(piece)), piece, b"\xce")
    return b"".join(parts)


HEARTBEAT_FRAME = FRAME.pack(HEARTBEAT, 0, 0) + b"\xce"


def method_id(name: str) -> tuple[int, int]:
    """The class and method numbers, as close methods carry them; (0, 0) for no method."""
    if not name:
        return 0, 0
    class_id, number = METHOD_ID.unpack(_BY_NAME[name][0])
    return class_id, number
