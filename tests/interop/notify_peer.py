"""The real oslo.messaging's notifier and listener, in a process of its own; it obeys commands, one JSON a line.

Not imported by the tests: `peer.py` starts it with the interpreter that has oslo.messaging.
"""

from __future__ import annotations

import json
import sys
import threading
import traceback
from typing import Any

import oslo_messaging
from oslo_config import cfg
from oslo_messaging.notify import middleware

PRIORITIES = ["audit", "debug", "info", "warn", "error", "critical", "sample"]


class Context:
    """As oslo.context's RequestContext, as far as a notifier is concerned."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def redacted_copy(self) -> Context:
        return Context({**self.values, "auth_token": "***"})

    def to_dict(self) -> dict[str, Any]:
        return self.values


class Endpoint:
    """Keeps what comes; answers as many times REQUEUE as it was told to."""

    def __init__(self, seen: list[Any], requeue: int, rule: dict[str, Any] | None) -> None:
        self.seen = seen
        self.requeue = requeue
        self.lock = threading.Lock()
        if rule:
            self.filter_rule = oslo_messaging.NotificationFilter(**rule)

    def take(self, seen: Any) -> str:
        with self.lock:
            self.seen.append(seen)
            if self.requeue:
                self.requeue -= 1
                return oslo_messaging.NotificationResult.REQUEUE
        return oslo_messaging.NotificationResult.HANDLED


def _method(priority: str) -> Any:
    def method(
        self: Endpoint, ctxt: Any, publisher_id: str, event_type: str, payload: Any, metadata: dict[str, Any]
    ) -> str:
        return self.take([priority, ctxt, publisher_id, event_type, payload, metadata])

    return method


class BatchEndpoint(Endpoint):
    """Keeps batches of info."""

    def info(self, messages: list[dict[str, Any]]) -> str:
        return self.take([each["payload"] for each in messages])


for _priority in PRIORITIES:
    setattr(Endpoint, _priority, _method(_priority))


class Peer:
    """Notifiers and listeners, by command."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        cfg.CONF([], project="peer")
        oslo_messaging.get_notification_transport(cfg.CONF, url=url).cleanup()  # registers the options
        cfg.CONF.set_override("control_exchange", options.pop("exchange", "openstack"))
        for name, value in options.items():
            cfg.CONF.set_override(name, value, group="oslo_messaging_rabbit")
        self.url = url
        self.transport = oslo_messaging.get_notification_transport(cfg.CONF, url=url)
        self.seen: dict[str, list[Any]] = {}
        self.listeners: dict[str, Any] = {}

    def notify(
        self,
        topics: list[str],
        priority: str,
        event_type: str,
        payload: Any,
        driver: str = "messagingv2",
        context: dict[str, Any] | None = None,
        times: int = 1,
    ) -> str:
        notifier = oslo_messaging.Notifier(self.transport, "peer.host", driver=driver, topics=topics, retry=2)
        ctxt = Context(context) if context is not None else {}
        for _ in range(times):
            getattr(notifier, priority)(ctxt, event_type, payload)
        return "notified"

    def listen(
        self,
        name: str,
        topics: list[str],
        pool: str | None = None,
        requeue: int = 0,
        batch: int = 0,
        batch_timeout: float = 1,
        rule: dict[str, Any] | None = None,
    ) -> str:
        self.seen[name] = []
        targets = [oslo_messaging.Target(topic=topic) for topic in topics]
        options: dict[str, Any] = {"executor": "threading", "allow_requeue": True, "pool": pool}
        if batch:
            listener = oslo_messaging.get_batch_notification_listener(
                self.transport,
                targets,
                [BatchEndpoint(self.seen[name], requeue, rule)],
                batch_size=batch,
                batch_timeout=batch_timeout,
                **options,
            )
        else:
            listener = oslo_messaging.get_notification_listener(
                self.transport, targets, [Endpoint(self.seen[name], requeue, rule)], **options
            )
        listener.start()
        self.listeners[name] = listener
        return "listening"

    def heard(self, name: str) -> list[Any]:
        return list(self.seen[name])

    def request(self, environ: dict[str, Any], topic: str, fail: bool = False) -> str:
        """Serve one request through the RequestNotifier middleware."""
        notifications = cfg.CONF.oslo_messaging_notifications
        cfg.CONF.set_override("topics", [topic], group="oslo_messaging_notifications")
        cfg.CONF.set_override("driver", ["messagingv2"], group="oslo_messaging_notifications")
        assert notifications.topics == [topic]

        def app(env: dict[str, Any], start_response: Any) -> list[bytes]:
            if fail:
                raise ValueError("boo")
            start_response("201 Created", [("Content-Type", "text/plain"), ("X-Twice", "a"), ("X-Twice", "b")])
            return [b"body"]

        wrapped = middleware.RequestNotifier(app, url=self.url, publisher_id="api")
        environ["wsgi.input"] = sys.stdin.buffer
        environ["wsgi.errors"] = sys.stderr
        try:
            list(wrapped(environ, lambda *_arguments: None))
        except ValueError:
            return "failed"
        return "served"


def main() -> None:
    """Obey until standard input ends."""
    print(json.dumps({"ready": True}), flush=True)
    peer = Peer(**json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = {"result": getattr(peer, command.pop("do"))(**command)}
        except Exception as exc:  # noqa: BLE001  (the test looks at it)
            bases = [kind.__name__ for kind in type(exc).__mro__]
            trace = traceback.format_exc()
            answer = {"error": bases, "text": f"{exc}\n{trace}", "exc_type": None, "color": None}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
