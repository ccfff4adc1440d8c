"""A gunicorn configuration file as its syntax tree: which hooks it binds to what, and which settings to which values.

Read, never executed. The last binding of a name wins, as in Python; what is inside if, try and with counts as bound.

Layer 5: imports the standard library.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

OURS = "wsgi_messaging.servers.gunicorn"
# gunicorn's hooks with their argument counts, https://docs.gunicorn.org/en/stable/settings.html#server-hooks
HOOKS = {
    "on_starting": 1,
    "on_reload": 1,
    "when_ready": 1,
    "pre_fork": 2,
    "post_fork": 2,
    "post_worker_init": 1,
    "worker_int": 1,
    "worker_abort": 1,
    "pre_exec": 1,
    "pre_request": 2,
    "post_request": 4,
    "child_exit": 2,
    "worker_exit": 2,
    "nworkers_changed": 3,
    "on_exit": 1,
}
UNKNOWN = object()


@dataclass(frozen=True, slots=True)
class Binding:
    """A name bound at the top level."""

    line: int
    is_ours: bool
    """Our hook of that name is called: imported, assigned, in chain(), or called by the function itself."""
    arity: int | None = None
    """Positional arguments of a function defined here."""
    is_function: bool = False


@dataclass(slots=True)
class Source:
    """What the file says, in its order."""

    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    settings: dict[str, tuple[Any, int]] = field(default_factory=dict)
    """Name to value (`UNKNOWN` when it is computed) and line."""
    first_import: tuple[str, int] | None = None
    """The first module imported that gevent's patch should have come before."""
    patched_at: int | None = None
    """Line of gevent's monkey.patch_all(), at the top level."""
    read: set[str] = field(default_factory=set)
    """Names that the file does something with: a function among them is called by whom it is given to."""

    def bind(self, name: str, binding: Binding) -> None:
        self.bindings.setdefault(name, []).append(binding)


def read(text: str) -> Source:
    """Raises: SyntaxError."""
    reader, tree = _Reader(), ast.parse(text.removeprefix("\ufeff"))  # Python reads it past a byte order mark
    for statement in _flat(tree.body):
        reader.take(statement)
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    reader.source.read.update(node.id for node in names)
    return reader.source


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.For | ast.While | ast.With | ast.Try):
            for name in ("body", "orelse", "finalbody"):
                yield from _flat(getattr(statement, name, []))
            for handler in getattr(statement, "handlers", []):
                yield from _flat(handler.body)


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """Which name gets what; of several at once, where both sides are written out."""
    match target, value:
        case ast.Name(id=name), _:
            yield name, value
        case (ast.Tuple() | ast.List(), ast.Tuple() | ast.List()) if len(target.elts) == len(value.elts):
            for each in zip(target.elts, value.elts, strict=True):
                yield from _pairs(*each)


class _Reader:
    def __init__(self) -> None:
        self.source = Source()
        self._meanings: dict[str, str] = {}  # name in the file -> dotted name it stands for

    def take(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Import():
                self._import(statement)
            case ast.ImportFrom():
                self._import_from(statement)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._define(statement)
            case ast.Assign(targets=targets, value=value):
                for name, part in (pair for target in targets for pair in _pairs(target, value)):
                    self._assign(name, part, statement.lineno)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                self._assign(name, value, statement.lineno)
            case ast.Expr(value=ast.Call() as call) if self._dotted(call.func) == "gevent.monkey.patch_all":
                self.source.patched_at = self.source.patched_at or statement.lineno

    def _import(self, statement: ast.Import) -> None:
        for alias in statement.names:
            bound = alias.asname or alias.name.partition(".")[0]
            self._meanings[bound] = alias.name if alias.asname else bound
            self._note_import(alias.name, statement.lineno)

    def _import_from(self, statement: ast.ImportFrom) -> None:
        module = statement.module or ""
        self._note_import(module, statement.lineno)
        for alias in statement.names:
            names = list(HOOKS) if alias.name == "*" else [alias.name]
            for name in names:
                bound = alias.asname or name
                self._meanings[bound] = f"{module}.{name}"
                self.source.bind(bound, Binding(statement.lineno, self._is_ours(bound, f"{module}.{name}")))

    def _note_import(self, module: str, line: int) -> None:
        root = module.partition(".")[0]
        if root not in ("gevent", "__future__") and self.source.first_import is None:
            self.source.first_import = (module, line)

    def _define(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = function.args
        is_exact = not (arguments.vararg or arguments.defaults)
        arity = len(arguments.posonlyargs) + len(arguments.args) if is_exact else -1
        calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
        is_ours = any(self._is_ours(function.name, self._dotted(call)) for call in calls)
        self.source.bind(function.name, Binding(function.lineno, is_ours, arity, is_function=True))
        self._meanings.pop(function.name, None)

    def _assign(self, name: str, value: ast.expr, line: int) -> None:
        try:
            literal = ast.literal_eval(value)
        except ValueError:
            literal = UNKNOWN
        self.source.settings[name] = (literal, line)
        mentioned = [self._dotted(node) for node in ast.walk(value) if isinstance(node, ast.Name | ast.Attribute)]
        if isinstance(literal, str):
            mentioned.append(literal)
        is_ours = any(self._is_ours(name, dotted) for dotted in mentioned)
        is_function = isinstance(value, ast.Lambda | ast.Call | ast.Name | ast.Attribute)
        self.source.bind(name, Binding(line, is_ours, is_function=is_function))
        if isinstance(value, ast.Name | ast.Attribute):
            self._meanings[name] = self._dotted(value)
        elif is_ours and name in HOOKS:
            self._meanings[name] = f"{OURS}.{name}"

    def _dotted(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return self._meanings.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{node.attr}"
        return ""

    def _is_ours(self, hook: str, dotted: str) -> bool:
        return dotted == f"{OURS}.{hook}"
