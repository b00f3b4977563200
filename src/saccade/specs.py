"""SPEC, the facts a mechanism declares: read without torch, checked when read.

Each file of ``attention/`` assigns a literal dictionary to ``SPEC``. :meth:`Spec.read` makes it a :class:`Spec` and
refuses unknown keys and values. A fact that depends on options is text in SPEC, for the reader, and a function of the
same name in the module, for code. Such a function names the options it needs, and ``channels``, or takes ``**options``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from saccade.errors import UserError, did_you_mean

__all__ = ["Interval", "Paper", "Published", "Spec"]

KINDS = ("gate", "context", "transform", "conv")
EVIDENCE = ("oracle", "port", "paper", "reading")
SYMMETRIES = ("permutation", "flip", "transpose")
NEEDS = ("size", "previous stage")

_REPOSITORY = r"[\w.-]+/[\w.-]+( \(.+\))?$"


@dataclass(frozen=True)
class Interval:
    """An open interval of numbers, or with ``closed`` one that holds its lower end."""

    low: float
    high: float
    closed: bool = False

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies inside."""
        return (self.low <= value if self.closed else self.low < value) and value < self.high

    def __str__(self) -> str:
        return f"{'[' if self.closed else '('}{self.low:g}, {self.high:g})"


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


def _nothing(fact: str) -> None:
    """No function stands beside the SPEC."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a mechanism promises; every fact is checked by the contract or shown to the reader."""

    title: str
    kind: str
    """``gate`` x·g(x), ``context`` x + c(x), ``transform`` anything else of the same shape, ``conv`` a convolution."""
    evidence: str
    """What it equals with its default options.

    ``oracle``: the authors' code, each branch alone where their network keeps the branches apart; ``port``: code by
    others, where the authors' is not public or not in PyTorch; ``paper``: the printed equations; ``reading``: our
    reading of a description.
    """
    name: str = ""
    """The short name that users type and files keep; of a class from elsewhere ""."""
    aliases: tuple[str, ...] = ()
    """Other names that users may type; the name of the file is one without being listed."""
    code: tuple[str, ...] = ()
    """Repositories whose output and gradients it equals: ``owner/name``, or ``owner/name (with these options)``."""
    paper: Paper | None = None
    position: Mapping[str, str] = field(default_factory=lambda: {"default": "residual"})
    """Where the paper puts it: host family (``default``, ``mobilenetv2``, …) to a position of ``plug``."""
    limits: tuple[str, ...] = ()
    """The words with which each ValueError of the constructor begins."""
    neutral: bool | str = False
    """Whether it is the identity, bit for bit, at its own initialisation; text where a function ``neutral`` says."""
    gate: Interval | str | None = None
    """The range of the gate, written ``(0.0, 1.0)``; text where a function ``gate`` says."""
    equivariant: tuple[str, ...] | str = ()
    """What it commutes with: ``permutation`` of pixels, ``flip`` left to right, ``transpose`` of the axes.

    Text where a function ``equivariant`` says.
    """
    needs: tuple[str, ...] = ()
    """What the constructor takes besides channels and options: the map's ``size``, the ``previous stage``."""
    published: tuple[Published, ...] = ()
    timm: str | None = None
    """The name timm gives its nearest layer."""
    beside: Callable[[str], Callable[..., Any] | None] = field(default=_nothing, repr=False, compare=False)
    """Finds the function of a fact, ``parameters``, ``neutral``, ``gate`` or ``equivariant``, or None."""

    @classmethod
    def read(
        cls, facts: Mapping[str, Any], owner: str, beside: Callable[[str], Callable[..., Any] | None] = _nothing
    ) -> Spec:
        """Return the checked form of a ``SPEC`` literal; ``owner`` names it in messages.

        Raises:
            UserError: a key is unknown or missing, or a value lies outside its vocabulary.
        """
        if not isinstance(facts, Mapping):
            raise UserError(f"{owner}: SPEC must be a dictionary, got {facts!r}")
        known = {f.name for f in fields(cls)} - {"beside"}
        for key in facts:
            if key not in known:
                raise UserError(f"{owner}: SPEC has no fact called {key!r}.{did_you_mean(key, known)}")
        for key in ("title", "kind", "evidence"):
            if key not in facts:
                raise UserError(f"{owner}: SPEC does not say {key!r}")
        values = dict(facts)
        for key in ("aliases", "code", "limits", "equivariant", "needs", "published"):
            found = values.get(key, ())
            if key == "equivariant" and isinstance(found, str):
                continue
            if not isinstance(found, (list, tuple)):
                raise UserError(f"{owner}: SPEC's {key} must be a list, got {found!r}")
            values[key] = tuple(found)
        for entry in values["code"]:
            if not isinstance(entry, str) or not re.match(_REPOSITORY, entry):
                raise UserError(f"{owner}: SPEC's code must list 'owner/name' or 'owner/name (options)', got {entry!r}")
        if not isinstance(values.get("neutral", False), bool | str):
            raise UserError(f"{owner}: SPEC's neutral must be True, False or text, got {values['neutral']!r}")
        values["gate"] = _interval(values.get("gate"), owner)
        try:
            if values.get("paper") is not None:
                values["paper"] = Paper(**values["paper"])
            values["published"] = tuple(Published(**row) for row in values["published"])
        except TypeError as error:
            raise UserError(f"{owner}: SPEC: {error}") from None
        spec = cls(**values, beside=beside)
        for key, allowed, said in (
            ("kind", KINDS, (spec.kind,)),
            ("evidence", EVIDENCE, (spec.evidence,)),
            ("equivariant", SYMMETRIES, () if isinstance(spec.equivariant, str) else spec.equivariant),
            ("needs", NEEDS, spec.needs),
        ):
            for value in said:
                if value not in allowed:
                    raise UserError(f"{owner}: SPEC says {key} = {value!r}; it must be one of {', '.join(allowed)}")
        if "default" not in spec.position:
            raise UserError(f"{owner}: SPEC's position lacks the key 'default'")
        return spec

    def plain(self) -> dict[str, Any]:
        """Return the facts as JSON knows them."""
        facts = asdict(self)
        del facts["beside"]
        return facts | {"gate": None if self.gate is None else str(self.gate)}

    def parameters(self, channels: int, options: Mapping[str, Any]) -> int | None:
        """Return how many learnable parameters the function ``parameters`` counts; all options are given.

        None where there is no such function, or where ``options`` lack a size that is needed.
        """
        if self.beside("parameters") is None or ("size" in self.needs and not options.get("size")):
            return None
        return int(self._answer("parameters", {"channels": channels, **options}))

    def is_neutral(self, options: Mapping[str, Any]) -> bool:
        """Whether the mechanism with all these ``options`` is the identity at its start, at any channels."""
        return self.neutral if isinstance(self.neutral, bool) else bool(self._answer("neutral", options))

    def symmetries(self, channels: int, options: Mapping[str, Any]) -> set[str]:
        """Return what the mechanism commutes with, of :data:`SYMMETRIES`; all options are given."""
        if not isinstance(self.equivariant, str):
            return set(self.equivariant)
        return set(self._answer("equivariant", {"channels": channels, **options}))

    def gate_range(self, channels: int, options: Mapping[str, Any]) -> Interval | None:
        """Return the interval that holds the gate, None where there is no gate; all options are given."""
        if not isinstance(self.gate, str):
            return self.gate
        found: Interval | None = self._answer("gate", {"channels": channels, **options})
        return found

    def unanswered(self, fact: str, values: Mapping[str, Any]) -> str | None:
        """Why the function of ``fact`` cannot be called with ``values``; None if it can."""
        function = self.beside(fact)
        if function is None:
            return f"no function {fact} stands beside SPEC"
        needed = {p.name for p in _named(function) if p.default is p.empty}
        missing = sorted(needed - set(values))
        return f"{fact} needs {', '.join(missing)}" if missing else None

    def _answer(self, fact: str, values: Mapping[str, Any]) -> Any:
        function, why = self.beside(fact), self.unanswered(fact, values)
        if function is None or why is not None:
            raise UserError(f"{self.title}: {why}")
        named = _named(function)
        if len(named) < len(inspect.signature(function).parameters):  # it has **options
            return function(**values)
        return function(**{p.name: values[p.name] for p in named if p.name in values})


def _named(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]


def _interval(gate: Any, owner: str) -> Interval | str | None:
    match gate:
        case None | str():
            return gate
        case (int() | float() as low, int() | float() as high):
            return Interval(low, high)
    raise UserError(f"{owner}: SPEC's gate must be (low, high) or text, got {gate!r}")
