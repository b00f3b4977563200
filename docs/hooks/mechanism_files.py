"""What the file of a mechanism says, read without importing it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "src" / "saccade" / "attention"


@dataclass(frozen=True)
class Option:
    """One option of a mechanism."""

    name: str
    default: str
    """As the source writes it; "required" without one."""
    choices: tuple[str, ...]
    """Of an annotation ``Literal``."""
    meaning: str


@dataclass(frozen=True)
class MechanismFile:
    """One file of ``saccade/attention``."""

    stem: str
    spec: dict[str, Any]
    docstring: str
    options: tuple[Option, ...]
    count: str
    """Source of the function ``parameters``; "" without one."""

    @property
    def name(self) -> str:
        """Short name of the mechanism."""
        return str(self.spec.get("name", self.stem))


def mechanism_files(folder: Path = FOLDER) -> list[MechanismFile]:
    """Return all mechanisms, sorted by short name."""
    return sorted(map(read_file, folder.glob("[!_]*.py")), key=lambda file: file.name)


def read_file(path: Path) -> MechanismFile:
    """Read one file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    count = next((node for node in tree.body if _is_function(node, "parameters")), None)
    return MechanismFile(
        path.stem,
        ast.literal_eval(_assigned(tree, "SPEC")),
        ast.get_docstring(tree) or "",
        tuple(_options(tree)),
        "" if count is None else ast.unparse(count),
    )


def arguments(docstring: str, section: str = "Args") -> Iterator[tuple[str, str]]:
    """Yield name and text of each entry of a section of a Google docstring."""
    match = re.search(rf"^{section}:\n((?:[ ]{{4}}.*\n?|\n)*)", docstring, re.MULTILINE)
    for entry in re.split(r"^    (?=\w)", match[1] if match else "", flags=re.MULTILINE)[1:]:
        name, _, text = entry.partition(":")
        yield name.split(" ")[0], " ".join(text.split())


def _assigned(tree: ast.Module, name: str) -> ast.expr:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value
    raise ValueError(f"the file assigns no {name}")


def _is_function(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == name


def _options(tree: ast.Module) -> Iterator[Option]:
    """Yield the options of the class, or of the function, that ``__all__`` names first."""
    first = ast.literal_eval(_assigned(tree, "__all__"))[0]
    nodes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    node: ast.ClassDef | ast.FunctionDef | None = nodes[first]
    meanings: dict[str, str] = {}
    while isinstance(node, ast.ClassDef):  # a class without a constructor of its own has that of its base
        meanings = dict(arguments(ast.get_docstring(node) or "")) | meanings
        constructor = next((part for part in node.body if _is_function(part, "__init__")), None)
        if constructor is not None:
            return (yield from _declared(constructor, 2, meanings))
        node = nodes.get(ast.unparse(node.bases[0])) if node.bases else None
    if isinstance(node, ast.FunctionDef):
        yield from _declared(node, 1, dict(arguments(ast.get_docstring(node) or "")))


def _declared(function: Any, skipped: int, meanings: dict[str, str]) -> Iterator[Option]:
    """Yield the parameters of a function, but for the first ``skipped``."""
    signature = function.args
    positional = signature.posonlyargs + signature.args
    defaults = [None] * (len(positional) - len(signature.defaults)) + signature.defaults
    pairs = [*zip(positional, defaults, strict=True)][skipped:]
    for argument, default in [*pairs, *zip(signature.kwonlyargs, signature.kw_defaults, strict=True)]:
        annotation = "" if argument.annotation is None else ast.unparse(argument.annotation)
        choices = re.fullmatch(r"Literal\[(.*)\]", annotation)
        yield Option(
            argument.arg,
            "required" if default is None else ast.unparse(default),
            tuple(part.strip() for part in choices[1].split(",")) if choices else (),
            meanings.get(argument.arg, ""),
        )


def paragraphs(docstring: str) -> Iterator[tuple[bool, str]]:
    """Yield the paragraphs of a docstring, and whether each is indented: an equation or a table."""
    blocks = re.split(r"\n\s*\n", docstring)
    indented, text = False, ""
    for block in blocks:
        is_indented = all(line.startswith("    ") for line in block.splitlines() if line)
        if is_indented and indented:
            text = f"{text}\n\n{block}"
            continue
        if text:
            yield indented, _plain(text, indented)
        indented, text = is_indented, block
    if text:
        yield indented, _plain(text, indented)


def _plain(text: str, indented: bool) -> str:
    return inspect.cleandoc("\n" + text) if indented else text
