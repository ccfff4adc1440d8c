"""From a notification to the endpoints' methods: by priority, filtered, in the endpoints' order.

Nothing that an endpoint, its filter or an instrument does raises out of here, but for what ends its thread on purpose:
an exception is a wish to have the message again, as in oslo.messaging.

Layer 4: imports callables, runtime.waiting, rpc.serializer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..callables import check_plain, listed
from ..rpc.serializer import NoOpSerializer, Serializer
from ..runtime.waiting import is_exit
from .filter import NotificationFilter
from .notification import PRIORITIES, Notification

logger = logging.getLogger("wsgi_messaging.notify")

Arguments = dict[str, Any]
"""What oslo.messaging calls a message: ctxt, publisher_id, event_type, payload, metadata."""

Around = Callable[[Sequence[int]], AbstractContextManager[None]]
"""In what to call a method, given the positions in the batch of the messages that it gets."""

_Give = Callable[[Callable[..., Any], list[Arguments]], Any]
"""How a method is called with the messages that are for it."""


def _nothing(_positions: Sequence[int]) -> AbstractContextManager[None]:
    return nullcontext()


class NotificationResult(str, Enum):
    """What an endpoint's method may return; None is HANDLED, and a text as oslo.messaging's is as good."""

    HANDLED = "handled"
    REQUEUE = "requeue"


@dataclass(frozen=True, slots=True)
class ListenerStatus:
    """What became of the messages of a listener; every number but `queues` only grows."""

    queues: tuple[str, ...]
    """Those that the broker delivers from at the moment."""
    received: int
    handled: int
    """Acknowledged after the endpoints had their turn."""
    requeued: int
    failed: int
    """Calls of an endpoint that ended in an exception."""
    ignored: int
    """Messages (in a batch listener: batches) that no endpoint wanted; they count as handled, too."""
    duplicates: int
    rejected: int
    """No notification: wrong content type, no JSON, wrong version of the envelope."""


class Tally:
    """Counters of one listener; they only grow."""

    def __init__(self) -> None:
        self.received = 0
        self.handled = 0
        self.requeued = 0
        self.failed = 0
        self.ignored = 0
        self.duplicates = 0
        self.rejected = 0

    def status(self, queues: tuple[str, ...]) -> ListenerStatus:
        return ListenerStatus(queues=queues, **vars(self))


class Dispatcher:
    """Calls the methods of endpoints. Threads: any; endpoints are called from several at once.

    Raises: `ConfigurationError` for what is no list, and a method that is a coroutine or a generator function.
    """

    def __init__(self, endpoints: Sequence[object], serializer: Serializer | None, tally: Tally) -> None:
        self._serializer = serializer or NoOpSerializer()
        self._tally = tally
        self._methods: dict[str, list[tuple[NotificationFilter | None, Callable[..., Any]]]] = {}
        every = listed(endpoints)
        for priority in PRIORITIES:
            for endpoint in every:
                method = getattr(endpoint, priority, None)
                if callable(method):
                    check_plain(f"endpoints, {priority}", method)
                    screen = getattr(endpoint, "filter_rule", None)
                    self._methods.setdefault(priority, []).append((screen, method))

    @property
    def priorities(self) -> tuple[str, ...]:
        """Those that some endpoint has a method for."""
        return tuple(self._methods)

    def arguments(self, notification: Notification) -> Arguments:
        """What the endpoints get. Raises: whatever the serializer does."""
        ctxt = self._serializer.deserialize_context(notification.context)
        return {
            "ctxt": ctxt,
            "publisher_id": notification.publisher_id,
            "event_type": notification.event_type,
            "payload": self._serializer.deserialize_entity(ctxt, notification.payload),
            "metadata": notification.metadata,
        }

    def dispatch(self, priority: str, message: Arguments, around: Around = _nothing) -> bool:
        """Give one message to those who want it. False when one of them wants it again: the others are not asked."""
        return self._offer(priority, {0: message}, _give_one, around)

    def dispatch_batch(self, batch: Sequence[tuple[str, Arguments]], around: Around = _nothing) -> list[bool]:
        """Give a batch, priority by priority, each as a list. False for the messages that are wanted again."""
        is_done = [True] * len(batch)
        for priority in sorted({each for each, _message in batch}):
            messages = {at: message for at, (each, message) in enumerate(batch) if each == priority}
            if not self._offer(priority, messages, _give_list, around):
                for position in messages:
                    is_done[position] = False
        return is_done

    def _offer(self, priority: str, messages: dict[int, Arguments], give: _Give, around: Around) -> bool:
        """Ask the methods of one priority, in order, until one wants the messages again. True when none does."""
        takers = 0
        for screen, method in self._methods.get(priority, ()):
            try:
                wanted = [position for position, message in messages.items() if _is_wanted(screen, message)]
                if not wanted:
                    continue
                takers += 1
                with around(wanted):
                    result = give(method, [messages[position] for position in wanted])
                    is_wanted_again = bool(result == NotificationResult.REQUEUE)
            except BaseException as exc:
                self._tally.failed += 1
                logger.exception("a notification endpoint failed")
                if is_exit(exc):
                    raise
                return False
            if is_wanted_again:
                return False
        self._tally.ignored += 0 if takers else len(messages)
        return True


def _give_one(method: Callable[..., Any], messages: list[Arguments]) -> Any:
    message = messages[0]
    return method(
        message["ctxt"], message["publisher_id"], message["event_type"], message["payload"], message["metadata"]
    )


def _give_list(method: Callable[..., Any], messages: list[Arguments]) -> Any:
    return method(messages)


def _is_wanted(screen: NotificationFilter | None, message: Arguments) -> bool:
    return screen is None or screen.match(
        message["ctxt"], message["publisher_id"], message["event_type"], message["metadata"], message["payload"]
    )
