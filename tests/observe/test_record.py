"""A record is whole or not there, whatever its writer was doing when it was read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.processes import ROOT
from tests.harness.waiting import wait_until
from wsgi_messaging.observe import record
from wsgi_messaging.observe.record import COPY_SIZE, LARGEST, SIZE, Record


@pytest.fixture
def descriptor() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        os.truncate(file.fileno(), SIZE)
        yield file.fileno()


def content(descriptor: int) -> bytearray:
    return bytearray(os.pread(descriptor, SIZE, 0))


def payload(found: record.Reading | None) -> bytes | None:
    return None if found is None else found.payload


def test_the_latest_is_read(descriptor: int) -> None:
    written = Record(descriptor)
    assert record.read(bytes(content(descriptor))) is None
    for number in range(1, 6):
        written.write(b"%d" % number * number, now=float(number))
        found = record.read(bytes(content(descriptor)))
        assert found == record.Reading(number, float(number), b"%d" % number * number)
    written.close()


@pytest.mark.parametrize("damage", [0, 5, 12, 20, 30, 33, COPY_SIZE - 1])
def test_a_torn_copy_leaves_the_one_before(descriptor: int, damage: int) -> None:
    """As after a SIGKILL in the middle of a write. Fails when the checksum leaves anything out."""
    written = Record(descriptor)
    written.write(b"one" * 1000, 1.0)
    written.write(b"t" * LARGEST, 2.0)
    torn = content(descriptor)
    torn[damage] ^= 0xFF  # the second record lies in the first copy
    assert payload(record.read(bytes(torn))) == b"one" * 1000
    torn[COPY_SIZE + damage % 3000] ^= 0xFF
    assert record.read(bytes(torn)) is None


def test_what_is_too_large_is_refused(descriptor: int) -> None:
    written = Record(descriptor)
    written.write(b"x" * LARGEST, 1.0)
    with pytest.raises(ValueError, match="largest"):
        written.write(b"x" * (LARGEST + 1), 2.0)
    assert payload(record.read(bytes(content(descriptor)))) == b"x" * LARGEST


@pytest.mark.parametrize("junk", [b"", b"x", b"\0" * SIZE, b"\xff" * SIZE, b"wsgm" * (SIZE // 4)])
def test_junk_is_no_record(junk: bytes) -> None:
    assert record.read(junk) is None


def test_no_reading_is_a_mixture_while_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(b"\0" * SIZE)
    script = """
        import os, sys
        from wsgi_messaging.observe.record import LARGEST, Record
        written = Record(os.open(sys.argv[1], os.O_RDWR))
        while True:
            for each in range(256):
                written.write(bytes([each]) * LARGEST, float(each))
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(path)], cwd=ROOT)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        wait_until(lambda: record.read(bytes(content(descriptor))), 10.0, "the first record")
        seen = set()
        for _ in range(3000):
            found = record.read(bytes(content(descriptor)))
            if found is not None:  # both copies were being replaced while they were read
                assert len(set(found.payload)) == 1, "a mixture of two records"
                assert found.payload[0] == found.written_at
                seen.add(found.payload[0])
        assert len(seen) > 10, "it did write meanwhile"
        writer.send_signal(signal.SIGSTOP)
        wait_until(lambda: record.read(bytes(content(descriptor))), what="a whole record of a stopped writer")
    finally:
        os.close(descriptor)
        writer.kill()
        writer.wait(5.0)
