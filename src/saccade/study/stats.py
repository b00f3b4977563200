"""Statistical analysis of a study: each arm against the baseline, with a confidence interval and a verdict.

* A positive difference is better.
* Confidence intervals have level 1 - alpha, uncorrected; p is corrected by Holm over the mechanisms, not the controls.
* The squared standard error is the sum of the variance components of seeds and of test images (``precision``).
* The verdict is "helps" or "hurts" if Holm's p < alpha, else "equal" if the confidence interval lies inside ±margin,
  else "not decided". It is None if the baseline is within noise of the trivial predictor.
* A run without a finite score is left out. With one seed, every verdict is "not decided".
* If all residuals are zero and ``values`` is None, arms with equal scores are "equal"; other differences are untested.
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
from saccade.study.blocks import Design, Fit, Verdict, compute_verdicts, fit
from saccade.study.diagnostics import largest_residual, most_variable_arm, seed_sd
from saccade.study.findings import Analysis, ArmScores, ConfidenceInterval, Difference, with_unit
from saccade.study.precision import (
    ImageError,
    complete_units,
    detectable_multiplier,
    image_df,
    image_floor,
    image_sd,
    more_images_needed,
    seeds_needed,
    squared_image_error_of,
    standard_error,
)

__all__ = [
    "METHOD",
    "METHOD_FOR_SCORES",
    "Analysis",
    "ArmScores",
    "ConfidenceInterval",
    "Difference",
    "analyse",
    "intervals",
]

_MODEL = """\
One additive model, score = arm + seed, is fitted by least squares; the residuals, pooled over all arms and moderated \
by each paired difference, give the error from the seeds. To its square is added the squared error from the test \
images, estimated from the contribution of each image or group. Differences, + for better, have \
uncorrected 95 % t intervals with Satterthwaite's degrees of freedom. "Helps" and "hurts" need p < 0.05 after Holm's \
correction over the mechanisms; controls are not corrected. "Equal": the interval lies inside the margin. A \
difference of the detectable size is found with probability 0.8. Known limits, simulated: about 6 % false \
verdicts with one mechanism and three seeds; intervals are too narrow if an arm varies twice as much as others, \
and for AUROC with few positives (14 in nine groups)."""
METHOD = f"""\
All arms share the seeds; a seed fixes a host's initial weights, data order and augmentation. The last epoch, or one \
chosen on validation images, is scored. {_MODEL} Failed runs are left out. Conclusions hold for this host, recipe \
and similar images."""
"""Description of the method, for the report of a study."""
METHOD_FOR_SCORES = f"""\
The scores are taken as given: how the runs were trained, and whether runs of one seed share anything, is not known. \
{_MODEL} Runs that are not among the scores are left out."""
"""Description of the method, for the report of judged scores."""

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
) -> tuple[ConfidenceInterval, ...]:
    """Return differences without verdicts, for another metric; arguments and errors as in ``analyse``."""
    analysis = analyse(scores, metric=metric, values=values, baseline=baseline, sizes=sizes, alpha=alpha)
    names = [field.name for field in fields(ConfidenceInterval)]
    return tuple(ConfidenceInterval(**{name: getattr(row, name) for name in names}) for row in analysis.differences)


