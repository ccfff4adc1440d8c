"""PasteDeploy: one section of an api-paste.ini wraps the application that follows it in the pipeline.

    [filter:messaging]
    paste.filter_factory = wsgi_messaging.frameworks.paste:filter_factory
    heartbeat = 20

The options are the names of `Settings` and the options of `MessagingMiddleware`; a setting that is not there comes
from the environment. Nothing of Paste is imported.

Layer 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from weakref import WeakValueDictionary

from ..middleware import MessagingMiddleware, WsgiApplication
from ..settings import Settings
from ..transport import Transport
from .configuration import Configuration, configured

_transports: WeakValueDictionary[Settings, Transport] = WeakValueDictionary()


def filter_factory(
    global_conf: Mapping[str, str], /, **local_conf: str
) -> Callable[[WsgiApplication], MessagingMiddleware]:
    """A filter. Pipelines whose settings are the same share one transport, so a worker has its connections once.

    Raises: `ConfigurationError`, naming the option.
    """
    return _configured(local_conf).wrap


def filter_app_factory(
    app: WsgiApplication, global_conf: Mapping[str, str], /, **local_conf: str
) -> MessagingMiddleware:
    """The application, wrapped. Raises: `ConfigurationError`, naming the option."""
    return _configured(local_conf).wrap(app)


def _configured(local_conf: Mapping[str, str]) -> Configuration:
    made = configured(local_conf)
    return replace(made, transport=_transports.setdefault(made.transport.settings, made.transport))
