"""What the documentation reads from the source, by `ast`: nothing is imported, so nothing has to be installed.

A page that is made from this cannot say what the source does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "wsgi_messaging"


@dataclass(frozen=True)
class Field:
    """One field of a dataclass, or one member of an Enum."""

    name: str
    kind: str
    default: str
    text: str


@dataclass(frozen=True)
class Function:
    """One function or method: how it is called and what its docstring says."""

    name: str
    signature: str
    text: str


@dataclass(frozen=True)
class Class:
    """One class: its bases, its docstring, how it is made, its public methods."""

    name: str
    bases: tuple[str, ...]
    text: str
    signature: str
    methods: tuple[Function, ...]


def tree(module: str) -> ast.Module:
    """The syntax tree of a file of the package, named as "rpc/client.py"."""
    return ast.parse((PACKAGE / module).read_text())


def class_node(module: str, name: str) -> ast.ClassDef:
    """Raises: `LookupError`, for a page that names what is not there."""
    for node in tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise LookupError(f"{module} has no class {name}")


def fields(module: str, name: str) -> list[Field]:
    """The fields that can be given to a dataclass, or the members of an Enum, each with the text behind it."""
    found: list[Field] = []
    body = class_node(module, name).body
    for position, node in enumerate(body):
        behind = body[position + 1] if position + 1 < len(body) else None
        text = _text_of(behind)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default = _default(node.value)
            if default is not None:
                found.append(Field(node.target.id, ast.unparse(node.annotation), default, text))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.append(Field(node.targets[0].id, "", str(ast.literal_eval(node.value)), text))
    return found


def _text_of(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def _default(value: ast.expr | None) -> str | None:
    """How a default is written; None for a field that nobody can give (`init=False`)."""
    if value is None:
        return ""
    if not isinstance(value, ast.Call):
        return _evaluated(value)
    given = {keyword.arg: keyword.value for keyword in value.keywords}
    if "init" in given:
        return None
    if "default" in given:
        return _evaluated(given["default"])
    factory = given.get("default_factory")
    return "" if factory is None else "{}" if ast.unparse(factory) == "dict" else ""


def _evaluated(value: ast.expr) -> str:
    """The literal itself; a constant of settings.py by its value."""
    if isinstance(value, ast.Name):
        for node in tree("settings.py").body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == value.id:
                return str(ast.literal_eval(node.value))
    text = ast.unparse(value)
    return text[1:-1] if text[:1] in "'\"" else text


def classes(module: str) -> list[Class]:
    """The public classes of a file, in its order."""
    nodes = (node for node in tree(module).body if isinstance(node, ast.ClassDef))
    return [_class(node) for node in nodes if not node.name.startswith("_")]


def one_class(module: str, name: str) -> Class:
    """Raises: `LookupError`."""
    return _class(class_node(module, name))


def one_function(module: str, name: str) -> Function:
    """Raises: `LookupError`."""
    for node in tree(module).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _function(node)
    raise LookupError(f"{module} has no function {name}")


def _class(node: ast.ClassDef) -> Class:
    functions = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    constructor = next((each for each in functions if each.name == "__init__"), None)
    return Class(
        name=node.name,
        bases=tuple(ast.unparse(base) for base in node.bases),
        text=ast.get_docstring(node) or "",
        signature=f"{node.name}({_arguments(constructor) if constructor else _field_arguments(node)})",
        methods=tuple(_function(each) for each in functions if not each.name.startswith("_")),
    )


def _function(node: ast.FunctionDef) -> Function:
    is_attribute = any(ast.unparse(each) == "property" for each in node.decorator_list)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    call = "" if is_attribute else f"({_arguments(node)})"
    return Function(node.name, f"{node.name}{call}{returns}", ast.get_docstring(node) or "")


def _arguments(node: ast.FunctionDef) -> str:
    """As a reader writes them: without self, a default with spaces around its sign."""
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    parts = [_argument(each, default) for each, default in zip(positional, defaults, strict=True)]
    if positional and positional[0].arg in ("self", "cls"):
        parts.pop(0)
    if given.vararg:
        parts.append(f"*{_argument(given.vararg, None)}")
    elif given.kwonlyargs:
        parts.append("*")
    parts += [_argument(each, default) for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        parts.append(f"**{_argument(given.kwarg, None)}")
    return ", ".join(parts)


def _argument(node: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(node.annotation)}" if node.annotation else ""
    return f"{node.arg}{kind}" if default is None else f"{node.arg}{kind} = {ast.unparse(default)}"


def _field_arguments(node: ast.ClassDef) -> str:
    """Those of a dataclass, which has no constructor of its own in the source."""
    given = (each for each in node.body if isinstance(each, ast.AnnAssign))
    return ", ".join(
        f"{ast.unparse(each.target)}: {ast.unparse(each.annotation)}"
        + (f" = {_shown(each.value)}" if each.value is not None else "")
        for each in given
    )


def _shown(value: ast.expr) -> str:
    return "{}" if ast.unparse(value) == "field(default_factory=dict)" else ast.unparse(value)


def paragraphs(docstring: str) -> Iterator[tuple[bool, str]]:
    """The paragraphs of a docstring, each with whether it is an indented example."""
    for part in docstring.split("\n\n"):
        if part.strip():
            is_example = part.startswith("    ")
            yield is_example, part if is_example else " ".join(part.split())
