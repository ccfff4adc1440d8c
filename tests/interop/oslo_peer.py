"""The real oslo.messaging, in a process and a virtual environment of its own; it obeys commands, one JSON a line.

Not imported by the tests: `peer.py` starts it with the interpreter of .venv-oslo.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from typing import Any

import oslo_messaging
from oslo_config import cfg


class TeapotError(Exception):
    """An exception with keyword arguments, in a module that callers may allow."""

    def __init__(self, message: str, color: str = "blue") -> None:
        super().__init__(message)
        self.kwargs = {"color": color}
        self.color = color


class Endpoint:
    """What the tests call."""

    target = oslo_messaging.Target(version="1.3")

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[Any] = []

    def echo(self, ctxt: dict[str, Any], value: Any) -> Any:
        return value

    def context(self, ctxt: dict[str, Any]) -> dict[str, Any]:
        return ctxt

    def who(self, ctxt: dict[str, Any]) -> str:
        return self.name

    def note(self, ctxt: dict[str, Any], item: Any) -> None:
        self.seen.append(item)

    def notes(self, ctxt: dict[str, Any]) -> list[Any]:
        return self.seen

    def teapot(self, ctxt: dict[str, Any], color: str) -> None:
        raise TeapotError("short and stout", color)

    def wrong(self, ctxt: dict[str, Any]) -> None:
        raise ValueError("wrong value")

    def slow(self, ctxt: dict[str, Any], seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    def _private(self, ctxt: dict[str, Any]) -> str:
        return "never"


class Special:
    """A second interface of the same server."""

    target = oslo_messaging.Target(namespace="special", version="2.1")

    def echo(self, ctxt: dict[str, Any], value: Any) -> Any:
        return ["special", value]


class Peer:
    """Servers and a client, by command."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        cfg.CONF([], project="peer")
        oslo_messaging.get_rpc_transport(cfg.CONF, url=url).cleanup()  # registers the options, opens nothing
        for name, value in options.items():
            cfg.CONF.set_override(name, value, group="oslo_messaging_rabbit")
        allowed = ["oslo_peer"]
        self.transport = oslo_messaging.get_rpc_transport(cfg.CONF, url=url, allowed_remote_exmods=allowed)
        self.servers: dict[str, Any] = {}
        self.endpoints: dict[str, Endpoint] = {}

    def serve(self, topic: str, server: str, exchange: str) -> str:
        target = oslo_messaging.Target(topic=topic, server=server, exchange=exchange)
        endpoint = Endpoint(server)
        serving = oslo_messaging.get_rpc_server(self.transport, target, [endpoint, Special()], executor="threading")
        serving.start()
        self.servers[server], self.endpoints[server] = serving, endpoint
        return "serving"

    def seen(self, server: str) -> list[Any]:
        return self.endpoints[server].seen

    def send(
        self,
        kind: str,
        topic: str,
        exchange: str,
        method: str,
        args: dict[str, Any],
        context: dict[str, Any],
        **how: Any,
    ) -> Any:
        client = oslo_messaging.get_rpc_client(
            self.transport, oslo_messaging.Target(topic=topic, exchange=exchange, version="1.0")
        )
        prepared = client.prepare(**how)
        return getattr(prepared, kind)(context, method, **args)

    def threads(self) -> int:
        return threading.active_count()

    def stop(self) -> str:
        for serving in self.servers.values():
            serving.stop()
            serving.wait()
        self.transport.cleanup()
        return "stopped"


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
            details = {"exc_type": getattr(exc, "exc_type", None), "color": getattr(exc, "color", None)}
            answer = {"error": bases, "text": str(exc), "trace": traceback.format_exc(), **details}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