def analyse(
    scores: Scores,
    *,
    metric: Metric,
    values: Mapping[str, Floats] | None = None,
    baseline: str = "none",
    controls: Collection[str] = frozenset(),
    trivial: tuple[str, float] | None = None,
    margin: float | None = None,
    alpha: float = 0.05,
    seeds: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
) -> Analysis:
    """Compare every arm with the baseline in one block design.

    Args:
        scores: arm -> one score per seed, in the metric's unit, the same seeds for all; NaN, None or infinity marks
            a run without a score.
        metric: metric of the scores.
        values: arm -> pseudo-values (seeds, units), the same units for all; None ignores the error of test images.
            Runs all NaN and units NaN in either arm are left out.
        baseline: arm that the others are compared with.
        controls: arms outside the Holm family.
        trivial: name and score of the trivial predictor. Verdicts need a baseline that is better by 2 √(s²/S + v), with
            s² the variance of its S scores and v the ``squared_image_error`` of its pseudo-values.
        margin: largest negligible difference; None uses the metric's default.
        alpha: family-wise error rate.
        seeds: seed numbers for messages; None uses 0, 1, …
        sizes: (units,), images per unit; None means one.

    Raises:
        UserError: an arm is unknown, margin or alpha is out of range, or arms differ in seeds or units.
    """
    margin = metric.margin if margin is None else margin
    unit = metric.difference_unit
    names, raw_scores = _score_table(scores, baseline, margin, alpha, unit)
    oriented_scores = raw_scores if metric.higher_is_better else -raw_scores
    seed_numbers = tuple(range(oriented_scores.shape[1])) if seeds is None else tuple(int(seed) for seed in seeds)
    if len(seed_numbers) != oriented_scores.shape[1]:
        raise UserError(f"{len(seed_numbers)} seeds are named, but every arm has {oriented_scores.shape[1]} scores")
    for name in sorted({*controls, *(values or {})} - set(names)):
        raise UserError(f"'{name}' is not an arm of this study.{did_you_mean(name, names)}")
    pseudo_values, unit_sizes = _pseudo_values(values or {}, oriented_scores.shape[1], sizes)
    images = int(unit_sizes.sum()) if pseudo_values else None
    present = np.isfinite(oriented_scores)
    used_seeds = np.flatnonzero(present.any(axis=0))
    differences = [
        _empty_difference(name, baseline, row - oriented_scores[0], name in controls, margin, alpha, metric)
        for name, row in zip(names, oriented_scores, strict=True)
    ]
    analysis = Analysis(
        baseline=baseline,
        margin=margin,
        alpha=alpha,
        unit=unit,
        digits=max(metric.digits - 1, 0),
        arms=tuple(_arm_scores(name, row) for name, row in zip(names, raw_scores, strict=True)),
        differences=tuple(differences[1:]),
        sigma=None,
        df=0,
        seed_sd=None,
        largest_residual=None,
        largest_residual_at=None,
        seeds=seed_numbers,
        images=images,
        first_look=len(used_seeds) <= notes.FEW_SEEDS,
        notes=tuple(notes.seed_notes(names, present, seed_numbers)),
    )
    if not present[0].any():
        reason = f"No run of {baseline} has a score."
        return replace(analysis, differences=tuple(replace(row, reason=reason) for row in differences[1:]))

    arms = np.flatnonzero(present.any(axis=1))
    present_scores = oriented_scores[np.ix_(arms, used_seeds)]
    design = Design.from_present(present[np.ix_(arms, used_seeds)])
    fitted = fit(present_scores, design)
    unit_differences = [_unit_differences(pseudo_values, names[a], baseline, present[a] & present[0]) for a in arms[1:]]
    baseline_values = pseudo_values.get(baseline, np.empty((len(seed_numbers), 0)))[present[0]]
    squared_errors = np.array([squared_image_error_of(d) for d in unit_differences])
    image_error = None
    if images:
        image_error = ImageError(squared_errors, image_df(unit_sizes), _image_floor_of(baseline_values, images, metric))
    tested = _add_tests([differences[a] for a in arms[1:]], design, fitted, image_error)
    for a, row in zip(arms[1:], tested, strict=True):
        differences[a] = row
    largest, index, is_outlier = largest_residual(fitted, design)
    analysis = replace(
        analysis,
        differences=tuple(differences[1:]),
        sigma=_none_if_nan(fitted.sigma),
        df=design.df,
        seed_sd=seed_sd(present_scores, design, _none_if_nan(fitted.sigma)),
        largest_residual=largest,
        largest_residual_at=None if index is None else (names[arms[index[0]]], seed_numbers[used_seeds[index[1]]]),
    )
    new_notes = notes.fit_notes(analysis, is_outlier)
    if n_undefined := max((d.shape[1] - complete_units(d).shape[1] for d in unit_differences), default=0):
        new_notes.append(notes.undefined_units_note(n_undefined, len(unit_sizes)))
    if (most_variable := most_variable_arm(present_scores, design)) is not None:
        new_notes.append(notes.variable_arm_note(analysis, names[arms[most_variable[0]]], most_variable[1]))
    analysis = replace(analysis, notes=(*analysis.notes, *new_notes))
    if trivial is None:
        return analysis
    return _withhold_if_not_learnt(analysis, oriented_scores[0], baseline_values, trivial, metric)


