"""neutron-server's RPC side: the topic q-plugin in the exchange neutron, 64 requests at a time.

The broker then has the queues q-plugin, q-plugin.<host> and q-plugin_fanout_<uuid>, as neutron's own server makes
them, so that agents which speak oslo.messaging and those of neutron_agent.py can be served by either.

    python -m examples.neutron_server --host controller-1          until SIGTERM or SIGINT

The broker comes from WSGI_MESSAGING_URL.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from typing import Any

from wsgi_messaging import Transport
from wsgi_messaging.rpc import RPCServer, Target, expected_exceptions

EXCHANGE = "neutron"
TOPIC = "q-plugin"
POOL_SIZE = 64


class AgentNotFound(Exception):
    """No agent of that name has reported."""


class AgentReports:
    """What agents call: their reports, and who else is there."""

    target = Target(version="1.2")

    def __init__(self) -> None:
        self._agents: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()  # guards _agents

    def report_state(self, ctxt: dict[str, Any], agent_state: dict[str, Any], time: str) -> str:
        """Take a report; the answer tells the agent whether it has to resynchronise."""
        name = f"{agent_state['agent_type']}@{agent_state['host']}"
        with self._lock:
            is_new = name not in self._agents
            self._agents[name] = {**agent_state, "heartbeat": time}
        return "new" if is_new else "alive"

    def agents(self, ctxt: dict[str, Any]) -> list[str]:
        with self._lock:
            return sorted(self._agents)

    @expected_exceptions(AgentNotFound)
    def agent(self, ctxt: dict[str, Any], name: str) -> dict[str, Any]:
        with self._lock:
            if name not in self._agents:
                raise AgentNotFound(name)
            return self._agents[name]


def get_rpc_server(transport: Transport, host: str) -> RPCServer:
    """As neutron's rpc.get_server: not started yet."""
    target = Target(exchange=EXCHANGE, topic=TOPIC, server=host)
    return RPCServer(transport, target, [AgentReports()], pool_size=POOL_SIZE)


def main() -> None:
    parser = argparse.ArgumentParser(description="neutron-server's RPC side")
    parser.add_argument("--host", default=os.uname().nodename)
    args = parser.parse_args()
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    with Transport(name="neutron-server") as transport:
        server = get_rpc_server(transport, args.host)
        server.start()
        print(f"serving {TOPIC} as {args.host}", flush=True)
        signal.sigwait(ending)
        server.stop()
        print(server.status(), flush=True)


if __name__ == "__main__":
    main()
