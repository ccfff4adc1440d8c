"""How Sphinx builds the documentation: `make docs`, or sphinx-build -W -n --keep-going docs build/docs."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from docs._ext import source  # noqa: E402  (found by the line above)

project = "wsgi_messaging"
author = "the authors of wsgi_messaging"
copyright = author  # noqa: A001
release = version = next(
    ast.literal_eval(node.value)
    for node in source.tree("version.py").body
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
)
extensions = ["docs._ext.generated"]
exclude_patterns = ["_ext"]
nitpicky = True
highlight_language = "text"
smartquotes = False
html_theme = "furo"
html_title = f"wsgi_messaging {release}"
html_show_sphinx = False
html_copy_source = False
