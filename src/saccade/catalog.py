"""Mechanisms by name: metadata, options and classes.

Listing mechanisms and rejecting unknown names does not import torch. A third-party class or factory function is named
``package.module:name`` and needs no registration.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from saccade import source
from saccade.errors import UserError, did_you_mean
from saccade.source import all_names, canonical, module_docstring
from saccade.specs import Spec

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "all_names", "canonical", "canonical_text", "create", "declared_spec", "list_mechanisms", "load", "mechanism_name",
    "module_docstring", "options", "parse", "parse_assignments", "resolve_options", "spec", "split_list",
]  # fmt: skip

_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip

_OPTION_TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "int": ("a whole number", lambda value: not isinstance(value, bool) and isinstance(value, Integral)),
    "float": (
        "a finite number",
        lambda value: not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value),
    ),
    "str": ("a word", lambda value: isinstance(value, str)),
}
"""Maps an annotation to a description of the allowed values and a function that checks a value."""


class _DefaultText(str):
    """Source text of a default that is not a literal."""

    __slots__ = ()


@dataclass(frozen=True)
class _Option:
    """Option declared by ``__init__``."""

    default: Any
    """Default value, or ``...`` if the option has none."""
    annotation: str = ""

    @property
    def type_name(self) -> str | None:
        """Key of ``_OPTION_TYPES`` for the option's values; None if any value is accepted."""
        annotation = self.annotation.removesuffix(" | None")
        if annotation in _OPTION_TYPES:
            return annotation
        type_name = type(self.default).__name__
        if type_name == "int":  # without an annotation, a default of 1 may mean 1.0
            return "float"
        return type_name if type_name in _OPTION_TYPES else None

    def accepts(self, value: Any) -> bool:
        """Return True if ``value`` is the default, of the option's type, or a list of such values, one per stage."""
        if self.type_name is None or value is self.default:
            return True
        values = value if isinstance(value, list) else [value]
        return all(map(_OPTION_TYPES[self.type_name][1], values))


def list_mechanisms(verb: Literal["plug", "replace"] | None = None) -> list[str]:
    """Return the sorted short names of the mechanisms of this package.

    ``verb`` selects the mechanisms for one function: kind ``conv`` for ``replace``, all others for ``plug``.

    Raises:
        UserError: ``verb`` is neither "plug" nor "replace".
    """
    if verb is None:
        return list(source.mechanisms())
    if verb not in ("plug", "replace"):
        raise UserError(f"the verb must be 'plug' or 'replace', got {verb!r}")
    return [name for name in source.mechanisms() if (spec(name).kind == "conv") == (verb == "replace")]


def declared_spec(name: str) -> Spec | None:
    """Return the Spec that the module of a mechanism declares, or None.

    Raises:
        UserError: the mechanism does not exist, or its ``SPEC`` is invalid.
    """
    literal = source.spec_literal(name)
    return None if literal is None else Spec.read(literal, name, partial(_find_function, name))


def _find_function(name: str, function: str) -> Callable[..., Any] | None:
    """Return ``function`` of the module of mechanism ``name``, or None."""
    attribute = getattr(_import_module(name), function, None)
    return attribute if inspect.isfunction(attribute) else None


def _import_module(name: str) -> ModuleType:
    """Import the module of a mechanism, else raise UserError."""
    module = source.module_name(name)
    try:
        return importlib.import_module(module)
    except Exception as error:  # a third-party module may raise any exception
        raise UserError(f"{name}: importing {module} failed: {type(error).__name__}: {error}") from error


def spec(name: str) -> Spec:
    """Return the Spec of a mechanism.

    A third-party class without ``SPEC`` gets kind ``transform``, evidence ``reading`` and the defaults of Spec.

    Raises:
        UserError: the mechanism does not exist, or its ``SPEC`` is invalid.
    """
    declared = declared_spec(name)
    if declared is None and ":" not in name:
        raise UserError(f"{name}: its file declares no SPEC")
    return declared or Spec(title=source.definition(name).name, kind="transform", evidence="reading")


def options(name: str) -> dict[str, Any]:
    """Return the options of a mechanism with their defaults, in order; ``...`` marks an option without a default.

    A class that inherits ``__init__`` from another mechanism is imported.

    Raises:
        UserError: the mechanism does not exist, or its module does not import.
    """
    return {key: option.default for key, option in _signature(name)[0].items()}


def _signature(name: str) -> tuple[dict[str, _Option], bool]:
    """Return the declared options of a mechanism, and True if ``**kwargs`` accepts further options."""
    definition = source.definition(name)
    if isinstance(definition, ast.FunctionDef):
        return _declared_options(definition.args, 1)
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return _declared_options(node.args, 2)
    if all(ast.unparse(base).rpartition(".")[2] in ("Module", "Gate", "Context") for base in definition.bases):
        return {}, False
    parameters = list(inspect.signature(load(name)).parameters.values())[1:]
    inherited = {
        p.name: _Option(
            ... if p.default is p.empty else p.default, getattr(p.annotation, "__name__", str(p.annotation))
        )
        for p in parameters
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    return inherited, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _declared_options(arguments: ast.arguments, n_skipped: int) -> tuple[dict[str, _Option], bool]:
    """Return the options after the first ``n_skipped`` arguments, and True if there is a ``**kwargs``."""
    positional = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    pairs = [*zip(positional, defaults, strict=True)][n_skipped:]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    declared = {
        argument.arg: _Option(
            ... if default is None else _default_value(default),
            ast.unparse(argument.annotation) if argument.annotation else "",
        )
        for argument, default in pairs
    }
    return declared, arguments.kwarg is not None


def _default_value(node: ast.expr) -> Any:
    """Evaluate a default made of literals and arithmetic (1 / 16); return the source text of any other."""
    try:
        return _evaluate(node)
    except (ValueError, TypeError, ArithmeticError):
        return _DefaultText(ast.unparse(node))


def _evaluate(node: ast.expr) -> Any:
    match node:
        case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](_evaluate(left), _evaluate(right))
    return ast.literal_eval(node)


