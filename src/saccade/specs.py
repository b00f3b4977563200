"""SPEC: the metadata of a mechanism, read and checked without importing torch.

Each file of ``attention/`` assigns a literal dictionary to ``SPEC``, which :meth:`Spec.read` checks and converts. If
a field depends on the options, SPEC holds a description, and the module's function named like the field returns the
value. The function's parameters are ``channels`` and the options it needs, or ``**options``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from saccade.errors import UserError, did_you_mean

__all__ = ["POSITIONS", "POSITION_INDEX", "GateRange", "Paper", "PublishedResult", "Spec"]

KINDS = ("gate", "context", "transform", "conv")
EVIDENCE = ("oracle", "port", "paper", "reading")
SYMMETRIES = ("permutation", "flip", "transpose")
NEEDS = ("size", "previous stage", "skip")

POSITIONS = (
    "paper", "stage", "decoder", "skip", "neck", "block", "residual", "conv3x3", "activated", "expanded", "conv_stem",
)  # fmt: skip
POSITION_INDEX = r"\[-?\d+\]|\[(?:-?\d+)?:(?:-?\d+)?\]"
"""Regular expression of an index or slice in brackets."""
_SUFFIX = rf"(?:{POSITION_INDEX}|\[(?:first|last)\])?"
_POSITION = rf"(\w+){_SUFFIX}(?: in (?:stage(?:{POSITION_INDEX})|encoder|decoder(?:{POSITION_INDEX})?){_SUFFIX})?"
"""Regular expression of a position in SPEC; the group is one of ``POSITIONS``."""
_REPOSITORY = r"[\w.-]+/[\w.-]+( \(.+\))?$"


@dataclass(frozen=True)
class GateRange:
    """Open interval of gate values; ``includes_low`` and ``includes_high`` close it."""

    low: float
    high: float
    includes_low: bool = False
    includes_high: bool = False

    def contains(self, value: float) -> bool:
        """Return True if ``value`` lies in the interval."""
        is_above = self.low <= value if self.includes_low else self.low < value
        return is_above and (value <= self.high if self.includes_high else value < self.high)

    def __str__(self) -> str:
        left, right = "[" if self.includes_low else "(", "]" if self.includes_high else ")"
        return f"{left}{self.low:g}, {self.high:g}{right}"


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Paper that introduced a mechanism."""

    authors: str
    title: str
    venue: str
    year: int
    arxiv: str | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedResult:
    """Result printed in a paper or repository, for the network ``net``; ``top1`` is in %."""

    net: str
    source: str
    params: float | None = None
    macs: float | None = None
    top1: float | None = None
    unit: str = "10^6, 10^9"
    """Units of ``params`` and ``macs``, in this order."""
    note: str = ""
    where: str | tuple[str, ...] = "paper"
    """Positions of the mechanism in that network, as ``plug`` accepts them."""


def _check_position(position: object, owner: str) -> None:
    """Raise UserError unless ``position`` is one of ``POSITIONS`` besides ``paper``, with an index or an ``in``."""
    match = re.fullmatch(_POSITION, position) if isinstance(position, str) else None
    if match is None or match[1] not in POSITIONS[1:]:
        word = re.split(r"[\s\[]", str(position), maxsplit=1)[0]
        suggestion = "" if word in POSITIONS else did_you_mean(word, POSITIONS[1:])
        raise UserError(
            f"{owner}: SPEC has the position {position!r}.{suggestion} Needed is one of {', '.join(POSITIONS[1:])}, "
            "also as in 'stage[-1]' or 'conv3x3 in stage[-3:]'."
        )


