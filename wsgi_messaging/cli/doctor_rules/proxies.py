"""Rules for a TCP proxy between us and the broker (haproxy, nginx stream): it must not take a heartbeat for silence.

A connection without other traffic carries a frame about every third of the heartbeat interval from us and every half
from the broker; a proxy that gives up sooner cuts an idle, healthy connection.

Layer 5: imports the findings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from .._findings import ERROR, WARNING, Facts, Finding

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_HAPROXY = re.compile(r"^\s*(?:global|defaults|frontend|backend|listen)\b", re.M)
_NGINX = re.compile(r"\bstream\s*\{")
NGINX_DEFAULT = 600.0


def is_haproxy(_name: str, text: str) -> bool:
    return bool(_HAPROXY.search(text)) and "{" not in re.sub(r"#.*", "", text).partition("acl")[0]


def is_nginx(_name: str, text: str) -> bool:
    return bool(_NGINX.search(text))


def idle_timeout(seconds: float, facts: Facts, where: str, fix: str, file: str = "", line: int = 0) -> list[Finding]:
    """What an idle timeout of a proxy means for a heartbeat."""
    beat = facts.heartbeat
    if not beat:
        breaks = f"{where} cuts every connection that is idle for {seconds:g} s"
        why = "there are no heartbeats (heartbeat=0)"
        return [Finding(ERROR, "proxy-idle", breaks, why, "WSGI_MESSAGING_HEARTBEAT=20", file, line)]
    if seconds > beat:
        return []
    lower = max(1, int(seconds // 3))
    is_certain = seconds <= beat / 2
    return [
        Finding(
            ERROR if is_certain else WARNING,
            "proxy-idle",
            f"{where} {'cuts' if is_certain else 'may cut'} healthy idle connections",
            f"it gives up after {seconds:g} s of silence; at a heartbeat of {beat:g} s the broker is silent for"
            f" {beat / 2:g} s, and longer when a beat is late",
            f"{fix}\n# or WSGI_MESSAGING_HEARTBEAT={lower}",
            file,
            line,
        )
    ]


@dataclass(slots=True)
class _Section:
    name: str
    line: int
    mode: str = ""
    has_amqp: bool = False
    timeouts: dict[str, tuple[float, int]] = field(default_factory=dict)


def examine_haproxy(path: str, text: str, facts: Facts) -> list[Finding]:
    defaults = _Section("defaults", 0)
    findings = []
    for section in _sections(text):
        if section.name == "defaults":
            defaults = section
            continue
        mode = section.mode or defaults.mode
        if section.name.startswith("global") or (mode != "tcp" and not section.has_amqp):
            continue
        timeouts = {**defaults.timeouts, **section.timeouts}
        sides = ("tunnel",) if "tunnel" in timeouts else ("client", "server")
        for side in sides:
            if side in timeouts:
                seconds, line = timeouts[side]
                where = f"haproxy ({section.name}, timeout {side})"
                fix = f"timeout {side} {int(3 * facts.heartbeat) or 60}s"
                findings += idle_timeout(seconds, facts, where, fix, path, line)
    return list(dict.fromkeys(findings))


def _sections(text: str) -> Iterator[_Section]:
    section: _Section | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.partition("#")[0].split()
        if not words:
            continue
        if words[0] in ("global", "defaults", "frontend", "backend", "listen"):
            if section is not None:
                yield section
            section = _Section("defaults" if words[0] == "defaults" else " ".join(words[:2]), number)
        elif section is not None:
            if words[0] == "mode" and len(words) > 1:
                section.mode = words[1]
            elif words[0] == "timeout" and len(words) > 2 and (seconds := _seconds(words[2], "ms")) is not None:
                section.timeouts[words[1]] = (seconds, number)
            section.has_amqp |= words[0] in ("bind", "server") and bool(re.search(r":567[12]\b", raw))
    if section is not None:
        yield section


def examine_nginx(path: str, text: str, facts: Facts) -> list[Finding]:
    stream = text[_NGINX.search(text).start() :] if _NGINX.search(text) else ""  # type: ignore[union-attr]
    before = text.count("\n", 0, len(text) - len(stream))
    found = [
        (seconds, before + number)
        for number, line in enumerate(stream.splitlines(), 1)
        if (match := re.match(r"\s*proxy_timeout\s+(\w+)\s*;", line)) and (seconds := _seconds(match[1], "s"))
    ] or [(NGINX_DEFAULT, 0)]
    return [
        finding
        for seconds, line in found
        for finding in idle_timeout(
            seconds, facts, "nginx (proxy_timeout)", f"proxy_timeout {int(3 * facts.heartbeat) or 60}s;", path, line
        )
    ]


def _seconds(text: str, unit: str) -> float | None:
    found = re.fullmatch(r"(\d+)(us|ms|s|m|h|d)?", text)
    return int(found[1]) * _UNITS[found[2] or unit] if found else None
