"""Mechanisms by name: their facts, their options, their classes.

Neither listing nor a misspelt name imports torch: :mod:`saccade.source` reads the files. A class from anywhere else is
called ``package.module:Class``; it needs no registration. A function of the same arguments may stand for a class.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from saccade import source
from saccade.errors import UserError, did_you_mean
from saccade.source import canonical, spellings, summary
from saccade.specs import Spec

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "canonical", "create", "list_mechanisms", "load", "named", "options", "parse", "resolve_options", "spec",
    "spellings", "split", "stated", "summary",
]  # fmt: skip

_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip

_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "int": ("a whole number", lambda value: not isinstance(value, bool) and isinstance(value, Integral)),
    "float": (
        "a finite number",
        lambda value: not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value),
    ),
    "str": ("a word", lambda value: isinstance(value, str)),
}
"""What an option takes, by its annotation: in words, and as a test."""


class _Source(str):
    """A default that is no literal, as the source writes it."""

    __slots__ = ()


@dataclass(frozen=True)
class _Option:
    """An option as ``__init__`` declares it."""

    default: Any
    """``...`` for an option without a default."""
    annotation: str = ""

    @property
    def kind(self) -> str | None:
        """The key of ``_KINDS``; None where any value may be meant."""
        annotated = self.annotation.removesuffix(" | None")
        if annotated in _KINDS:
            return annotated
        found = type(self.default).__name__
        # Without an annotation 1 may stand for 1.0.
        return {"int": "float"}.get(found, found if found in _KINDS else None)

    def takes(self, value: Any) -> bool:
        """Whether ``value`` is of the option's kind, or the default, or a list of such, one for each stage."""
        if self.kind is None or value is self.default:
            return True
        values = value if isinstance(value, list) else [value]
        return all(map(_KINDS[self.kind][1], values))


def list_mechanisms(verb: Literal["plug", "replace"] | None = None) -> list[str]:
    """Return the short names of all mechanisms of this package, sorted; with a ``verb``, of those that it takes.

    ``replace`` takes those of kind ``conv``, which stand in the place of a convolution, ``plug`` all others.

    Raises:
        UserError: ``verb`` is neither.
    """
    if verb is None:
        return list(source.table())
    if verb not in ("plug", "replace"):
        raise UserError(f"mechanisms are put in by 'plug' or 'replace', got {verb!r}")
    return [name for name in source.table() if (spec(name).kind == "conv") == (verb == "replace")]


def stated(name: str) -> Spec | None:
    """Return the facts that the file of a mechanism states about it; None where it states none.

    Raises:
        UserError: there is no such mechanism, or its ``SPEC`` is wrong.
    """
    facts = source.facts(name)
    return None if facts is None else Spec.read(facts, name, partial(_beside, name))


def _beside(name: str, fact: str) -> Callable[..., Any] | None:
    """The function called ``fact`` in the module of a mechanism."""
    found = getattr(_imported(name), fact, None)
    return found if inspect.isfunction(found) else None


def _imported(name: str) -> ModuleType:
    """The module of a mechanism.

    Raises:
        UserError: it does not import.
    """
    module = source.module(name)
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever a stranger's module raises
        raise UserError(f"{name}: importing {module} failed: {type(error).__name__}: {error}") from error


def spec(name: str) -> Spec:
    """Return the facts of a mechanism.

    A class from elsewhere of which no ``SPEC`` speaks gets one that promises nothing: kind ``transform``,
    position ``residual``, not neutral.

    Raises:
        UserError: there is no such mechanism, or its ``SPEC`` is wrong.
    """
    found = stated(name)
    if found is None and ":" not in name:
        raise UserError(f"{name}: its file declares no SPEC")
    return found or Spec(title=source.maker(name).name, kind="transform", evidence="reading")


def options(name: str) -> dict[str, Any]:
    """Return the options of a mechanism with their defaults, in order; ``...`` where one has no default.

    A class that inherits its ``__init__`` from one of its own is imported to be asked.

    Raises:
        UserError: there is no such mechanism, or its module does not import.
    """
    return {key: option.default for key, option in _signature(name)[0].items()}


def _signature(name: str) -> tuple[dict[str, _Option], bool]:
    """The options of a mechanism, and whether it takes others besides (``**kwargs``)."""
    maker = source.maker(name)
    if isinstance(maker, ast.FunctionDef):
        return _declared(maker.args, 1)
    for node in maker.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return _declared(node.args, 2)
    if all(ast.unparse(base).rpartition(".")[2] in ("Module", "Gate", "Context") for base in maker.bases):
        return {}, False
    parameters = list(inspect.signature(load(name)).parameters.values())[1:]
    own = {
        p.name: _Option(
            ... if p.default is p.empty else p.default, getattr(p.annotation, "__name__", str(p.annotation))
        )
        for p in parameters
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    return own, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _declared(arguments: ast.arguments, skipped: int) -> tuple[dict[str, _Option], bool]:
    """The options among ``arguments``, of which the first ``skipped`` are none, and whether there is a ``**kwargs``."""
    positional = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    declared = [*zip(positional, defaults, strict=True)][skipped:]
    declared += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    found = {
        a.arg: _Option(... if d is None else _default(d), ast.unparse(a.annotation) if a.annotation else "")
        for a, d in declared
    }
    return found, arguments.kwarg is not None


def _default(node: ast.expr) -> Any:
    """A default as a value: literals and arithmetic of literals (1 / 16); of anything else its text, to be shown."""
    try:
        return _value(node)
    except (ValueError, TypeError, ArithmeticError):
        return _Source(ast.unparse(node))


def _value(node: ast.expr) -> Any:
    match node:
        case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](_value(left), _value(right))
    return ast.literal_eval(node)


