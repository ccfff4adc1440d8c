"""`python -m benchmarks [--quick]`: the whole table, on a RabbitMQ that it starts for itself."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report, runner
from benchmarks.machine import Machine
from benchmarks.stage import Stage
from benchmarks.workloads import WORKLOADS, Workload, chosen


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("--quick", action="store_true", help="fewer peers and rounds: under a minute, and rough")
    made.add_argument("--only", metavar="NAME", action="append", default=[], help="a workload; may hold * and ?")
    made.add_argument("--peers", metavar="A,B", help="these peers only, where a workload has them")
    made.add_argument("--rounds", type=int, help="rounds of each workload (7; quick: 2)")
    made.add_argument("--seconds", type=float, help="length of a round (0.5; quick: 0.25)")
    made.add_argument("--output", type=Path, metavar="FILE", help="write FILE.json and, with matplotlib, FILE.png")
    made.add_argument("--list", action="store_true", help="name the workloads and end")
    return made


def _labels(workload: Workload, arguments: argparse.Namespace) -> list[str]:
    everyone = [each.label for each in workload.contestants]
    if arguments.peers:
        return [label for label in everyone if label in arguments.peers.split(",")]
    return workload.quick.split() if arguments.quick and workload.quick else everyone


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    if arguments.list:
        print("\n".join(f"{each.name:<18}{each.title}" for each in WORKLOADS))
        return 0
    patterns = arguments.only or ["*"]
    workloads = chosen(
        lambda name: any(fnmatch.fnmatch(name, pattern) for pattern in patterns),
        arguments.quick and not arguments.only,
    )
    rounds = arguments.rounds or (2 if arguments.quick else 7)
    seconds = arguments.seconds or (0.25 if arguments.quick else 0.5)
    begun = time.monotonic()
    outcomes = []
    with Stage() as stage:
        broker = f"RabbitMQ {stage.broker.api('overview')['rabbitmq_version']}"
        about = report.circumstances(broker=broker, rounds=rounds, seconds=seconds, quick=arguments.quick)
        print(f"{broker}, Python {about['python']}, {about['system']}, load {about['load']}; ", end="")
        print(f"{rounds} rounds of {seconds:g} s; medians; *_us: processor time for each operation\n")
        machine = Machine(stage.broker.folder)
        for workload in workloads:
            labels = _labels(workload, arguments)
            outcome = runner.run(workload, stage, rounds=rounds, seconds=seconds, labels=labels, say=_say)
            outcome.machine.update(machine.look())
            outcomes.append(outcome)
            _say("")
            print("\n".join(report.block(outcome)) + "\n", flush=True)
    print("\n".join(report.summary(outcomes)))
    print(f"{time.monotonic() - begun:.0f} s in all")
    if arguments.output:
        report.write_json(arguments.output.with_suffix(".json"), outcomes, about)
        report.write_plot(arguments.output.with_suffix(".png"), outcomes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
