"""A neutron agent's side: it reports its state by calls to q-plugin, each with 60 s (rpc_response_timeout).

    python -m examples.neutron_agent --host compute-1 --reports 3

Exit status 0: every report was answered. The broker comes from WSGI_MESSAGING_URL.
"""

from __future__ import annotations

import argparse
import datetime
import os
import time
from typing import Any

from wsgi_messaging import MessagingError, Transport
from wsgi_messaging.rpc import RPCClient, Target

from .neutron_server import EXCHANGE, TOPIC

RPC_RESPONSE_TIMEOUT = 60.0


class PluginReportStateAPI:
    """As neutron's class of that name."""

    def __init__(self, transport: Transport) -> None:
        target = Target(exchange=EXCHANGE, topic=TOPIC, version="1.0")
        self._client = RPCClient(transport, target, timeout=RPC_RESPONSE_TIMEOUT)

    def report_state(self, context: dict[str, Any], agent_state: dict[str, Any], use_call: bool = True) -> str | None:
        """Report; with `use_call` the server's answer is waited for."""
        client = self._client.prepare(version="1.2")
        now = datetime.datetime.now(datetime.timezone.utc).isoformat()
        method = client.call if use_call else client.cast
        answer: str | None = method(context, "report_state", agent_state=agent_state, time=now)
        return answer


def main() -> int:
    parser = argparse.ArgumentParser(description="a neutron agent that reports its state")
    parser.add_argument("--host", default=os.uname().nodename)
    parser.add_argument("--reports", type=int, default=3)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between reports")
    args = parser.parse_args()
    state = {"agent_type": "DHCP agent", "binary": "neutron-dhcp-agent", "host": args.host, "configurations": {}}
    failed = 0
    with Transport(name="neutron-agent") as transport:
        plugin = PluginReportStateAPI(transport)
        for number in range(args.reports):
            time.sleep(args.interval if number else 0)
            try:
                print(f"report {number + 1}: {plugin.report_state({'is_admin': True}, state)}", flush=True)
            except MessagingError as exc:
                failed += 1
                print(f"report {number + 1} failed: {exc}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
