"""The commands of `wsgi-messaging`, as they describe themselves."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

from .source import PACKAGE, ROOT, tree


def names() -> dict[str, str]:
    """Each command that has a module, with its purpose."""
    for node in tree("cli/__init__.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMMANDS":
            return {
                name: purpose
                for name, purpose in ast.literal_eval(node.value).items()
                if (PACKAGE / "cli" / f"{name.replace('-', '_')}.py").exists()
            }
    raise LookupError("cli/__init__.py has no COMMANDS")


def help_of(*words: str) -> str:
    """What `wsgi-messaging WORDS --help` prints. Raises: `RuntimeError` when it does not."""
    environ = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "wsgi_messaging", *words, "--help"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"wsgi-messaging {' '.join(words)} --help: {done.stderr}")
    return done.stdout.replace(f"(default {os.uname().nodename})", "(default: the name of this host)").rstrip()


def parts_of(help_text: str) -> list[str]:
    """The commands within a command: `usage: wsgi-messaging dlq [-h] list|show|replay ...` has three."""
    found = re.search(r"\] (\w+(?:\|\w+)+) \.\.\.", help_text)
    return found[1].split("|") if found else []