def resolve_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of a mechanism: its defaults, updated with ``given``. A list holds one value per stage.

    Raises:
        UserError: an option is unknown, or a value does not match the option's annotation or default.
    """
    declared, accepts_any = _signature(name)
    for key, value in given.items():
        if key not in declared and not accepts_any:
            if key == "where":
                raise UserError(
                    f"{name} has no option 'where': only `saccade compare` takes {name}:where=…; use --where {value} "
                    f"with `saccade measure`, --set attention.where={value} with `saccade train`"
                )
            raise UserError(
                f"{name} has no option {key!r}.{did_you_mean(key, declared)} "
                f"Its options: {', '.join(declared) if declared else 'none'}."
            )
        option = declared.get(key)
        if option is not None and option.type_name is not None and not option.accepts(value):
            needed = _OPTION_TYPES[option.type_name][0]
            default = "" if option.default is ... else f"; its default is {option.default!r}"
            raise UserError(f"{name}: the option {key} needs {needed}, found {value!r}{default}")
    return {key: option.default for key, option in declared.items()} | dict(given)


def load(name: str) -> Callable[..., nn.Module]:
    """Import torch and return the class of a mechanism, or its factory function.

    Raises:
        UserError: the mechanism does not exist, does not import, or is neither an nn.Module nor a function with a SPEC.
    """
    loaded: Callable[..., nn.Module] = getattr(_import_module(name), source.definition(name).name)
    from torch import nn

    is_module = isinstance(loaded, type) and issubclass(loaded, nn.Module)
    if not is_module and (isinstance(loaded, type) or declared_spec(name) is None):
        raise UserError(
            f"{name} is a {'class' if isinstance(loaded, type) else 'function'}, not a subclass of torch.nn.Module"
            + ("" if isinstance(loaded, type) else ", and its module declares no SPEC: declare one, or name the class")
        )
    return loaded


def create(name: str, channels: int, **given: Any) -> nn.Module:
    """Build a mechanism for feature maps (B, ``channels``, H, W), initialised by its constructor.

    Raises:
        UserError: the name or an option is unknown, or the constructor raised.
    """
    resolve_options(name, given)
    metadata = spec(name)
    needs_size = "size" in metadata.needs
    if needs_size and isinstance(given.get("size"), list):
        given["size"] = tuple(given["size"])  # from a JSON file, which has no tuples
    if needs_size and (size := given.get("size")) is not None and not _is_size(size):
        raise UserError(f"{name}: the option size needs the height and the width of the map, found {size!r}")
    mechanism_class = load(name)
    expected_messages = metadata.limits
    try:
        return mechanism_class(channels, **given)
    except UserError:
        raise
    except Exception as error:  # a third-party class may raise any exception
        if isinstance(error, ValueError) and str(error).startswith(expected_messages):
            raise UserError(f"{name}: {error}") from error
        prefix = "" if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: "
        raise UserError(f"{name} with channels={channels}, {given}: {prefix}{error}") from error


def _is_size(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_OPTION_TYPES["int"][1], value))


def split_list(text: str) -> list[str]:
    """Return the entries of a comma-separated list; commas inside brackets do not separate.

    >>> split_list("none,se:rd_ratio=0.25,eca:kernel_size=[3,5,5,7]")
    ['none', 'se:rd_ratio=0.25', 'eca:kernel_size=[3,5,5,7]']
    """
    entries, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            entries.append("")
        else:
            entries[-1] += character
    return [entry.strip() for entry in entries if entry.strip()]


def mechanism_name(text: str) -> str:
    """Return the name in ``name:option=value``, unchanged.

    >>> mechanism_name("das:alpha=0.1"), mechanism_name("my.module:Class:width=3")
    ('das', 'my.module:Class')
    """
    name, *rest = text.split(":")
    return f"{name}:{rest[0]}" if rest and "=" not in rest[0] and name not in all_names() else name


def canonical_text(text: str) -> str:
    """Return ``name:option=value`` with the mechanism's short name; raise as :func:`parse` does.

    >>> canonical_text("squeeze_excite:rd_ratio=0.25")
    'se:rd_ratio=0.25'
    """
    parse(text)
    name = mechanism_name(text)
    return canonical(name) + text[len(name) :]


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Parse ``name:option=value:option=value`` into the mechanism's short name and its options.

    A value that is not a Python literal is a string.

    Raises:
        UserError: an option lacks its ``=``, the name or an option is unknown, or ``none`` has options.

    >>> parse("das:alpha=0.1")
    ('das', {'alpha': 0.1})
    """
    name = mechanism_name(text)
    if text.partition(":")[0] == "none" and ":" in text:
        raise UserError(f"{text!r}: none is the network without attention and has no options")
    given = parse_assignments(text.removeprefix(name).split(":")[1:], text)
    resolve_options(name, given)
    return canonical(name), given


def parse_assignments(assignments: Iterable[str], text: str) -> dict[str, Any]:
    """Parse options ``name=value``; ``text`` is quoted in the message. A value that is no Python literal is a string.

    Raises:
        UserError: an option lacks its ``=``.
    """
    given: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise UserError(f"{text!r}: {assignment!r} is not an option; write name:option=value")
        try:
            given[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            given[key.strip()] = value.strip()
    return given
