"""What is tested of the driver inside one process. Not imported: `test_driver.py` runs it, with .venv-oslo's Python."""

from __future__ import annotations

import logging
import os
import sys
import time
import uuid
from typing import Any

import oslo_messaging
from oslo_config import cfg
from oslo_messaging._drivers import impl_rabbit

URL = os.environ["URL"]
GROUP = "oslo_messaging_rabbit"


class Endpoint:
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, ctxt: dict[str, Any], value: int) -> int:
        self.total += value
        return self.total


def transport(**options: Any) -> Any:
    """A transport whose driver has read `options`."""
    cfg.CONF([], project="script")
    oslo_messaging.get_rpc_transport(cfg.CONF, url=URL).cleanup()
    for name, value in options.items():
        cfg.CONF.set_override(name, value, group=GROUP)
    return oslo_messaging.get_rpc_transport(cfg.CONF, url=URL)


def serving(opened: Any, endpoint: Endpoint) -> tuple[Any, oslo_messaging.Target]:
    target = oslo_messaging.Target(topic=uuid.uuid4().hex, server="s", exchange="interop-driver")
    server = oslo_messaging.get_rpc_server(opened, target, [endpoint], executor="threading")
    server.start()
    return server, target


def fork() -> None:
    """A server and a client in the parent; the child calls by the same transport and client."""
    opened = transport()
    server, target = serving(opened, Endpoint())
    client = oslo_messaging.get_rpc_client(opened, target, timeout=10)
    client.call({}, "add", value=1)
    child = os.fork()
    if not child:
        print(f"child:{client.call({}, 'add', value=1)}", flush=True)
        opened.cleanup()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print(f"parent:{client.call({}, 'add', value=1)}")
    server.stop()
    server.wait()
    opened.cleanup()


def options() -> None:
    """The line about ignored options, and what became of others."""
    lines: list[str] = []
    logger = logging.getLogger("wsgi_messaging.oslo")
    logger.setLevel(logging.INFO)
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    if all(option.dest != "heartbeat_in_pthread" for option in impl_rabbit.rabbit_opts):
        impl_rabbit.rabbit_opts.append(cfg.BoolOpt("heartbeat_in_pthread", default=False))  # oslo.messaging 18 has none
    opened = transport(
        rpc_conn_pool_size=7,
        heartbeat_in_pthread=True,
        use_queue_manager=True,
        heartbeat_timeout_threshold=17,
        rabbit_qos_prefetch_count=5,
        amqp_durable_queues=True,
        rabbit_transient_queues_ttl=60,
        ssl=True,
        ssl_ca_file="ca.pem",
    )
    taken = opened._driver._options
    settings = taken.settings
    print("\n".join(lines))
    print(
        f"heartbeat={settings.heartbeat:g} prefetch={taken.prefetch} durable={taken.flags.durable} "
        f"ttl={taken.transient_ttl_ms} tls_ca={settings.tls_ca_file} verify={settings.tls_verify}"
    )


def environment() -> None:
    """What of the environment reaches the driver's connections; the options' own is not among it."""
    from wsgi_messaging.settings import Settings

    os.environ.update(AMQP_URL="amqp://elsewhere//", WSGI_MESSAGING_HEARTBEAT="3", WSGI_MESSAGING_FAIL_FAST_AFTER="4")
    os.environ.update(WSGI_MESSAGING_APP="nova-api", WSGI_MESSAGING_RUN_DIR="auto", WSGI_MESSAGING_FRAME_MAX="8192")
    settings: Settings = transport()._driver._options.settings
    print(f"{settings.app} {settings.run_dir} {settings.frame_max} {settings.brokers[0].host} {settings.heartbeat:g}")
    os.environ["WSGI_MESSAGING_RUN_DIR"] = "relative"
    try:
        transport()
    except oslo_messaging.DriverLoadFailure as exc:
        print(exc)


