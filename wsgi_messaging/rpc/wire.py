"""What RPC needs of the connections of a transport: publish what is encoded already, subscribe with a mailbox of its
own, settle many deliveries at once, delete a queue.

The only module of rpc/ that knows how connections are made. All of it may be called from any thread, the
connections' own threads included, except what says that it blocks.

Layer 4.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..connection import codec, frames, topology
from ..connection.consuming import ACK_WITHIN
from ..connection.loop import Loop
from ..connection.pending import Outgoing
from ..connection.state import State
from ..connection.subscription import Delivered, Sink, Subscription
from ..connection.topology import Declaration
from ..connections import Connections
from ..errors import MessagingError
from ..lifetime import CONSUME
from ..runtime import native
from ..runtime.waiting import Waker

_SMALL = 4096 - 3 * frames.OVERHEAD
_OPEN = (State.READY, State.BLOCKED)


def publish(
    connections: Connections,
    route: tuple[str, str],
    header: bytes,
    body: bytes,
    *,
    deadline: float,
    on_done: Callable[[Outgoing], None],
    mandatory: bool,
    may_repeat: bool = True,
    confirm: bool = True,
    is_alone: bool = False,
) -> Outgoing:
    """Hand an encoded message over; `on_done` is called on the connection's thread when it is settled.

    Without `confirm` it costs half, and the broker is asked about it a moment later. A caller that is alone
    (`is_alone`) writes it itself where it can.

    Raises: `InvalidMessage`, `Unavailable` when too many messages wait already, `Closed`.
    """
    entry = connections.outgoing(
        route,
        header,
        body,
        deadline=deadline,
        on_done=on_done,
        mandatory=mandatory,
        may_repeat=may_repeat,
        confirm=confirm,
    )
    connections.submit(entry, is_alone=is_alone)
    return entry


class _Reading:
    """What a sink's reader waits with who is alone: it reads for itself, for a moment, until it is given something."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._is_over = False

    def acquire(self, _blocking: bool, timeout: float) -> bool:
        self._loop.attend_unasked(lambda: self._is_over, native.monotonic() + timeout)
        return self._is_over

    def release(self) -> None:
        self._is_over = True
        if not self._loop.is_own_thread():
            self._loop.watch.wake()


class Feed:
    """One subscription whose deliveries go to a sink; it comes back after every loss."""

    def __init__(
        self,
        connections: Connections,
        queue: str,
        sink: Sink,
        *,
        prefetch: int,
        on_change: Callable[[], None],
        is_awaited: Callable[[], bool] | None = None,
        declares: bool = False,
        on_replaced: Callable[[str, str], None] | None = None,
    ) -> None:
        """`on_change` is called, on the connection's thread, when it was accepted, again, or given up. `is_awaited`
        tells whether somebody waits for a delivery, where none comes unasked. With `on_replaced`, called there, too, a
        queue that cannot be had any more is replaced: (its name, the other's)."""
        self._connections = connections
        self._subscription = Subscription(
            queue,
            tag=connections.next_message_id(),
            prefetch=prefetch,
            mailbox=sink,
            notify=on_change,
            is_awaited=is_awaited,
            declares=declares,
            on_replaced=on_replaced,
        )
        self._loop = connections.loop(CONSUME)

    def start(self) -> None:
        """Have it made; returns at once."""
        self._loop.order(partial(self._loop.consumers.add, self._subscription))

    @property
    def is_active(self) -> bool:
        return self._subscription.is_active

    @property
    def is_settled(self) -> bool:
        """True when it is accepted or given up."""
        return self._subscription.is_active or self._subscription.error is not None

    @property
    def error(self) -> MessagingError | None:
        """Why it was given up; it will not come back."""
        return self._subscription.error

    def attend(self, is_there: Callable[[], object], until: float, *, is_alone: bool) -> None:
        """The caller begins to wait for a delivery: while it is alone it may read for itself, until `is_there()`.

        Blocks: for 0.1 s at most, and not beyond `until`.
        """
        self._loop.attend(is_there, until, is_alone=is_alone)

    def reading(self) -> Waker:
        """What a thread may wait with for a delivery, while it is alone: it reads for itself."""
        return _Reading(self._loop)

    def disturb(self) -> None:
        """Have nobody read for itself just now: something else has come that it waits for."""
        if self._loop.watch.is_on_standby:
            self._loop.watch.wake()

    def stop(self) -> None:
        """Have no more delivered; what was delivered can still be settled."""
        self._loop.order(lambda _now: self._loop.consumers.stop(self._subscription))

    def remove(self) -> None:
        """End it; what is not settled goes back to the queue."""
        self._loop.order(lambda _now: self._loop.consumers.remove(self._subscription))

    def acknowledge_soon(self, delivered: Delivered) -> None:
        """Acknowledge a delivery, in a moment. Threads: the connection's own only."""
        self._loop.consumers.acknowledge(delivered, native.monotonic(), ACK_WITHIN)


def is_current(delivered: Delivered) -> bool:
    """False for a delivery of a connection that is gone: it cannot be settled, and comes again."""
    return delivered.generation == delivered.subscription.generation


def acknowledge(connections: Connections, delivered: Delivered, *, is_alone: bool = False) -> None:
    """Done: the broker may forget it. A caller that is alone writes it itself where it can."""
    loop = connections.peek(CONSUME)
    if loop is not None:
        by_itself, gathered = loop.consumers.settle, loop.consumers.acknowledge
        order = partial(by_itself, delivered, frames.BASIC_ACK, False) if is_alone else partial(gathered, delivered)
        loop.order(order, is_alone=is_alone)


def reject(connections: Connections, delivered: Delivered) -> None:
    """Not usable: dead-lettered where the queue says so, dropped otherwise."""
    _reject(connections, delivered, False)


def requeue(connections: Connections, delivered: Delivered) -> None:
    """Not begun: somebody else is to have it."""
    _reject(connections, delivered, True)


def _reject(connections: Connections, delivered: Delivered, requeue: bool) -> None:
    loop = connections.peek(CONSUME)
    if loop is not None:
        loop.order(partial(loop.consumers.settle, delivered, frames.BASIC_REJECT, requeue))


def declare(connections: Connections, declaration: Declaration, deadline: float) -> None:
    """Declare now, and again when the broker no longer has it.

    Blocks: until the broker's answer or the deadline. Raises: `DeclarationRefused`, `ConnectTimeout`, ...
    """
    connections.request(declaration, deadline, CONSUME)
    connections.topology.record(declaration)


def forget_queue(connections: Connections, queue: str, timeout: float) -> None:
    """Delete a queue that is ours alone. A broker that cannot be had is not waited for: `x-expires` does it then.

    Blocks: up to `timeout`. Raises: nothing.
    """
    connections.topology.forget(queue=queue)
    loop = connections.peek(CONSUME)
    if loop is None or loop.state not in _OPEN:
        return
    arguments = codec.arguments("Bsbbb", 0, queue, False, False, False)
    deletion = Declaration(topology.QUEUE_DELETE, arguments, f"deletion of queue {queue!r}", queue=queue)
    try:
        connections.request(deletion, native.monotonic() + timeout, CONSUME)
    except MessagingError:
        return
