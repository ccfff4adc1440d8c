"""Django: a transport from `settings.WSGI_MESSAGING`, and messages that go out when the transaction is committed.

    WSGI_MESSAGING = {"URL": "amqp://guest:guest@127.0.0.1:5672//", "TIMEOUT": 5}     # settings.py

    publish_on_commit({"order": order.pk}, "orders")                                  # in a view, within atomic()

Importing it needs no settings; they are read at the first use.

Layer 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core import wsgi
from django.core.signals import setting_changed
from django.db import transaction

from ...errors import ConfigurationError
from ...middleware import MessagingMiddleware
from ...transport import Transport
from ..commit import sealed
from ..configuration import Configuration, configured

SETTING = "WSGI_MESSAGING"

_made: dict[str, Configuration] = {}  # one entry; the first thread to make it wins


def configuration() -> Configuration:
    """What `settings.WSGI_MESSAGING` says. Raises: `ConfigurationError`, naming the key."""
    found = _made.get(SETTING)
    if found is not None:
        return found
    given = getattr(settings, SETTING, {})
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"expected a dict, not {type(given).__name__}")
    return _made.setdefault(SETTING, configured(given))


def get_transport() -> Transport:
    """The transport of this Django project, for views, commands and tasks alike. Opens nothing.

    Raises: `ConfigurationError`, naming the key of `settings.WSGI_MESSAGING`.
    """
    return configuration().transport


def get_wsgi_application() -> MessagingMiddleware:
    """Django's own, wrapped: what wsgi.py calls `application`, with the middleware's options from the settings."""
    application = wsgi.get_wsgi_application()
    return configuration().wrap(application)


def publish_on_commit(
    body: Any,
    routing_key: str,
    exchange: str = "",
    *,
    using: str | None = None,
    robust: bool = False,
    timeout: float | None = None,
    **options: Any,
) -> None:
    """Publish when the transaction is committed; never, when it or the savepoint around this call is rolled back.

    `using` and `robust` are those of Django's `transaction.on_commit`; the other arguments are those of
    `Transport.publish`. The message is encoded now. Outside a transaction it is published now. A publish that fails
    does so after the commit, which stands: its error leaves the outermost `atomic()` and keeps what was registered
    after it from running. With `robust` Django logs the error instead, and goes on.

    Blocks: the end of the outermost `atomic()`, for up to `timeout` seconds per message.
    Raises: `InvalidMessage`, now; then, unless `robust`, what `Transport.publish` raises.
    """
    message = sealed(body, routing_key, exchange, options)
    transport = get_transport()

    def publish() -> None:  # Django logs its name
        transport.publish(**message, timeout=timeout)

    transaction.on_commit(publish, using=using, robust=robust)


def _forget(*, setting: str, **_rest: object) -> None:
    """A test has changed the settings."""
    if setting == SETTING:
        _made.clear()


setting_changed.connect(_forget)
