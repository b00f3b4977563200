"""Read mechanism modules without importing them, and resolve mechanism names.

Each file of ``attention/`` is a mechanism. Its names are the short name in its SPEC, the file name and aliases. A
third-party class is called ``package.module:Class``.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

from saccade.errors import UserError, did_you_mean

__all__ = [
    "all_names", "canonical", "definition", "function_body", "is_function", "mechanisms", "module_docstring",
    "module_name", "spec_literal",
]  # fmt: skip

_FOLDER = Path(__file__).with_name("attention")
_PACKAGE = f"{__package__}.attention"
_SPEC_PATTERN = re.compile(r"^SPEC = (\{.*?^\})", re.MULTILINE | re.DOTALL)
"""Pattern of a SPEC literal; parsing only the match is faster than parsing the file."""


@cache
def mechanisms() -> dict[str, tuple[str, dict[str, Any] | None]]:
    """Return a sorted dict from short name to the file's stem and its SPEC literal, which may be None."""
    entries = {}
    for path in _FOLDER.glob("[!_]*.py"):
        match = _SPEC_PATTERN.search(text := path.read_text(encoding="utf-8"))
        node = ast.parse(match[1], mode="eval").body if match else _assigned_value(ast.parse(text), "SPEC")
        literal = None if node is None else _evaluate_spec(node, path.stem)
        entries[path.stem if literal is None else literal.get("name", path.stem)] = path.stem, literal
    return dict(sorted(entries.items()))


@cache
def all_names() -> dict[str, str]:
    """Return a dict from each name of a mechanism to its short name."""
    short_names: dict[str, str] = {}
    for name, (stem, literal) in mechanisms().items():
        short_names |= dict.fromkeys([name, stem, *(literal or {}).get("aliases", ())], name)
    return short_names


def canonical(name: str) -> str:
    """Return the short name for any name of a mechanism; return a third-party class's name unchanged.

    Raises:
        UserError: the mechanism does not exist.

    >>> canonical("squeeze_excite"), canonical("saccade.attention.squeeze_excite:SqueezeExcite")
    ('se', 'se')
    >>> canonical("my.module:Class")
    'my.module:Class'
    """
    short_names = all_names()
    if ":" in name:
        module, _, class_name = name.partition(":")
        short = short_names.get(module.removeprefix(f"{_PACKAGE}.")) if module.startswith(f"{_PACKAGE}.") else None
        return short if short is not None and definition(short).name == class_name else name
    if name not in short_names:
        raise UserError(
            f"no mechanism is called {name!r}.{did_you_mean(name, short_names)} "
            f"`saccade list` shows all {len(mechanisms())}; name your own class as package.module:Class."
        )
    return short_names[name]


@cache
def _parsed_module(name: str) -> ast.Module:
    """Return the syntax tree of the file that defines ``name``; raise UserError without valid Python."""
    module = module_name(name)
    if ":" not in canonical(name):
        return ast.parse((_FOLDER / f"{module.rpartition('.')[2]}.py").read_text(encoding="utf-8"))
    try:
        module_spec = importlib.util.find_spec(module)
    except Exception as error:  # finding a.b imports a, which may raise any exception
        raise UserError(f"{name}: module {module!r} cannot be imported: {error}") from None
    if module_spec is None or module_spec.origin is None:
        raise UserError(f"{name}: there is no module called {module!r} on the import path")
    if not module_spec.origin.endswith(".py"):
        raise UserError(f"{name}: module {module!r} has no Python source to read (it is {module_spec.origin})")
    try:
        return ast.parse(Path(module_spec.origin).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{name}: {module_spec.origin} cannot be read: {error}") from None


def module_name(name: str) -> str:
    """Return the full name of a mechanism's module."""
    name = canonical(name)
    return name.partition(":")[0] if ":" in name else f"{_PACKAGE}.{mechanisms()[name][0]}"


def _assigned_value(tree: ast.Module, variable: str) -> ast.expr | None:
    """Return the expression assigned to ``variable`` at the top level of ``tree``, or None."""
    for node in tree.body:
        match node:
            case ast.Assign([ast.Name(target)], value) if target == variable:
                return value
            case ast.AnnAssign(ast.Name(target), _, value) if target == variable and value is not None:
                return value
    return None


def _evaluate_spec(node: ast.expr, name: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError) as error:
        raise UserError(
            f"{name}: SPEC must be a literal, because it is read without running the file: {error}"
        ) from None


def _first_exported(name: str) -> str | None:
    """Return the first name of the module's ``__all__``, or None."""
    match _assigned_value(_parsed_module(name), "__all__"):
        case ast.List([ast.Constant(str(first)), *_]) | ast.Tuple([ast.Constant(str(first)), *_]):
            return first
    return None


def definition(name: str) -> ast.ClassDef | ast.FunctionDef:
    """Return the syntax tree of the class or factory function that ``name`` refers to.

    Raises:
        UserError: the module defines no such class or function.
    """
    target = name.partition(":")[2] or _first_exported(name) or ""
    definitions = [node for node in _parsed_module(name).body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    for node in definitions:
        if node.name == target:
            return node
    hint = did_you_mean(target, [node.name for node in definitions if node.name[0] != "_"])
    raise UserError(f"{name}: the module defines no class and no function {target!r}.{hint}")


def is_function(name: str) -> bool:
    """Return True if ``name`` refers to a function, not to a class; raise as :func:`definition` does."""
    return isinstance(definition(name), ast.FunctionDef)


def spec_literal(name: str) -> Any:
    """Return the ``SPEC`` literal that applies to a mechanism, or None.

    A ``SPEC`` applies to one class: the first of ``__all__``, or the only one of its module.

    Raises:
        UserError: the mechanism does not exist, or its ``SPEC`` is not a literal.
    """
    if ":" not in (short := canonical(name)):
        return mechanisms()[short][1]
    value, class_name = _assigned_value(_parsed_module(name), "SPEC"), definition(name).name
    n_classes = sum(isinstance(node, ast.ClassDef) for node in _parsed_module(name).body)
    if value is None or (class_name != _first_exported(name) and n_classes > 1):
        return None
    return _evaluate_spec(value, name)


def function_body(name: str, function: str) -> str | None:
    """Return the source of the body of ``function`` in the mechanism's module, or None."""
    for node in _parsed_module(name).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return "\n".join(map(ast.unparse, node.body[ast.get_docstring(node) is not None :]))
    return None


def module_docstring(name: str) -> str:
    """Return the docstring of a mechanism's module, else that of its class, else an empty string."""
    return ast.get_docstring(_parsed_module(name)) or ast.get_docstring(definition(name)) or ""
