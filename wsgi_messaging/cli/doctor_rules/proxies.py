"""Rules for a TCP proxy between us and the broker (haproxy, nginx stream): it must not take a heartbeat for silence.

A connection without other traffic carries a frame about every third of the heartbeat interval from us and every half
from the broker; a proxy that gives up sooner cuts an idle, healthy connection.

Layer 5: imports lifetime, the findings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...lifetime import SHORT_HEARTBEAT
from .._findings import ERROR, WARNING, Facts, Finding

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_HAPROXY = re.compile(r"^\s*(?:global|defaults|frontend|backend|listen)\b", re.M)
_NOT_HAPROXY = re.compile(r"[;{]\s*(?:#.*)?$", re.M)
_SIDES = {"frontend": ("client",), "backend": ("server",), "listen": ("client", "server")}
"""Whose silence a section's timeouts are about."""
_OTHER_SECTIONS = re.compile(
    r"cache|crt-store|fcgi-app|http-errors|log-forward|log-profile|mailers|peers|program|resolvers|ring|traces|userlist"
)
"""Of haproxy; their timeouts are about something else."""
_NGINX = re.compile(r"\bstream\s*\{")
_PROXY_TIMEOUT = re.compile(r"(?<![\w$.-])proxy_timeout\s+(\w+)\s*;")
_COMMENT = re.compile(r"(?m)(?:^|(?<=[\s;{}]))#.*$")
NGINX_DEFAULT = 600.0


def is_haproxy(_name: str, text: str) -> bool:
    return bool(_HAPROXY.search(text)) and not _NOT_HAPROXY.search(text)


def is_nginx(_name: str, text: str) -> bool:
    return bool(_NGINX.search(_COMMENT.sub("", text)))


def idle_timeout(seconds: float, facts: Facts, where: str, fix: str, file: str = "", line: int = 0) -> list[Finding]:
    """What an idle timeout of a proxy means for a heartbeat."""
    beat, lower = facts.heartbeat, _heartbeat_for(seconds)
    if not beat:
        breaks = f"{where} cuts every connection that is idle for {seconds:g} s"
        why = "there are no heartbeats (heartbeat=0)"
        remedy = f"WSGI_MESSAGING_HEARTBEAT={lower or 20}" + ("" if lower else f"\n{fix}")
        return [Finding(ERROR, "proxy-idle", breaks, why, remedy, file, line)]
    if seconds > beat:
        return []
    is_certain = seconds <= beat / 2
    return [
        Finding(
            ERROR if is_certain else WARNING,
            "proxy-idle",
            f"{where} {'cuts' if is_certain else 'may cut'} healthy idle connections",
            f"it gives up after {seconds:g} s of silence; at a heartbeat of {beat:g} s the broker is silent for"
            f" {beat / 2:g} s, and longer when a beat is late",
            f"{fix}\n# or WSGI_MESSAGING_HEARTBEAT={lower}" if lower else fix,
            file,
            line,
        )
    ]


def _heartbeat_for(seconds: float) -> int | None:
    """One that is well below an idle timeout; None where it would be so short that the transport warns of it."""
    beat = min(20, max(int(SHORT_HEARTBEAT), int(seconds // 3)))
    return beat if 2 * beat <= seconds else None


@dataclass(slots=True)
class _Section:
    name: str
    line: int
    defaults: str = ""
    """Of which defaults it is, where it says so (`from`)."""
    mode: str = ""
    has_amqp: bool = False
    timeouts: dict[str, tuple[float, int]] = field(default_factory=dict)

    def inherit(self, defaults: _Section) -> None:
        """Have what it does not say itself from there."""
        self.mode = self.mode or defaults.mode
        self.timeouts = {**defaults.timeouts, **self.timeouts}


def examine_haproxy(path: str, text: str, facts: Facts) -> list[Finding]:
    latest = _Section("defaults", 0)
    known: dict[str, _Section] = {}
    lines: dict[tuple[str, float, int], list[str]] = {}  # one finding each, for all sections that a line counts in
    for section in _sections(text):
        defaults = known.get(section.defaults, latest) if section.defaults else latest
        kind, _, name = section.name.partition(" ")
        if kind != "defaults" or section.defaults:
            section.inherit(defaults)
        if kind == "defaults":
            latest = known[name] = section  # one without a name is nobody's `from`
        elif kind in _SIDES and (section.mode == "tcp" or section.has_amqp):
            sides = ("tunnel",) if "tunnel" in section.timeouts else _SIDES[kind]
            for side in sides:
                if side in section.timeouts:
                    lines.setdefault((side, *section.timeouts[side]), []).append(section.name)
    findings = []
    for (side, seconds, line), names in lines.items():
        where = f"haproxy ({', '.join(names)}: timeout {side})"
        fix = f"timeout {side} {int(3 * facts.heartbeat) or 60}s"
        findings += idle_timeout(seconds, facts, where, fix, path, line)
    return findings


def _sections(text: str) -> Iterator[_Section]:
    section: _Section | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.partition("#")[0].split()
        if not words:
            continue
        if words[0] in _SIDES or words[0] in ("global", "defaults") or _OTHER_SECTIONS.fullmatch(words[0]):
            if section is not None:
                yield section
            named, _, after = " ".join(words).partition(" from ")
            section = _Section(" ".join(named.split()[:2]), number, after.partition(" ")[0])
        elif section is not None:
            if words[0] == "mode" and len(words) > 1:
                section.mode = words[1]
            elif words[0] == "timeout" and len(words) > 2 and (seconds := _seconds(words[2], "ms")) is not None:
                section.timeouts[words[1]] = (seconds, number)
            section.has_amqp |= words[0] in ("bind", "server") and bool(re.search(r":567[12]\b", raw))
    if section is not None:
        yield section


def examine_nginx(path: str, text: str, facts: Facts) -> list[Finding]:
    text = _COMMENT.sub("", text)
    found = [
        (seconds, text.count("\n", 0, match.start()) + 1)
        for match in _PROXY_TIMEOUT.finditer(text)  # a directive of stream only
        if (seconds := _seconds(match[1], "s"))
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
