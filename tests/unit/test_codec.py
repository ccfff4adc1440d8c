"""AMQP values to bytes and back: what is written is read again, and hostile bytes are a MalformedValue."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsgi_messaging.connection import codec
from wsgi_messaging.connection.codec import MAX_DEPTH, PROPERTIES, MalformedValue, UnencodableValue

few = settings(max_examples=40, deadline=None)  # the folder runs in two seconds

names = st.text(max_size=30)
moments = st.datetimes(
    min_value=datetime(1970, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(timezone.utc)
).map(lambda moment: moment.replace(microsecond=0))
decimals = st.builds(
    lambda unscaled, scale: Decimal(unscaled).scaleb(-scale), st.integers(-(2**31), 2**31 - 1), st.integers(0, 20)
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=60),
    st.binary(max_size=60),
    moments,
    decimals,
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)
tables = st.dictionaries(names, values, max_size=6)
short_texts = st.text(max_size=60)
property_values = {
    "s": short_texts,
    "o": st.integers(0, 255),
    "F": tables,
    "T": moments,
}
argument_values: dict[str, st.SearchStrategy[Any]] = {
    "o": st.integers(0, 255),
    "B": st.integers(0, 2**16 - 1),
    "l": st.integers(0, 2**32 - 1),
    "L": st.integers(0, 2**64 - 1),
    "s": short_texts,
    "S": st.binary(max_size=60),
    "F": tables,
    "T": moments,
    "b": st.booleans(),
}


@few
@given(tables)
def test_tables_come_back(sent: dict[str, Any]) -> None:
    raw = codec.table(sent)
    assert codec.read_table(raw) == (sent, len(raw))
    assert codec.read_table(b"ab" + raw + b"cd", 2) == (sent, len(raw) + 2)


@few
@given(st.fixed_dictionaries({}, optional={name: property_values[kind] for name, kind in PROPERTIES}))
def test_properties_come_back(sent: dict[str, Any]) -> None:
    assert codec.read_properties(codec.properties(sent)) == sent


@few
@given(st.data(), st.text(alphabet="oBlLsSFTb", max_size=12))
def test_arguments_come_back(data: st.DataObject, kinds: str) -> None:
    sent = [data.draw(argument_values[kind]) for kind in kinds]
    assert codec.read_arguments(kinds, b"xy" + codec.arguments(kinds, *sent), 2) == sent


def test_bits_share_an_octet_and_nine_of_them_need_two() -> None:
    bits = [True, False, True]
    assert codec.arguments("bbb", *bits) == b"\x05"
    assert codec.arguments("bobb", True, 7, False, True) == b"\x01\x07\x02"


@pytest.mark.parametrize("count", [1, 7, 8])
def test_up_to_eight_bits(count: int) -> None:
    bits = [index % 3 == 0 for index in range(count)]
    raw = codec.arguments("b" * count + "s", *bits, "after")
    assert len(raw) == 1 + 6
    assert codec.read_arguments("b" * count + "s", raw) == [*bits, "after"]


def _only_malformed(read: Callable[[], object]) -> None:
    """Whatever the bytes are: a value, or MalformedValue and nothing else."""
    with contextlib.suppress(MalformedValue):
        read()


hostile = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda raw, at, octet: raw[: at % (len(raw) or 1)] + octet + raw[at % (len(raw) or 1) + 1 :],
        tables.map(codec.table),
        st.integers(0, 1000),
        st.binary(max_size=2),
    ),
)


@few
@given(hostile)
@example(b"\x00\x00\x00\x08\x01aT" + b"\xff" * 8)
@example(b"\x00\x00\x00\x08\x01aD\xff\x7f\xff\xff\xff")
@example(b"\x00\x00\x00\x03\x01\xffV")
@example(b"\x00\x00\x00\x02\x05a")
@example(b"\xff\xff\xff\xff")
def test_hostile_tables(raw: bytes) -> None:
    _only_malformed(lambda: codec.read_table(raw))


@few
@given(st.binary(min_size=2, max_size=2), hostile)
def test_hostile_properties(flags: bytes, raw: bytes) -> None:
    _only_malformed(lambda: codec.read_properties(flags + raw))
    _only_malformed(lambda: codec.read_properties(raw))


@few
@given(st.text(alphabet="oBlLsSFTb", max_size=8), hostile)
def test_hostile_arguments(kinds: str, raw: bytes) -> None:
    _only_malformed(lambda: codec.read_arguments(kinds, raw))


@few
@given(tables.map(codec.table), st.data())
def test_a_table_cut_short_is_malformed(raw: bytes, data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(MalformedValue):
        codec.read_table(raw[:kept])


def nested(depth: int, kind: bytes) -> bytes:
    """A table with `depth` tables or arrays inside each other, made without the writer's own limit."""
    raw = b"\x00\x00\x00\x00"
    for _ in range(depth):
        inner = (b"\x01a" if kind == b"F" else b"") + kind + raw
        raw = struct.pack(">I", len(inner)) + inner
    return raw if kind == b"F" else struct.pack(">I", len(raw) + 3) + b"\x01aA" + raw


