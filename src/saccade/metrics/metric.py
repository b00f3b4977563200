"""A metric: what is stated about a score, and the score as a pure function of rows."""

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
    """One score of a task. It has ``values`` where it is the mean of per-image values, else ``score``.

    Attributes:
        name: as people write it, such as "top-1".
        unit: of the score: "%", "px", "" for a plain number.
        margin: default half-width of "equal", in the unit.
        low: the least possible score; None without bound.
        high: the largest possible score; None without bound.
        higher_is_better: which way is better.
        digits: decimals that are shown.
        values: rows -> (N,) float64, one value for each image, whose mean is the score.
        score: rows -> the score.
        by_class: rows -> (K,) float64, the score of each class; NaN where it has none. None where there are no parts.
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
    by_class: Callable[[Rows], Tensor] | None = None

    def __post_init__(self) -> None:
        if (self.values is None) == (self.score is None):
            raise ValueError(f"the metric {self.name!r} needs either values or score")

    @property
    def span(self) -> float | None:
        """Largest minus least possible score; None where it has no bound."""
        return None if self.low is None or self.high is None else self.high - self.low

    @property
    def points(self) -> str:
        """The unit of a difference: "points" for percentages."""
        return "points" if self.unit == "%" else self.unit

    def of(self, rows: Rows) -> float | None:
        """Return the score of ``rows``; None where it is not finite."""
        if self.values is not None:
            found = float(self.values(rows).double().mean())
        else:
            assert self.score is not None
            found = self.score(rows)
        return found if math.isfinite(found) else None

    def text(self, score: float | None) -> str:
        """Format a score with its unit; an en dash for None.

        >>> Metric(name="top-1", unit="%", margin=1.0, score=len).text(92.8)
        '92.80 %'
        """
        if score is None:
            return "–"
        return f"{score:.{self.digits}f}{f' {self.unit}' if self.unit else ''}"

    def check_margin(self, margin: float) -> None:
        """Raise UserError unless ``margin`` lies above 0 and within the span."""
        if not (math.isfinite(margin) and margin > 0):
            raise UserError(f"margin = {margin:g}: it must be a finite number of {self.points} of {self.name} above 0")
        if self.span is not None and margin > self.span:
            raise UserError(f"margin = {margin:g}: {self.name} spans {self.span:g} {self.points}, at most that can be")
