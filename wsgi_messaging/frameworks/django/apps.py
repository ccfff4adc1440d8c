"""For INSTALLED_APPS: `manage.py check` says what is wrong with `settings.WSGI_MESSAGING`.

Layer 5.
"""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core import checks

from ...errors import ConfigurationError
from . import SETTING, configuration


class MessagingConfig(AppConfig):
    """`INSTALLED_APPS = [..., "wsgi_messaging.frameworks.django"]`; there are no models."""

    name = "wsgi_messaging.frameworks.django"
    label = "wsgi_messaging"
    verbose_name = "Messaging"

    def ready(self) -> None:
        checks.register(check_settings)


def check_settings(app_configs: object = None, **_rest: object) -> list[Any]:
    """An error that names the key, or nothing. Connects to no broker."""
    try:
        configuration().wrap(lambda environ, start_response: [])
    except ConfigurationError as exc:
        hint = "`wsgi-messaging check` tries the way to the broker"
        return [checks.Error(f"settings.{SETTING}: {exc}", hint=hint, id="wsgi_messaging.E001")]
    return []
