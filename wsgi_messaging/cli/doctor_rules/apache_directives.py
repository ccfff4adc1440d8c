"""Apache configuration as a list of directives: continuations, Define, IfDefine, and which section each is in.

Simple on purpose: If, IfModule and IfVersion count as true; Include is not followed (name the files).

Layer 5: imports the standard library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from . import Unreadable

_WORD = re.compile(r"""(?P<quote>["'])(?P<quoted>(?:\\.|(?!(?P=quote))[^\\])*)(?P=quote)|(?P<bare>\S+)""")
_ESCAPED = re.compile(r"""\\(["'\\])""")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Directive:
    name: str
    """In lower case."""
    arguments: tuple[str, ...]
    line: int
    section: tuple[str, ...]
    """The sections around it that hold for a part of the server: `virtualhost *:80`, `directory /srv`."""

    def option(self, name: str) -> str | None:
        """The value of an argument `name=value`."""
        found = [value for key, equals, value in (each.partition("=") for each in self.arguments) if key == name]
        return found[-1] if found else None


def read(text: str, defines: frozenset[str]) -> list[Directive]:
    """Raises: `Unreadable`."""
    known = dict.fromkeys(defines, "")
    for name in list(known):
        key, equals, value = name.partition("=")
        if equals:
            known[key] = value
    found: list[Directive] = []
    sections: list[tuple[str, str, bool]] = []
    for number, line in _logical_lines(text):
        if line.startswith("</"):
            if not sections or sections[-1][0] != line[2:].rstrip(">").strip().lower():
                raise Unreadable(f"{line} closes what is not open", number)
            sections.pop()
        elif line.startswith("<"):
            name, _space, rest = line[1:].rstrip(">").strip().partition(" ")
            sections.append((name.lower(), rest.strip(), _holds(name.lower(), rest.strip(), known)))
        elif all(holds for _name, _rest, holds in sections):
            _take(line, number, sections, known, found)
    return found


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        joined, first = joined + line.strip(), first or number
        if joined.endswith("\\"):
            joined = joined[:-1] + " "
            continue
        if joined and not joined.startswith("#"):
            yield first, joined
        joined, first = "", 0


def _holds(name: str, rest: str, known: dict[str, str]) -> bool:
    if name != "ifdefine":
        return True
    return (rest[1:] not in known) if rest.startswith("!") else rest in known


def _words(line: str) -> list[str]:
    """As Apache's ap_getword_conf takes them: a quote counts at the beginning of a word. Raises: ValueError."""
    words = []
    for match in _WORD.finditer(line):
        quoted, bare = match["quoted"], match["bare"]
        if bare and bare[0] in "\"'":
            raise ValueError("No closing quotation")
        words.append(bare if quoted is None else _ESCAPED.sub(r"\1", quoted))
    return words


def _take(
    line: str, number: int, sections: list[tuple[str, str, bool]], known: dict[str, str], found: list[Directive]
) -> None:
    filled = _VARIABLE.sub(lambda match: known.get(match[1]) or match[0], line)
    try:
        name, *arguments = _words(filled)
    except ValueError as exc:
        raise Unreadable(f"{line}: {exc}", number) from exc
    if name.lower() == "define" and arguments:
        known[arguments[0]] = " ".join(arguments[1:])
    elif name.lower() == "undefine" and arguments:
        known.pop(arguments[0], None)
    else:
        parts = tuple(f"{kind} {rest}" for kind, rest, _holds in sections if not kind.startswith("if"))
        found.append(Directive(name.lower(), tuple(arguments), number, parts))
