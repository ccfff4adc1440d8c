"""What a connection tells of itself.

Layer 0.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """One connection, at one moment. Times are seconds; counters run since the process began."""

    role: str
    """"publish" or "consume"."""
    state: str
    """A value of `wsgi_messaging.connection.state.State`."""
    name: str
    """As the broker shows it: app:role:pid@host."""
    broker: str | None
    """host:port of the broker in use; None while there is none."""
    heartbeat: float
    """The interval agreed with the broker; 0 for none."""
    beats_sent: int
    beats_received: int
    sent_age: float | None
    """Since anything was last sent."""
    received_age: float | None
    """Since anything was last received."""
    lateness_last: float
    """How long after it was due the last beat was sent."""
    lateness_worst: float
    confirmed: int
    failed: int
    returned: int
    """Unroutable messages; they count as failed, too."""
    in_flight: int
    """Written, and not yet answered by the broker."""
    queued: int
    """Accepted, and not yet written."""
    reconnects: int
    blocked: str | None
    """The broker's reason while it takes no messages."""
    consumers: int
    last_failure: str | None
    """Why the last attempt to connect failed, while there is no connection."""
