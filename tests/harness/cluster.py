"""Three RabbitMQ nodes of our own, joined to a cluster."""

from __future__ import annotations

from tests.harness.rabbitmq import RabbitMQ


class Cluster:
    """The nodes of one cluster; the first one is the one that the others joined."""

    def __init__(self, size: int = 3) -> None:
        self.nodes = [RabbitMQ() for _ in range(size)]

    def start(self) -> Cluster:
        """Blocks: until every node is up and has joined, about half a minute."""
        first, *others = self.nodes
        first.start()
        for node in others:
            node.join(first)
        return self

    @property
    def url(self) -> str:
        """One URL that names them all."""
        return ";".join(node.url for node in self.nodes)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
