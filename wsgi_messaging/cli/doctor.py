"""`wsgi-messaging doctor FILE...`: what a deployment's configuration does to the messaging, before it does.

Files are read, never executed. Which server a file is for is told by its content. Silence is health: a good deployment
has no errors and no warnings.

Layer 5: imports settings, the doctor's rules.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..settings import Settings
from ._findings import ERROR, WARNING, Facts, Finding, ordered, print_finding
from ._numbers import seconds, seconds_or_none
from ._versions import parsed
from .check import settings_of
from .doctor_rules import Unreadable, broker, gunicorn, mod_wsgi, proxies, uwsgi
from .output import coloured, counted, plain, print_json

Examine = Callable[[str, str, Facts], list[Finding]]


def _oslo(_path: str, text: str, _facts: Facts) -> list[Finding]:
    broker.queues_of(text)  # can it be read? The broker's version judges it
    return []


KINDS: tuple[tuple[str, Callable[[str, str], bool], Examine], ...] = (
    ("oslo.messaging", broker.is_mine, _oslo),
    ("uWSGI", uwsgi.is_mine, uwsgi.examine),
    ("mod_wsgi", mod_wsgi.is_mine, mod_wsgi.examine),
    ("nginx", proxies.is_nginx, proxies.examine_nginx),
    ("gunicorn", gunicorn.is_mine, gunicorn.examine),
    ("haproxy", proxies.is_haproxy, proxies.examine_haproxy),
)
SHIPPED = ("gunicorn-", "uwsgi-", "mod_wsgi-")
"""How the rules begin for whose servers we have files."""

_READ_BY_ITSELF = "gunicorn.conf.py"
"""In the current folder, where no other is named (gunicorn's `--config`)."""


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "doctor",
        description="Read configuration files of gunicorn (gunicorn.conf.py, not executed), uWSGI, Apache mod_wsgi,"
        " haproxy, nginx (stream) and oslo.messaging; say for each finding what breaks, why, and the line to write.",
        epilog="Exit status: 0 nothing to mend (notes may be shown), 1 an error or a warning was found, 2 wrong usage"
        " or a file that cannot be read.",
    )
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--gunicorn-args", metavar="TEXT", help="gunicorn's command line; it wins over the file")
    parser.add_argument("--gunicorn-version", metavar="X.Y", help="(default: the one that is installed here)")
    parser.add_argument("--uwsgi-version", metavar="X.Y.Z", help="(default: the one that is installed here)")
    parser.add_argument("--define", action="append", default=[], metavar="NAME[=VALUE]", help="as Apache's -D")
    parser.add_argument("--transport-timeout", type=seconds, metavar="SECONDS", help="(default: from the environment)")
    parser.add_argument("--heartbeat", type=seconds_or_none, metavar="SECONDS", help="(default: from the environment)")
    parser.add_argument("--proxy-idle-timeout", type=seconds, metavar="SECONDS", help="of a balancer to the broker")
    parser.add_argument("--url", help="a broker to hold the configuration against")
    parser.add_argument("--broker-version", metavar="X.Y.Z", help="RabbitMQ's, where there is no --url")
    parser.add_argument(
        "--queues",
        choices=(broker.TRANSIENT, broker.DURABLE, broker.QUORUM),
        help="what RPC servers and listeners declare (default: read from oslo.messaging's file)",
    )
    parser.add_argument("--timeout", type=seconds, default=5.0, metavar="SECONDS", help="for each step at the broker")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Examine every file, then the broker."""
    is_about_queues = args.queues and args.broker_version
    if not (args.files or args.gunicorn_args or args.url or args.proxy_idle_timeout or is_about_queues):
        raise ConfigurationError(
            "nothing to examine: name files, --gunicorn-args, --proxy-idle-timeout, --url, or both --queues and"
            " --broker-version"
        )
    settings = settings_of(args.url)
    files = {name: _read(name) for name in args.files}
    facts, findings = _facts(args, settings, *_queues(args, files))
    command_line = gunicorn.parse_arguments(args.gunicorn_args) if args.gunicorn_args is not None else None
    if command_line is not None and not any(_is_for_gunicorn(name, text) for name, text in files.items()):
        findings += _from_command_line(*command_line, facts)
    for name, text in files.items():
        findings += _examine(name, text, facts, command_line[1] if command_line else {})
    if args.proxy_idle_timeout is not None:
        fix = f"idle timeout of the proxy: {int(3 * facts.heartbeat) or 60} s"
        findings += proxies.idle_timeout(args.proxy_idle_timeout, facts, "the proxy (--proxy-idle-timeout)", fix)
    return _show(ordered(findings), args)


def _facts(args: argparse.Namespace, settings: Settings, queues: str | None, file: str) -> tuple[Facts, list[Finding]]:
    findings: list[Finding] = []
    heartbeat: float | None = None
    if args.broker_version is not None:
        _parsed(args.broker_version)
    if args.url:
        findings, heartbeat = broker.look(settings, args.timeout, queues, file)
    elif args.broker_version and queues:
        findings = list(broker.examine_queues(queues, "RabbitMQ", args.broker_version, file))
    if args.heartbeat is not None:
        heartbeat = args.heartbeat
    facts = Facts(
        timeout=settings.timeout if args.transport_timeout is None else args.transport_timeout,
        heartbeat=settings.heartbeat if heartbeat is None else heartbeat,
        gunicorn=_version(args.gunicorn_version, "gunicorn"),
        uwsgi=_version(args.uwsgi_version, "uWSGI"),
        defines=frozenset(args.define),
    )
    return facts, findings


def _version(given: str | None, distribution: str) -> tuple[int, ...] | None:
    if given is not None:
        return _parsed(given)
    try:
        return parsed(importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return None


def _parsed(given: str) -> tuple[int, ...]:
    numbers = parsed(given)
    if numbers is None:
        raise ConfigurationError(f"{given!r} is not a version, such as 26.0")
    return numbers


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        raise ConfigurationError(f"{name}: {exc.strerror}") from exc


def _queues(args: argparse.Namespace, files: dict[str, str]) -> tuple[str | None, str]:
    """What queues are declared, and the file that says so."""
    for name, text in files.items():
        if args.queues is None and broker.is_mine(name, text):
            try:
                return broker.queues_of(text), name
            except Unreadable:
                return None, name  # told when the file is examined
    return args.queues, ""


def _is_for_gunicorn(name: str, text: str) -> bool:
    return name.endswith(".py") and gunicorn.is_mine(os.path.basename(name), text)


def _from_command_line(config: str | None, given: dict[str, Any], facts: Facts) -> list[Finding]:
    """gunicorn's command line without its file among those that were named."""
    if config is not None and config.startswith("python:"):
        text = f"from {config.removeprefix('python:')} import *\n"
    elif config is not None and Path(config).is_file():
        text = _read(config)
    elif config is None and Path(_READ_BY_ITSELF).is_file():
        config, text = _READ_BY_ITSELF, _read(_READ_BY_ITSELF)
    else:
        text = ""
    return gunicorn.examine(config or "gunicorn's command line", text, facts, given)


