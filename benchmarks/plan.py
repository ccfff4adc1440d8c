"""What one process of the benchmark is asked to do, and what it answers.

Imported by the measured processes, too: it imports nothing that a peer brings along.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

Figures = Mapping[str, float]
"""One round's figures of one peer, by the names of `benchmarks.workloads.UNITS`; `operations` is their base."""

EXCHANGE = "openstack"
"""The topic exchange of oslo.messaging's defaults; every queue of a workload is bound to it by its own name."""


class NotOffered(Exception):
    """The peer has no such thing; its text says what is missing."""


@dataclass(frozen=True)
class Plan:
    """One peer's part in one workload."""

    peer: str
    """The name of its module in `benchmarks.peers`."""
    action: str
    """What to do: publish, call, cast, notify, serve, or a name of `benchmarks.child.ACTIONS`."""
    ports: tuple[int, ...]
    """The broker's; several are several ways to it, in order of preference."""
    queue: str
    """The queue, made by the runner and bound to `EXCHANGE` by its name: to oslo.messaging's API it is a topic."""
    callers: int = 1
    is_persistent: bool = True
    is_green: bool = False
    is_bound: bool = False
    """The process keeps to one processor."""
    is_patient: bool = False
    """A thread of the process that is woken interrupts nobody (Linux: SCHED_BATCH)."""
    burners: int = 0
    """Threads that compute in pure Python meanwhile."""
    batch: int = 1
    heartbeat: int = 60
    body_bytes: int = 1024

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        fields = json.loads(text)
        return cls(**{**fields, "ports": tuple(fields["ports"])})

    @property
    def topic(self) -> str:
        """Where calls go; its queues are its servers'."""
        return f"{self.queue}.topic"

    def urls(self) -> str:
        """The broker's URLs, separated by semicolons, as kombu has it."""
        return ";".join(f"amqp://guest:guest@127.0.0.1:{port}//" for port in self.ports)

    def body(self) -> dict[str, object]:
        """A message whose JSON has `body_bytes` octets."""
        body: dict[str, object] = {"id": 1234567, "event": "order.created", "text": ""}
        body["text"] = "x" * (self.body_bytes - len(json.dumps(body)))
        return body
