"""What a column of scores measures: unit, bounds, direction and margin, from its name and its values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from saccade import tasks
from saccade.errors import UserError
from saccade.metrics.metric import Metric

__all__ = ["is_loss", "is_share", "measured", "words"]

_SHARES = re.compile(
    r"acc|accuracy|top\d*|m?ap\d*|m?iou|jaccard|dice|dsc|f\d|f\dscore|precision|recall|sensitivity|specificity|"
    r"auroc|auc|auprc|rocauc|pck\d*|delta\d|score"
)
_LOSSES = re.compile(
    r"loss|nll|err|error|mae|mse|rmse|epe|perplexity|ppl|fid|hausdorff|hd\d*|assd?|rel|silog|wer|cer|brier|ece|entropy"
)


def words(name: str) -> list[str]:
    """The lower-case words of a column's name."""
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def is_loss(name: str) -> bool:
    """Whether lower is better, by the words of ``name``.

    >>> is_loss("val/box_loss"), is_loss("metrics/mAP50-95(B)")
    (True, False)
    """
    return any(_LOSSES.fullmatch(word) for word in words(name))


def is_share(name: str) -> bool:
    """Whether ``name`` is of a score between 0 and 1, or 0 and 100 %.

    >>> is_share("metrics/mAP50-95(B)"), is_share("eval_top1"), is_share("val/box_loss")
    (True, True, False)
    """
    return not is_loss(name) and any(_SHARES.fullmatch(word) for word in words(name))


def measured(
    column: str,
    values: Sequence[float],
    typical: float,
    *,
    unit: str | None = None,
    bounds: tuple[float, float] | None = None,
    lower_is_better: bool | None = None,
    margin: float | None = None,
) -> tuple[Metric, str]:
    """The metric of a column, and a sentence on what was concluded from its name and values.

    Args:
        column: its name, with the unit in brackets or without, as ``top-1 [%]``.
        values: all scores, of runs and of images.
        typical: the mean score of the baseline; a hundredth of it is the margin where nothing else gives one.
        unit: of the scores; None reads it from the name, or from values of a share that reach above 1.
        bounds: the least and the largest possible score.
        lower_is_better: None goes by the name.
        margin: half-width of "equal".

    Raises:
        UserError: a score lies outside ``bounds``, scores in % are all between 0 and 1, a bound or margin is out of
            range, or no margin can be concluded.
    """
    bracket = re.fullmatch(r"(.*?)\s*\[([^\]]*)\]", column)
    name, written = (bracket[1], bracket[2]) if bracket and bracket[1] else (column, None)
    known = _of_a_task(name, written if unit is None else unit)
    least, most = min(values), max(values)
    if unit is None:
        percent = written is None and is_share(name) and name.lower() != "score" and least >= 0 and 1 < most <= 100
        unit = written if written is not None else "%" if percent else ""
    lower = is_loss(name) if lower_is_better is None else lower_is_better
    if unit == "%" and not lower and least >= 0 and 0 < most <= 1:
        raise UserError(
            f"{name}: the unit is %, but no score is above {most:g}; write 90 for 90 %, or leave the unit out"
        )
    if known is not None:
        lower = not known.higher_is_better if lower_is_better is None else lower_is_better
        low, high = known.low, known.high
    elif unit == "%":
        low, high = 0.0, 100.0
    else:
        low, high = (0.0, 1.0) if is_share(name) and least >= 0 and most <= 1 else (None, None)
    if bounds is not None:
        low, high = bounds
        if not low < high:
            raise UserError(f"--range {low:g} {high:g}: the lower bound comes first, and lies below the other")
    if (low is not None and least < low) or (high is not None and most > high):
        wrong = least if low is not None and least < low else most
        raise UserError(f"{name}: {wrong:g} lies outside {low:g} to {high:g}; give the bounds with --range LOW HIGH")
    way = f"{'lower' if lower else 'higher'} is better{', by its name' if lower_is_better is None else ''}"
    default = ", the default" if margin is None else ""
    if margin is None and known is not None:
        margin = known.margin
    elif margin is None and low is not None and high is not None:
        margin = (high - low) / 100
    elif margin is None:
        margin = float(f"{abs(typical) / 100:.1g}")
        if not margin > 0:
            raise UserError(f"{name}: the baseline's mean is {typical:g}; say with --margin what counts as equal")
    if not (math.isfinite(margin) and margin > 0):
        raise UserError(f"margin = {margin:g}: it must be a finite number above 0")
    digits = 2 if unit == "%" else min(max(2 - math.floor(math.log10(margin)), 0), 9)
    digits = digits if known is None else known.digits
    metric = Metric(
        name=name, unit=unit, margin=margin, low=low, high=high, higher_is_better=not lower, digits=digits,
        values=lambda rows: rows["score"],
    )  # fmt: skip
    return metric, f"Judged by {column}: {way}; equal is within ±{margin:g}{default}."


def _of_a_task(name: str, unit: str | None) -> Metric | None:
    """The metric of one of our tasks with this name and unit; None without one."""
    for task in tasks.names():
        for metric in tasks.get(task).metrics:
            if metric.name.lower() == name.lower() and metric.unit == unit:
                return metric
    return None
