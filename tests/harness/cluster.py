"""Three RabbitMQ nodes of our own, joined to a cluster."""

from __future__ import annotations

from tests.harness.rabbitmq import RabbitMQ


class Cluster:
    """The nodes of one cluster; the first one is the one that the others joined."""

    def __init__(self, size: int = 3, config: str = "") -> None:
        self.nodes = [RabbitMQ(config) for _ in range(size)]

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

    def cut_off(self, node: RabbitMQ) -> None:
        """Part a node from the others, as a network would: they run, and none lets the other in any more."""
        for other in self._others(node):
            other.evaluate(f"erlang:set_cookie('{node.node}', cut_off)")
            node.evaluate(f"erlang:set_cookie('{other.node}', cut_off_too)")
        node.evaluate("[erlang:disconnect_node(Node) || Node <- nodes()]")

    def bring_back(self, node: RabbitMQ) -> None:
        """Let them in again."""
        for other in self._others(node):
            for one, another in ((node, other), (other, node)):
                one.evaluate(f"erlang:set_cookie('{another.node}', erlang:get_cookie())")

    def _others(self, node: RabbitMQ) -> list[RabbitMQ]:
        return [other for other in self.nodes if other is not node]

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
