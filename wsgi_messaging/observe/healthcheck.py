"""The plug-in `wsgi_messaging` of oslo.middleware's healthcheck: unavailable while a connection is not ready.

    [healthcheck]
    backends = wsgi_messaging

It looks at every transport of the process that answers which is not closed, as `readiness` does. oslo.middleware
loads it by its entry point; nothing else imports it.

Layer 5.
"""

from __future__ import annotations

from oslo_middleware.healthcheck import pluginbase

from ..runtime import worker
from ..transport import Transport
from .health import readiness


class MessagingHealthcheck(pluginbase.HealthcheckBaseExtension):
    """What oslo.middleware asks."""

    def healthcheck(self, server_port: int) -> pluginbase.HealthcheckResult:
        """Never blocks and never raises for a broker that is away."""
        found = [member for member in worker.members() if isinstance(member, Transport)]
        transports = [transport for transport in found if not transport.connections().is_closed]
        reasons = [reason for transport in transports for reason in readiness(transport).reasons]
        if reasons:
            return pluginbase.HealthcheckResult(False, "messaging is not ready", "; ".join(reasons))
        return pluginbase.HealthcheckResult(True, "OK", f"ready transports: {len(transports)}")
