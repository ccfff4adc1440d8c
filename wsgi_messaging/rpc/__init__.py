"""Remote procedure calls over the transport, understood by oslo.messaging's peers in both directions."""

from ..runtime.deadlines import deadline, remaining_time
from .access import (
    DefaultRPCAccessPolicy,
    ExplicitRPCAccessPolicy,
    LegacyRPCAccessPolicy,
    RPCAccessPolicy,
    expose,
)
from .client import RPCClient
from .dispatcher import (
    ExpectedException,
    NoSuchMethod,
    RPCDispatcher,
    RPCDispatcherError,
    UnsupportedVersion,
    expected_exceptions,
)
from .flags import QueueFlags
from .serializer import NoOpSerializer, Serializer
from .server import RPCServer
from .status import RPCServerStatus
from .target import Target
from .versions import RPCVersionCapError

__all__ = [
    "DefaultRPCAccessPolicy",
    "ExpectedException",
    "ExplicitRPCAccessPolicy",
    "LegacyRPCAccessPolicy",
    "NoOpSerializer",
    "NoSuchMethod",
    "QueueFlags",
    "RPCAccessPolicy",
    "RPCClient",
    "RPCDispatcher",
    "RPCDispatcherError",
    "RPCServer",
    "RPCServerStatus",
    "RPCVersionCapError",
    "Serializer",
    "Target",
    "UnsupportedVersion",
    "deadline",
    "expected_exceptions",
    "expose",
    "remaining_time",
]
