"""Plug a mechanism, or replace convolutions by it, depending on its kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from saccade import catalog
from saccade.surgery.plug import plug
from saccade.surgery.plugs import plugs
from saccade.surgery.replace import replace, replacements

__all__ = ["insert", "positions_of"]


def insert(
    host: nn.Module,
    mechanism: str,
    where: str | Sequence[str] = "paper",
    start: Literal["neutral", "paper"] = "neutral",
    input: Any = None,
    **options: Any,
) -> nn.Module:
    """Call :func:`replace` with a mechanism of kind ``conv``, or :func:`plug` with any other; return ``host``.

    Raises:
        UserError: as ``replace`` or ``plug``.
    """
    insert_mechanism = replace if catalog.spec(mechanism).kind == "conv" else plug
    return insert_mechanism(host, mechanism, where=where, start=start, input=input, **options)


def positions_of(host: nn.Module) -> list[str]:
    """Return the position of each plug of ``host``, then of each replaced convolution."""
    return [row.position for row in plugs(host)] + [row.position for row in replacements(host)]