@pytest.mark.parametrize("kind", [b"F", b"A"])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 2000, 20000])
def test_bottomless_nesting_is_malformed(depth: int, kind: bytes) -> None:
    """Fails, without the limit, with a RecursionError that kills a consumer's reader."""
    with pytest.raises(MalformedValue, match="nested deeper"):
        codec.read_table(nested(depth, kind))


def test_as_deep_as_allowed() -> None:
    value: Any = {}
    for _ in range(MAX_DEPTH):
        value = {"a": value}
    assert codec.read_table(codec.table(value))[0] == value
    with pytest.raises(UnencodableValue, match="nested deeper"):
        codec.table({"a": value})


def test_bottomless_lists_are_not_written() -> None:
    value: list[Any] = []
    for _ in range(MAX_DEPTH + 1):
        value = [value]
    with pytest.raises(UnencodableValue, match="nested deeper"):
        codec.table({"a": value})


@pytest.mark.parametrize(
    ("kind", "packed", "value"),
    [
        ("b", struct.pack(">b", -5), -5),
        ("B", b"\xff", 255),
        ("s", struct.pack(">h", -300), -300),
        ("u", struct.pack(">H", 65535), 65535),
        ("I", struct.pack(">i", -70000), -70000),
        ("i", struct.pack(">I", 2**32 - 1), 2**32 - 1),
        ("l", struct.pack(">q", -(2**40)), -(2**40)),
        ("L", struct.pack(">q", -(2**40)), -(2**40)),
        ("f", struct.pack(">f", 0.5), 0.5),
        ("d", struct.pack(">d", 0.25), 0.25),
        ("t", b"\x02", True),
        ("V", b"", None),
    ],
)
def test_field_types_that_others_write(kind: str, packed: bytes, value: Any) -> None:
    """L is what py-amqp writes for an integer beyond 32 bits; RabbitMQ reads it as a signed 64-bit integer."""
    inner = b"\x01a" + kind.encode() + packed
    assert codec.read_table(struct.pack(">I", len(inner)) + inner)[0] == {"a": value}


def test_text_that_is_not_utf8_is_replaced_in_values_and_refused_in_names() -> None:
    inner = b"\x01aS\x00\x00\x00\x02\xff\xfe"
    assert codec.read_table(struct.pack(">I", len(inner)) + inner)[0] == {"a": "\ufffd\ufffd"}
    with pytest.raises(MalformedValue):
        codec.read_table(b"\x00\x00\x00\x04\x02\xff\xfeV")


@pytest.mark.parametrize(
    "value",
    [
        2**63,
        -(2**63) - 1,
        Decimal("NaN"),
        Decimal(2**31),
        datetime(1960, 1, 1, tzinfo=timezone.utc),
        object(),
        {1, 2},
    ],
)
def test_what_amqp_cannot_carry(value: Any) -> None:
    with pytest.raises(UnencodableValue):
        codec.table({"a": value})


def test_short_strings_are_255_octets_at_most() -> None:
    assert codec.shortstr("é" * 127 + "a") == b"\xff" + ("é" * 127 + "a").encode()
    with pytest.raises(UnencodableValue, match="256 bytes; AMQP allows 255"):
        codec.shortstr("é" * 128)


def test_naive_datetimes_are_utc() -> None:
    raw = codec.table({"a": datetime(2020, 1, 1)})
    assert codec.read_table(raw)[0] == {"a": datetime(2020, 1, 1, tzinfo=timezone.utc)}


def test_not_a_number_survives() -> None:
    assert math.isnan(codec.read_table(codec.table({"a": math.nan}))[0]["a"])


def test_unknown_property_flags_are_malformed() -> None:
    with pytest.raises(MalformedValue, match="unknown properties"):
        codec.read_properties(b"\x00\x01")


@pytest.mark.parametrize("text", ["12345.67", "-12345.67", "0.00", "1E+3", "2147483647", "-0.000012"])
def test_a_decimal_is_what_it_is_whatever_the_applications_context(text: str) -> None:
    """The application may compute with four digits."""
    with localcontext() as context:
        context.prec = 4
        read, _ = codec.read_table(codec.table({"value": Decimal(text)}))
    assert read == {"value": Decimal(text)}
