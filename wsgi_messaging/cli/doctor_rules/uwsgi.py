"""Rules for uWSGI: threads run, the hook is there in every worker, a worker's end is not its connection's cut.

Layer 5: imports servers.diagnosis (the wording), the findings.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from ...servers import diagnosis
from .._findings import ERROR, NOTE, WARNING, Facts, Finding
from .uwsgi_options import ALIASES, Option, Options, read

MODULE = "wsgi_messaging.servers.uwsgi"
THREADS_BY_DEFAULT = (2, 0, 27)
# uWSGI 2.0.31 starts a master for these without being told (seen, each by itself).
_BRING_A_MASTER = (
    "cheaper", "idle", "mule", "mules", "touch-reload", "touch-chain-reload", "touch-workers-reload", "stats",
    "stats-server", "master-fifo", "cron", "spooler", "attach-daemon", "smart-attach-daemon", "py-auto-reload",
)  # fmt: skip
_STOP_LINE = "hook-master-start = unix_signal:15 gracefully_kill_them_all"
_READ_HERE = {
    "enable-threads", "master", "lazy-apps", "shared-import", "skip-atexit", "harakiri", "py-call-osafterfork",
    "py-call-uwsgi-fork-hooks", "single-interpreter", "die-on-term", "cheaper", "worker-reload-mercy",
    "hook-master-start", "need-app", "processes", *ALIASES,
}  # fmt: skip


def is_mine(_name: str, text: str) -> bool:
    return bool(re.search(r"^\s*(\[uwsgi\]|uwsgi:)\s*$", text, re.M))


def examine(path: str, text: str, facts: Facts) -> list[Finding]:
    options = read(path, text)
    rules = (_threads, _master, _hook, _fork, _interpreters, _end, _times, _cheaper, _gevent, _spelling)
    found = [finding for rule in rules for finding in rule(options, facts)]
    for name in options.unread:
        found.append(_finding(NOTE, "uwsgi-include", f"{name} was not read", "it cannot be read here", f"# {name}"))
    as_written = _as_yaml if path.endswith((".yaml", ".yml")) else str
    return [
        Finding(each.severity, each.rule, each.breaks, each.why, as_written(each.fix), each.file or path, each.line)
        for each in found
    ]


def _as_yaml(lines: str) -> str:
    return re.sub(r"(?m)^; ", "  # ", re.sub(r"(?m)^([\w-]+) = ", r"  \1: ", lines))


def _finding(severity: str, rule: str, breaks: str, why: str, fix: str, option: Option | None = None) -> Finding:
    file, line = (option.file, option.line) if option else ("", 0)
    return Finding(severity, rule, breaks, why, fix, file, line)


def _threads(options: Options, facts: Facts) -> Iterator[Finding]:
    threads = options.number("threads") or 0
    if options.is_on("enable-threads") or threads > 1:
        return
    version = facts.uwsgi
    if version is not None and version >= THREADS_BY_DEFAULT:
        yield _finding(
            NOTE, "uwsgi-threads", "threads are on by default in the uWSGI that is installed here, not in older ones",
            "before 2.0.27 the heartbeat's thread would freeze whenever the worker waits for a request",
            "enable-threads = true", options.last("enable-threads"),
        )  # fmt: skip
        return
    known = ".".join(map(str, version)) if version else "before 2.0.27 (Debian 12 has 2.0.21)"
    yield _finding(
        ERROR, "uwsgi-threads", "the heartbeat stops between requests, and the broker drops the connection",
        diagnosis.uwsgi_without_threads(known, kept_alive=_has_master(options) and _has_hook(options)),
        "enable-threads = true", options.last("enable-threads"),
    )  # fmt: skip


def _has_master(options: Options) -> bool:
    return options.is_on("master") or any(options.last(name) is not None for name in _BRING_A_MASTER)


def _master(options: Options, _facts: Facts) -> Iterator[Finding]:
    if _has_master(options):
        return
    processes = options.number("processes") or 1
    if processes > 1:
        yield _finding(
            ERROR, "uwsgi-master", f"workers 2 to {processes} survive SIGTERM and keep serving, and their connections",
            diagnosis.uwsgi_without_master(processes), "master = true", options.last("processes"),
        )  # fmt: skip
    else:
        yield _finding(
            WARNING, "uwsgi-master", "a worker that dies is not replaced, and nothing can be reloaded",
            "without a master there is one process and nobody who watches it; with more than one process (-p) the"
            " others survive SIGTERM",
            "master = true", options.last("master"),
        )  # fmt: skip


def _has_hook(options: Options) -> bool:
    return any(option.value == MODULE for option in options.all("shared-import"))


def _hook(options: Options, _facts: Facts) -> Iterator[Finding]:
    if _has_hook(options):
        return
    near = next((option for option in options.found if MODULE in option.value and option.name != "env"), None)
    lazy = options.last("lazy-apps")
    if near is not None and near.name == "shared-import":
        why = f"uWSGI knows comments on lines of their own only: it imports the module {near.value!r}"
    elif lazy is not None and lazy.is_on:
        why = "with lazy-apps the application is imported after the fork: uWSGI never calls a hook that it sets then"
    elif near is not None:
        why = f"{near.written} imports it where the application is; shared-import always does before the fork"
    else:
        why = "a hook that the application sets is replaced by a later 'import uwsgidecorators'"
    yield _finding(
        WARNING, "uwsgi-shared-import", "a worker connects at its first message, and may be cut off at its end",
        why, diagnosis.UWSGI_LINE, near or lazy,
    )  # fmt: skip


def _fork(options: Options, _facts: Facts) -> Iterator[Finding]:
    half = options.last("py-call-osafterfork")
    if options.is_on("py-call-uwsgi-fork-hooks"):
        return
    if half is not None and half.is_on:
        is_deadly = sys.version_info >= diagnosis.UWSGI_DEADLY_SINCE
        yield _finding(
            ERROR if is_deadly else NOTE, "uwsgi-osafterfork", "from Python 3.13 on each worker dies at its start",
            diagnosis.UWSGI_HALF_A_FORK, f"; in its place\n{diagnosis.UWSGI_FORK_LINE}", half,
        )  # fmt: skip
    else:
        grave = not options.is_on("lazy-apps")
        yield _finding(
            WARNING if grave else NOTE, "uwsgi-osafterfork",
            "locks that a thread of the master held at the fork stay locked in the workers (logging's among them)",
            "uWSGI forks without telling Python, so the state of threading and logging is inherited as it was, and a"
            " worker may hang at its end",
            diagnosis.UWSGI_FORK_LINE, half,
        )  # fmt: skip


def _interpreters(options: Options, _facts: Facts) -> Iterator[Finding]:
    applications = [option for option in options.found if option.name in ("mount", "module", "wsgi-file", "wsgi")]
    if len(applications) > 1 and not options.is_on("single-interpreter"):
        yield _finding(
            WARNING, "uwsgi-interpreters", f"only the first of {len(applications)} applications has its hooks called",
            diagnosis.UWSGI_SINGLE, "single-interpreter = true", applications[1],
        )  # fmt: skip


def _end(options: Options, _facts: Facts) -> Iterator[Finding]:
    if options.is_on("skip-atexit"):
        yield _finding(
            WARNING, "uwsgi-skip-atexit", "each worker's connection is cut at its end, and messages may be lost",
            diagnosis.UWSGI_SKIP_ATEXIT, "; remove the line: skip-atexit", options.last("skip-atexit"),
        )  # fmt: skip
    if options.is_on("die-on-term"):
        yield _finding(
            WARNING, "uwsgi-die-on-term", "SIGTERM drops the requests of busy workers and cuts their connections",
            "die-on-term ends busy workers without their exit hook",
            f"{_STOP_LINE}\n; and remove die-on-term", options.last("die-on-term"),
        )  # fmt: skip
    elif _has_master(options) and not any("15" in option.value for option in options.all("hook-master-start")):
        yield _finding(
            NOTE, "uwsgi-sigterm", "SIGTERM reloads uWSGI instead of ending it",
            "that is uWSGI's default; service managers send SIGTERM to end a service, and SIGKILL when it goes on",
            _STOP_LINE,
        )  # fmt: skip


def _times(options: Options, facts: Facts) -> Iterator[Finding]:
    limit = facts.timeout
    for option in options.all("env"):
        found = re.fullmatch(r"WSGI_MESSAGING_TIMEOUT=(\d+(?:\.\d+)?)", option.value)
        limit = float(found[1]) if found else limit
    harakiri, mercy = options.number("harakiri"), options.number("worker-reload-mercy")
    if harakiri and harakiri <= limit:
        yield _finding(
            WARNING, "uwsgi-harakiri", f"a worker that waits {harakiri} s for the broker is killed, connection and all",
            diagnosis.uwsgi_harakiri(harakiri, limit), f"harakiri = {int(limit) + 5}", options.last("harakiri"),
        )  # fmt: skip
    if mercy is not None and mercy <= limit:
        yield _finding(
            WARNING, "uwsgi-mercy", "a request that waits for the broker during a reload is killed",
            f"uWSGI kills a worker {mercy} s after it was told to end; a publish may take {limit:g} s",
            f"worker-reload-mercy = {int(limit) + 5}", options.last("worker-reload-mercy"),
        )  # fmt: skip


def _cheaper(options: Options, _facts: Facts) -> Iterator[Finding]:
    cheaper, option = options.number("cheaper"), options.last("cheaper")
    processes = 1 if options.last("processes") is None else options.number("processes")
    if cheaper is None or option is None or processes is None:
        return  # nothing is said, or a number that only uWSGI knows (`%k`, the processors)
    if cheaper >= processes:
        yield _finding(
            ERROR, "uwsgi-cheaper", "uWSGI does not start",
            f"cheaper = {cheaper} needs more processes than {cheaper}, and there are {processes} ('invalid cheaper"
            " value: must be lower than processes')",
            f"processes = {max(cheaper * 2, 2)}", option,
        )  # fmt: skip
    else:
        yield _finding(
            NOTE, "uwsgi-cheaper", f"workers come and go ({cheaper} to {processes}), and so do their connections",
            "each opens its own and closes it at its end: the broker sees them as churn, which is no fault",
            f"; fewer changes; and count {processes} x 2 connections for the broker's limits\ncheaper-overload = 30",
            option,
        )  # fmt: skip


def _gevent(options: Options, _facts: Facts) -> Iterator[Finding]:
    gevent = options.last("gevent")
    early = options.last("gevent-early-monkey-patch")
    if gevent is None:
        return
    hooks = options.last("py-call-uwsgi-fork-hooks")
    if early is not None and early.is_on and hooks is not None and hooks.is_on:
        yield _finding(
            ERROR, "uwsgi-gevent-early", "uWSGI crashes at its start (a segmentation fault)",
            "gevent-early-monkey-patch and py-call-uwsgi-fork-hooks do not go together (seen with 2.0.31)",
            "; it patches after the fork, in place of the early one\ngevent-monkey-patch = true", early,
        )  # fmt: skip
    elif early is not None and early.is_on:
        yield _finding(
            NOTE, "uwsgi-gevent-early", "a greenlet that the application starts at import runs on in every worker",
            "gevent-early-monkey-patch patches in the master, and greenlets survive the fork; the transport is not"
            " concerned, your own background work is",
            "; it patches after the fork, in place of the early one\ngevent-monkey-patch = true", early,
        )  # fmt: skip
    elif not options.is_on("gevent-monkey-patch"):
        yield _finding(
            NOTE, "uwsgi-gevent-patch", "what blocks in the application blocks all greenlets of the worker",
            "gevent alone patches nothing: sockets, locks and sleeps of the application stay those of threads",
            "gevent-monkey-patch = true", gevent,
        )  # fmt: skip


def _spelling(options: Options, _facts: Facts) -> Iterator[Finding]:
    for option in options.found:
        dashed = option.written.replace("_", "-")
        if dashed != option.written and dashed in _READ_HERE:
            yield _finding(
                WARNING, "uwsgi-spelling", f"{option.written} has no effect",
                "uWSGI knows this option with dashes only and passes over the other spelling (with strict = true it"
                " refuses it)",
                f"{dashed} = {option.value}", option,
            )  # fmt: skip
