"""The requests that were begun already, by their ids, so that one which comes twice is executed once by its server.

A client sends a request again when the connection broke before the confirm came, and the broker delivers again what
was not acknowledged when its connection broke. oslo.messaging remembers 16 ids; at 1,000 requests in a second a
reconnect of 2 s needs 2,000.

Layer 4: imports runtime.native and rpc.wire.
"""

from __future__ import annotations

from collections import OrderedDict

from ..connection.subscription import Delivered
from ..runtime import native
from . import wire

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
            self._add_locked(unique_id, now)
            return True

    def renew(self, unique_id: str | None, now: float) -> None:
        """What took long is over: it is remembered from now on."""
        if unique_id is None:
            return
        # Critical section: what was the oldest becomes the latest.
        with self._lock:
            self._ids.pop(unique_id, None)
            self._add_locked(unique_id, now)

    def _add_locked(self, unique_id: str, now: float) -> None:
        if len(self._ids) >= self._kept:
            self._ids.popitem(last=False)
        self._ids[unique_id] = now


class UnderWay:
    """The deliveries of each request that is acknowledged when it is over, while it is not. Threads: any.

    When the connection breaks meanwhile, another one is delivered of the same request. Until it is acknowledged the
    broker gives the request to somebody else, should this process die.
    """

    def __init__(self) -> None:
        self._deliveries: dict[str, list[Delivered]] = {}
        self._lock = native.allocate_lock()  # guards _deliveries

    def joins(self, unique_id: str | None, delivered: Delivered) -> bool:
        """True when the request is under way, and this is one more delivery of it; else it is from now on."""
        if unique_id is None:
            return False
        # Critical section: one of two deliveries of a request comes first, and none joins what is over.
        with self._lock:
            others = self._deliveries.get(unique_id, ())
            self._deliveries[unique_id] = [*filter(wire.is_current, others), delivered]
            return bool(others)

    def end(self, unique_id: str | None, delivered: Delivered) -> list[Delivered]:
        """The request is over: gives what is to be acknowledged."""
        if unique_id is None:
            return [delivered]
        with self._lock:  # Critical section: as in `joins`.
            return self._deliveries.pop(unique_id, [])
