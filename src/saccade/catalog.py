"""Names of mechanisms, their facts, their classes. The folder ``attention/`` is the table.

Facts are read from the source by ``ast``: neither listing nor a misspelt name imports torch. A class from anywhere
else is called ``package.module:Class``; it needs no registration.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saccade.errors import UserError, did_you_mean
from saccade.facts import Spec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["create", "list_mechanisms", "load", "options", "parse", "shape", "spec", "split", "summary"]

_HOME = Path(__file__).with_name("attention")


def list_mechanisms() -> list[str]:
    """The names of all mechanisms of this package, sorted."""
    return sorted(path.stem for path in _HOME.glob("[!_]*.py"))


@cache
def _source(name: str) -> ast.Module:
    """The parsed file that describes ``name``.

    Raises:
        UserError: no such mechanism, or no such module.

    """
    if ":" in name:
        module, _, _ = name.partition(":")
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError) as error:
            raise UserError(f"{name}: module {module!r} cannot be imported: {error}") from None
        if found is None or found.origin is None:
            raise UserError(f"{name}: there is no module called {module!r} on the import path")
        return ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    if name not in list_mechanisms():
        raise UserError(
            f"no mechanism is called {name!r}.{did_you_mean(name, list_mechanisms())} "
            f"`saccade list` shows all {len(list_mechanisms())}; your own is called package.module:Class."
        )
    return ast.parse((_HOME / f"{name}.py").read_text(encoding="utf-8"))


def _literal(tree: ast.Module, variable: str) -> Any:
    for node in tree.body:
        match node:
            case ast.Assign([ast.Name(target)], value) if target == variable:
                return ast.literal_eval(value)
            case ast.AnnAssign(ast.Name(target), _, value) if target == variable and value is not None:
                return ast.literal_eval(value)
    return None


def _class(name: str) -> ast.ClassDef:
    wanted = name.partition(":")[2] or _literal(_source(name), "__all__")[0]
    classes = {node.name: node for node in _source(name).body if isinstance(node, ast.ClassDef)}
    if wanted not in classes:
        raise UserError(f"{name}: the module defines no class {wanted!r}.{did_you_mean(wanted, classes)}")
    return classes[wanted]


def spec(name: str) -> Spec:
    """The facts of a mechanism.

    A class from elsewhere whose module has no ``SPEC`` gets one that promises nothing: kind ``transform``,
    position ``residual``, not neutral.

    Raises:
        UserError: there is no such mechanism, or its ``SPEC`` is wrong.

    """
    facts = _literal(_source(name), "SPEC")
    if facts is None:
        if ":" not in name:
            raise UserError(f"{name}: its file declares no SPEC")
        facts = {"title": _class(name).name, "kind": "transform", "evidence": "reading"}
    return Spec.read(facts, name)


def options(name: str) -> dict[str, Any]:
    """The options of a mechanism with their defaults, in order; ``...`` where one has no default.

    Raises:
        UserError: there is no such mechanism.

    """
    for node in _class(name).body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = node.args.posonlyargs + node.args.args
            required = len(arguments) - len(node.args.defaults)
            values = [...] * required + [_default(d) for d in node.args.defaults]
            found = {a.arg: v for a, v in zip(arguments[2:], values[2:], strict=True)}
            keyword = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            return found | {a.arg: ... if d is None else _default(d) for a, d in keyword}
    return {}


def _default(node: ast.expr) -> Any:
    """A default as a value: literals and arithmetic of literals (1 / 16)."""
    from saccade.facts import evaluate

    try:
        return ast.literal_eval(node)
    except ValueError:
        return evaluate(ast.unparse(node), {})


def summary(name: str) -> str:
    """The docstring of the file that holds a mechanism: equation, shapes, source, deviations."""
    return ast.get_docstring(_source(name)) or ast.get_docstring(_class(name)) or ""


def shape(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a mechanism: its defaults with ``given`` put in.

    Raises:
        UserError: ``given`` names an option the mechanism does not have.

    """
    known = options(name)
    for key in given:
        if key not in known:
            raise UserError(
                f"{name} has no option {key!r}.{did_you_mean(key, known)} "
                f"Its options: {', '.join(known) if known else 'none'}."
            )
    return known | dict(given)


def load(name: str) -> type[nn.Module]:
    """The class of a mechanism; this is the call that imports torch.

    Raises:
        UserError: there is no such mechanism, or its module does not import.

    """
    wanted = _class(name).name
    module = name.partition(":")[0] if ":" in name else f"{__package__}.attention.{name}"
    try:
        loaded: type[nn.Module] = getattr(importlib.import_module(module), wanted)
    except ImportError as error:
        raise UserError(f"{name}: importing {module} failed: {error}") from error
    return loaded


def create(name: str, channels: int, **given: Any) -> nn.Module:
    """A new module of the mechanism for maps (B, ``channels``, H, W), with its own initialisation.

    Raises:
        UserError: unknown name or option, or channels outside the mechanism's limits; the numbers are named.

    """
    values = shape(name, given)
    try:
        refusal = spec(name).refusal(channels, values)
        if refusal is not None:
            raise UserError(f"{name}: {refusal}")
        return load(name)(channels, **given)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name} with channels={channels}, {given}: {error}") from error


def split(text: str) -> list[str]:
    """The parts of a comma-separated list; commas inside brackets belong to their part.

    >>> split("none,se:rd_ratio=0.25,eca:kernel_size=[3,5,5,7]")
    ['none', 'se:rd_ratio=0.25', 'eca:kernel_size=[3,5,5,7]']
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """A mechanism and its options out of ``name:option=value:option=value``; values are literals, else words.

    Raises:
        UserError: a part lacks its ``=``; unknown name or option.

    >>> parse("das:alpha=0.1")
    ('das', {'alpha': 0.1})

    """
    name, *rest = text.split(":")
    if rest and "=" not in rest[0] and name not in list_mechanisms():  # package.module:Class
        name = f"{name}:{rest.pop(0)}"
    given: dict[str, Any] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"{text!r}: {part!r} is no option; write name:option=value")
        try:
            given[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            given[key.strip()] = value.strip()
    shape(name, given)
    return name, given