def _no_function(field_name: str) -> None:
    """Return None; used if no ``find_function`` is given."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Metadata of a mechanism; each field is checked by ``saccade check`` or shown to users."""

    title: str
    kind: str
    """Form: ``gate`` x·g(x), ``context`` x + c(x), ``conv`` a convolution, ``transform`` any other."""
    evidence: str
    """Reference that the default options reproduce.

    ``oracle``: the authors' code (branch by branch if their network separates the branches); ``port``: code by others,
    if the authors' is not public or not in PyTorch; ``paper``: the printed equations; ``reading``: our interpretation
    of an incomplete description.
    """
    name: str = ""
    """Short name, typed by users and stored in files; empty for a third-party class."""
    aliases: tuple[str, ...] = ()
    """Further names that users may type; the file name is always one."""
    code: tuple[str, ...] = ()
    """Repositories with the same output and gradients: ``owner/name`` or ``owner/name (options)``."""
    paper: Paper | None = None
    position: Mapping[str, str | Sequence[str]] = field(default_factory=lambda: {"default": "residual"})
    """Maps host family (``default``, ``mobilenetv2``, …) to the paper's position, as ``plug`` accepts it."""
    limits: tuple[str, ...] = ()
    """Beginnings of the constructor's ValueError messages for unsupported arguments."""
    neutral: bool | str = False
    """True if the module is the identity, bit for bit, at initialisation; text if the function ``neutral`` decides."""
    gate: GateRange | str | None = None
    """Range of the gate, written ``(0.0, 1.0)``; text if the function ``gate`` computes it."""
    equivariant: tuple[str, ...] | str = ()
    """Operations that the module commutes with: ``permutation`` of pixels, left-right ``flip``, ``transpose`` of axes.

    Text if the function ``equivariant`` computes them.
    """
    needs: tuple[str, ...] = ()
    """Inputs besides the feature map: its height and width (``size``), vectors of the ``previous stage``, the
    channels of a concatenation that are the ``skip``'s.
    """
    moves_features: bool = False
    """True if features leave their positions, which displaces predicted boxes and masks."""
    published: tuple[PublishedResult, ...] = ()
    timm: str | None = None
    """Name of the closest layer in timm."""
    find_function: Callable[[str], Callable[..., Any] | None] = field(default=_no_function, repr=False, compare=False)
    """Finds the module's function ``parameters``, ``neutral``, ``gate`` or ``equivariant``, or None."""

    @classmethod
    def read(
        cls,
        literal: Mapping[str, Any],
        owner: str,
        find_function: Callable[[str], Callable[..., Any] | None] = _no_function,
    ) -> Spec:
        """Return the Spec of a ``SPEC`` literal; messages start with ``owner``.

        Raises:
            UserError: a key is unknown or missing, or a value is not allowed.
        """
        if not isinstance(literal, Mapping):
            raise UserError(f"{owner}: SPEC must be a dictionary, got {literal!r}")
        keys = {f.name for f in fields(cls)} - {"find_function"}
        for key in literal:
            if key not in keys:
                raise UserError(f"{owner}: SPEC has no key {key!r}.{did_you_mean(key, keys)}")
        for key in ("title", "kind", "evidence"):
            if key not in literal:
                raise UserError(f"{owner}: SPEC lacks the key {key!r}")
        values = dict(literal)
        for key in ("aliases", "code", "limits", "equivariant", "needs", "published"):
            value = values.get(key, ())
            if key == "equivariant" and isinstance(value, str):
                continue
            if not isinstance(value, (list, tuple)):
                raise UserError(f"{owner}: SPEC's {key} must be a list, got {value!r}")
            values[key] = tuple(value)
        for entry in values["code"]:
            if not isinstance(entry, str) or not re.match(_REPOSITORY, entry):
                raise UserError(f"{owner}: SPEC's code must list 'owner/name' or 'owner/name (options)', got {entry!r}")
        if not isinstance(values.get("neutral", False), bool | str):
            raise UserError(f"{owner}: SPEC's neutral must be True, False or text, got {values['neutral']!r}")
        if not isinstance(values.get("moves_features", False), bool):
            raise UserError(f"{owner}: SPEC's moves_features must be True or False, got {values['moves_features']!r}")
        values["gate"] = _gate_range(values.get("gate"), owner)
        try:
            if values.get("paper") is not None:
                values["paper"] = Paper(**values["paper"])
            values["published"] = tuple(PublishedResult(**row) for row in values["published"])
        except TypeError as error:
            raise UserError(f"{owner}: SPEC: {error}") from None
        spec = cls(**values, find_function=find_function)
        for key, allowed, entries in (
            ("kind", KINDS, (spec.kind,)),
            ("evidence", EVIDENCE, (spec.evidence,)),
            ("equivariant", SYMMETRIES, () if isinstance(spec.equivariant, str) else spec.equivariant),
            ("needs", NEEDS, spec.needs),
        ):
            for value in entries:
                if value not in allowed:
                    raise UserError(f"{owner}: SPEC has {key} = {value!r}; it must be one of {', '.join(allowed)}")
        if "default" not in spec.position:
            raise UserError(f"{owner}: SPEC's position lacks the key 'default'")
        if not isinstance(spec.position["default"], str):
            raise UserError(f"{owner}: SPEC's default position must be one position, got {spec.position['default']!r}")
        for value in spec.position.values():
            for position in value if isinstance(value, list | tuple) else [value]:
                _check_position(position, owner)
        return spec

    def positions(self, family: str) -> list[str]:
        """Return the positions of a host family, a key of ``position``."""
        position = self.position[family]
        return [position] if isinstance(position, str) else list(position)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-serialisable values."""
        values = asdict(self)
        del values["find_function"]
        return values | {"gate": None if self.gate is None else str(self.gate)}

    def parameters(self, channels: int, options: Mapping[str, Any]) -> int | None:
        """Return the number of learnable parameters; ``options`` must hold every option.

        None if the module has no function ``parameters``, or the mechanism needs ``size`` and ``options`` has none.
        """
        if self.find_function("parameters") is None or ("size" in self.needs and not options.get("size")):
            return None
        return int(self._call_function("parameters", {"channels": channels, **options}))

    def is_neutral(self, options: Mapping[str, Any]) -> bool:
        """Return True if the mechanism is the identity at initialisation; ``options`` must hold every option."""
        return self.neutral if isinstance(self.neutral, bool) else bool(self._call_function("neutral", options))

    def symmetries(self, channels: int, options: Mapping[str, Any]) -> set[str]:
        """Return the members of :data:`SYMMETRIES` the mechanism commutes with; ``options`` must hold every option."""
        if not isinstance(self.equivariant, str):
            return set(self.equivariant)
        return set(self._call_function("equivariant", {"channels": channels, **options}))

    def gate_range(self, channels: int, options: Mapping[str, Any]) -> GateRange | None:
        """Return the range of the gate, None without a gate; ``options`` must hold every option."""
        if not isinstance(self.gate, str):
            return self.gate
        gate_range: GateRange | None = self._call_function("gate", {"channels": channels, **options})
        return gate_range

    def reason_not_callable(self, field_name: str, values: Mapping[str, Any]) -> str | None:
        """Return the reason why the function of a field cannot be called with ``values``, or None."""
        function = self.find_function(field_name)
        if function is None:
            return f"its module defines no function {field_name}"
        required = {p.name for p in _explicit_parameters(function) if p.default is p.empty}
        missing = sorted(required - set(values))
        return f"{field_name} needs {', '.join(missing)}" if missing else None

    def _call_function(self, field_name: str, values: Mapping[str, Any]) -> Any:
        function, reason = self.find_function(field_name), self.reason_not_callable(field_name, values)
        if function is None or reason is not None:
            raise UserError(f"{self.title}: {reason}")
        explicit = _explicit_parameters(function)
        has_kwargs = len(explicit) < len(inspect.signature(function).parameters)
        if has_kwargs:
            return function(**values)
        return function(**{p.name: values[p.name] for p in explicit if p.name in values})


def _explicit_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]


def _gate_range(gate: Any, owner: str) -> GateRange | str | None:
    match gate:
        case None | str():
            return gate
        case (int() | float() as low, int() | float() as high):
            return GateRange(low, high)
    raise UserError(f"{owner}: SPEC's gate must be (low, high) or text, got {gate!r}")
