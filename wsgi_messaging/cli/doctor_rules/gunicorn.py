"""Rules for gunicorn: our hooks are bound and called, it patches before it imports, no time is too short.

Layer 5: imports servers.diagnosis (the wording), the findings.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from collections.abc import Iterator
from typing import Any

from ...errors import ConfigurationError
from ...servers import diagnosis
from .._findings import ERROR, NOTE, WARNING, Facts, Finding
from . import Unreadable
from .gunicorn_source import HOOKS, OURS, UNKNOWN, Binding, Source, read

NEEDED = {
    "post_fork": "the worker is not known as one: its first request says so and does the hook's work late",
    "post_worker_init": "the first message of each worker waits for the connection",
    "worker_abort": "a worker that is aborted for its timeout is cut off from the broker",
    "worker_exit": "a worker's connection is closed at its end by atexit only, which a worker that ends in another way"
    " does not get to",
}
PATCH = "from gevent import monkey\nmonkey.patch_all()"
_MINE = re.compile(
    r"\b(?:gunicorn|worker_class|post_fork|post_worker_init|worker_exit|preload_app|wsgi_app)\b|^\s*(?:bind|workers)\s*=",
    re.M,
)


def is_mine(name: str, text: str) -> bool:
    return name.endswith(".py") and (bool(_MINE.search(text)) or "gunicorn" in name)


def examine(path: str, text: str, facts: Facts, given: dict[str, Any] | None = None) -> list[Finding]:
    """`given` are settings of the command line, which win over the file's. Raises: `Unreadable`."""
    try:
        source = read(text)
    except (SyntaxError, ValueError) as exc:
        line = getattr(exc, "lineno", None) or 0
        raise Unreadable(f"gunicorn cannot start with it: {exc}", line) from exc
    source.settings.update({name: (value, 0) for name, value in (given or {}).items()})
    rules = (_hooks, _misspelt, _arguments, _patching, _workers, _times)
    return [_placed(finding, path) for rule in rules for finding in rule(source, facts)]


def _placed(finding: Finding, path: str) -> Finding:
    return Finding(
        finding.severity, finding.rule, finding.breaks, finding.why, finding.fix, finding.file or path, finding.line
    )


