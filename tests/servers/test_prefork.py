"""Apache's MPM prefork ends a child in its signal handler, on top of the request that it serves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.apache import Apache
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.harness.waiting import wait_until
from wsgi_messaging.servers.mod_wsgi import DRAIN_SECONDS


@pytest.fixture
def server(rabbitmq: RabbitMQ) -> Iterator[Apache]:
    env = {"WSGI_MESSAGING_URL": rabbitmq.url, "WSGI_MESSAGING_APP": "prefork-cut"}
    server = Apache("prefork-cut", mode="embedded", mpm="prefork", workers=1, env=env)
    if (reason := server.missing()) is not None:
        missing(reason)
    yield server
    server.discard()


def test_the_request_that_the_end_interrupts_is_not_waited_for(server: Apache, rabbitmq: RabbitMQ) -> None:
    """Red without the look at the stack: the end waits 1.8 s for the request that it stands on."""
    rabbitmq.declare_queue("prefork-cut")
    server.start()
    with ThreadPoolExecutor(1) as pool:
        cut = pool.submit(server.get, "/publish?queue=prefork-cut&id=1&hold=20")
        wait_until(lambda: rabbitmq.messages("prefork-cut"), 10.0, "the message of the request that is cut")
        began_at = time.monotonic()
        assert server.stop() == 0
        took = time.monotonic() - began_at
        assert isinstance(cut.exception(), OSError)
    assert took < DRAIN_SECONDS
    wait_until(lambda: not rabbitmq.connections("prefork-cut:"), what="the end of its connection")
    assert server.alarms() == []
