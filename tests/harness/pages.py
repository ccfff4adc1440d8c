"""Code blocks of the documentation, for tests that run them as they stand."""

from __future__ import annotations

import re
from textwrap import dedent

from tests.harness.processes import ROOT


def block(page: str, caption: str) -> str:
    """The code block with this caption of a page of docs/."""
    text = (ROOT / "docs" / page).read_text()
    found = re.search(rf"   :caption: {re.escape(caption)}\n\n((?:    ?.*\n|\n)+)", text)
    assert found, f"{page} has no block {caption}"
    return dedent(found[1])
