"""Runs oslo.messaging's own functional tests, as they are in its package; prints each one's outcome as a line of JSON.

    python functional_runner.py [--as-rabbit] MODULE[:PART OF A NAME,...] ...

RPC_TRANSPORT_URL and NOTIFY_TRANSPORT_URL say on which driver. `--as-rabbit`: the name `rabbit` stands for our driver,
for tests that pass themselves over unless the URL begins with rabbit://. Not imported by the tests: `test_driver.py`
starts it with the interpreter of .venv-oslo. (The tests' package patches the process with eventlet.)
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import sys
import time
import unittest
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUP = "oslo.messaging.drivers"
HANGS_AFTER = 30.0
"""Seconds after which a test's stacks are written to standard error."""


class Report(unittest.TestResult):
    """Says what became of each test as soon as it is over."""

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802  (unittest's name)
        super().startTest(test)
        self._began_at = time.monotonic()
        faulthandler.dump_traceback_later(HANGS_AFTER)
        self._outcome, self._detail = "passed", ""

    def _note(self, outcome: str, detail: str) -> None:
        if self._outcome == "passed":
            self._outcome, self._detail = outcome, detail

    def addError(self, test: Any, err: Any = None, details: Any = None) -> None:  # noqa: N802
        self._note("failed", _text(err, details))

    addFailure = addError  # noqa: N815

    def addSkip(self, test: Any, reason: str | None = None, details: Any = None) -> None:  # noqa: N802
        self._note("skipped", reason or _text(None, details))

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        name = test.id().removeprefix("oslo_messaging.tests.functional.")
        seconds = round(time.monotonic() - self._began_at, 2)
        print(json.dumps([name, self._outcome, seconds, self._detail[-3000:]]), flush=True)


def _text(err: Any, details: Any) -> str:
    if details:
        wanted = [name for name in details if name.startswith(("traceback", "reason"))]
        return "\n".join(details[name].as_text() for name in wanted)
    return f"{err[0].__name__}: {err[1]}" if err else ""


def each(suite: unittest.TestSuite) -> Iterator[Any]:
    """The test cases of a suite, whatever it is made of."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        else:
            yield test


def chosen(name: str) -> list[Any]:
    """The tests of MODULE, or those whose name has one of the parts in it."""
    module, _, parts = name.partition(":")
    found = each(unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(module)))
    wanted = [part for part in parts.split(",") if part]
    return [test for test in found if not wanted or any(part in test.id() for part in wanted)]


def bind_rabbit_to_ours() -> None:
    """Have stevedore find our driver by the name of the other."""
    from stevedore import ExtensionManager

    ours = next(point for point in entry_points(group=GROUP) if point.name == "wsgi")
    others = [point for point in entry_points(group=GROUP) if point.name != "rabbit"]
    ExtensionManager.ENTRY_POINT_CACHE[GROUP] = [*others, EntryPoint("rabbit", ours.value, GROUP)]


def main(arguments: list[str]) -> None:
    if "--as-rabbit" in arguments:
        arguments.remove("--as-rabbit")
        bind_rabbit_to_ours()
    tests = [test for name in arguments for test in chosen(name)]
    unittest.TestSuite(tests).run(Report())


if __name__ == "__main__":
    main(sys.argv[1:])
