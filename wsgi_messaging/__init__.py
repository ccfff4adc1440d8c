"""A RabbitMQ messaging transport for WSGI applications that is right in every server.

from wsgi_messaging import MessagingMiddleware, Transport

transport = Transport("amqp://guest:guest@127.0.0.1:5672//")   # opens nothing, starts nothing
application = MessagingMiddleware(app, transport)
# in a request: environ["wsgi_messaging.transport"].publish({"id": 7}, routing_key="orders")
"""

from typing import TYPE_CHECKING, Any

from .confirms import Confirm
from .connection.status import ConnectionStatus
from .consumer import Consumer, Delivery
from .errors import (
    BrokerBlocked,
    Closed,
    ConfigurationError,
    ConfirmTimeout,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    DeclarationRefused,
    Expired,
    InvalidMessage,
    MessagingError,
    NotDelivered,
    Rejected,
    RemoteError,
    ReplyLost,
    ReplyTimeout,
    Unavailable,
    Unroutable,
)
from .messages import Message
from .middleware import MessagingMiddleware, current_transport, get_transport
from .runtime.deadlines import deadline, remaining_time
from .settings import Settings
from .transport import Transport, TransportStatus
from .version import __version__

if TYPE_CHECKING:
    from .notify import NotificationListener, Notifier, RequestNotifications
    from .rpc import RPCClient, RPCServer, Target

_LAZY = {
    "NotificationListener": "notify",
    "Notifier": "notify",
    "RPCClient": "rpc",
    "RPCServer": "rpc",
    "RequestNotifications": "notify",
    "Target": "rpc",
}
"""Names that are imported at their first use: an application that only publishes does not pay for them."""

__all__ = [
    "BrokerBlocked",
    "Closed",
    "ConfigurationError",
    "Confirm",
    "ConfirmTimeout",
    "ConnectFailed",
    "ConnectTimeout",
    "ConnectionLost",
    "ConnectionStatus",
    "Consumer",
    "DeclarationRefused",
    "Delivery",
    "Expired",
    "InvalidMessage",
    "Message",
    "MessagingError",
    "MessagingMiddleware",
    "NotDelivered",
    "NotificationListener",
    "Notifier",
    "RPCClient",
    "RPCServer",
    "Rejected",
    "RemoteError",
    "ReplyLost",
    "ReplyTimeout",
    "RequestNotifications",
    "Settings",
    "Target",
    "Transport",
    "TransportStatus",
    "Unavailable",
    "Unroutable",
    "__version__",
    "current_transport",
    "deadline",
    "get_transport",
    "remaining_time",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
