"""AMQP 0-9-1 values to bytes and back: short strings, tables, method arguments, basic properties.

Ours, and not py-amqp's, because what comes in is hostile until proven otherwise: a table nested 2,000 deep or a
property that is not UTF-8 raises from inside py-amqp's reader and kills the consumer. Here both are a
`MalformedValue`, which the reader turns into a rejected message. Field types are those that RabbitMQ accepts
(https://www.rabbitmq.com/docs/amqp-0-9-1-errata section 3), not the letters of the specification.

Layer 0: imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from decimal import Decimal
from struct import Struct
from struct import error as struct_error
from typing import Any

MAX_DEPTH = 32
"""How deep tables and arrays may nest. No known application goes beyond 4."""

_OCTET = Struct(">B")
_SHORT = Struct(">H")
_LONG = Struct(">I")
_SIGNED_LONG = Struct(">i")
_LONGLONG = Struct(">Q")
_SIGNED_LONGLONG = Struct(">q")
_DOUBLE = Struct(">d")
_DECIMAL = Struct(">Bi")
_LONGEST_DECIMAL = 300

_FIXED: dict[int, tuple[Struct, Callable[[Any], Any]]] = {
    ord("t"): (_OCTET, bool),
    ord("b"): (Struct(">b"), int),
    ord("B"): (_OCTET, int),
    ord("s"): (Struct(">h"), int),
    ord("u"): (_SHORT, int),
    ord("I"): (_SIGNED_LONG, int),
    ord("i"): (_LONG, int),
    ord("l"): (_SIGNED_LONGLONG, int),
    ord("L"): (_SIGNED_LONGLONG, int),
    ord("f"): (Struct(">f"), float),
    ord("d"): (_DOUBLE, float),
}
"""Field types of a fixed size, by their octet: how to unpack, and what to make of it."""

PROPERTIES: tuple[tuple[str, str], ...] = (
    ("content_type", "s"),
    ("content_encoding", "s"),
    ("headers", "F"),
    ("delivery_mode", "o"),
    ("priority", "o"),
    ("correlation_id", "s"),
    ("reply_to", "s"),
    ("expiration", "s"),
    ("message_id", "s"),
    ("timestamp", "T"),
    ("type", "s"),
    ("user_id", "s"),
    ("app_id", "s"),
    ("cluster_id", "s"),
)
"""The basic class's properties in wire order, with their types (AMQP 0-9-1 section 1.8.1)."""


class MalformedValue(ValueError):
    """Bytes that are no AMQP value, or nested beyond `MAX_DEPTH`."""


class UnencodableValue(ValueError):
    """A Python value that AMQP cannot carry."""


class Field(bytes):
    """A field of a table as it is on the wire, its type and its value: it is written as it was read."""


def shortstr(text: str) -> bytes:
    """The wire form of a short string (at most 255 bytes of UTF-8)."""
    raw = text.encode("utf-8")
    if len(raw) > 255:
        raise UnencodableValue(f"short string of {len(raw)} bytes; AMQP allows 255: {text[:40]!r}...")
    return _OCTET.pack(len(raw)) + raw


def table(values: Mapping[str, Any]) -> bytes:
    """The wire form of a field table."""
    return _counted(_pairs(values, 0))


def _counted(raw: bytes) -> bytes:
    return _LONG.pack(len(raw)) + raw


def _pairs(values: Mapping[str, Any], depth: int) -> bytes:
    if depth > MAX_DEPTH:
        raise UnencodableValue(f"table nested deeper than {MAX_DEPTH}")
    return b"".join(shortstr(str(name)) + _field(value, depth) for name, value in values.items())


def _items(values: Iterable[Any], depth: int) -> bytes:
    if depth > MAX_DEPTH:
        raise UnencodableValue(f"array nested deeper than {MAX_DEPTH}")
    return b"".join(_field(value, depth) for value in values)


def _integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"I" + _SIGNED_LONG.pack(value)
    if -(2**63) <= value < 2**63:
        return b"l" + _SIGNED_LONGLONG.pack(value)
    raise UnencodableValue(f"integer beyond 64 bits: {value}")


def _decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise UnencodableValue(f"decimal is not a number: {value}")
    if len(digits) + max(0, exponent) > _LONGEST_DECIMAL:
        raise UnencodableValue(f"decimal beyond 32 bits: {value}")
    scale = max(0, -exponent)
    # From its digits: an operation on it would round as the application's context says.
    unscaled = int("".join(map(str, digits))) * 10 ** max(0, exponent) * (-1 if sign else 1)
    if scale > 255 or not -(2**31) <= unscaled < 2**31:
        raise UnencodableValue(f"decimal beyond 32 bits: {value}")
    return b"D" + _DECIMAL.pack(scale, unscaled)


