"""What a study may say: each arm against the baseline, with its interval and its verdict.

``analyse`` takes the scores of all arms at all seeds, by any metric, and returns an ``Analysis``. The model and its
tests are in ``blocks``, the error of the test images and the power in ``precision``, the findings and their sentences
in ``findings``, the notes in ``notes``.

Conventions:

* Differences are oriented so that + is better: baseline less arm where lower scores are better. They are in the
  metric's unit, "points" for "%". Means and scores keep the metric's own direction.
* The interval of a difference is at 1 - alpha and not corrected; p is corrected by Holm over the mechanisms. Controls
  are no part of that family: each stands alone, with p_holm = p.
* The squared standard error is what the runs leave (``blocks.fit``) and what the test images leave at any number of
  seeds (``precision.lasting_error``, at least ``image_floor``), read against t with Satterthwaite's degrees of freedom.
* *helps*, *hurts*: Holm's p < alpha. *equal*: not so, and the interval lies inside ±margin. *not decided*: all else.
  No verdict (None) where the baseline is within noise of the trivial answer.
* A run without a score (NaN, None, infinite) is left out. An arm without any score keeps its row, which says so. One
  seed measures no spread: no interval, no p, every verdict "not decided".
* Where the residuals are exactly zero and no ``values`` are given, arms with the same scores are "equal" by
  convention, and any other difference is "not decided": its error is unknown, not zero.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saccade.errors import UserError, did_you_mean
from saccade.metrics.metric import Metric
from saccade.study import notes
from saccade.study.blocks import Design, Fit, Verdict, fit, judge
from saccade.study.diagnostics import largest_residual, seed_sd, widest_arm
from saccade.study.findings import Analysis, Arm, Difference, Interval, measure
from saccade.study.precision import (
    ImageError,
    image_df,
    image_floor,
    images_needed,
    known_units,
    lasting_of,
    seeds_needed,
    spread,
    standard_error,
    stated_detectable,
)

__all__ = ["METHOD", "METHOD_FOR_SCORES", "Analysis", "Arm", "Difference", "Interval", "analyse", "intervals"]

_MODEL = """\
One additive model, score = arm + seed, is fitted by least squares; the \
residuals, pooled over all arms and moderated by each difference's own runs, give the error of the seeds. To its \
square is added what the test images leave, from what each image or group contributes to the score. Differences, + \
for better, have uncorrected 95 % t intervals with Satterthwaite's degrees of freedom. "Helps" and "hurts" need p < \
0.05 after Holm's correction over the mechanisms; controls stand outside. "Equal": the interval lies inside the \
margin. A difference of the detectable size is found with probability 0.8. Known limits, simulated: about 6 % false \
verdicts with one mechanism at three seeds; too narrow intervals for an arm that scatters twice as much as the \
others, and for AUROC with 14 positives in nine groups."""
METHOD = f"""\
All arms share the seeds; a seed fixes a host's first weights, data order and augmentation. The last epoch, or one \
chosen on validation images, is scored. {_MODEL} Failed runs are left out. This speaks of this host, recipe and such \
images."""
"""How it was computed, for the reader of a report."""
METHOD_FOR_SCORES = f"""\
The scores are taken as given: how the runs were trained, and whether runs of one seed share anything, is not known. \
{_MODEL} Runs that are not among the scores are left out."""
"""The same for scores that another trainer made."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Scores = Mapping[str, Sequence[float | None] | Floats]


def intervals(
    scores: Scores,
    *,
    metric: Metric,
    values: Mapping[str, Floats] | None = None,
    baseline: str = "none",
    sizes: Sequence[int] | None = None,
    alpha: float = 0.05,
) -> tuple[Interval, ...]:
    """Differences of every arm to the baseline by a metric that is not judged; arguments and errors as ``analyse``."""
    found = analyse(scores, metric=metric, values=values, baseline=baseline, sizes=sizes, alpha=alpha)
    names = [field.name for field in fields(Interval)]
    return tuple(Interval(**{name: getattr(row, name) for name in names}) for row in found.differences)


def analyse(
    scores: Scores,
    *,
    metric: Metric,
    values: Mapping[str, Floats] | None = None,
    baseline: str = "none",
    controls: Collection[str] = frozenset(),
    reference: tuple[str, float] | None = None,
    margin: float | None = None,
    alpha: float = 0.05,
    seeds: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
) -> Analysis:
    """Compare every arm with the baseline as one block design.

    Args:
        scores: arm -> one score per seed, in the metric's unit, the same seeds in the same order for all; NaN, None or
            infinite where a run has none.
        metric: what the scores are.
        values: arm -> (seeds, units) pseudo-values of the score (``pseudovalues``), the same units for all; rows of
            absent runs are not read. Without it, or where an arm is not in it, the error is that of the seeds alone.
            Runs that are all NaN are left out, and units that are NaN in one of the two arms; a note says so.
        baseline: the arm the others are compared with.
        controls: arms outside the Holm family. To compare a mechanism with its control, make the control the baseline
            and name all other arms here.
        reference: name and score of the trivial answer on this data. No arm is judged where the baseline is better
            than it by at most 2 √(s²/S + v): s² the variance of the baseline's S scores, v the ``lasting_error`` of its
            own pseudo-values.
        margin: half-width of "equal"; None is the metric's own.
        alpha: error of the family; intervals are at 1 - alpha.
        seeds: the seeds themselves, for messages; by default 0, 1, …
        sizes: (units,), the images in each unit (``pseudovalues.unit_sizes``); None where each unit is one image.

    Raises:
        UserError: an unknown arm, a margin or alpha out of range, arms that disagree on the number of seeds or units.
    """
    margin = metric.margin if margin is None else margin
    unit = metric.difference_unit
    names, scored = _table(scores, baseline, margin, alpha, unit)
    table = scored if metric.higher_is_better else -scored
    labels = tuple(range(table.shape[1])) if seeds is None else tuple(int(seed) for seed in seeds)
    if len(labels) != table.shape[1]:
        raise UserError(f"{len(labels)} seeds are named, but every arm has {table.shape[1]} scores")
    for name in sorted({*controls, *(values or {})} - set(names)):
        raise UserError(f"'{name}' is no arm of this study.{did_you_mean(name, names)}")
    parts, images_in = _pseudo_values(values or {}, table.shape[1], sizes)
    images = int(images_in.sum()) if parts else None
    present = np.isfinite(table)
    used = np.flatnonzero(present.any(axis=0))
    rows = [
        _unjudged(name, baseline, row - table[0], name in controls, margin, alpha, metric)
        for name, row in zip(names, table, strict=True)
    ]
    analysis = Analysis(
        baseline=baseline,
        margin=margin,
        alpha=alpha,
        unit=unit,
        digits=max(metric.digits - 1, 0),
        arms=tuple(_arm(name, row) for name, row in zip(names, scored, strict=True)),
        differences=tuple(rows[1:]),
        sigma=None,
        df=0,
        seed_sd=None,
        largest_residual=None,
        largest_residual_at=None,
        seeds=labels,
        images=images,
        first_look=len(used) <= notes.FIRST_LOOK,
        notes=tuple(notes.on_runs(names, present, labels)),
    )
    if not present[0].any():
        why = f"No run of {baseline} has a score."
        return replace(analysis, differences=tuple(replace(row, reason=why) for row in rows[1:]))

    arms = np.flatnonzero(present.any(axis=1))  # the baseline is the first
    there = table[np.ix_(arms, used)]
    design = Design.of(present[np.ix_(arms, used)])
    fitted = fit(there, design)
    pairs = [_pairs(parts, names[a], baseline, present[a] & present[0]) for a in arms[1:]]
    own = parts.get(baseline, np.empty((len(labels), 0)))[present[0]]
    lasting = np.array([lasting_of(d) for d in pairs])
    error = ImageError(lasting, image_df(images_in), _floor(own, images, metric)) if images else None
    for a, row in zip(arms[1:], _judged([rows[a] for a in arms[1:]], design, fitted, error), strict=True):
        rows[a] = row
    size, place, stands_out = largest_residual(fitted, design)
    analysis = replace(
        analysis,
        differences=tuple(rows[1:]),
        sigma=_number(fitted.sigma),
        df=design.df,
        seed_sd=seed_sd(there, design, _number(fitted.sigma)),
        largest_residual=size,
        largest_residual_at=None if place is None else (names[arms[place[0]]], labels[used[place[1]]]),
    )
    said = notes.on_fit(analysis, stands_out)
    if unknown := max((d.shape[1] - known_units(d).shape[1] for d in pairs), default=0):
        said.append(notes.on_units(unknown, len(images_in)))
    if (widest := widest_arm(there, design)) is not None:
        said.append(notes.on_width(analysis, names[arms[widest[0]]], widest[1]))
    analysis = replace(analysis, notes=(*analysis.notes, *said))
    return analysis if reference is None else _beside_reference(analysis, table[0], own, reference, metric)


def _table(scores: Scores, baseline: str, margin: float, alpha: float, unit: str) -> tuple[list[str], Floats]:
    """Names and scores (A, S), the baseline first; NaN where a run has no score."""
    if baseline not in scores:
        raise UserError(f"'{baseline}' is no arm of this study: {', '.join(scores)}.{did_you_mean(baseline, scores)}")
    if not (math.isfinite(margin) and margin > 0):
        raise UserError(f"margin must be a positive number{f' of {unit}' if unit else ''}, got {margin}")
    if not 0 < alpha < 0.5:
        raise UserError(f"alpha must lie between 0 and 0.5, got {alpha}")
    names = [baseline, *(name for name in scores if name != baseline)]
    rows = [np.array([math.nan if s is None else s for s in scores[name]], dtype=np.float64) for name in names]
    for name, row in zip(names, rows, strict=True):
        if len(row) != len(rows[0]):
            raise UserError(
                f"{name} has {len(row)} scores and {baseline} has {len(rows[0])}: every arm needs one per seed"
            )
    table = np.stack(rows)
    return names, np.where(np.isfinite(table), table, np.nan)


def _pseudo_values(
    values: Mapping[str, Floats], seeds: int, sizes: Sequence[int] | None
) -> tuple[dict[str, Floats], NDArray[np.int64]]:
    """The pseudo-values (S, units) as given and the images in each unit (units,), once their sizes agree."""
    parts = {name: np.asarray(rows, dtype=np.float64) for name, rows in values.items()}
    units = {rows.shape[-1] for rows in parts.values()} | (set() if sizes is None else {len(sizes)})
    for name, rows in parts.items():
        if rows.ndim != 2 or len(rows) != seeds or len(units) > 1:
            raise UserError(f"values['{name}'] is {rows.shape}; every arm needs ({seeds} seeds, the same test images)")
    return parts, np.ones(max(units, default=0), dtype=np.int64) if sizes is None else np.asarray(sizes)


def _pairs(parts: Mapping[str, Floats], name: str, baseline: str, shared: Bools) -> Floats:
    """Pseudo-values of an arm less the baseline's, (seeds that both have, units); (seeds, 0) where one has none."""
    if name not in parts or baseline not in parts:
        return np.empty((int(shared.sum()), 0))
    return parts[name][shared] - parts[baseline][shared]


