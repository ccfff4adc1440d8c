"""The doctor's rules, a module for each kind of file: it says which files are its own, and examines one.

`is_mine(name, text) -> bool` judges by the content; `examine(path, text, facts) -> list[Finding]` reads, and executes
nothing. Raises: `Unreadable`.
"""

from __future__ import annotations


class Unreadable(Exception):
    """The file's own server would not read it either."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line
