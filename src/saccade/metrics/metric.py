"""Metrics: scores computed from the rows of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saccade.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from saccade.metrics.rows import Rows

__all__ = ["Metric"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of a task: how a score is computed and shown.

    Exactly one of ``values`` and ``score`` is set; with ``values``, the score is their mean.

    Attributes:
        name: such as "top-1".
        unit: such as "%"; "" for a plain number.
        margin: default margin of equivalence in the unit.
        low: smallest possible score; None if unbounded.
        high: largest possible score; None if unbounded.
        higher_is_better: direction of the score.
        digits: number of decimals shown.
        values: function from rows to per-image values (N,), float64.
        score: function from rows to the score.
        score_without: function from rows and the unit of each image (N,), 0 to units − 1, to the scores (units,)
            without each unit, float64; None to call ``score`` for each, which is slower.
        by_class: function from rows to class scores (K,), float64, NaN without images.
    """

    name: str
    unit: str
    margin: float
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True
    digits: int = 2
    values: Callable[[Rows], Tensor] | None = None
    score: Callable[[Rows], float] | None = None
    score_without: Callable[[Rows, Tensor], Tensor] | None = None
    by_class: Callable[[Rows], Tensor] | None = None

    def __post_init__(self) -> None:
        if (self.values is None) == (self.score is None):
            raise ValueError(f"the metric {self.name!r} needs either values or score")

    @property
    def span(self) -> float | None:
        """Largest minus smallest possible score; None if unbounded."""
        return None if self.low is None or self.high is None else self.high - self.low

    @property
    def difference_unit(self) -> str:
        """Unit of a difference between scores: "points" for percentages, else ``unit``."""
        return "points" if self.unit == "%" else self.unit

    def compute(self, rows: Rows) -> float | None:
        """Return the score of ``rows``, or None if the score is not finite."""
        if self.values is not None:
            score = float(self.values(rows).double().mean())
        else:
            assert self.score is not None
            score = self.score(rows)
        return score if math.isfinite(score) else None

    def format(self, score: float | None) -> str:
        """Return ``score`` with its digits and unit, as text; an en dash for None.

        >>> Metric(name="top-1", unit="%", margin=1.0, score=len).format(92.8)
        '92.80 %'
        """
        if score is None:
            return "–"
        return f"{score:.{self.digits}f}{f' {self.unit}' if self.unit else ''}"

    def check_margin(self, margin: float) -> None:
        """Raise UserError unless ``margin`` is above 0 and at most ``span``."""
        if not (math.isfinite(margin) and margin > 0):
            raise UserError(
                f"margin = {margin:g}: it must be a finite number of {self.difference_unit} of {self.name} above 0"
            )
        if self.span is not None and margin > self.span:
            raise UserError(
                f"margin = {margin:g}: it must be at most {self.span:g} {self.difference_unit}, the range of "
                f"{self.name}"
            )