def resolve_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of a mechanism: its defaults, and in their place those ``given``.

    Raises:
        UserError: ``given`` names an option the mechanism does not have, or a value that is not of the kind of its
            annotation, or of its default. A list stands for one value per stage.
    """
    known, others = _signature(name)
    for key, value in given.items():
        if key not in known and not others:
            if key == "where":
                raise UserError(
                    f"{name} has no option 'where': a position is said so to `saccade compare` alone, to "
                    f"`saccade measure` by --where, to `saccade train` by --set attention.where={value}"
                )
            raise UserError(
                f"{name} has no option {key!r}.{did_you_mean(key, known)} "
                f"Its options: {', '.join(known) if known else 'none'}."
            )
        if key in known and (kind := known[key].kind) is not None and not known[key].takes(value):
            default = "" if known[key].default is ... else f"; its default is {known[key].default!r}"
            raise UserError(f"{name}: the option {key} needs {_KINDS[kind][0]}, found {value!r}{default}")
    return {key: option.default for key, option in known.items()} | dict(given)


def load(name: str) -> Callable[..., nn.Module]:
    """Return the class of a mechanism, or the function that makes it; this is the call that imports torch.

    Raises:
        UserError: there is no such mechanism, its module does not import, or it is a function of which no ``SPEC``
            speaks: nothing says that it makes a module, and calling it may do anything.
    """
    loaded: Callable[..., nn.Module] = getattr(_imported(name), source.maker(name).name)
    from torch import nn

    is_module = isinstance(loaded, type) and issubclass(loaded, nn.Module)
    if not is_module and (isinstance(loaded, type) or stated(name) is None):
        raise UserError(
            f"{name} is a {'class' if isinstance(loaded, type) else 'function'}, no subclass of torch.nn.Module"
            + ("" if isinstance(loaded, type) else ", and its module declares no SPEC: declare one, or name the class")
        )
    return loaded


def create(name: str, channels: int, **given: Any) -> nn.Module:
    """Make a module of the mechanism for maps (B, ``channels``, H, W), with its own initialisation.

    Raises:
        UserError: unknown name or option, or whatever the class raises; outside its limits, with the numbers.
    """
    resolve_options(name, given)
    facts = spec(name)
    sized = "size" in facts.needs
    if sized and isinstance(given.get("size"), list):
        given["size"] = tuple(given["size"])  # out of a file: JSON knows no tuples
    if sized and (size := given.get("size")) is not None and not _is_size(size):
        raise UserError(f"{name}: the option size needs the height and the width of the map, found {size!r}")
    made = load(name)
    try:
        return made(channels, **given)
    except UserError:
        raise
    except Exception as error:  # whatever a stranger's class raises
        if isinstance(error, ValueError) and str(error).startswith(facts.limits):
            raise UserError(f"{name}: {error}") from error
        kind = "" if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: "
        raise UserError(f"{name} with channels={channels}, {given}: {kind}{error}") from error


def _is_size(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_KINDS["int"][1], value))


def split(text: str) -> list[str]:
    """Return the parts of a comma-separated list; commas inside brackets belong to their part.

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


def named(text: str) -> str:
    """Return the name in ``name:option=value``, as it is spelt there.

    >>> named("das:alpha=0.1"), named("my.module:Class:width=3")
    ('das', 'my.module:Class')
    """
    name, *rest = text.split(":")
    return f"{name}:{rest[0]}" if rest and "=" not in rest[0] and name not in spellings() else name


def canonical_text(text: str) -> str:
    """Return ``name:option=value`` with the name that files keep, checked as by :func:`parse`.

    >>> canonical_text("squeeze_excite:rd_ratio=0.25")
    'se:rd_ratio=0.25'
    """
    parse(text)
    name = named(text)
    return canonical(name) + text[len(name) :]


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Read ``name:option=value:option=value``: the mechanism's short name, and its options, literals or else words.

    Raises:
        UserError: a part lacks its ``=``; unknown name or option; options of ``none``.

    >>> parse("das:alpha=0.1")
    ('das', {'alpha': 0.1})
    """
    name = named(text)
    _, *rest = text.removeprefix(name).split(":")
    if text.partition(":")[0] == "none" and ":" in text:
        raise UserError(f"{text!r}: none is the network without attention and has no options")
    given: dict[str, Any] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"{text!r}: {part!r} is no option; write name:option=value")
        try:
            given[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            given[key.strip()] = value.strip()
    resolve_options(name, given)
    return canonical(name), given
