"""oslo.messaging's configuration as ours: the options of group `oslo_messaging_rabbit`, which the rabbit driver reads.

A service keeps its configuration file. What means something here is honoured, what the rabbit driver needs only for
its own pools, threads and timers is not, and one line of the log names those that were set for nothing.

Layer 5: imports oslo.messaging.
"""

from __future__ import annotations

import logging
import os
import random
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from oslo_messaging._drivers import amqp as oslo_amqp
from oslo_messaging._drivers import common as oslo_common
from oslo_messaging._drivers import impl_rabbit

from ..rpc.flags import QueueFlags
from ..settings import PREFIX, URL_VARIABLES, Settings

logger = logging.getLogger("wsgi_messaging.oslo")

GROUP = "oslo_messaging_rabbit"
SCHEME_PREFIX = "wsgi"
"""What stands before `+` in the scheme of a transport_url, and is the name of the entry point."""

IGNORED = {
    "rpc_conn_pool_size": "there are two connections",
    "conn_pool_min_size": "there are two connections",
    "conn_pool_ttl": "there are two connections",
    "ssl_version": "the newest version that both sides have",
    "ssl_enforce_hostname_verification": "with ssl_ca_file the host is verified",
    "ssl_enforce_fips_mode": "without effect in oslo.messaging, too",
    "kombu_reconnect_splay": "reconnects are jittered",
    "kombu_failover_strategy": "hosts are shuffled at start, then tried in turn",
    "heartbeat_rate": "beats are sent when they are due",
    "heartbeat_in_pthread": "the thread is always a native one",
    "direct_mandatory_flag": "replies are always mandatory",
    "enable_cancel_on_failover": "for mirrored queues, which RabbitMQ 4 no longer has",
    "use_queue_manager": "reply and fanout queues are named by uuid",
    "hostname": "only use_queue_manager reads it",
    "processname": "only use_queue_manager reads it",
    "rabbit_stream_fanout": "each server has a fanout queue of its own, bound to the same exchange",
}
"""Options without effect, and why."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the driver needs to know of the configuration."""

    settings: Settings
    flags: QueueFlags
    prefetch: int
    """rabbit_qos_prefetch_count; 0 when nobody has set it."""
    transient_ttl_ms: int
    """x-expires of the reply queue and the fanout queues; 0 for none."""
    reply_patience: float
    """Seconds until the reply to a caller that has gone is given up."""
    is_compressed: bool
    retry_interval: float
    retry_backoff: float
    retry_longest: float

    def patience(self, retry: int | None) -> float:
        """Seconds that a send may spend on a broker that cannot be had.

        The rabbit driver counts attempts, and waits between two of them longer and longer; ours are on the
        connection's own schedule, so N retries stand for the time that they take there.
        """
        if retry is None or retry < 0:
            return float("inf")
        waits = (min(self.retry_interval + number * self.retry_backoff, self.retry_longest) for number in range(retry))
        return sum(waits)


def registered(conf: Any, url: Any) -> Any:
    """The configuration with the options of the rabbit driver registered, and overridden by the URL's query."""
    conf.register_group(impl_rabbit.cfg.OptGroup(name=GROUP, title="RabbitMQ driver options"))
    conf.register_opts(_all_options(), group=GROUP)
    return oslo_common.ConfigOptsProxy(conf, url, GROUP)


def _all_options() -> list[Any]:
    return [*impl_rabbit.rabbit_opts, *oslo_amqp.amqp_opts]


def read(conf: Any, url: Any) -> Options:
    """The options of a registered configuration. Raises: `ConfigurationError`, naming what cannot be used."""
    group = conf[GROUP]
    tell_ignored(group)
    is_gzip = group.kombu_compression == "gzip"
    if group.kombu_compression and not is_gzip:
        logger.warning("kombu_compression=%s is not known here; messages are not compressed", group.kombu_compression)
    return Options(
        settings=_settings(group, url),
        flags=_flags(group),
        prefetch=group.rabbit_qos_prefetch_count,
        transient_ttl_ms=group.rabbit_transient_queues_ttl * 1000,
        reply_patience=float(group.kombu_missing_consumer_retry_timeout),
        is_compressed=is_gzip,
        retry_interval=group.rabbit_retry_interval + group.kombu_reconnect_delay,
        retry_backoff=float(group.rabbit_retry_backoff),
        retry_longest=group.rabbit_interval_max + group.kombu_reconnect_delay,
    )


