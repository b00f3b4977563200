"""Architectures by name, read from the files of ``models/`` without importing them."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Architecture", "architectures"]

_FOLDER = Path(__file__).with_name("models")
_REGISTERED = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
_DOCSTRING = re.compile(r'\A\s*r?"""(.*?)"""', re.DOTALL)


@dataclass(frozen=True)
class Architecture:
    """A network that a file of ``models/`` registers with timm."""

    name: str
    file: str
    """Name of the file, without suffix."""
    docstring: str
    """Docstring of the file."""

    @property
    def title(self) -> str:
        """First sentence of the docstring."""
        return " ".join(self.docstring.partition("\n\n")[0].split())

    def summary(self) -> str:
        """Return the docstring of the function that builds the network."""
        tree = ast.parse((_FOLDER / f"{self.file}.py").read_text(encoding="utf-8"))
        functions = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == self.name)
        return next((ast.get_docstring(node) or "" for node in functions), "")


@cache
def architectures() -> dict[str, Architecture]:
    """Return the architectures by name, sorted by file."""
    found = {}
    for path in sorted(_FOLDER.glob("[!_]*.py")):
        text = path.read_text(encoding="utf-8")
        match = _DOCSTRING.match(text)
        docstring = match[1].strip() if match else ""
        for name in _REGISTERED.findall(text):
            found[name] = Architecture(name, path.stem, docstring)
    return found
