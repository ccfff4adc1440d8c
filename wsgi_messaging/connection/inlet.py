"""What comes in on one connection: received in bulk, taken apart, handed to whom it is for.

Layer 2.
"""

from __future__ import annotations

from collections.abc import Callable

from ..runtime import native
from .channels import Channels
from .frames import Inbound
from .link import Link
from .outlet import Outlet
from .pulse import Pulse


class Inlet:
    """The reading side of one connection, for whoever has its thread's turn."""

    def __init__(
        self, channels: Channels, outlet: Outlet, pulse: Pulse, on_connection: Callable[[Link, Inbound], bytes]
    ) -> None:
        """`on_connection` gets what is on channel 0."""
        self._channels = channels
        self._outlet = outlet
        self._pulse = pulse
        self._on_connection = on_connection

    def read(self, link: Link) -> None:
        """Take what is there; the answers are left to be written. Raises: OSError, EOFError, FrameError, ..."""
        received = 0 if link.has_early else link.stream.recv_into(link.reader.free())
        if received is None:
            return
        link.has_early = False
        now = native.monotonic()
        self._pulse.beat.received_at = now
        for inbound in link.reader.methods(received):
            answer = self._channels.dispatch(inbound, now) if inbound.channel else self._on_connection(link, inbound)
            if answer:
                self._outlet.answer(answer)
        if link.reader.beats:
            self._pulse.beat.beats_received += link.reader.beats
            link.reader.beats = 0
