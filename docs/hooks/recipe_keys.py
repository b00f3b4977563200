"""Tables of the recipe's keys, made from the pydantic models of ``saccade.recipe``."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mechanism_files import arguments

MARKER = "<!-- recipe keys -->"
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
_LARGEST = 100_000
"""Larger limits only catch absurd values and are not shown."""
_TYPES = {int: "integer", float: "number", str: "text", bool: "true or false"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables where the page has the marker."""
    return markdown.replace(MARKER, tables()) if MARKER in markdown else markdown


def tables() -> str:
    """Return one heading and one table per section of the recipe, and one for a phase."""
    from saccade.recipe import Phase, Recipe

    lines = []
    for section, field in Recipe.model_fields.items():
        model = field.annotation
        meanings = field_docstrings(model)
        lines += [f"## [{section}]", "", (inspect.getdoc(model) or "").partition("\n")[0], "", *_header()]
        for name, key in model.model_fields.items():
            default = key.get_default(call_default_factory=True)
            lines.append(_row(f"{section}.{name}", key.annotation, key.metadata, default, meanings.get(name, "")))
        lines.append("")
    lines += ["## [[training.phases]]", "", "One table per phase.", "", *_header()]
    meanings = dict(arguments(inspect.getdoc(Phase) or "", "Attributes"))
    assert is_dataclass(Phase)
    for part in fields(Phase):
        annotation = inspect.get_annotations(Phase, eval_str=True)[part.name]
        default = None if part.default is MISSING else part.default
        lines.append(_row(part.name, annotation, (), default, meanings.get(part.name, ""), part.default is MISSING))
    return "\n".join(lines)


def field_docstrings(model: type) -> dict[str, str]:
    """Return the string below each attribute of ``model`` in its source, by the attribute's name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0].body  # type: ignore[attr-defined]
    return {
        node.target.id: " ".join(inspect.cleandoc(text.value.value).split())
        for node, text in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _header() -> list[str]:
    return ["| key | value | default | meaning |", "|---|---|---|---|"]


def _row(key: str, annotation: Any, metadata: Any, default: Any, meaning: str, is_required: bool = False) -> str:
    value = described(annotation)
    for constraint in metadata:
        value = _bounded(value, constraint)
    shown = "required" if is_required else _literal(default)
    meaning = meaning.replace("``", "`").replace("|", "\\|")
    return f"| `{key}` | {value} | {shown} | {meaning} |"


def _bounded(value: str, constraint: Any) -> str:
    """Add the limits that a constraint of pydantic sets."""
    limits = [
        f"{sign} {bound:g}"
        for name, sign in _BOUNDS.items()
        if (bound := getattr(constraint, name, None)) is not None and bound <= _LARGEST
    ]
    return ", ".join([value, *limits])


def _literal(default: Any) -> str:
    """Return a default as TOML writes it."""
    if default is None:
        return "–"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`{list(default)}`"
    return f'`"{default}"`' if isinstance(default, str) else f"`{default}`"


def described(annotation: Any) -> str:
    """Return an annotation in words: the types and words that the key takes; None is left out."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        value = described(inner[0])
        for constraint in inner[1:]:
            for part in getattr(constraint, "metadata", [constraint]):
                value = _bounded(value, part)
        return value
    if origin is Literal:
        return " ".join(f"`{word}`" for word in inner)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(described(part) for part in inner if part is not NoneType))
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return f"list: {described(inner[0])}"
        return f"list of {len(inner)}: {described(inner[0])}"
    if origin is dict or annotation is dict:
        return "table"
    if annotation is Any:
        return "any"
    return _TYPES.get(annotation) or re.sub(r"(?<!^)(?=[A-Z])", " ", annotation.__name__).lower()
