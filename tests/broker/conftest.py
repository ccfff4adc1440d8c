"""The same tests, two brokers: the embedded one and a real RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.broker.semantics_client import Address, Client
from tests.harness.secret import dev_broker
from wsgi_messaging.devbroker import DevBroker


@pytest.fixture(scope="module")
def devbroker() -> Iterator[DevBroker]:
    with dev_broker() as broker:
        yield broker


@pytest.fixture(params=["devbroker", "rabbitmq"])
def any_broker(request: pytest.FixtureRequest) -> Address:
    """The address of each broker in turn."""
    started = request.getfixturevalue(request.param)
    port = started.port if request.param == "devbroker" else started.amqp_port
    return Address(request.param, started.host, port)


@pytest.fixture
def broker(any_broker: Address) -> Address:
    """The same, where the test is not about the broker."""
    return any_broker


@pytest.fixture
def url(any_broker: Address) -> str:
    """Of each broker in turn."""
    return any_broker.url


@pytest.fixture
def witness(any_broker: Address) -> Iterator[Any]:
    """A channel of py-amqp's, to look at the broker with."""
    client = Client(any_broker)
    yield client.channel()
    client.close()
