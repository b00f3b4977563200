"""What the source of a mechanism says, read without running it, and the names a mechanism has.

The files of ``attention/`` are the mechanisms of this package. Each has the short name of its SPEC, the name of its
file, and perhaps aliases. A class from anywhere else is called ``package.module:Class``.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

from saccade.errors import UserError, did_you_mean

__all__ = ["canonical", "facts", "function_text", "maker", "module", "spellings", "summary", "table"]

_HOME = Path(__file__).with_name("attention")
_PACKAGE = f"{__package__}.attention"
_SPEC = re.compile(r"^SPEC = (\{.*?^\})", re.MULTILINE | re.DOTALL)
"""A literal as formatters lay it out: reading it alone is much faster than parsing the file."""


@cache
def table() -> dict[str, tuple[str, dict[str, Any] | None]]:
    """Return the mechanisms of this package, sorted: short name to the file's stem and its SPEC, if it has one."""
    found = {}
    for path in _HOME.glob("[!_]*.py"):
        literal = _SPEC.search(text := path.read_text(encoding="utf-8"))
        value = ast.parse(literal[1], mode="eval").body if literal else _assigned(ast.parse(text), "SPEC")
        facts = None if value is None else _literal(value, path.stem)
        found[path.stem if facts is None else facts.get("name", path.stem)] = path.stem, facts
    return dict(sorted(found.items()))


@cache
def spellings() -> dict[str, str]:
    """Return every name of a mechanism of this package to its short name: that itself, the file's, the aliases."""
    found: dict[str, str] = {}
    for name, (stem, facts) in table().items():
        found |= dict.fromkeys([name, stem, *(facts or {}).get("aliases", ())], name)
    return found


def canonical(name: str) -> str:
    """Return the short name of a mechanism, whichever of its names is given; of a class from elsewhere ``name``.

    Raises:
        UserError: there is no such mechanism.

    >>> canonical("squeeze_excite"), canonical("saccade.attention.se:SqueezeExcite"), canonical("my.module:Class")
    ('se', 'se', 'my.module:Class')
    """
    known = spellings()
    if ":" in name:
        path, _, wanted = name.partition(":")
        short = known.get(path.removeprefix(f"{_PACKAGE}.")) if path.startswith(f"{_PACKAGE}.") else None
        return short if short is not None and maker(short).name == wanted else name
    if name not in known:
        raise UserError(
            f"no mechanism is called {name!r}.{did_you_mean(name, known)} "
            f"`saccade list` shows all {len(table())}; your own is called package.module:Class."
        )
    return known[name]


@cache
def _source(name: str) -> ast.Module:
    """The parsed file that describes ``name``.

    Raises:
        UserError: no such mechanism, or no such module, or it is not written in Python, or wrongly.
    """
    path = module(name)
    if ":" not in canonical(name):
        return ast.parse((_HOME / f"{path.rpartition('.')[2]}.py").read_text(encoding="utf-8"))
    try:
        found = importlib.util.find_spec(path)
    except Exception as error:  # looking for a.b imports a, which may raise anything
        raise UserError(f"{name}: module {path!r} cannot be imported: {error}") from None
    if found is None or found.origin is None:
        raise UserError(f"{name}: there is no module called {path!r} on the import path")
    if not found.origin.endswith(".py"):
        raise UserError(f"{name}: module {path!r} has no Python source to read (it is {found.origin})")
    try:
        return ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{name}: {found.origin} cannot be read: {error}") from None


def module(name: str) -> str:
    """Return the module of a mechanism, as Python imports it."""
    name = canonical(name)
    return name.partition(":")[0] if ":" in name else f"{_PACKAGE}.{table()[name][0]}"


def _assigned(tree: ast.Module, variable: str) -> ast.expr | None:
    """What a file assigns to ``variable``."""
    for node in tree.body:
        match node:
            case ast.Assign([ast.Name(target)], value) if target == variable:
                return value
            case ast.AnnAssign(ast.Name(target), _, value) if target == variable and value is not None:
                return value
    return None


def _literal(node: ast.expr, name: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError) as error:
        raise UserError(f"{name}: SPEC must be a literal, for it is read without running the file: {error}") from None


def _leading(name: str) -> str | None:
    """The first name of the file's ``__all__``; None where it has none that can be read."""
    match _assigned(_source(name), "__all__"):
        case ast.List([ast.Constant(str(first)), *_]) | ast.Tuple([ast.Constant(str(first)), *_]):
            return first
    return None


def maker(name: str) -> ast.ClassDef | ast.FunctionDef:
    """Return the class that ``name`` means, or the function that makes one of several.

    Raises:
        UserError: the module defines neither.
    """
    wanted = name.partition(":")[2] or _leading(name) or ""
    makers = [node for node in _source(name).body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    for node in makers:
        if node.name == wanted:
            return node
    near = did_you_mean(wanted, [node.name for node in makers if node.name[0] != "_"])
    raise UserError(f"{name}: the module defines no class and no function {wanted!r}.{near}")


def facts(name: str) -> Any:
    """Return the ``SPEC`` literal that speaks of a mechanism, or None.

    A ``SPEC`` speaks of one class: the first of ``__all__``, or the only one of its module.

    Raises:
        UserError: there is no such mechanism, or its ``SPEC`` is no literal.
    """
    if ":" not in (short := canonical(name)):
        return table()[short][1]
    value, wanted = _assigned(_source(name), "SPEC"), maker(name).name
    classes = sum(isinstance(node, ast.ClassDef) for node in _source(name).body)
    return None if value is None or (wanted != _leading(name) and classes > 1) else _literal(value, name)


def function_text(name: str, function: str) -> str | None:
    """Return the statements of a ``function`` beside a mechanism, to be shown, or None."""
    for node in _source(name).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return "\n".join(map(ast.unparse, node.body[ast.get_docstring(node) is not None :]))
    return None


def summary(name: str) -> str:
    """Return the docstring of the file that holds a mechanism: equation, shapes, source, deviations."""
    return ast.get_docstring(_source(name)) or ast.get_docstring(maker(name)) or ""
