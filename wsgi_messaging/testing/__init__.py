"""For an application's own test suite: a transport in memory, an embedded broker, pytest fixtures for both.

    # conftest.py
    pytest_plugins = ["wsgi_messaging.testing"]

    def test_signup(memory_transport):
        signup(memory_transport, "alice")
        assert memory_transport.published[-1].json() == {"user": "alice"}

`MemoryTransport` is a Transport all through, but for the sockets: in their place is the embedded broker's model of
exchanges and queues, so routing, 404, 406, unroutable messages, prefetch and redelivery are the broker's. Nothing
runs in the background but the consumers' threads; a publish is done when it returns. Where the network itself
matters, use the embedded broker: it listens on loopback and can be made to misbehave.

Layer 5: imports transport, devbroker; pytest where it is installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from ..devbroker import DevBroker
from ..errors import MessagingError
from ..runtime import native
from ..runtime.process import PerProcess
from ..runtime.waiting import Completion
from ..settings import Settings
from ..transport import Transport
from .memory import MemoryBroker, MemoryConnections, Published

__all__ = ["MemoryTransport", "Published"]

_LOOK_EVERY = 0.005


class MemoryTransport(Transport):
    """A Transport without a network; `published` has what was published, in order.

    What is published to the default exchange, or through exchanges that were declared, waits in the queues that were
    declared and goes to the consumers. RPC and notifications work over it, within one process.
    """

    def __init__(self, *, settings: Settings | None = None) -> None:
        super().__init__(settings=settings or Settings(app="memory"))
        broker = self._broker = MemoryBroker()
        self._process = PerProcess(lambda: MemoryConnections(self.settings, broker), MemoryConnections.forget)

    def __repr__(self) -> str:
        return f"<MemoryTransport published={len(self._broker.published)}>"

    @property
    def published(self) -> list[Published]:
        """Everything that was published and taken, unroutable messages with `mandatory=False` included."""
        return list(self._broker.published)

    def waiting(self, queue: str) -> list[Published]:
        """What stands in a queue that no consumer has taken yet, in order. Raises: `KeyError` for no such queue."""
        return self._broker.waiting(queue)

    def fail_with(self, error: MessagingError | None) -> None:
        """Have every publish from now on end in this error; None for no more."""
        self._broker.failure = error

    def drain(self, timeout: float = 5.0) -> bool:
        """Blocks: until the consumers have settled all that waits for them, up to `timeout`. False when not."""
        ends_at = native.monotonic() + timeout
        while not self._broker.is_drained():
            if native.monotonic() >= ends_at:
                return False
            Completion().wait(_LOOK_EVERY)
        return True


if importlib.util.find_spec("pytest") is not None:
    import pytest

    @pytest.fixture
    def memory_transport() -> Iterator[MemoryTransport]:
        """A `MemoryTransport`, closed after the test."""
        transport = MemoryTransport()
        yield transport
        transport.close()

    @pytest.fixture
    def devbroker() -> Iterator[DevBroker]:
        """An embedded broker on a free port of loopback, for one test; its `url` is what a Transport takes."""
        with DevBroker() as broker:
            yield broker

    @pytest.fixture
    def devbroker_transport(devbroker: DevBroker) -> Iterator[Transport]:
        """A real transport, connected to the embedded broker at its first use and closed after the test."""
        with Transport(devbroker.url) as transport:
            yield transport

    __all__ += ["devbroker", "devbroker_transport", "memory_transport"]