def tell_ignored(group: Any) -> None:
    """Name the options that were set and have no effect, in one line."""
    defaults = {option.dest: option.default for option in _all_options()}
    found = [name for name in IGNORED if name in defaults and getattr(group, name) != defaults[name]]
    if found:
        reasons = "; ".join(f"{name} ({IGNORED[name]})" for name in found)
        logger.info("[%s] has options without effect here: %s", GROUP, reasons)


def _flags(group: Any) -> QueueFlags:
    is_quorum = group.rabbit_quorum_queue
    arguments: dict[str, Any] = {}
    if is_quorum and group.rabbit_quorum_max_memory_length:
        arguments["x-max-in-memory-length"] = group.rabbit_quorum_max_memory_length
    if is_quorum and group.rabbit_quorum_max_memory_bytes:
        arguments["x-max-in-memory-bytes"] = group.rabbit_quorum_max_memory_bytes
    if group.rabbit_ha_queues:
        arguments["x-ha-policy"] = "all"
    return QueueFlags(
        durable=group.amqp_durable_queues,
        auto_delete=group.amqp_auto_delete,
        quorum=is_quorum,
        delivery_limit=group.rabbit_quorum_delivery_limit if is_quorum else 0,
        transient_quorum=getattr(group, "rabbit_transient_quorum_queue", False),  # none before oslo.messaging 14.4
        arguments=arguments,
    )


def _settings(group: Any, url: Any) -> Settings:
    """What the options say, and for the rest (app, run_dir, ...) the environment, as for any other transport.

    `fail_fast_after` 0: how long a send waits for an absent broker is what its `retry` says.
    """
    ca_file = group.ssl_ca_file or None
    if group.ssl and ca_file is None:
        logger.warning("ssl without ssl_ca_file: as with the rabbit driver, the broker's certificate is not verified")
    said: dict[str, Any] = {
        "url": amqp_url(url, is_tls=group.ssl),
        "heartbeat": float(group.heartbeat_timeout_threshold),
        "fail_fast_after": 0.0,
        "login_method": "EXTERNAL" if group.rabbit_login_method == "EXTERNAL" else "PLAIN",
        "tls_ca_file": ca_file,
        "tls_cert_file": group.ssl_cert_file or None,
        "tls_key_file": group.ssl_key_file or None,
        "tls_verify": ca_file is not None,
    }
    variables = {PREFIX + name.upper() for name in said}.union(URL_VARIABLES)
    environ = {variable: value for variable, value in os.environ.items() if variable not in variables}
    return Settings.from_environ(environ).with_changes(**said)


def amqp_url(url: Any, *, is_tls: bool) -> str:
    """A TransportURL as text that our settings understand; several hosts in random order, as the rabbit driver does."""
    hosts = list(url.hosts)
    random.shuffle(hosts)
    locations = ",".join(map(_location, hosts)) or "guest:guest@localhost:5672"
    virtual_host = quote(url.virtual_host or "/", safe="")
    return f"{'amqps' if is_tls else 'amqp'}://{locations}/{virtual_host}"


def _location(host: Any) -> str:
    name = host.hostname or "localhost"
    name = f"[{name}]" if ":" in name else name
    return f"{_credentials(host.username, host.password)}@{name}:{host.port or 5672}"


def _credentials(*parts: str | None) -> str:
    """Always written, or a host without would take those of whichever comes first.

    What is missing or empty is "guest", as it is for the rabbit driver.
    """
    return ":".join(quote(part or "guest", safe="") for part in parts)
