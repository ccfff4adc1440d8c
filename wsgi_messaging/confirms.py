"""The broker's answers to messages that were handed over without waiting: one by one, or a batch.

Layer 3.
"""

from __future__ import annotations

from .connection.pending import Outgoing
from .connections import Connections
from .errors import MessagingError
from .runtime import native
from .runtime.waiting import Completion


class Confirm:
    """The broker's answer to one message, to come. Threads: any thread or greenlet may wait, several may.

    After fork: a child does not hear of it, and is told so at once.
    """

    __slots__ = ("_completion", "_connections", "_entry")

    def __init__(self, connections: Connections, entry: Outgoing, completion: Completion) -> None:
        self._connections = connections
        self._entry = entry
        self._completion = completion

    def __repr__(self) -> str:
        state = "pending" if not self.done else f"failed: {self.error}" if self.error else "confirmed"
        return f"<Confirm {self._entry.exchange}/{self._entry.routing_key} {state}>"

    @property
    def done(self) -> bool:
        """True when the broker has answered, or the message's time is over, or it is another process's."""
        return self._entry.is_done or native.monotonic() >= self._entry.deadline or self._connections.is_inherited

    @property
    def error(self) -> MessagingError | None:
        """Why the message was not confirmed; None while that is open and when it was."""
        entry = self._entry
        is_over = self.done and not entry.is_done
        if is_over:
            entry.abandoned = True  # `maybe_sent` is looked at behind that, as the connection's thread does
        if is_over or entry.was_dropped:
            return self._connections.expiry(entry)
        return entry.error

    def wait(self, timeout: float | None = None) -> None:
        """Return when the broker has confirmed the message.

        Blocks: up to `timeout` seconds, and never beyond the message's own deadline. Raises: why it was not
        confirmed; `Unavailable` in a child of the process that published it; `TimeoutError` (a plain one) when
        `timeout` is over first and the message is still on its way.
        """
        entry = self._entry
        if self._connections.is_inherited and not entry.is_done:
            raise self._connections.expiry(entry)
        is_shorter = timeout is not None and native.monotonic() + timeout < entry.deadline
        if is_shorter and not self._completion.wait(timeout):
            raise TimeoutError(f"not confirmed within {timeout:g} s, and still on its way")
        self._connections.await_confirm(entry, self._completion, is_alone=False)


def settle(
    connections: Connections,
    waiting: list[tuple[int, Outgoing, Completion]],
    results: list[MessagingError | None],
    keep: int,
) -> None:
    """Wait for the oldest of a batch until only `keep` are open."""
    cut = max(0, len(waiting) - keep)
    for position, entry, completion in waiting[:cut]:
        try:
            connections.await_confirm(entry, completion)
        except MessagingError as exc:
            results[position] = exc
    del waiting[:cut]
