"""Rules for Apache's mod_wsgi: daemon mode, the main interpreter, both loaded at the start, and an end with time in it.

Layer 5: imports servers.mod_wsgi (its times), the findings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ...servers.mod_wsgi import CLOSE_SECONDS, DRAIN_SECONDS
from .._findings import ERROR, NOTE, WARNING, Facts, Finding
from .apache_directives import Directive, read

GLOBAL = "%{GLOBAL}"
END_SECONDS = DRAIN_SECONDS + CLOSE_SECONDS
_ALIASES = ("wsgiscriptalias", "wsgiscriptaliasmatch")
_FEW_REQUESTS, _SHORT_INTERVAL = 100, 60


def is_mine(_name: str, text: str) -> bool:
    return bool(re.search(r"^\s*WSGI[A-Z]\w+\s", text, re.M | re.I))


def examine(path: str, text: str, facts: Facts) -> list[Finding]:
    """Raises: `Unreadable`."""
    directives = read(text, facts.defines)
    rules = (_modes, _daemons, _end)
    return [
        Finding(each.severity, each.rule, each.breaks, each.why, each.fix, each.file or path, each.line)
        for rule in rules
        for each in rule(directives, facts)
    ]


def _named(directives: Sequence[Directive], *names: str) -> list[Directive]:
    return [directive for directive in directives if directive.name in names]


def _inherited(directives: Sequence[Directive], name: str, alias: Directive) -> str | None:
    """What a directive says for the place where the alias stands, or for any part below it."""
    fitting = [each for each in _named(directives, name) if each.section[: len(alias.section)] == alias.section]
    around = [each for each in _named(directives, name) if alias.section[: len(each.section)] == each.section]
    chosen = fitting or around
    return chosen[-1].arguments[0] if chosen and chosen[-1].arguments else None


def _modes(directives: Sequence[Directive], _facts: Facts) -> Iterator[Finding]:
    daemons = [each.arguments[0] for each in _named(directives, "wsgidaemonprocess") if each.arguments]
    for alias in _named(directives, *_ALIASES):
        on_alias = alias.option("process-group")
        group = on_alias or _inherited(directives, "wsgiprocessgroup", alias)
        interpreter = alias.option("application-group")
        application = interpreter or _inherited(directives, "wsgiapplicationgroup", alias)
        if not group or group == GLOBAL:
            yield _embedded(alias, daemons)
        elif group not in daemons and not group.startswith("%{"):
            yield Finding(
                ERROR, "mod_wsgi-group", "every request ends in an error 500",
                f"the process group {group!r} has no WSGIDaemonProcess in this file ('No WSGI daemon process called')",
                f"WSGIDaemonProcess {group} processes=2 threads=15", line=alias.line,
            )  # fmt: skip
        if application != GLOBAL:
            yield _sub_interpreter(alias, _group_for(group, daemons))
        elif group and not (on_alias and interpreter) and not _named(directives, "wsgiimportscript"):
            yield Finding(
                WARNING, "mod_wsgi-preload", "the application is loaded, and connects, at the first request only",
                "mod_wsgi loads a script when the process starts if WSGIScriptAlias itself names both groups",
                _alias_line(alias, group), line=alias.line,
            )  # fmt: skip


def _alias_line(alias: Directive, group: str) -> str:
    place, script = (*alias.arguments, "/", "app.wsgi")[:2] if len(alias.arguments) > 1 else ("/", "app.wsgi")
    return f"WSGIScriptAlias {place} {script} process-group={group} application-group={GLOBAL}"


def _group_for(group: str | None, daemons: Sequence[str]) -> str:
    """The process group to write: the one that is meant already, or else one that there is."""
    return group if group and group != GLOBAL else daemons[0] if daemons else "app"


def _embedded(alias: Directive, daemons: Sequence[str]) -> Finding:
    group = _group_for(None, daemons)
    daemon = "" if daemons else f"WSGIDaemonProcess {group} processes=2 threads=15\n"
    idle = f"; the daemon processes of {group!r} serve nothing" if daemons else ""
    return Finding(
        WARNING, "mod_wsgi-embedded", "each of Apache's own processes opens a connection, up to ServerLimit of them",
        f"no process group: the application runs embedded in Apache's processes, which come and go with the load{idle}",
        daemon + _alias_line(alias, group), line=alias.line,
    )  # fmt: skip


def _sub_interpreter(alias: Directive, group: str) -> Finding:
    return Finding(
        WARNING, "mod_wsgi-interpreter", "the process may crash (segmentation fault) when it ends or is reloaded",
        "without application-group=%{GLOBAL} the application runs in a sub-interpreter, and a thread that is alive when"
        " that is destroyed crashes the process; with a mod_wsgi that cannot tell (no subscribe_shutdown) the"
        " middleware refuses to serve",
        _alias_line(alias, group), line=alias.line,
    )  # fmt: skip


def _seconds(directive: Directive, name: str) -> int | None:
    value = directive.option(name)
    return int(value) if value is not None and value.isdigit() else None


def _daemons(directives: Sequence[Directive], facts: Facts) -> Iterator[Finding]:
    for daemon in _named(directives, "wsgidaemonprocess"):
        request, shutdown = _seconds(daemon, "request-timeout"), _seconds(daemon, "shutdown-timeout")
        if request is not None and 0 < request <= facts.timeout:
            yield Finding(
                WARNING, "mod_wsgi-request-timeout", "a process whose requests wait for the broker is killed",
                f"request-timeout={request} ends the whole process, and a publish may take {facts.timeout:g} s",
                f"request-timeout={int(facts.timeout) + 10}", line=daemon.line,
            )  # fmt: skip
        if shutdown is not None and shutdown <= END_SECONDS:
            yield Finding(
                WARNING, "mod_wsgi-shutdown-timeout", "requests in flight are lost and the connection cut at a restart",
                f"we let requests finish for {DRAIN_SECONDS:g} s and close within {CLOSE_SECONDS:g} s;"
                f" shutdown-timeout={shutdown} kills the process before that",
                "shutdown-timeout=5", line=daemon.line,
            )  # fmt: skip
        yield from _restarts(daemon)


def _restarts(daemon: Directive) -> Iterator[Finding]:
    limits = (("maximum-requests", _FEW_REQUESTS, "requests"), ("restart-interval", _SHORT_INTERVAL, "seconds"))
    for name, least, unit in limits:
        value = _seconds(daemon, name)
        if value is None or not value:
            continue
        is_grave = value < least
        yield Finding(
            WARNING if is_grave else NOTE, "mod_wsgi-restarts",
            f"each process ends after {value} {unit} and connects again"
            + (": the broker sees a storm of connections, requests wait for them" if is_grave else ""),
            f"{name}={value}; the connection is closed in order, and a request in flight gets {DRAIN_SECONDS:g} s",
            f"{name}={least * 100}" if is_grave else f"{name}={value}    # as it is",
            line=daemon.line,
        )  # fmt: skip
    for name in ("inactivity-timeout", "graceful-timeout"):
        value = _seconds(daemon, name)
        if value:
            about = (
                "an idle process ends, and the next request waits for a new one and its connection"
                if name == "inactivity-timeout"
                else "it has no effect at 'apachectl graceful' and restart: Apache's signal to the daemon is TERM"
            )
            yield Finding(NOTE, "mod_wsgi-restarts", about, f"{name}={value}", f"# without {name}", line=daemon.line)


def _end(directives: Sequence[Directive], _facts: Facts) -> Iterator[Finding]:
    for each in _named(directives, "wsgidestroyinterpreter"):
        if each.arguments and each.arguments[0].lower() == "off":
            yield Finding(
                WARNING, "mod_wsgi-destroy", "exit functions of Python do not run when a process ends",
                "with WSGIDestroyInterpreter Off only mod_wsgi's own event is left; where mod_wsgi has none the"
                " connection is cut, and what else the application does at exit is not done",
                "WSGIDestroyInterpreter On", line=each.line,
            )  # fmt: skip
