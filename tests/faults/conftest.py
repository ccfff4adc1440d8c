"""A fault proxy in front of the session's RabbitMQ, an embedded broker, and one other thread."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.proxy import FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from tests.harness.secret import dev_broker
from tests.harness.waiting import Elsewhere
from wsgi_messaging.devbroker import DevBroker


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[FaultProxy]:
    """Forwards to `rabbitmq` until told otherwise. `proxy.url()` goes through it."""
    with FaultProxy((rabbitmq.host, rabbitmq.amqp_port)) as fault_proxy:
        yield fault_proxy


@pytest.fixture
def recording_proxy(rabbitmq: RabbitMQ) -> Iterator[FaultProxy]:
    """The same, keeping every byte in `pairs[n].traffic["up"].recorded`."""
    with FaultProxy((rabbitmq.host, rabbitmq.amqp_port), record=True) as fault_proxy:
        yield fault_proxy


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    """Has something done on the one other thread: what the main thread never does."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit


@pytest.fixture
def broker() -> Iterator[DevBroker]:
    """An embedded broker of the test's own."""
    with dev_broker() as broker:
        yield broker