def _score_table(scores: Scores, baseline: str, margin: float, alpha: float, unit: str) -> tuple[list[str], Floats]:
    """Return the arm names and the scores (A, S), baseline first; NaN for a run without a score."""
    if baseline not in scores:
        raise UserError(
            f"'{baseline}' is not an arm of this study: {', '.join(scores)}.{did_you_mean(baseline, scores)}"
        )
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
    """Check and return the pseudo-values (S, units) by arm, and the number of images per unit."""
    pseudo_values = {name: np.asarray(rows, dtype=np.float64) for name, rows in values.items()}
    units = {rows.shape[-1] for rows in pseudo_values.values()} | (set() if sizes is None else {len(sizes)})
    for name, rows in pseudo_values.items():
        if rows.ndim != 2 or len(rows) != seeds or len(units) > 1:
            raise UserError(f"values['{name}'] is {rows.shape}; every arm needs ({seeds} seeds, the same test images)")
    return pseudo_values, np.ones(max(units, default=0), dtype=np.int64) if sizes is None else np.asarray(sizes)


def _unit_differences(pseudo_values: Mapping[str, Floats], name: str, baseline: str, shared: Bools) -> Floats:
    """Return the pseudo-values of an arm less the baseline's, (shared seeds, units); no units if either is missing."""
    if name not in pseudo_values or baseline not in pseudo_values:
        return np.empty((int(shared.sum()), 0))
    return pseudo_values[name][shared] - pseudo_values[baseline][shared]


def _image_floor_of(baseline_values: Floats, images: int, metric: Metric) -> float:
    """Return ``image_floor``; ``baseline_values`` (S, units) are pseudo-values."""
    span = metric.span
    return image_floor(images, image_sd(baseline_values, images) if span is None else span)


def _withhold_if_not_learnt(
    analysis: Analysis, scores: Floats, baseline_values: Floats, trivial: tuple[str, float], metric: Metric
) -> Analysis:
    """Remove the verdicts if the baseline's oriented ``scores`` are within noise of the trivial predictor."""
    name, trivial_score = trivial
    present_scores = scores[np.isfinite(scores)]
    sign = 1 if metric.higher_is_better else -1
    from_seeds = present_scores.var(ddof=1) / len(present_scores) if len(present_scores) > 1 else 0.0
    noise = 2 * math.sqrt(from_seeds + np.nan_to_num(squared_image_error_of(baseline_values)))
    if present_scores.mean() - sign * trivial_score > noise:
        return analysis
    rows = tuple(replace(row, verdict=None, seeds_needed=None, images_needed=False) for row in analysis.differences)
    mean, trivial_text, noise_text = (
        with_unit(f"{value:.{metric.digits}f}", metric.unit)
        for value in (sign * present_scores.mean(), trivial_score, noise)
    )
    return replace(
        analysis,
        differences=rows,
        not_learnt=notes.not_learnt_note(analysis.baseline, mean, name, trivial_text, noise_text),
    )


def _empty_difference(
    name: str, baseline: str, raw: Floats, is_control: bool, margin: float, alpha: float, metric: Metric
) -> Difference:
    """Return a difference without estimates, with the paired differences ``raw``."""
    paired_differences = raw[np.isfinite(raw)]
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
        raw=tuple(paired_differences.tolist()),
        seeds=len(paired_differences),
        is_control=is_control,
        comparisons=1,
        margin=margin,
        alpha=alpha,
        unit=metric.difference_unit,
        digits=max(metric.digits - 1, 0),
        higher_is_better=metric.higher_is_better,
        reason=f"No run of {name} has a score.",
    )


