"""Sentences that the reader of a study must see beside its verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from saccade.study.findings import Analysis, measure

__all__ = ["FIRST_LOOK", "on_fit", "on_reference", "on_runs", "on_units", "on_width"]

FIRST_LOOK = 3
"""A study of so many seeds or fewer is called a first look."""


def on_runs(names: Sequence[str], present: NDArray[np.bool_], seeds: Sequence[int]) -> list[str]:
    """Few seeds, and runs (arms, seeds) without a score."""
    notes = []
    used = int(present.any(axis=0).sum())
    if 1 < used <= FIRST_LOOK:
        notes.append(f"{used} seeds are a first look: intervals are wide, and verdicts may change with more seeds.")
    elif used == 1:
        notes.append("One seed measures no spread between runs, so nothing is decided.")
    lost = []
    for name, row in zip(names, present, strict=True):
        absent = [str(seed) for seed, there in zip(seeds, row, strict=True) if not there]
        if absent:
            lost.append(f"{name} at {'every seed' if len(absent) == len(row) else 'seed ' + ', '.join(absent)}")
    if lost:
        notes.append(
            f"Without a score: {'; '.join(lost)}. The model is fitted to the other runs; nothing is filled in."
        )
    return notes


def on_reference(baseline: str, score: str, name: str, trivial: str, noise: str) -> str:
    """The baseline is within noise of the trivial answer."""
    return (
        f"{baseline} scores {score}, the trivial answer ({name}) {trivial}: the host has not learnt the task, so no "
        f"arm is judged (two standard errors are {noise})."
    )


def on_units(unknown: int, units: int) -> str:
    """Units without which there is no score."""
    return (
        f"{unknown} of {units} test images, or groups of them, cannot be left out without losing the score, as when a "
        "class disappears. What they add to the error is unknown: intervals are too narrow."
    )


def on_fit(analysis: Analysis, outlier: bool) -> list[str]:
    """No residual, errors that the images set, and a run that fits badly."""
    notes = []
    if analysis.sigma == 0:
        notes.append(
            "The scores leave no residual at all: check that seeds change the runs and that the network learns."
        )
    by_images = [row.name for row in analysis.differences if row.se_from == "images"]
    if by_images:
        notes.append(
            f"For {', '.join(by_images)} the larger part of the standard error comes from the test images; more test "
            "images narrow it, more seeds do not."
        )
    if outlier and analysis.largest_residual_at is not None:
        arm, seed = analysis.largest_residual_at
        notes.append(f"The score of {arm} at seed {seed} fits the others badly: look at that run.")
    return notes


def on_width(analysis: Analysis, name: str, without: float) -> str:
    """The runs of one arm scatter more; ``without`` is σ without it."""
    digits = analysis.digits + 1
    sigma = measure(f"{analysis.sigma:.{digits}f}", analysis.unit)
    return (
        f"The runs of {name} scatter more than those of the other arms, which widens every interval: the pooled "
        f"standard deviation is {sigma}, and {without:.{digits}f} without {name}. A study without {name} sees more."
    )
