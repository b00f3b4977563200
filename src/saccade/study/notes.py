"""Caveats that are shown with the verdicts of a study."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from saccade.study.findings import Analysis, with_unit

__all__ = ["FEW_SEEDS", "fit_notes", "not_learnt_note", "seed_notes", "undefined_units_note", "variable_arm_note"]

FEW_SEEDS = 3
"""Number of seeds up to which a study is reported as a first look."""


def seed_notes(names: Sequence[str], present: NDArray[np.bool_], seeds: Sequence[int]) -> list[str]:
    """Return notes on few seeds and missing scores; ``present`` (arms, seeds) is True for runs with a score."""
    notes = []
    n_seeds = int(present.any(axis=0).sum())
    if 1 < n_seeds <= FEW_SEEDS:
        notes.append(f"{n_seeds} seeds are a first look: intervals are wide, and verdicts may change with more seeds.")
    elif n_seeds == 1:
        notes.append("One seed does not measure the variation between runs, so nothing is decided.")
    missing = []
    for name, row in zip(names, present, strict=True):
        absent = [str(seed) for seed, has_score in zip(seeds, row, strict=True) if not has_score]
        if absent:
            missing.append(f"{name} at {'every seed' if len(absent) == len(row) else 'seed ' + ', '.join(absent)}")
    if missing:
        notes.append(
            f"Without a score: {'; '.join(missing)}. The model is fitted to the other runs; nothing is filled in."
        )
    return notes


def not_learnt_note(baseline: str, score: str, name: str, trivial: str, noise: str) -> str:
    """Return the note that the baseline is not better than the trivial predictor."""
    return (
        f"{baseline} scores {score}, the trivial answer ({name}) {trivial}: the host has not learnt the task, so no "
        f"arm is judged (two standard errors are {noise})."
    )


def undefined_units_note(n_undefined: int, n_units: int) -> str:
    """Return the note on resampling units that the jackknife cannot leave out."""
    return (
        f"The score is undefined without {n_undefined} of {n_units} test images or groups, for example because a class "
        "disappears. Their contribution to the error is unknown, so intervals are too narrow."
    )


def fit_notes(analysis: Analysis, has_outlier: bool) -> list[str]:
    """Return notes on zero residuals, on errors dominated by the test images, and on an outlying run."""
    notes = []
    if analysis.sigma == 0:
        notes.append(
            "The scores leave no residual at all: check that seeds change the runs and that the network learns."
        )
    image_limited = [row.name for row in analysis.differences if row.se_from == "images"]
    if image_limited:
        notes.append(
            f"For {', '.join(image_limited)} the larger part of the standard error comes from the test images; more "
            "test images narrow it, more seeds do not."
        )
    if has_outlier and analysis.largest_residual_at is not None:
        arm, seed = analysis.largest_residual_at
        notes.append(f"The score of {arm} at seed {seed} fits the others badly: look at that run.")
    return notes


def variable_arm_note(analysis: Analysis, name: str, sigma_without: float) -> str:
    """Return the note on the arm ``name``, whose runs vary most; ``sigma_without`` is the residual SD without it."""
    digits = analysis.digits + 1
    sigma = with_unit(f"{analysis.sigma:.{digits}f}", analysis.unit)
    return (
        f"The runs of {name} vary more than those of the other arms, which widens every interval: the pooled standard "
        f"deviation is {sigma}, and {sigma_without:.{digits}f} without {name}. A study without {name} detects smaller "
        "differences."
    )