def _add_tests(
    rows: Sequence[Difference], design: Design, fitted: Fit, image_error: ImageError | None
) -> list[Difference]:
    """Return the rows of the arms that have scores, with estimates and tests."""
    if not rows:
        return []
    margin, alpha = rows[0].margin, rows[0].alpha
    estimates, from_seeds = fitted.differences[1:], fitted.se[1:]
    se, df, image_se = standard_error(from_seeds, design.difference_df[1:], image_error)
    family = np.array([not row.is_control for row in rows])
    tests = compute_verdicts(estimates, se, df, family=family, margin=margin, alpha=alpha)
    mechanisms = int((family & ~np.isnan(tests.p)).sum())
    arms, seeds = design.present.shape
    verdicts: list[Verdict] = tests.verdict.tolist()
    tested = []
    for i, row in enumerate(rows):
        if math.isnan(tests.p[i]):
            estimate = _none_if_nan(estimates[i])
            tested.append(replace(row, difference=estimate, reason=_untested_reason(row, estimate, design)))
            continue
        comparisons = 1 if row.is_control else mechanisms
        n_seeds, too_few_images = None, False
        if verdicts[i] == "not decided":
            common_arguments: dict[str, Any] = {
                "image_error": _image_error_of(image_error, i),
                "mechanisms": comparisons,
                "margin": margin,
                "alpha": alpha,
            }
            n_seeds = seeds_needed(
                float(estimates[i]), sigma=float(fitted.moderated_sd[1 + i]), seeds=seeds, arms=arms, **common_arguments
            )
            too_few_images = n_seeds is None and more_images_needed(float(estimates[i]), **common_arguments)
        tested.append(
            replace(
                row,
                difference=float(estimates[i]),
                low=float(tests.low[i]),
                high=float(tests.high[i]),
                se=float(se[i]),
                se_images=float(image_se[i]),
                se_from="images" if image_se[i] > from_seeds[i] else "seeds",
                df=float(df[i]),
                p=float(tests.p[i]),
                p_holm=float(tests.p_holm[i]),
                verdict=verdicts[i],
                detectable=float(se[i] * detectable_multiplier(df[i], comparisons, alpha)),
                seeds_needed=n_seeds,
                images_needed=too_few_images,
                comparisons=comparisons,
                reason=None,
            )
        )
    return tested


def _image_error_of(image_error: ImageError | None, index: int) -> ImageError | None:
    """Return the image error of difference number ``index``, or None if it is unknown."""
    squared = math.nan if image_error is None else np.asarray(image_error.squared)[index]
    return None if image_error is None or math.isnan(squared) else replace(image_error, squared=squared)


def _untested_reason(row: Difference, estimate: float | None, design: Design) -> str:
    if estimate is None:
        return f"No chain of shared seeds connects this arm with the baseline {row.baseline}."
    if design.present.shape[1] < 2:
        return "One seed does not measure the variation between runs: use two or more."
    if design.df == 0:
        return "The runs that have a score leave no degrees of freedom to estimate the variation between runs."
    return "No score varies between seeds, so the error of this difference is unknown."


def _arm_scores(name: str, row: Floats) -> ArmScores:
    present_scores = row[np.isfinite(row)]
    return ArmScores(
        name=name,
        mean=float(present_scores.mean()) if len(present_scores) else None,
        sd=float(present_scores.std(ddof=1)) if len(present_scores) > 1 else None,
        scores=tuple(_none_if_nan(score) for score in row),
    )


def _none_if_nan(value: float | Floats) -> float | None:
    """Return ``value`` as a float, or None if it is NaN."""
    return None if np.isnan(value) else float(value)