def _field(value: Any, depth: int) -> bytes:
    match value:
        case bool():
            return b"t\x01" if value else b"t\x00"
        case str():
            return b"S" + _counted(value.encode("utf-8"))
        case int():
            return _integer(value)
        case None:
            return b"V"
        case float():
            return b"d" + _DOUBLE.pack(value)
        case Field():
            return bytes(value)
        case bytes() | bytearray():
            return b"x" + _counted(bytes(value))
        case Mapping():
            return b"F" + _counted(_pairs(value, depth + 1))
        case list() | tuple():
            return b"A" + _counted(_items(value, depth + 1))
        case datetime():
            return b"T" + _timestamp(value)
        case Decimal():
            return _decimal(value)
    raise UnencodableValue(f"AMQP has no field type for {type(value).__name__}: {value!r:.60}")


def _timestamp(value: datetime | float) -> bytes:
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    if not 0 <= value < 2**63:
        raise UnencodableValue(f"timestamp before 1970: {value}")
    return _LONGLONG.pack(int(value))


def read_table(raw: bytes, offset: int = 0) -> tuple[dict[str, Any], int]:
    """The table at `offset`, and the offset behind it.

    Raises: `MalformedValue`, and nothing else, whatever the bytes are.
    """
    try:
        return _read_table(raw, offset, 0)
    except (struct_error, IndexError, UnicodeDecodeError, OverflowError, OSError) as exc:
        raise MalformedValue(f"malformed table: {exc}") from exc


def _read_table(raw: bytes, offset: int, depth: int) -> tuple[dict[str, Any], int]:
    end, offset = _bounds(raw, offset, depth)
    values: dict[str, Any] = {}
    while offset < end:
        name, offset = _read_shortstr(raw, offset)
        values[name], offset = _read_field(raw, offset, depth)
    if offset != end:
        raise MalformedValue("table runs over its length")
    return values, offset


def _split_table(raw: bytes, offset: int) -> tuple[dict[str, Field], int]:
    end, offset = _bounds(raw, offset, 0)
    fields: dict[str, Field] = {}
    while offset < end:
        name, start = _read_shortstr(raw, offset)
        _value, offset = _read_field(raw, start, 0)
        fields[name] = Field(raw[start:offset])
    return fields, offset


def _read_array(raw: bytes, offset: int, depth: int) -> tuple[list[Any], int]:
    end, offset = _bounds(raw, offset, depth)
    values: list[Any] = []
    while offset < end:
        value, offset = _read_field(raw, offset, depth)
        values.append(value)
    if offset != end:
        raise MalformedValue("array runs over its length")
    return values, offset


def _bounds(raw: bytes, offset: int, depth: int) -> tuple[int, int]:
    if depth > MAX_DEPTH:
        raise MalformedValue(f"nested deeper than {MAX_DEPTH}")
    (size,) = _LONG.unpack_from(raw, offset)
    offset += 4
    if offset + size > len(raw):
        raise MalformedValue("length runs over the end")
    return offset + size, offset


def _read_shortstr(raw: bytes, offset: int) -> tuple[str, int]:
    end = offset + 1 + raw[offset]
    if end > len(raw):
        raise MalformedValue("short string runs over the end")
    return raw[offset + 1 : end].decode("utf-8"), end


def _read_field(raw: bytes, offset: int, depth: int) -> tuple[Any, int]:
    kind = raw[offset]
    offset += 1
    fixed = _FIXED.get(kind)
    if fixed is not None:
        packing, make = fixed
        return make(packing.unpack_from(raw, offset)[0]), offset + packing.size
    match chr(kind):
        case "S":
            text, offset = _read_bytes(raw, offset)
            return text.decode("utf-8", "replace"), offset
        case "x":
            return _read_bytes(raw, offset)
        case "F":
            return _read_table(raw, offset, depth + 1)
        case "A":
            return _read_array(raw, offset, depth + 1)
        case "V":
            return None, offset
        case "T":
            return _read_timestamp(raw, offset)
        case "D":
            scale, unscaled = _DECIMAL.unpack_from(raw, offset)
            digits = tuple(map(int, str(abs(unscaled))))
            return Decimal((int(unscaled < 0), digits, -scale)), offset + 5
    raise MalformedValue(f"unknown field type {chr(kind)!r}")


def _read_bytes(raw: bytes, offset: int) -> tuple[bytes, int]:
    end, offset = _bounds(raw, offset, 0)
    return raw[offset:end], end


def _read_timestamp(raw: bytes, offset: int) -> tuple[datetime | int, int]:
    (seconds,) = _LONGLONG.unpack_from(raw, offset)
    try:
        return datetime.fromtimestamp(seconds, tz=timezone.utc), offset + 8
    except (ValueError, OverflowError, OSError):
        return seconds, offset + 8  # milliseconds, most likely: no reason to refuse a good message


