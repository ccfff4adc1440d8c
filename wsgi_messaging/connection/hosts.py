"""Which broker to try next: every worker in an order of its own, the ones that were tried last come last.

Layer 0: imports `dataclasses`, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Broker:
    """One address to reach a broker at, and who we are there. Its repr and str hold no secret."""

    host: str
    port: int
    userid: str = field(default="guest", repr=False)
    password: str = field(default="guest", repr=False)
    virtual_host: str = "/"
    is_tls: bool = False

    @property
    def address(self) -> str:
        """host:port, as it is shown to people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        scheme = "amqps" if self.is_tls else "amqp"
        path = "" if self.virtual_host == "/" else f"/{self.virtual_host}"
        return f"{scheme}://{self.address}{path}"


class Hosts:
    """Hands out brokers one after the other; a round is over when each was tried.

    `shuffle` orders a list in place (random.shuffle in a worker, the identity in a test), so that a fleet of workers
    spreads over the brokers.
    """

    def __init__(self, brokers: Sequence[Broker], shuffle: Callable[[list[Broker]], None]) -> None:
        self._order = list(brokers)
        shuffle(self._order)
        self._untried = list(self._order)

    def take(self) -> Broker:
        """The next broker of this round."""
        if not self._untried:
            self._untried = list(self._order)
        taken = self._untried.pop(0)
        self._order.remove(taken)
        self._order.append(taken)
        return taken

    @property
    def is_round_over(self) -> bool:
        """True when every broker was tried since the last success."""
        return not self._untried

    def succeeded(self) -> None:
        """The last one works. After it is lost it comes last, and before it those that failed, or were lost, before."""
        self._untried = list(self._order)
