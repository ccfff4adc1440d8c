"""uWSGI's configuration files as a list of options: ini, with its repeated keys; yaml, as far as uWSGI itself reads it.

uWSGI's ini is not Python's: a key may come again and then counts again, a comment is a whole line (what follows a value
is part of it), an underscore is not a dash. Other files that it names (`ini =`, `include =`) are read as well.

Layer 5: imports the standard library.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ALIASES = {
    "M": "master",
    "p": "processes",
    "workers": "processes",
    "T": "enable-threads",
    "i": "single-interpreter",
    "single-interp": "single-interpreter",
    "t": "harakiri",
    "lazy": "lazy-apps",
    "shared-pyimport": "shared-import",
    "shared-py-import": "shared-import",
    "py-import": "import",
    "pyimport": "import",
    "include": "ini",
}
_FALSE = ("false", "off", "no", "0")
_DEEPEST = 5
_PLACEHOLDER = re.compile(r"%\((\w[\w.-]*)\)|\$\((\w+)\)")


@dataclass(frozen=True, slots=True)
class Option:
    name: str
    """As uWSGI's own long name; `written` is what stands in the file."""
    written: str
    value: str
    file: str
    line: int

    @property
    def is_on(self) -> bool:
        return self.value.lower() not in _FALSE


@dataclass(slots=True)
class Options:
    """The options in their order, repeated ones included."""

    found: list[Option] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    """Files that are included and cannot be read here."""

    def all(self, name: str) -> list[Option]:
        return [option for option in self.found if option.name == name]

    def last(self, name: str) -> Option | None:
        return next((option for option in reversed(self.found) if option.name == name), None)

    def is_on(self, name: str) -> bool:
        option = self.last(name)
        return option is not None and option.is_on

    def number(self, name: str) -> int | None:
        option = self.last(name)
        digits = re.match(r"\d+", option.value) if option is not None else None  # uWSGI reads them with atoi()
        return int(digits[0]) if digits else None


def read(path: str, text: str) -> Options:
    """The options of a file and of those that it includes."""
    options = Options()
    _read_into(options, path, text, 0)
    return options


def _read_into(options: Options, path: str, text: str, depth: int, section: str = "uwsgi") -> None:
    lines = _yaml_lines(text) if path.endswith((".yaml", ".yml")) else _ini_lines(text, section)
    for number, written, value in lines:
        value = _filled(value, options, path)
        name = ALIASES.get(written, written)
        options.found.append(Option(name, written, value, path, number))
        if name in ("ini", "yaml", "yml") and depth < _DEEPEST:
            file, _, named = value.partition(":")
            included = Path(path).parent / file if file else Path(path)
            try:
                content = included.read_text(errors="replace")
            except OSError:
                options.unread.append(str(included))
            else:
                _read_into(options, str(included), content, depth + 1, named or "uwsgi")


def _ini_lines(text: str, section: str) -> Iterator[tuple[int, str, str]]:
    is_ours = True
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("["):
            is_ours = line == f"[{section}]"
        elif is_ours:
            name, equals, value = line.partition("=")
            # A key without a value is true, as on the command line.
            yield number, name.strip(), value.strip() if equals else "true"


def _yaml_lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Lines `key: value` below `uwsgi:`, which is all that uWSGI's own small reader knows."""
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r"\s+-?\s*([\w-]+)\s*:\s*(.*?)\s*$", line)
        if found and not line.lstrip().startswith("#"):
            yield number, found[1], found[2].strip("\"'") or "true"


def _filled(value: str, options: Options, path: str) -> str:
    """With its %(name) and $(VARIABLE) filled in, as far as they are known here."""
    value = value.replace("%d", f"{os.path.dirname(os.path.abspath(path))}/")

    def fill(found: re.Match[str]) -> str:
        if found[2]:
            return os.environ.get(found[2], found[0])
        option = options.last(found[1])
        return option.value if option is not None else found[0]

    return _PLACEHOLDER.sub(fill, value)
