"""Until when a request is worth its execution: until its caller gives up.

Two things tell. `expiration` needs no agreement of clocks and gives an upper bound, for the broker counted until it
delivered. The point in time that our own callers name is exact, where the clocks of the two hosts agree.

Layer 4: imports runtime.native, oslo.envelope.
"""

from __future__ import annotations

import logging

from ..oslo.envelope import Request
from ..runtime import native

logger = logging.getLogger("wsgi_messaging.rpc")

CLOCK_TOLERANCE = 1.0
"""Seconds by which a caller's clock may be behind ours before a fresh request of it looks expired."""


class Expiry:
    """The expiry of a server's requests. Threads: any."""

    def __init__(self) -> None:
        self._has_warned = False

    def until(self, request: Request, received_at: float, now: float) -> float | None:
        """When the caller gives up, by our monotonic clock; None when it does not say."""
        bounds = []
        if request.expires_after is not None:
            bounds.append(received_at + request.expires_after)
        if request.expires_at is not None:
            left = request.expires_at - native.wall_clock()
            bounds.append(now + (left if left > 0 or left < -CLOCK_TOLERANCE else CLOCK_TOLERANCE))
            self._look_at_clocks(request, left + now - received_at)
        return min(bounds, default=None)

    def _look_at_clocks(self, request: Request, left: float) -> None:
        """The broker keeps no request for longer than it is good for. One that was late when it came was sent again,
        behind an outage, or by a caller with another time: then all of them are late."""
        if left < -CLOCK_TOLERANCE and request.expires_after is not None and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "a request for %.60s is dropped unexecuted: by its clock the caller had given up %.0f s before it "
                "came; if that goes on, compare the clocks of the two hosts",
                request.method,
                -left,
            )
