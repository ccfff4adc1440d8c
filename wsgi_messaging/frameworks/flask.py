"""Flask: an extension with `init_app`, configured by `app.config["WSGI_MESSAGING_..."]`.

    messaging = Messaging()              # at module level, for any number of applications
    messaging.init_app(app)              # in the application factory
    messaging.transport.publish(...)     # in a view, a command, `flask shell`

Layer 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import current_app

from ..errors import ConfigurationError
from ..transport import Transport
from .configuration import configured

if TYPE_CHECKING:
    from flask import Flask

PREFIX = "WSGI_MESSAGING_"
TABLE = "WSGI_MESSAGING"
EXTENSION = "wsgi_messaging"


class Messaging:
    """Gives each application it is initialised for a transport of its own. Opens nothing.

    The keys of `app.config` are `WSGI_MESSAGING_` and a name of `Settings` or an option of `MessagingMiddleware`; a
    setting without a key comes from the environment. Raises: `ConfigurationError`, naming the key.
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Wrap `app.wsgi_app`; the transport is `app.extensions["wsgi_messaging"]` from now on."""
        if EXTENSION in app.extensions:
            raise ConfigurationError(f"init_app: {app!r} has its messaging already")
        if app.config.get(TABLE) is not None:
            raise ConfigurationError(
                f"{TABLE}: give each setting a key of its own, as {PREFIX}URL; the table is Django's"
            )
        configuration = configured(app.config, PREFIX)
        wrapped: Any = app  # its type has a method where an attribute is meant to be set
        wrapped.wsgi_app = configuration.wrap(app.wsgi_app)
        app.extensions[EXTENSION] = configuration.transport

    @property
    def transport(self) -> Transport:
        """The current application's; in a request, a command, or `with app.app_context()`.

        Raises: `ConfigurationError` for an application without `init_app`; Flask's `RuntimeError` outside of any.
        """
        transport: Transport | None = current_app.extensions.get(EXTENSION)
        if transport is None:
            raise ConfigurationError(f"{current_app.name}: init_app was not called for this application")
        return transport
