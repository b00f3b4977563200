"""The facts a mechanism declares about itself: read without torch, checked when read.

Each file of ``attention/`` assigns a literal dictionary to ``SPEC``. :meth:`Spec.read` turns it into
a :class:`Spec` and refuses what it does not understand, so that a fact misspelt is never a fact lost.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from saccade.errors import UserError, did_you_mean

__all__ = ["Paper", "Published", "Spec", "conditions", "evaluate", "in_words", "within"]

KINDS = ("gate", "context", "transform", "conv")
EVIDENCE = ("oracle", "port", "paper", "reading")
SYMMETRIES = ("permutation", "flip", "transpose")
NEEDS = ("size", "previous stage")

_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitOr: operator.or_,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "int": int,
    "round": round,
    "abs": abs,
    "min": min,
    "max": max,
    "log2": math.log2,
    "ceil": math.ceil,
    "gcd": math.gcd,
}
_NUMBER = r"(-?inf|-?\d+(\.\d+)?)"
_INTERVAL = rf"[\[(]{_NUMBER}, {_NUMBER}[\])]( if .|$)"
_REPOSITORY = r"[\w.-]+/[\w.-]+( if .|$)"
_SYNTAX = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.And, ast.Or, ast.IfExp,
    ast.Compare,
)  # fmt: skip


def evaluate(expression: str, values: Mapping[str, Any]) -> Any:
    """The value of an arithmetic ``expression`` over the names in ``values``; nothing else can be called.

    Raises:
        ValueError: the expression holds anything but arithmetic, comparisons and the functions int, round,
            abs, min, max, log2, ceil, gcd; or a name that ``values`` lacks.

    >>> evaluate("2*C*int(C*rd_ratio)", {"C": 64, "rd_ratio": 1 / 16})
    512

    """

    def of(node: ast.AST) -> Any:
        match node:
            case ast.Expression(body):
                return of(body)
            case ast.Constant(value):
                return value
            case ast.Name(name):
                if name not in values:
                    raise ValueError(f"the expression {expression!r} uses {name!r}, which has no value here")
                return values[name]
            case ast.BinOp(left, op, right):
                return _OPERATORS[type(op)](of(left), of(right))
            case ast.UnaryOp(op, operand):
                return _OPERATORS[type(op)](of(operand))
            case ast.BoolOp(op, parts):
                result = of(parts[0])
                for part in parts[1:]:
                    if bool(result) is isinstance(op, ast.Or):
                        return result
                    result = of(part)
                return result
            case ast.IfExp(test, body, orelse):
                return of(body) if of(test) else of(orelse)
            case ast.Compare(left, ops, rights):
                value = of(left)
                for compare, node_right in zip(ops, rights, strict=True):
                    right = of(node_right)
                    if not _OPERATORS[type(compare)](value, right):
                        return False
                    value = right
                return True
            case ast.Call(ast.Name(name), arguments):
                return _FUNCTIONS[name](*map(of, arguments))
        raise AssertionError(f"_arithmetic lets {type(node).__name__} through")

    return of(_arithmetic(expression))


def _arithmetic(expression: Any) -> ast.Expression:
    """The parsed form of an expression that :func:`evaluate` understands.

    Raises:
        ValueError: it is none.
    """
    try:
        tree = ast.parse(expression, mode="eval")
    except (TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"the expression {expression!r} cannot be read: {error}") from None
    for node in ast.walk(tree):
        match node:
            case ast.Call(ast.Name(name), _, []) if name in _FUNCTIONS:
                continue
            case ast.Call() | ast.Constant(bytes() | complex()):
                pass
            case _ if type(node) in _OPERATORS or isinstance(node, _SYNTAX):
                continue
        raise ValueError(f"the expression {expression!r} holds {type(node).__name__}, which is not arithmetic")
    return tree


def in_words(expression: str) -> str:
    """An expression with ``C`` written out.

    >>> in_words("C % groups == 0")
    'channels % groups == 0'
    """
    return re.sub(r"\bC\b", "channels", expression)


def conditions(words: Iterable[str]) -> list[str]:
    """What follows ``if`` in facts that hold for some options alone.

    >>> conditions(["transpose", "flip if stride == 1"])
    ['stride == 1']
    """
    return [condition for word in words if (condition := word.partition(" if ")[2])]


def _holding(words: Iterable[str], options: Mapping[str, Any]) -> list[str]:
    """The facts of ``words``, without their conditions, whose condition is met or that have none."""
    parts = [word.partition(" if ") for word in words]
    return [fact for fact, _, condition in parts if not condition or evaluate(condition, options)]


def within(value: float, interval: str) -> bool:
    """Whether ``value`` lies in an interval: ``(0, 1)`` without its ends, ``[0, inf)`` with the first of them.

    >>> within(0, "(0, 1)"), within(0, "[0, inf)")
    (False, True)
    """
    low, high = map(float, interval[1:-1].split(","))
    above = low <= value if interval[0] == "[" else low < value
    return above and (value <= high if interval[-1] == "]" else value < high)


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where a mechanism was first described."""

    authors: str
    title: str
    venue: str
    year: int
    arxiv: str | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row a source prints: ``params`` and ``macs`` in the unit that ``unit`` names, ``top1`` in %."""

    net: str
    source: str
    params: float | None = None
    macs: float | None = None
    top1: float | None = None
    unit: str = "10^6, 10^9"
    note: str = ""
    where: str | tuple[str, ...] = "paper"
    """The positions the mechanism has in that network, as ``plug`` takes them."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a mechanism promises; every fact is either checked by the contract or shown to the reader."""

    title: str
    kind: str
    """``gate`` x·g(x), ``context`` x + c(x), ``transform`` anything else of the same shape, ``conv`` a convolution."""
    evidence: str
    """What it equals with its default options.

    ``oracle``: the authors' code, each branch alone where their network keeps the branches apart; ``port``: code by
    others, where the authors' is not public or not in PyTorch; ``paper``: the printed equations; ``reading``: our
    reading of a description.
    """
    code: tuple[str, ...] = ()
    """Repositories whose output and gradients it equals in the tests.

    ``owner/name if variant == 'fair'`` holds for options that meet the condition.
    """
    paper: Paper | None = None
    position: Mapping[str, str] = field(default_factory=lambda: {"default": "residual"})
    """Where the paper puts it: host family (``default``, ``mobilenetv2``, …) to a position of ``plug``."""
    params: str | None = None
    """Learnable parameters, a formula over ``C`` and the options; over ``H`` and ``W`` too where it needs the size."""
    limits: tuple[str, ...] = ()
    """Conditions over ``C`` and the options that must hold for the class to be built."""
    neutral: bool | str = False
    """Is it the identity, bit for bit, at its own initialisation? Yes, no, or a condition over the options."""
    gate: tuple[str, ...] = ()
    """The range of the gate, written ``(0.0, 1.0)`` where it is open and holds for all options.

    Else a list of intervals of which the first holds whose condition is met: ``[0, inf) if excitation == 'relu'``.
    """
    equivariant: tuple[str, ...] = ()
    """What it commutes with: ``permutation`` of pixels, ``flip`` left to right, ``transpose`` of the axes.

    ``flip if stride == 1`` holds for options that meet the condition.
    """
    needs: tuple[str, ...] = ()
    """What it must be told besides the channels: the map's ``size``, the ``previous stage``."""
    published: tuple[Published, ...] = ()
    timm: str | None = None
    """The name timm gives its nearest layer."""

    @classmethod
    def read(cls, facts: Mapping[str, Any], owner: str) -> Spec:
        """The checked form of a ``SPEC`` literal; ``owner`` names it in messages.

        Raises:
            UserError: a key is unknown or missing, a value lies outside its vocabulary, or a formula is no arithmetic.

        """
        if not isinstance(facts, Mapping):
            raise UserError(f"{owner}: SPEC must be a dictionary, got {facts!r}")
        known = {f.name for f in fields(cls)}
        for key in facts:
            if key not in known:
                raise UserError(f"{owner}: SPEC has no fact called {key!r}.{did_you_mean(key, known)}")
        for key in ("title", "kind", "evidence"):
            if key not in facts:
                raise UserError(f"{owner}: SPEC does not say {key!r}")
        values = dict(facts)
        for key in ("code", "limits", "equivariant", "needs", "published"):
            values[key] = values.get(key, ())
            if not isinstance(values[key], (list, tuple)):
                raise UserError(f"{owner}: SPEC's {key} must be a list, got {values[key]!r}")
            values[key] = tuple(values[key])
        for entry in values["code"]:
            if not isinstance(entry, str) or not re.match(_REPOSITORY, entry):
                raise UserError(f"{owner}: SPEC's code must list 'owner/name' or 'owner/name if …', got {entry!r}")
        values["gate"] = _intervals(values.get("gate", ()), owner)
        formulas = [("limits", limit) for limit in values["limits"]]
        if values.get("params") is not None:
            formulas.append(("params", values["params"]))
        for key in ("code", "gate", "equivariant"):
            formulas += [(key, condition) for condition in conditions(map(str, values[key]))]
        if not isinstance(values.get("neutral", False), bool):
            formulas.append(("neutral", values["neutral"]))
        for key, formula in formulas:
            try:
                _arithmetic(formula)
            except ValueError as error:
                raise UserError(f"{owner}: SPEC's {key}: {error}") from None
        try:
            if values.get("paper") is not None:
                values["paper"] = Paper(**values["paper"])
            values["published"] = tuple(Published(**row) for row in values["published"])
        except TypeError as error:
            raise UserError(f"{owner}: SPEC: {error}") from None
        spec = cls(**values)
        for key, allowed, found in (
            ("kind", KINDS, (spec.kind,)),
            ("evidence", EVIDENCE, (spec.evidence,)),
            ("equivariant", SYMMETRIES, [str(word).partition(" if ")[0] for word in spec.equivariant]),
            ("needs", NEEDS, spec.needs),
        ):
            for value in found:
                if value not in allowed:
                    raise UserError(f"{owner}: SPEC says {key} = {value!r}; it must be one of {', '.join(allowed)}")
        if "default" not in spec.position:
            raise UserError(f"{owner}: SPEC's position lacks the key 'default'")
        return spec

    def parameters(self, channels: int, options: Mapping[str, Any]) -> int | None:
        """The learnable parameters that :attr:`params` gives at ``channels``.

        None where it is silent, or needs a size that ``options`` lack.
        """
        values = {"C": channels, **options}
        if "size" in self.needs:
            if not options.get("size"):
                return None
            values["H"], values["W"] = options["size"]
        return None if self.params is None else int(evaluate(self.params, values))

    def is_neutral(self, options: Mapping[str, Any]) -> bool:
        """Whether the mechanism with all these ``options`` is the identity at its own initialisation."""
        return self.neutral if isinstance(self.neutral, bool) else bool(evaluate(self.neutral, options))

    def commutes(self, options: Mapping[str, Any]) -> set[str]:
        """What the mechanism with all these ``options`` commutes with; ``C`` is among them."""
        return set(_holding(self.equivariant, options))

    def equals(self, options: Mapping[str, Any]) -> list[str]:
        """The repositories whose output and gradients the mechanism with all these ``options`` equals in the tests."""
        return _holding(self.code, options)

    def gates(self, options: Mapping[str, Any]) -> str | None:
        """The interval that holds the gate of the mechanism with all these ``options``; ``C`` is among them."""
        return next(iter(_holding(self.gate, options)), None)

    def refusal(self, channels: int, options: Mapping[str, Any]) -> str | None:
        """Why the mechanism cannot be built at ``channels`` with ``options``, with the numbers; None if it can."""
        values = {"C": channels, **options}
        for limit in self.limits:
            try:
                why = None if evaluate(limit, values) else "found"
            except (TypeError, ArithmeticError):  # a word where a number is meant, a division by zero
                why = "which cannot be told of"
            if why is not None:
                used = {n.id for n in ast.walk(ast.parse(limit)) if isinstance(n, ast.Name)} & set(values)
                numbers = ", ".join(f"{'channels' if k == 'C' else k} = {values[k]!r}" for k in sorted(used))
                return f"{self.title} needs {in_words(limit)}{';' if why == 'found' else ','} {why} {numbers}"
        return None


def _intervals(gate: Any, owner: str) -> tuple[str, ...]:
    """The ranges of a gate as they are kept: a pair of numbers is the open interval between them."""
    match gate:
        case (int() | float() as low, int() | float() as high):
            return (f"({low:g}, {high:g})",)
        case [*words] if all(isinstance(word, str) and re.match(_INTERVAL, word) for word in words):
            return tuple(words)
    raise UserError(f"{owner}: SPEC's gate must be (low, high) or a list of '[low, high) if condition', got {gate!r}")
