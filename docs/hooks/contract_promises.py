"""The promises of the contract, read from ``saccade/contract`` without importing it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

MARKERS = {"<!-- promises -->": "promises.py", "<!-- architecture promises -->": "architectures/promises.py"}
"""Maps the marker on a page to the file that lists the promises."""
FOLDER = Path(__file__).parents[2] / "src" / "saccade" / "contract"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put a table where the page has a marker."""
    for marker, file in MARKERS.items():
        if marker in markdown:
            markdown = markdown.replace(marker, promises_table(file))
    return markdown


def promises_table(file: str = "promises.py") -> str:
    """Return one row per promise, in the order of the tuple in ``file``."""
    functions = {
        node.name: ast.get_docstring(node) or ""
        for path in sorted(FOLDER.rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    rows = [f"| {name.replace('_', ' ')} | {_sentence(functions[name])} |" for name in promise_names(file)]
    return "\n".join(["| promise | meaning |", "|---|---|", *rows])


def promise_names(file: str = "promises.py") -> list[str]:
    """Return the names in the tuple ``PROMISES`` or ``ARCHITECTURE_PROMISES`` of ``file``."""
    for node in ast.parse((FOLDER / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target).endswith("PROMISES"):
            return [ast.unparse(name) for name in node.value.elts]  # type: ignore[union-attr]
    raise ValueError(f"{file} assigns no PROMISES")


def _sentence(docstring: str) -> str:
    """Return the first paragraph of a docstring as a cell."""
    return " ".join(docstring.partition("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")
