"""The fixtures that an application's own tests have."""

from __future__ import annotations

from wsgi_messaging.testing import memory_transport

__all__ = ["memory_transport"]
