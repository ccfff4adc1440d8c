"""A process that never thought of logging: what is wrong is on standard error all the same."""

from __future__ import annotations

import subprocess
import sys

from tests.harness.processes import ROOT, free_port

PROGRAM = """
import sys
from wsgi_messaging import MessagingError, Transport
with Transport(f"amqp://127.0.0.1:{sys.argv[1]}//", name="shop") as transport:
    try:
        transport.publish("x", "q", timeout=0.5)
    except MessagingError:
        print("failed")
"""


def test_a_broker_that_is_away_is_seen() -> None:
    port = str(free_port())
    done = subprocess.run([sys.executable, "-c", PROGRAM, port], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout == "failed\n"
    [line] = done.stderr.splitlines()
    assert line.startswith("shop:publish:")
    assert f"amqp://127.0.0.1:{port}: connection refused" in line