def arguments(kinds: str, *values: Any) -> bytes:
    """The wire form of a method's arguments.

    `kinds` has a letter for each value: o octet, B short, l long, L long-long, s short string, S long string (str or
    bytes), F table, b bit (neighbouring bits share an octet).
    """
    out = bytearray()
    bits = 0
    for index, (kind, value) in enumerate(zip(kinds, values, strict=True)):
        if kind == "b":
            first = index == 0 or kinds[index - 1] != "b"
            bits = 0 if first else bits + 1
            if first:
                out.append(0)
            out[-1] |= bool(value) << bits
        else:
            out += _ARGUMENTS[kind](value)
    return bytes(out)


def _longstr(value: str | bytes) -> bytes:
    return _counted(value.encode("utf-8") if isinstance(value, str) else value)


_ARGUMENTS: dict[str, Callable[[Any], bytes]] = {
    "o": _OCTET.pack,
    "B": _SHORT.pack,
    "l": _LONG.pack,
    "L": _LONGLONG.pack,
    "s": shortstr,
    "S": _longstr,
    "F": table,
    "T": _timestamp,
}

_READERS: dict[str, Callable[[bytes, int], tuple[Any, int]]] = {
    "o": lambda raw, offset: (raw[offset], offset + 1),
    "B": lambda raw, offset: (_SHORT.unpack_from(raw, offset)[0], offset + 2),
    "l": lambda raw, offset: (_LONG.unpack_from(raw, offset)[0], offset + 4),
    "L": lambda raw, offset: (_LONGLONG.unpack_from(raw, offset)[0], offset + 8),
    "s": _read_shortstr,
    "S": _read_bytes,
    "F": lambda raw, offset: _read_table(raw, offset, 0),
    "T": _read_timestamp,
}


def read_arguments(kinds: str, raw: bytes, offset: int = 0) -> list[Any]:
    """A method's arguments, by the letters of `arguments`; long strings stay bytes.

    Raises: `MalformedValue`, and nothing else, whatever the bytes are.
    """
    values: list[Any] = []
    bit = 0
    try:
        for index, kind in enumerate(kinds):
            if kind != "b":
                value, offset = _READERS[kind](raw, offset)
                values.append(value)
                continue
            bit = bit + 1 if index and kinds[index - 1] == "b" else 0
            values.append(bool(raw[offset] >> bit & 1))
            if kinds[index + 1 : index + 2] != "b":
                offset += 1
    except (struct_error, IndexError, UnicodeDecodeError) as exc:
        raise MalformedValue(f"malformed arguments: {exc}") from exc
    return values


def read_delivery_tag(raw: bytes) -> int:
    """The delivery tag of basic.deliver's arguments, whose other strings may be no UTF-8."""
    try:
        (tag,) = _LONGLONG.unpack_from(raw, 1 + raw[0])
    except (struct_error, IndexError) as exc:
        raise MalformedValue(f"malformed delivery: {exc}") from exc
    return int(tag)


def properties(values: Mapping[str, Any]) -> bytes:
    """The property flags and the property list of a content header, for the names of `PROPERTIES`; None is absent."""
    flags = 0
    out = bytearray()
    for position, (name, kind) in enumerate(PROPERTIES):
        value = values.get(name)
        if value is not None:
            flags |= 1 << (15 - position)
            out += _ARGUMENTS[kind](value)
    return _SHORT.pack(flags) + bytes(out)


_PREFIXES_KEPT = 256
_prefixes: dict[tuple[str, str | None, bool], bytes] = {}


def plain_properties(content_type: str, content_encoding: str | None, persistent: bool, message_id: str) -> bytes:
    """`properties` of a message that has only these: all but its id, the last of them, is kept from the last time."""
    key = (content_type, content_encoding, persistent)
    prefix = _prefixes.get(key)
    if prefix is None:
        with_empty_id = properties(
            {
                "content_type": content_type,
                "content_encoding": content_encoding,
                "delivery_mode": 2 if persistent else 1,
                "message_id": "",
            }
        )
        prefix = with_empty_id[:-1]
        if len(_prefixes) < _PREFIXES_KEPT:
            _prefixes[key] = prefix
    return prefix + shortstr(message_id)


def read_properties(raw: bytes, offset: int = 0, *, split: bool = False) -> dict[str, Any]:
    """The properties whose flags begin at `offset` of a content header; with `split` the headers are `Field`s.

    Raises: `MalformedValue`, and nothing else, whatever the bytes are.
    """
    values: dict[str, Any] = {}
    try:
        (flags,) = _SHORT.unpack_from(raw, offset)
        offset += 2
        if flags & 3:
            raise MalformedValue("unknown properties")
        for position, (name, kind) in enumerate(PROPERTIES):
            if flags >> (15 - position) & 1:
                read = _split_table if split and kind == "F" else _READERS[kind]
                values[name], offset = read(raw, offset)
    except (struct_error, IndexError, UnicodeDecodeError) as exc:
        raise MalformedValue(f"malformed properties: {exc}") from exc
    return values
