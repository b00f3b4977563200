"""Metric of a column of scores, inferred from its name and values: unit, bounds, direction and margin."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from saccade import tasks
from saccade.errors import UserError
from saccade.metrics.metric import Metric

__all__ = ["infer_metric", "is_bounded_score", "is_loss", "name_words"]

_BOUNDED_SCORES = re.compile(
    r"acc|accuracy|top\d*|m?ap\d*|m?iou|jaccard|dice|dsc|f\d|f\dscore|precision|recall|sensitivity|specificity|"
    r"auroc|auc|auprc|rocauc|pck\d*|delta\d|score"
)
_LOSSES = re.compile(
    r"loss|nll|err|error|mae|mse|rmse|epe|perplexity|ppl|fid|hausdorff|hd\d*|assd?|rel|silog|wer|cer|brier|ece|entropy|"
    r"kl|kld|kldiv|divergence"
)


def name_words(name: str) -> list[str]:
    """Return the lower-case words of a column name."""
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def is_loss(name: str) -> bool:
    """Return True if a word of ``name`` denotes a loss or an error, for which lower is better.

    >>> is_loss("val/box_loss"), is_loss("metrics/mAP50-95(B)")
    (True, False)
    """
    return any(_LOSSES.fullmatch(word) for word in name_words(name))


def is_bounded_score(name: str) -> bool:
    """Return True if ``name`` denotes a score bounded by 0 and 1, or by 0 and 100 %.

    >>> is_bounded_score("metrics/mAP50-95(B)"), is_bounded_score("eval_top1"), is_bounded_score("val/box_loss")
    (True, True, False)
    """
    return not is_loss(name) and any(_BOUNDED_SCORES.fullmatch(word) for word in name_words(name))


def infer_metric(
    column: str,
    values: Sequence[float],
    baseline_mean: float,
    *,
    unit: str | None = None,
    bounds: tuple[float, float] | None = None,
    lower_is_better: bool | None = None,
    margin: float | None = None,
) -> tuple[Metric, str]:
    """Return the metric of a column of scores, and a sentence for the report on the inferred properties.

    Args:
        column: name of the column, with or without the unit in brackets: ``top-1 [%]``.
        values: all scores, of runs and of images.
        baseline_mean: mean score of the baseline; its hundredth is the margin if neither that nor bounds are known.
        unit: unit of the scores; None infers it.
        bounds: smallest and largest possible score; None infers them.
        lower_is_better: direction of the scores; None infers it from the name.
        margin: largest negligible difference; None infers it.

    Raises:
        UserError: a score lies outside ``bounds``, scores in % are all between 0 and 1, or a bound or the margin is
            wrong.
    """
    unit_match = re.fullmatch(r"(.*?)\s*\[([^\]]*)\]", column)
    name, unit_in_name = (unit_match[1], unit_match[2]) if unit_match and unit_match[1] else (column, None)
    task_metric = _task_metric(name, unit_in_name if unit is None else unit)
    lowest, highest = min(values), max(values)
    if unit is None:
        looks_like_percent = is_bounded_score(name) and name.lower() != "score" and lowest >= 0 and 1 < highest <= 100
        unit = unit_in_name if unit_in_name is not None else "%" if looks_like_percent else ""
    is_lower_better = is_loss(name) if lower_is_better is None else lower_is_better
    if unit == "%" and not is_lower_better and lowest >= 0 and 0 < highest <= 1:
        raise UserError(
            f"{name}: the unit is %, but no score is above {highest:g}; write 90 for 90 %, or leave the unit out"
        )
    if task_metric is not None:
        is_lower_better = not task_metric.higher_is_better if lower_is_better is None else lower_is_better
        low, high = task_metric.low, task_metric.high
    elif unit == "%":
        low, high = 0.0, 100.0
    else:
        low, high = (0.0, 1.0) if is_bounded_score(name) and lowest >= 0 and highest <= 1 else (None, None)
    if bounds is not None:
        low, high = bounds
        if not low < high:
            raise UserError(f"--range {low:g} {high:g}: the first number must be below the second")
    if (low is not None and lowest < low) or (high is not None and highest > high):
        outside = lowest if low is not None and lowest < low else highest
        raise UserError(f"{name}: {outside:g} lies outside {low:g} to {high:g}; give the bounds with --range LOW HIGH")
    direction_note = ", by its name" if lower_is_better is None else ""
    direction = f"{'lower' if is_lower_better else 'higher'} is better{direction_note}"
    default_note = ", the default" if margin is None else ""
    if margin is None and task_metric is not None:
        margin = task_metric.margin
    elif margin is None and low is not None and high is not None:
        margin = (high - low) / 100
    elif margin is None:
        margin = float(f"{abs(baseline_mean) / 100:.1g}")
        if not margin > 0:
            raise UserError(
                f"{name}: the baseline's mean is {baseline_mean:g}, which gives no margin; set it with --margin"
            )
    if not (math.isfinite(margin) and margin > 0):
        raise UserError(f"margin = {margin:g}: it must be a finite number above 0")
    digits = 2 if unit == "%" else min(max(2 - math.floor(math.log10(margin)), 0), 9)
    digits = digits if task_metric is None else task_metric.digits
    metric = Metric(
        name=name, unit=unit, margin=margin, low=low, high=high, higher_is_better=not is_lower_better, digits=digits,
        values=lambda rows: rows["score"],
    )  # fmt: skip
    return metric, f"Judged by {column}: {direction}; equal is within ±{margin:g}{default_note}."


def _task_metric(name: str, unit: str | None) -> Metric | None:
    """Return the built-in metric with this name and unit, or None."""
    for task in tasks.names():
        for metric in tasks.get(task).metrics:
            if metric.name.lower() == name.lower() and metric.unit == unit:
                return metric
    return None
