"""The promises of the contract, read from ``saccade/contract`` without importing it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

MARKER = "<!-- promises -->"
FOLDER = Path(__file__).parents[2] / "src" / "saccade" / "contract"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the table where the page has the marker."""
    return markdown.replace(MARKER, promises_table()) if MARKER in markdown else markdown


def promises_table() -> str:
    """Return one row per promise, in the order of ``PROMISES``."""
    functions = {
        node.name: ast.get_docstring(node) or ""
        for path in sorted(FOLDER.glob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    rows = [f"| {name.replace('_', ' ')} | {_sentence(functions[name])} |" for name in promise_names()]
    return "\n".join(["| promise | meaning |", "|---|---|", *rows])


def promise_names() -> list[str]:
    """Return the names in ``PROMISES``."""
    for node in ast.parse((FOLDER / "promises.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "PROMISES":
            return [ast.unparse(name) for name in node.value.elts]  # type: ignore[union-attr]
    raise ValueError("promises.py assigns no PROMISES")


def _sentence(docstring: str) -> str:
    """Return the first paragraph of a docstring as a cell."""
    return " ".join(docstring.partition("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")
