"""Access policies: which methods of an endpoint a request may name. The names are oslo.messaging's.

Layer 4: imports nothing of ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class RPCAccessPolicy(ABC):
    """Decides for each request."""

    @abstractmethod
    def is_allowed(self, endpoint: object, method: str) -> bool:
        """True when a request may call this method of this endpoint."""


class LegacyRPCAccessPolicy(RPCAccessPolicy):
    """Everything, what begins with an underscore too."""

    def is_allowed(self, endpoint: object, method: str) -> bool:
        return True


class DefaultRPCAccessPolicy(RPCAccessPolicy):
    """What does not begin with an underscore."""

    def is_allowed(self, endpoint: object, method: str) -> bool:
        return not method.startswith("_")


class ExplicitRPCAccessPolicy(RPCAccessPolicy):
    """What is marked with `expose`."""

    def is_allowed(self, endpoint: object, method: str) -> bool:
        return getattr(getattr(endpoint, method, None), "exposed", False) is True


def expose(method: F) -> F:
    """Mark a method for `ExplicitRPCAccessPolicy`."""
    method.exposed = True  # type: ignore[attr-defined]
    return method
