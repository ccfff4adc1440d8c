"""Pyramid: `config.include("wsgi_messaging.frameworks.pyramid")`, and every request has `request.messaging`.

The transport's settings are the keys `wsgi_messaging.<name>` of the application's. It is the transport of the
middleware where the application is wrapped in one, by its own code or by a PasteDeploy pipeline.

Layer 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..middleware import ENVIRON_KEY
from ..transport import Transport
from .commit import sealed
from .configuration import configured

if TYPE_CHECKING:
    from pyramid.config import Configurator
    from pyramid.request import Request

PREFIX = "wsgi_messaging."
REGISTRY_KEY = "wsgi_messaging"


def includeme(config: Configurator) -> None:
    """Adds `request.messaging`, `request.publish_on_commit` and `config.registry["wsgi_messaging"]`, a transport.

    Raises: `ConfigurationError`, naming the key.
    """
    configuration = configured(config.get_settings(), PREFIX, offered=())
    for option in configuration.options:
        raise ConfigurationError(f"{PREFIX}{option}: give it to MessagingMiddleware, or to its PasteDeploy filter")
    transport = config.registry[REGISTRY_KEY] = configuration.transport
    config.add_request_method(lambda request: request.environ.get(ENVIRON_KEY, transport), "messaging", reify=True)
    config.add_request_method(publish_on_commit)


def publish_on_commit(
    request: Request,
    body: Any,
    routing_key: str,
    exchange: str = "",
    *,
    timeout: float | None = None,
    **options: Any,
) -> None:
    """Publish when the request's transaction (pyramid_tm) is committed; never, when it is aborted.

    The arguments are those of `Transport.publish`; the message is encoded now. A savepoint that is rolled back does
    not take it back. A publish that fails does so after the commit, which stands: `transaction` logs the error and
    goes on, and the response does not tell.

    Blocks: the commit, for up to `timeout` seconds per message.
    Raises: `InvalidMessage`; `ConfigurationError` without pyramid_tm.
    """
    manager = getattr(request, "tm", None)
    if manager is None:
        raise ConfigurationError('publish_on_commit: there is no request.tm; config.include("pyramid_tm")')
    message = sealed(body, routing_key, exchange, options)
    manager.get().addAfterCommitHook(_publish, (request.messaging, message, timeout))


def _publish(is_committed: bool, transport: Transport, message: dict[str, Any], timeout: float | None) -> None:
    if is_committed:
        transport.publish(**message, timeout=timeout)