def _examine(name: str, text: str, facts: Facts, given: dict[str, Any]) -> list[Finding]:
    kind = next((kind for kind in KINDS if kind[1](os.path.basename(name), text)), None)
    if kind is None:
        kinds = ", ".join(each[0] for each in KINDS)
        raise ConfigurationError(f"{name}: not recognised as a configuration of {kinds}")
    try:
        if kind[0] == "gunicorn":
            return gunicorn.examine(name, text, facts, given)
        return kind[2](name, text, facts)
    except Unreadable as exc:
        breaks, fix = f"{kind[0]} cannot read it", "# correct the syntax"
        return [Finding(ERROR, "unreadable", breaks, str(exc), fix, name, exc.line)]


def _show(findings: list[Finding], args: argparse.Namespace) -> int:
    grave = [finding for finding in findings if finding.is_grave]
    if args.json:
        print_json({"ok": not grave, "findings": [finding.as_json() for finding in findings]})
        return 1 if grave else 0
    for finding in findings:
        print_finding(finding)
    errors, warnings = (sum(each.severity == severity for each in findings) for severity in (ERROR, WARNING))
    if grave:
        at_fault = ", ".join(dict.fromkeys(map(_at_fault, grave)))
        print(coloured(f"{at_fault}: {counted(errors, 'error')}, {counted(warnings, 'warning')}", "red"))
        if any(finding.rule.startswith(SHIPPED) for finding in grave):
            print("The shipped files have none: wsgi-messaging hooks --copy DIR")
        return 1
    examined = ", ".join(args.files) or "what was asked"
    print(coloured(f"{examined}: nothing to mend", "green"))
    return 0


def _at_fault(finding: Finding) -> str:
    return plain(finding.file) or ("the broker" if finding.rule.startswith("broker-") else "the proxy")
