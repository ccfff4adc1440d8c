"""The requests that were begun already, by their ids, so that one which was sent twice is executed once.

A client sends a request again when the connection broke before the confirm came. oslo.messaging remembers 16 ids;
at 1,000 requests in a second a reconnect of 2 s needs 2,000.

Layer 4: imports runtime.native.
"""

from __future__ import annotations

from collections import OrderedDict

from ..runtime import native

KEPT = 10_000
KEPT_FOR = 600.0


class SeenIds:
    """The last `kept` ids, none older than `kept_for` seconds. Threads: any."""

    def __init__(self, kept: int = KEPT, kept_for: float = KEPT_FOR) -> None:
        self._kept = kept
        self._kept_for = kept_for
        self._ids: OrderedDict[str, float] = OrderedDict()
        self._lock = native.allocate_lock()  # guards _ids

    def __len__(self) -> int:
        return len(self._ids)

    def is_new(self, unique_id: str | None, now: float) -> bool:
        """True once for each id. A request without one is always new."""
        if unique_id is None:
            return True
        # Critical section: one of two deliveries of a request comes first.
        with self._lock:
            ids = self._ids
            while ids and next(iter(ids.values())) <= now - self._kept_for:
                ids.popitem(last=False)
            if unique_id in ids:
                return False
            if len(ids) >= self._kept:
                ids.popitem(last=False)
            ids[unique_id] = now
            return True
