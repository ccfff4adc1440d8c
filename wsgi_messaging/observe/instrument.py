"""What a transport, an RPC client or a server tells of its messages to whoever asked to be told.

`Transport.instrument` is None unless somebody sets it, and then nothing here is imported or called. Everything is
called on the application's side, never on a connection's thread, so an instrument may take locks and log.

Layer 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

from ..consumer import Callback, Delivery
from ..messages import Message


class Heard(NamedTuple):
    """A notification that came; what the sender has put into it may be of any type."""

    delivery: Delivery
    context: Mapping[str, Any]
    event_type: Any
    message_id: Any


class Instrument(Protocol):
    """Sees messages go and come. `wsgi_messaging.observe.tracing.Tracing` is one."""

    def sending(self, message: Message) -> AbstractContextManager[Message]:
        """Around the publish of one message; gives the message to send in its place."""

    def created(self, message: Message) -> Message:
        """For one message of a batch; gives the message to send in its place."""

    def handling(self, callback: Callback, queue: str) -> Callback:
        """The callback to give the deliveries of a queue to."""

    def requesting(self, operation: str, topic: str, method: str) -> AbstractContextManager[Mapping[str, str]]:
        """Around an RPC call or cast; gives the keys to send among its context."""

    def serving(self, topic: str, method: str, context: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Around the execution of an RPC request."""

    def notifying(
        self, exchange: str, routing_keys: Sequence[str], event_type: str, message_id: str
    ) -> AbstractContextManager[Mapping[str, str]]:
        """Around the sending of a notification to its topics; gives the keys to send among its context."""

    def hearing(self, heard: Sequence[Heard]) -> AbstractContextManager[None]:
        """Around one method of an endpoint, with one notification or, where it takes batches, several."""


_NO_KEYS: AbstractContextManager[Mapping[str, str]] = nullcontext({})


def requesting(
    instrument: Instrument | None, operation: str, topic: str, method: str
) -> AbstractContextManager[Mapping[str, str]]:
    """`Instrument.requesting`, where there may be none."""
    return _NO_KEYS if instrument is None else instrument.requesting(operation, topic, method)


def notifying(
    instrument: Instrument | None, exchange: str, routing_keys: Sequence[str], event_type: str, message_id: str
) -> AbstractContextManager[Mapping[str, str]]:
    """`Instrument.notifying`, where there may be none."""
    if instrument is None:
        return _NO_KEYS
    return instrument.notifying(exchange, routing_keys, event_type, message_id)
