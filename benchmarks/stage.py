"""The broker that the benchmark starts for itself, its queues, and two ways to it that can be broken."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

import amqp

from benchmarks.plan import EXCHANGE
from benchmarks.workloads import Contestant, Workload
from tests.harness.proxy import FaultProxy
from tests.harness.rabbitmq import RabbitMQ


class Stage:
    """`with Stage() as stage:` a RabbitMQ with nothing else on it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="wsgi-messaging-benchmark-"))
        self.broker = RabbitMQ(password="guest")  # which some peers have built in
        self._numbers = itertools.count(1)
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._stack.callback(self.broker.stop)
        self.broker.start()
        self._channel = self._connect().channel()
        self._channel.exchange_declare(EXCHANGE, "topic", durable=False, auto_delete=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _connect(self) -> amqp.Connection:
        connection = amqp.Connection(host=f"127.0.0.1:{self.broker.amqp_port}", heartbeat=0)
        connection.connect()
        return connection

    def queue(self, workload: Workload, contestant: Contestant) -> str:
        """The name of a contestant's own queue, made here."""
        name = f"{workload.name}.{contestant.label.replace('>', '-')}.{next(self._numbers)}"
        is_transient = workload.action == "cast" or (
            contestant.peer == "oslo" and not workload.options.get("is_persistent", True)
        )
        self._make(name, durable=not is_transient)
        if workload.action == "listen":
            self._make(f"{name}.info", durable=False)
        return name

    def _make(self, name: str, durable: bool) -> None:
        self._channel.queue_declare(name, durable=durable, auto_delete=False)
        self._channel.queue_bind(name, EXCHANGE, name)

    def purge(self, queue: str) -> None:
        """Empty it, and what oslo.messaging's API makes of its name."""
        for name in (queue, f"{queue}.info"):
            try:
                self._channel.queue_purge(name)
            except amqp.NotFound:
                self._channel = self._channel.connection.channel()

    def ways(self, workload: Workload) -> Ways:
        """How a contestant gets to the broker: directly, or by two proxies of its own if something is to break."""
        port = self.broker.amqp_port
        if workload.fault is None:
            return Ways((port,), [])
        ways = Ways.through_proxies((self.broker.host, port))
        self._stack.callback(ways.close)
        return ways


class Ways:
    """One contestant's ways to the broker."""

    def __init__(self, ports: tuple[int, ...], proxies: list[FaultProxy]) -> None:
        self.ports = ports
        self._proxies = proxies

    @classmethod
    def through_proxies(cls, target: tuple[str, int]) -> Ways:
        proxies = [FaultProxy(target) for _ in range(2)]
        return cls(tuple(proxy.port for proxy in proxies), proxies)

    def disturb(self, fault: str) -> None:
        """Break the way that is in use."""
        used = [proxy for proxy in self._proxies if proxy.open_pairs]
        for proxy in used[:1]:
            if fault == "freeze":
                proxy.freeze()
            else:
                proxy.refuse()
                proxy.cut()

    def heal(self) -> None:
        for proxy in self._proxies:
            with suppress(OSError):
                proxy.heal()

    def close(self) -> None:
        for proxy in self._proxies:
            proxy.close()
