"""The house rules that a program can check, read from the source: who imports whom, what is imported where, sizes.

Imports under `if TYPE_CHECKING:` and inside functions count as well. The sizes are those of the package; a
function is measured without its docstring, so that nobody saves on documentation.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "wsgi_messaging"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE

# Every module's docstring says "Layer N". What N may be, by the longest prefix of its name without the package's.
LAYERS = {
    "": range(7),
    "errors": range(1),
    "version": range(1),
    "connection": range(4),
    "runtime": range(3),
    "settings": range(3, 4),
    "transport": range(3, 4),
    "rpc": range(4, 5),
    "notify": range(4, 5),
    "oslo": range(4, 6),
    "middleware": range(5, 6),
    "servers": range(5, 6),
    "observe": range(1, 6),
    "devbroker": range(5, 6),
    "testing": range(5, 6),
    "frameworks": range(5, 6),
    "cli": range(5, 6),
}
_LAYER = re.compile(r"\bLayer (\d)\b")
# Who may import what: names that only these modules (and those below them) may use.
CONFINED = {
    ("kombu", "amqp", "vine"): ("connection", "oslo"),
    ("threading", "_thread", "time", "socket", "select", "selectors", "queue"): (
        "runtime.native",
        "devbroker",
        "cli",
        "testing",
    ),
}
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40
MAX_PUBLIC_METHODS = 12


@dataclass(frozen=True)
class Module:
    """One source file: its name without the package's, its tree, what it imports with the line."""

    name: str
    path: Path
    tree: ast.Module
    imports: tuple[tuple[str, int], ...]
    lines: int


@cache
def modules() -> dict[str, Module]:
    """Every module of the package by its name; the package itself is ""."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        text = path.read_text()
        tree = ast.parse(text, str(path))
        is_package = path.name == "__init__.py"
        names = tuple(imported_names(tree, [PACKAGE, *parts], is_package))
        name = ".".join(parts)
        found[name] = Module(name, path, tree, names, len(text.splitlines()))
    return found


def imported_names(tree: ast.Module, where: list[str], is_package: bool) -> Iterator[tuple[str, int]]:
    """Absolute dotted names with their lines; `from a import b` gives a.b, so that submodules are seen."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = where[: len(where) - node.level + is_package] if node.level else []
            prefix = [*base, *([node.module] if node.module else [])]
            yield from ((".".join([*prefix, alias.name]), node.lineno) for alias in node.names)


def own(name: str) -> str | None:
    """Which module of the package an imported name means; None for other people's."""
    first, _dot, rest = name.partition(".")
    if first != PACKAGE:
        return None
    while rest not in modules():
        rest = rest.rpartition(".")[0]
    return rest


def allowed_layers(name: str) -> range:
    """What the longest prefix of a module's name allows."""
    prefix = name
    while prefix not in LAYERS:
        prefix = prefix.rpartition(".")[0]
    return LAYERS[prefix]


def layer(name: str) -> int:
    """What the module's docstring says. An __init__ that says nothing is above all that its package may hold."""
    module = modules()[name]
    said = _LAYER.search(ast.get_docstring(module.tree) or "")
    if said is None and (module.path.name == "__init__.py" or name in ("version", "__main__")):
        return allowed_layers(name)[-1]
    assert said, f"{module.path}: its docstring does not say which layer it is"
    assert int(said[1]) in allowed_layers(name), f"{module.path} cannot be layer {said[1]}"
    return int(said[1])


def is_within(name: str, allowed: tuple[str, ...]) -> bool:
    """Whether a module is one of `allowed` or below one."""
    return any(name == each or name.startswith(each + ".") for each in allowed)


def test_imports_go_down_only() -> None:
    wrong = [
        f"{module.path.name}:{line} ({module.name} L{layer(module.name)}) imports {target} (L{layer(target)})"
        for module in modules().values()
        for name, line in module.imports
        if (target := own(name)) is not None and layer(target) > layer(module.name)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_two_modules_import_each_other() -> None:
    graph = {
        module.name: {target for name, _line in module.imports if (target := own(name)) not in (None, module.name)}
        for module in modules().values()
    }
    # Peel off modules whose imports are all peeled: what remains is a cycle or hangs above one.
    left = dict(graph)
    while done := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in done:
            del left[name]
    assert not left, f"an import cycle among or below: {sorted(left)}"


def test_other_peoples_names_stay_where_they_belong() -> None:
    wrong = [
        f"{module.path}:{line} imports {name}; that belongs to {', '.join(allowed)}"
        for names, allowed in CONFINED.items()
        for module in modules().values()
        for name, line in module.imports
        if name.split(".")[0] in names and not is_within(module.name, allowed)
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_are_bounded() -> None:
    wrong = [f"{m.path}: {m.lines} lines" for m in modules().values() if m.lines > MAX_MODULE_LINES]
    assert not wrong, "\n".join(wrong)


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    first = function.body[0]
    assert function.end_lineno is not None and first.end_lineno is not None
    docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(function) is not None else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_functions_are_bounded() -> None:
    wrong = [
        f"{module.path}:{node.lineno} {node.name}(): {code_lines(node)} lines"
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > MAX_FUNCTION_LINES
    ]
    assert not wrong, "\n".join(wrong)


def test_classes_are_bounded() -> None:
    wrong = []
    for module in modules().values():
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.ClassDef):
                continue
            methods = {
                member.name
                for member in node.body
                if isinstance(member, ast.FunctionDef)
                and not member.name.startswith("_")
                and not any(
                    "property" in ast.unparse(each) or "setter" in ast.unparse(each) for each in member.decorator_list
                )
            }
            if len(methods) > MAX_PUBLIC_METHODS:
                wrong.append(f"{module.path}:{node.lineno} {node.name}: {len(methods)} public methods")
    assert not wrong, "\n".join(wrong)