def _floor(own: Floats, images: int, metric: Metric) -> float:
    """``image_floor`` for this metric; ``own`` (S, units) are the baseline's pseudo-values."""
    width = metric.span
    return image_floor(images, spread(own, images) if width is None else width)


def _beside_reference(
    analysis: Analysis, scores: Floats, own: Floats, reference: tuple[str, float], metric: Metric
) -> Analysis:
    """Withhold the verdicts where the baseline's oriented ``scores`` are within noise of the trivial answer."""
    name, trivial = reference
    there = scores[np.isfinite(scores)]
    sign = 1 if metric.higher_is_better else -1
    from_seeds = there.var(ddof=1) / len(there) if len(there) > 1 else 0.0
    noise = 2 * math.sqrt(from_seeds + np.nan_to_num(lasting_of(own)))
    if there.mean() - sign * trivial > noise:
        return analysis
    rows = tuple(replace(row, verdict=None, seeds_needed=None, images_needed=False) for row in analysis.differences)
    mean, answer, error = (
        measure(f"{value:.{metric.digits}f}", metric.unit) for value in (sign * there.mean(), trivial, noise)
    )
    return replace(
        analysis, differences=rows, not_learnt=notes.on_reference(analysis.baseline, mean, name, answer, error)
    )


def _unjudged(
    name: str, baseline: str, raw: Floats, is_control: bool, margin: float, alpha: float, metric: Metric
) -> Difference:
    """The row of an arm before anything is known but its raw differences."""
    pairs = raw[np.isfinite(raw)]
    return Difference(
        name=name,
        baseline=baseline,
        difference=None,
        low=None,
        high=None,
        se=None,
        se_images=None,
        se_from=None,
        df=None,
        p=None,
        p_holm=None,
        verdict="not decided",
        detectable=None,
        seeds_needed=None,
        images_needed=False,
        raw=tuple(pairs.tolist()),
        seeds=len(pairs),
        is_control=is_control,
        comparisons=1,
        margin=margin,
        alpha=alpha,
        unit=metric.difference_unit,
        digits=max(metric.digits - 1, 0),
        higher_is_better=metric.higher_is_better,
        reason=f"No run of {name} has a score.",
    )


