"""Sphinx directives that write what the source says: settings, errors, states, commands, classes, measurements."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from wsgi_messaging.connection.state import transitions

from . import commands, measured, source, statechart
from .remedies import REMEDIES

_LABEL = re.compile(r"(?:^|(?<=[.;] ))(Blocks|Threads|After fork|Raises):")
Nodes = list[nodes.Node]


def inline(text: str) -> Nodes:
    """Text with its backticks as code, and the labels of our docstrings bold. No markup else."""
    found: Nodes = []
    for number, part in enumerate(text.replace("``", "`").split("`")):
        if number % 2:
            found.append(nodes.literal(text=part))
            continue
        for place, piece in enumerate(_LABEL.split(part)):
            if piece:
                found.append(nodes.strong(text=f"{piece}:") if place % 2 else nodes.Text(piece))
    return found


def paragraph(*content: nodes.Node) -> nodes.paragraph:
    return nodes.paragraph("", "", *content)


def prose(docstring: str) -> Nodes:
    """The paragraphs of a docstring; indented ones as examples."""
    found: Nodes = []
    for is_example, text in source.paragraphs(docstring):
        if is_example:
            example = nodes.literal_block(text, text, language="python")
            found.append(example)
        else:
            found.append(paragraph(*inline(text)))
    return found


def table(headings: Sequence[str], widths: Sequence[int], rows: Sequence[Sequence[Nodes]]) -> nodes.table:
    group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for width in widths), cols=len(widths))
    group += nodes.thead("", _row([[nodes.Text(heading)] for heading in headings]))
    group += nodes.tbody("", *(_row(row) for row in rows))
    return nodes.table("", group)


def _row(cells: Sequence[Nodes]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", paragraph(*cell)) for cell in cells))


class Generated(SphinxDirective):
    """Depends on the whole package: a page is written anew when a file that it is made of changes."""

    reads: Sequence[str] = ()

    def run(self) -> Nodes:
        for name in self.reads:
            self.env.note_dependency(str(source.PACKAGE / name))
        return list(self.content_nodes())

    def content_nodes(self) -> Iterator[nodes.Node]:
        raise NotImplementedError


class SettingsReference(Generated):
    """The table of settings."""

    reads = ("settings.py",)

    def content_nodes(self) -> Iterator[nodes.Node]:
        rows: list[list[Nodes]] = []
        url = ""
        for each in source.fields("settings.py", "Settings"):
            kind = each.kind.replace("Callable[[], tuple[str, str]]", "function")
            default: Nodes = [nodes.literal(text=each.default)] if each.default else [nodes.Text("the program's name")]
            if "://" in each.default:  # too wide for a column
                url, default = each.default, [nodes.Text("see below")]
            meaning = inline(each.text or "Goes with the setting before it.")
            rows.append([[nodes.literal(text=each.name), nodes.Text(f" {kind}")], default, meaning])
        yield table(("Setting and type", "Default", "Meaning"), (28, 17, 55), rows)
        yield paragraph(nodes.Text("Where nobody says a URL it is "), nodes.literal(text=url), nodes.Text("."))


class FlagsReference(Generated):
    """The table of QueueFlags."""

    reads = ("rpc/flags.py",)

    def content_nodes(self) -> Iterator[nodes.Node]:
        rows = [
            [[nodes.literal(text=each.name)], [nodes.literal(text=each.default)], inline(each.text)]
            for each in source.fields("rpc/flags.py", "QueueFlags")
        ]
        yield table(("Flag", "Default", "Meaning"), (20, 12, 68), rows)


class ErrorsReference(Generated):
    """The table of errors, and their tree."""

    reads = ("errors.py",)

    def content_nodes(self) -> Iterator[nodes.Node]:
        found = source.classes("errors.py")
        drawn = "\n".join(_tree_of(found, "Exception", 0))
        yield nodes.literal_block(drawn, drawn, language="text")
        rows = [
            [[nodes.literal(text=each.name)], inline(_joined(each.text)), inline(REMEDIES[each.name])] for each in found
        ]
        yield table(("Error", "Means", "What to do"), (18, 37, 45), rows)


def _joined(docstring: str) -> str:
    return " ".join(docstring.split())


def _tree_of(found: Sequence[source.Class], base: str, depth: int) -> Iterator[str]:
    for each in found:
        if each.bases[0] == base:
            others = f" ({', '.join(each.bases[1:])})" if each.bases[1:] else ""
            yield f"{'    ' * depth}{each.name}{others}"
            yield from _tree_of(found, each.name, depth + 1)


class StateDiagram(Generated):
    """The drawing for HTML; the table for everything."""

    reads = ("connection/state.py",)

    def content_nodes(self) -> Iterator[nodes.Node]:
        found = [(state.name, event.name, target.name) for state, event, target in transitions()]
        yield nodes.raw("", f'<div style="overflow-x: auto">{statechart.svg(found)}</div>', format="html")
        rows = [[[nodes.literal(text=each)] for each in transition] for transition in found]
        yield table(("State", "Event", "State that follows"), (30, 30, 40), rows)


class MembersReference(Generated):
    """`.. members:: connection/state.py State`: an Enum's members, or a dataclass's fields, with their text."""

    required_arguments = 2

    def content_nodes(self) -> Iterator[nodes.Node]:
        module, name = self.arguments
        self.env.note_dependency(str(source.PACKAGE / module))
        rows = [
            [[nodes.literal(text=each.name)], inline(each.text or f"{each.name.replace('_', ' ').capitalize()}.")]
            for each in source.fields(module, name)
        ]
        yield table((name, "Meaning"), (22, 78), rows)


class CommandsReference(Generated):
    """Each command with what it says of itself."""

    reads = ("cli/__init__.py",)

    def content_nodes(self) -> Iterator[nodes.Node]:
        for name, purpose in commands.names().items():
            self.env.note_dependency(str(source.PACKAGE / "cli" / f"{name.replace('-', '_')}.py"))
            section = nodes.section("", nodes.title(text=name), ids=[nodes.make_id(f"command-{name}")])
            section += paragraph(nodes.Text(f"{purpose[:1].upper()}{purpose[1:]}."))
            text = commands.help_of(name)
            section += _block(text)
            for part in commands.parts_of(text):
                section += _block(commands.help_of(name, part))
            yield section


def _block(text: str) -> nodes.literal_block:
    return nodes.literal_block(text, text, language="text")


class Api(Generated):
    """`.. api:: transport.py Transport`: how a class is made, its docstring, its public methods with theirs.

    `:ours:` for a class that an application never makes itself; `:hide:` for methods that are not for it.
    """

    required_arguments = 2
    option_spec = {"ours": directives.flag, "hide": directives.unchanged}

    def content_nodes(self) -> Iterator[nodes.Node]:
        module, name = self.arguments
        self.env.note_dependency(str(source.PACKAGE / module))
        try:
            found = source.one_class(module, name)
        except LookupError:
            function = source.one_function(module, name)
            yield _described(function.signature, function.text)
            return
        yield _described(found.name if "ours" in self.options else found.signature, found.text)
        shown = [each for each in found.methods if each.name not in self.options.get("hide", "").split()]
        if shown:
            yield nodes.definition_list("", *(_item(each.signature, each.text) for each in shown))


def _described(signature: str, text: str) -> nodes.Node:
    return nodes.definition_list("", _item(signature, text))


def _item(signature: str, text: str) -> nodes.definition_list_item:
    term = nodes.term("", "", nodes.literal(text=signature, classes=["signature"]))
    return nodes.definition_list_item("", term, nodes.definition("", *(prose(text) or [paragraph()])))


class Measurements(Generated):
    """What `make bench` has left in build/, if it was run in this checkout; else what is kept of an earlier run."""

    def content_nodes(self) -> Iterator[nodes.Node]:
        found = measured.results(measured.OWN, measured.KEPT)
        if found is None:
            yield paragraph(*inline("There is neither `build/bench.json` nor `docs/bench.json`."))
            return
        for path in (measured.OWN, measured.KEPT):
            self.env.note_dependency(str(path))
        yield paragraph(nodes.Text(measured.circumstances(found)))
        bars = [
            [[nodes.literal(text=each["workload"])], [nodes.Text(each["bar"])], _result(each)] for each in found["bars"]
        ]
        yield table(("Workload", "Bar", "Result"), (20, 50, 30), bars)
        for workload in found["workloads"]:
            yield paragraph(nodes.strong(text=workload["name"]), nodes.Text(f": {workload['title']}"))
            rows = [[[nodes.Text(cell)] for cell in row] for row in measured.rows(workload)]
            yield table(("Peer", workload["figure"], f"Ratio to {workload['baseline']}"), (30, 30, 40), rows)


def _result(bar: dict[str, Any]) -> Nodes:
    if bar.get("result") is None:
        return [nodes.Text("not measured")]
    return [nodes.Text(f"{bar['result']:.3g}, {'met' if bar['is_met'] else 'not met'}")]


DIRECTIVES: dict[str, type[Generated]] = {
    "settings-reference": SettingsReference,
    "flags-reference": FlagsReference,
    "errors-reference": ErrorsReference,
    "state-diagram": StateDiagram,
    "members": MembersReference,
    "commands-reference": CommandsReference,
    "api": Api,
    "measurements": Measurements,
}


def setup(app: Sphinx) -> dict[str, Any]:
    for name, directive in DIRECTIVES.items():
        app.add_directive(name, directive)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