def twice() -> None:
    """The same request two times, as a client sends it that has not seen the confirm."""
    from wsgi_messaging import Transport

    opened, endpoint = transport(), Endpoint()
    server, target = serving(opened, endpoint)
    body = '{"method": "add", "args": {"value": 1}, "_unique_id": "the-same"}'
    with Transport(URL.replace("wsgi+rabbit", "amqp")) as raw:
        for _ in range(2):
            raw.publish(body.encode(), target.topic, "interop-driver", content_type="application/json", message_id="")
        ends_at = time.monotonic() + 20.0
        while not endpoint.total and time.monotonic() < ends_at:
            time.sleep(0.02)  # between two looks
        time.sleep(0.5)  # in which the other one would be executed
        server.stop()
        server.wait()
        opened.cleanup()
        print(f"executed:{endpoint.total}")
        left: list[Any] = []
        consumer = raw.consume(target.topic, left.append)
        time.sleep(0.5)
        consumer.cancel()
        print(f"left:{len(left)}")


def ttl() -> None:
    """How long the broker keeps the reply queue of a client that is gone, as the same declaration tells."""
    from kombu import Queue

    from wsgi_messaging import DeclarationRefused, Transport
    from wsgi_messaging.rpc.replies import replies_of

    for seconds in (60, 0):
        opened = transport(rabbit_transient_queues_ttl=seconds)
        server, target = serving(opened, Endpoint())
        oslo_messaging.get_rpc_client(opened, target, timeout=10).call({}, "add", value=1)
        name = replies_of(opened._driver.transport.connections()).queue
        with Transport(URL.replace("wsgi+rabbit", "amqp")) as raw:
            for arguments in ({}, {"x-expires": 60000}):
                try:
                    raw.declare(Queue(name, durable=True, queue_arguments=arguments))
                except DeclarationRefused:
                    continue
                print(f"{seconds}:{arguments}")
        server.stop()
        server.wait()
        opened.cleanup()


def mandatory() -> None:
    """What a call, and a cast, with and without at_least_once, raise on a topic that nobody serves."""
    opened = transport()
    target = oslo_messaging.Target(topic=uuid.uuid4().hex)
    for at_least_once, kind in ((True, "call"), (True, "cast"), (False, "cast")):
        chosen = oslo_messaging.TransportOptions(at_least_once=at_least_once)
        client = oslo_messaging.get_rpc_client(opened, target, timeout=30, transport_options=chosen)
        error = None
        try:
            getattr(client, kind)({}, "anything")
        except oslo_messaging.MessageUndeliverable as exc:
            error = exc
        print(type(error).__name__ if error else None)
    opened.cleanup()


def away() -> None:
    """What is raised, and after how many seconds, when there is no broker at URL."""
    opened = transport()
    target = oslo_messaging.Target(topic="none")
    notifier = oslo_messaging.Target(topic="none.info")
    for act in (
        lambda: opened._send_notification(notifier, {}, {"a": 1}, 2.0, retry=0),
        lambda: opened._send_notification(notifier, {}, {"a": 1}, 1.0, retry=1),
        lambda: oslo_messaging.get_rpc_client(opened, target, timeout=9, retry=1).call({}, "any"),
        lambda: oslo_messaging.get_rpc_client(opened, target, timeout=2, call_monitor_timeout=1).call({}, "any"),
    ):
        started = time.monotonic()
        try:
            act()
        except oslo_messaging.MessagingException as exc:
            print(f"{type(exc).__name__}:{time.monotonic() - started:.2f}")
    opened.cleanup()


def refused() -> None:
    """What is raised at once when the broker at URL does not let us in, though `retry` says to try for ever."""
    opened = transport()
    target = oslo_messaging.Target(topic="none", server="s")
    client = oslo_messaging.get_rpc_client(opened, target, timeout=30)
    for act in (
        lambda: client.call({}, "any"),
        lambda: client.cast({}, "any"),
        lambda: opened._send_notification(oslo_messaging.Target(topic="none.info"), {}, {"a": 1}, 2.0),
        lambda: oslo_messaging.get_rpc_server(opened, target, [Endpoint()], executor="threading").start(),
    ):
        started = time.monotonic()
        try:
            act()
        except oslo_messaging.MessageDeliveryFailure as exc:
            print("refused" in str(exc), time.monotonic() - started < 15.0)
    opened.cleanup()


if __name__ == "__main__":
    {
        "fork": fork,
        "options": options,
        "environment": environment,
        "twice": twice,
        "ttl": ttl,
        "mandatory": mandatory,
        "away": away,
        "refused": refused,
    }[sys.argv[1]]()
