"""Notifications: what happened, told to whoever listens, in the format of oslo.messaging.

Notifier(transport, "api.host1").info(context, "image.create", {"id": 7})
"""

from .drivers import Driver, LogDriver, MessagingDriver, NoopDriver, NotificationFailed, RoutingDriver
from .filter import NotificationFilter
from .listener import ListenerStatus, NotificationListener, NotificationResult
from .notifier import Notifier
from .requests import RequestNotifications
from .sending import NotifierStatus

__all__ = [
    "Driver",
    "ListenerStatus",
    "LogDriver",
    "MessagingDriver",
    "NoopDriver",
    "NotificationFailed",
    "NotificationFilter",
    "NotificationListener",
    "NotificationResult",
    "Notifier",
    "NotifierStatus",
    "RequestNotifications",
    "RoutingDriver",
]
