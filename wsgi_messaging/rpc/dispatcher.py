"""From a request to a method of an endpoint: by namespace, version, name and access policy. No network.

Layer 4.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from types import CoroutineType
from typing import Any, TypeVar

from ..callables import listed
from ..errors import ConfigurationError, MessagingError
from ..oslo.envelope import Request
from .access import DefaultRPCAccessPolicy, RPCAccessPolicy
from .serializer import Serializer
from .target import Target
from .versions import checked, is_compatible

logger = logging.getLogger("wsgi_messaging.rpc")

PING = "oslo_rpc_server_ping"
F = TypeVar("F", bound=Callable[..., Any])


class RPCDispatcherError(MessagingError):
    """No endpoint can serve the request."""

    wire_module = "oslo_messaging.rpc.dispatcher"
    """What callers, who branch on it, know the class by (OSLO_WIRE section 6)."""


class NoSuchMethod(RPCDispatcherError, AttributeError):
    """No endpoint has the method, or may be asked for it."""

    def __init__(self, method: Any) -> None:
        super().__init__(f"Endpoint does not support RPC method {method!s:.200}")
        self.method = method


class UnsupportedVersion(RPCDispatcherError):
    """No endpoint of that namespace has a compatible version."""

    def __init__(self, version: Any, method: Any = None) -> None:
        text = f"Endpoint does not support RPC version {version!s:.40}"
        super().__init__(f"{text}. Attempted method: {method!s:.200}" if method else text)
        self.version = version
        self.method = method


class ExpectedException(Exception):
    """Carries an exception that is an answer and not a fault: it is sent back, and not logged as an error."""

    def __init__(self, exception: Exception) -> None:
        super().__init__(exception)
        self.exception = exception


def expected_exceptions(*exceptions: type[Exception]) -> Callable[[F], F]:
    """Decorates a method whose exceptions of these classes go to the caller without being logged as errors."""

    def decorate(method: F) -> F:
        @functools.wraps(method)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except exceptions as exc:
                raise ExpectedException(exc) from exc

        return wrapper  # type: ignore[return-value]

    return decorate


def expected_elsewhere(error: BaseException) -> BaseException | None:
    """What oslo.messaging's decorator of the same name has wrapped: endpoints may bring it along. None for all else."""
    exc_info = getattr(error, "exc_info", None) if type(error).__name__ == "ExpectedException" else None
    wrapped = exc_info[1] if isinstance(exc_info, tuple) and len(exc_info) == 3 else None
    return wrapped if isinstance(wrapped, BaseException) else None


class _PingEndpoint:
    target = Target()

    def oslo_rpc_server_ping(self, ctxt: Any, **kwargs: Any) -> str:
        return "pong"


class RPCDispatcher:
    """Finds the method that a request names, and calls it.

    Raises: `ConfigurationError` for what is no list, an endpoint whose `target` is none, or whose version is none.
    """

    def __init__(
        self,
        endpoints: Sequence[object],
        serializer: Serializer | None = None,
        access_policy: RPCAccessPolicy | type[RPCAccessPolicy] | None = None,
        *,
        ping: bool = False,
    ) -> None:
        policy = access_policy or DefaultRPCAccessPolicy
        self._policy = policy() if isinstance(policy, type) else policy
        if not callable(getattr(self._policy, "is_allowed", None)):
            raise ConfigurationError(f"access_policy: {policy!r} has no is_allowed()")
        self._serializer = serializer
        every = [*listed(endpoints), *([_PingEndpoint()] if ping else [])]
        targets = [_target_of(endpoint) for endpoint in every]
        self._endpoints = [
            (endpoint, tuple(target.accepted_namespaces), checked("version", target.version) or "1.0")
            for endpoint, target in zip(every, targets, strict=True)
        ]

    def dispatch(self, request: Request) -> Any:
        """The method's result, serialized.

        Raises: `NoSuchMethod`, `UnsupportedVersion`, `TypeError`, `ValueError` for a request that no method can
        serve, and whatever the method raises.
        """
        method = self._method(request)
        if not isinstance(request.args, dict):
            raise TypeError(f"args: expected an object, not {type(request.args).__name__}")
        serializer = self._serializer
        if serializer is None:
            return _carried_out(method(request.context, **request.args))
        ctxt = serializer.deserialize_context(request.context)
        args = {name: serializer.deserialize_entity(ctxt, value) for name, value in request.args.items()}
        return serializer.serialize_entity(ctxt, _carried_out(method(ctxt, **args)))

    def _method(self, request: Request) -> Callable[..., Any]:
        name = request.method
        if not isinstance(name, str):
            raise TypeError(f"method: expected a name, not {type(name).__name__}")
        has_version = False
        for endpoint, namespaces, version in self._endpoints:
            if request.namespace not in namespaces or not is_compatible(version, request.version):
                continue
            has_version = True
            if hasattr(endpoint, name) and self._policy.is_allowed(endpoint, name):
                found = getattr(endpoint, name)
                if not callable(found) or name == "target":
                    raise TypeError(f"method: {name!r:.60} is not a method")
                method: Callable[..., Any] = found
                return method
        if has_version:
            raise NoSuchMethod(name)
        raise UnsupportedVersion(request.version, name)


def _carried_out(result: Any) -> Any:
    """The result. Raises: `TypeError` for a coroutine: the method has not run, and a cast would never show it."""
    if type(result) is CoroutineType:
        result.close()
        raise TypeError(f"method: {result.__qualname__} is `async def`, and was not executed; make it a plain method")
    return result


def _target_of(endpoint: object) -> Target:
    """An endpoint's own target; another library's Target will do."""
    target: Any = getattr(endpoint, "target", None)
    if target is None:
        return Target()
    if not hasattr(target, "accepted_namespaces") or not hasattr(target, "version"):
        raise ConfigurationError(
            f"endpoints: `target` of {type(endpoint).__name__} must be a Target: the name is reserved"
        )
    namespaces = list(target.accepted_namespaces)
    return Target(namespace=namespaces[0], version=target.version, legacy_namespaces=namespaces[1:])
