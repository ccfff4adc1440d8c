"""A fault proxy in front of the session's RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.proxy import FaultProxy
from tests.harness.rabbitmq import RabbitMQ


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
