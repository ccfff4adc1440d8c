"""One measured process: `python -m benchmarks.child PLAN`, driven by lines on standard input.

"run SECONDS" is answered by one line of JSON, "exit" ends it. The first line tells that it is ready, or why not.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType

from benchmarks.costs import Footprint, ForkToReady, ImportCost, MiddlewareCost
from benchmarks.outage import Outage
from benchmarks.plan import NotOffered, Plan
from benchmarks.sessions import Callers, Session


def load(plan: Plan) -> ModuleType:
    """The peer's module. Raises: ImportError."""
    return importlib.import_module(f"benchmarks.peers.{plan.peer}")


def driven(plan: Plan) -> Session:
    """A session of the peer's own making (asyncio, the blaster), or threads that call its operations."""
    module = load(plan)
    own: Callable[[Plan], Session] | None = getattr(module, "session", None)
    if own is not None:
        return own(plan)
    return Callers(module.operations(plan, plan.action), batch=plan.batch, burners=plan.burners)


ACTIONS: Mapping[str, Callable[[Plan], Session]] = {
    "footprint": lambda plan: Footprint(plan, lambda action: load(plan).operations(plan, action)),
    "fork": lambda plan: ForkToReady(load(plan), plan),
    "import": ImportCost,
    "middleware": MiddlewareCost,
    "outage": lambda plan: Outage(load(plan).operations(plan, "outage")[0]),
    "consume": lambda plan: load(plan).consume(plan),
    "listen": lambda plan: load(plan).listen(plan),
    "serve": lambda plan: load(plan).serve(plan),
}


def main(text: str) -> int:
    plan = Plan.from_json(text)
    if plan.is_bound:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if plan.is_patient:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    if plan.is_green:
        from gevent import monkey

        monkey.patch_all()
    try:
        session = ACTIONS.get(plan.action, driven)(plan)
    except (ImportError, NotOffered) as exc:
        say({"unavailable": f"{exc}"})
        return 0
    say({"ready": os.getpid()})
    for line in sys.stdin:
        command, _, argument = line.partition(" ")
        if command.strip() == "exit":
            break
        try:
            say(session.run(float(argument)))
        except Exception as exc:  # noqa: BLE001  (the runner reports it under the peer's name)
            say({"failed": f"{type(exc).__name__}: {exc}"})
    # No library's tidy end is part of a measurement, and some wait for seconds.
    sys.stdout.flush()
    os._exit(0)


def say(answer: Mapping[str, object]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
