"""What an RPC server tells of itself.

Layer 4: imports nothing of ours.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RPCServerStatus:
    """What a server has done so far, and has now."""

    received: int = 0
    executed: int = 0
    failed: int = 0
    """Executed, and the method raised."""
    expired: int = 0
    """Dropped unexecuted, because the caller had given up."""
    duplicates: int = 0
    """Dropped unexecuted, because they were begun before."""
    malformed: int = 0
    replies: int = 0
    undeliverable: int = 0
    busy: int = 0
    workers: int = 0