def _judged(rows: Sequence[Difference], design: Design, fitted: Fit, images: ImageError | None) -> list[Difference]:
    """The rows of the arms that have scores, with their tests."""
    if not rows:
        return []
    margin, alpha = rows[0].margin, rows[0].alpha
    estimates, from_seeds = fitted.differences[1:], fitted.se[1:]
    se, df, lasting_se = standard_error(from_seeds, design.difference_df[1:], images)
    family = np.array([not row.is_control for row in rows])
    tests = judge(estimates, se, df, family=family, margin=margin, alpha=alpha)
    mechanisms = int((family & ~np.isnan(tests.p)).sum())
    arms, seeds = design.present.shape
    verdicts: list[Verdict] = tests.verdict.tolist()
    judged = []
    for i, row in enumerate(rows):
        if math.isnan(tests.p[i]):
            estimate = _number(estimates[i])
            judged.append(replace(row, difference=estimate, reason=_why_untested(row, estimate, design)))
            continue
        comparisons = 1 if row.is_control else mechanisms
        needed, too_few_images = None, False
        if verdicts[i] == "not decided":
            known: dict[str, Any] = {
                "images": _of_row(images, i),
                "mechanisms": comparisons,
                "margin": margin,
                "alpha": alpha,
            }
            needed = seeds_needed(
                float(estimates[i]), sigma=float(fitted.spread[1 + i]), seeds=seeds, arms=arms, **known
            )
            too_few_images = needed is None and images_needed(float(estimates[i]), **known)
        judged.append(
            replace(
                row,
                difference=float(estimates[i]),
                low=float(tests.low[i]),
                high=float(tests.high[i]),
                se=float(se[i]),
                se_images=float(lasting_se[i]),
                se_from="images" if lasting_se[i] > from_seeds[i] else "seeds",
                df=float(df[i]),
                p=float(tests.p[i]),
                p_holm=float(tests.p_holm[i]),
                verdict=verdicts[i],
                detectable=float(se[i] * stated_detectable(df[i], comparisons, alpha)),
                seeds_needed=needed,
                images_needed=too_few_images,
                comparisons=comparisons,
                reason=None,
            )
        )
    return judged


def _of_row(images: ImageError | None, row: int) -> ImageError | None:
    """The images' error of one difference; None where it is unknown."""
    squared = math.nan if images is None else np.asarray(images.squared)[row]
    return None if images is None or math.isnan(squared) else replace(images, squared=squared)


def _why_untested(row: Difference, estimate: float | None, design: Design) -> str:
    if estimate is None:
        return f"It shares no seed with {row.baseline}, not even through other arms."
    if design.present.shape[1] < 2:
        return "One seed measures no spread between runs: take two or more."
    if design.df == 0:
        return "The runs that have a score leave no degrees of freedom to measure the spread with."
    return "No score varies between seeds, so the error of this difference is unknown."


def _arm(name: str, row: Floats) -> Arm:
    there = row[np.isfinite(row)]
    return Arm(
        name=name,
        mean=float(there.mean()) if len(there) else None,
        sd=float(there.std(ddof=1)) if len(there) > 1 else None,
        scores=tuple(_number(score) for score in row),
    )


def _number(value: float | Floats) -> float | None:
    return None if np.isnan(value) else float(value)