def parse_arguments(text: str) -> tuple[str | None, dict[str, Any]]:
    """The configuration file that a command line names, and the settings in it. Raises: `ConfigurationError`."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("-c", "--config")
    parser.add_argument("-k", "--worker-class", dest="worker_class")
    parser.add_argument("--preload", dest="preload_app", action="store_true", default=None)
    parser.add_argument("-t", "--timeout", type=int)
    parser.add_argument("--graceful-timeout", dest="graceful_timeout", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("-w", "--workers", type=int)
    try:
        found, _others = parser.parse_known_args(shlex.split(text))
    except (argparse.ArgumentError, ValueError) as exc:
        raise ConfigurationError(f"--gunicorn-args: {exc}") from exc
    settings = {name: value for name, value in vars(found).items() if value is not None}
    return settings.pop("config", None), settings


def _last(source: Source, name: str) -> Binding | None:
    found = source.bindings.get(name)
    return found[-1] if found else None


def _hooks(source: Source, _facts: Facts) -> Iterator[Finding]:
    missing = []
    for name, consequence in NEEDED.items():
        last = _last(source, name)
        ours = [binding for binding in source.bindings.get(name, []) if binding.is_ours]
        others = [binding for binding in source.bindings.get(name, []) if not binding.is_ours and binding.is_function]
        if last is None:
            missing.append((name, consequence))
        elif not last.is_ours:
            fix = f"from {OURS} import chain\nfrom {OURS} import {name} as {name}_of_messaging\n\n"
            how = f"it replaces ours, imported in line {ours[-1].line}" if ours else "only yours is called"
            yield Finding(
                WARNING,
                "gunicorn-hook-replaced",
                f"wsgi_messaging's {name}() never runs: {consequence}",
                f"gunicorn calls the last {name} of the file; {how}",
                f"{fix}{name} = chain({name}, {name}_of_messaging)  # below your definition",
                line=last.line,
            )
        elif others and others[-1].line < last.line and not _is_chained(source, name):
            yield Finding(
                WARNING,
                "gunicorn-hook-lost",
                f"your own {name}() of line {others[-1].line} never runs",
                f"gunicorn calls the last {name} of the file, which is the one imported in line {last.line}",
                f"from {OURS} import chain, {name} as {name}_of_messaging\n"
                f"{name} = chain({name}, {name}_of_messaging)  # instead of the import",
                line=last.line,
            )
    if missing:
        names = ", ".join(name for name, _consequence in missing)
        yield Finding(
            WARNING,
            "gunicorn-hooks",
            f"wsgi_messaging's hooks are not all there ({names})",
            "; ".join(f"without {name} {consequence}" for name, consequence in missing),
            diagnosis.GUNICORN_LINE,
        )


def _is_chained(source: Source, name: str) -> bool:
    """The last binding is an assignment, which can mention the one before; an import cannot."""
    return name in source.settings


def _misspelt(source: Source, _facts: Facts) -> Iterator[Finding]:
    for name, bindings in source.bindings.items():
        last = bindings[-1]
        if name in HOOKS or name in source.read or not last.is_function or last.arity is None or name.startswith("_"):
            continue
        close = difflib.get_close_matches(name, HOOKS, n=1, cutoff=0.85)
        if close:
            yield Finding(
                WARNING,
                "gunicorn-hook-name",
                f"{name}() is never called",
                f"gunicorn reads only the exact names of its hooks and passes over others; meant is {close[0]}",
                f"def {close[0]}({', '.join(_ARGUMENTS.get(close[0], ('server',)))}):",
                line=last.line,
            )


_ARGUMENTS = {name: ("server", "worker")[-count:] if count < 3 else ("...",) for name, count in HOOKS.items()}


def _arguments(source: Source, _facts: Facts) -> Iterator[Finding]:
    for name, count in HOOKS.items():
        last = _last(source, name)
        if last is not None and last.arity not in (None, -1, count):
            yield Finding(
                ERROR,
                "gunicorn-hook-arguments",
                f"gunicorn does not start: {name}() takes {last.arity} arguments",
                f"it counts them, and wants {count} ('Value must have an arity of: {count}')",
                f"def {name}({', '.join(_ARGUMENTS[name])}):",
                line=last.line,
            )


def _value(source: Source, name: str, default: Any = None) -> tuple[Any, int]:
    return source.settings.get(name, (default, 0))


def _worker_class(source: Source) -> tuple[str, int]:
    value, line = _value(source, "worker_class", "sync")
    threads = _value(source, "threads", 1)[0]
    if value == "sync" and isinstance(threads, int) and threads > 1:
        return "gthread", line
    return (value if isinstance(value, str) else "?"), line


def _patching(source: Source, _facts: Facts) -> Iterator[Finding]:
    worker_class, _line = _worker_class(source)
    preload, line = _value(source, "preload_app", False)
    if "gevent" not in worker_class or preload is not True:
        return
    if source.patched_at is None:
        yield Finding(
            ERROR,
            "gunicorn-preload-gevent",
            "locks that the application makes at import do not protect its greenlets and may dead-lock the worker",
            diagnosis.PATCHED_TOO_LATE,
            PATCH + "  # the first two lines of the file",
            line=line,
        )
    elif source.first_import is not None and source.first_import[1] < source.patched_at:
        module, at = source.first_import
        yield Finding(
            WARNING,
            "gunicorn-patch-order",
            f"{module} is imported before gevent has patched: what it holds of threading and socket stays unpatched",
            f"with preload the patch in line {source.patched_at} must come before every other import (line {at})",
            PATCH + "  # the first two lines of the file",
            line=source.patched_at,
        )


def _workers(source: Source, facts: Facts) -> Iterator[Finding]:
    worker_class, line = _worker_class(source)
    if "eventlet" not in worker_class:
        return
    version = facts.gunicorn
    is_gone = version is None or version >= (26,)
    known = f"{'.'.join(map(str, version))} is installed" if version else "which one runs is not known here"
    yield Finding(
        NOTE if not is_gone else WARNING if version is None else ERROR,
        "gunicorn-eventlet",
        "gunicorn does not start with the eventlet worker" if is_gone else "the eventlet worker ends with gunicorn 26",
        f"gunicorn removed it in 26.0 (\"Entry point ('gunicorn.workers', 'eventlet') not found\"); {known}",
        'worker_class = "gevent"  # or "gthread"; or pin gunicorn<26',
        line=line,
    )


def _times(source: Source, facts: Facts) -> Iterator[Finding]:
    limit = _timeout_of(source, facts)
    timeout, line = _value(source, "timeout", 30)
    worker_class, _line = _worker_class(source)
    if isinstance(timeout, int) and 0 < timeout <= limit and worker_class in ("sync", "tornado"):
        yield Finding(
            WARNING,
            "gunicorn-timeout",
            f"gunicorn aborts a worker that waits {timeout} s for the broker, with all its requests",
            f"a publish may take {limit:g} s (the transport's timeout) and the worker's timeout is {timeout} s",
            f"timeout = {int(limit) + 5}  # or WSGI_MESSAGING_TIMEOUT below {timeout}",
            line=line,
        )
    graceful, line = _value(source, "graceful_timeout", 30)
    if isinstance(graceful, int) and graceful is not UNKNOWN and graceful <= limit:
        yield Finding(
            WARNING,
            "gunicorn-graceful-timeout",
            "a request that waits for the broker during a reload is killed, and the connection cut",
            f"gunicorn kills a worker {graceful} s after it was told to end; a publish may take {limit:g} s",
            f"graceful_timeout = {int(limit) + 5}",
            line=line,
        )


def _timeout_of(source: Source, facts: Facts) -> float:
    values = source.settings.get("raw_env", ([], 0))[0]
    for entry in values if isinstance(values, list) else []:
        name, _equals, value = str(entry).partition("=")
        if name == "WSGI_MESSAGING_TIMEOUT" and re.fullmatch(r"\d+(\.\d+)?", value):
            return float(value)
    return facts.timeout
