"""What the fit of a study shows beside its differences: spread between seeds, odd runs, odd arms."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, stdtr

from saccade.study.blocks import Design, Fit, fit

__all__ = ["largest_residual", "seed_sd", "widest_arm"]

Floats = NDArray[np.float64]


def seed_sd(table: Floats, design: Design, sigma: float | None) -> float | None:
    """Variance component of the seeds as an SD: what is left of their spread when σ has had its share."""
    if sigma is None or math.isnan(design.seed_unit):
        return None
    effects = design.seed_weights @ table[design.present]
    return math.sqrt(max(float(effects.var(ddof=1)) - design.seed_unit * sigma**2, 0.0))


def largest_residual(fitted: Fit, design: Design) -> tuple[float | None, tuple[int, int] | None, bool]:
    """Size and place (arm, seed) of the largest internally studentised residual, and whether it is an outlier.

    Outlier: its externally studentised form has Bonferroni's p < 0.05 over all runs. Below six degrees of freedom none
    is named: scores are rounded, and where few others are left they may agree by chance to the last digit.
    """
    free = np.diag(design.residuals)
    if design.df == 0 or not fitted.sigma > 0:
        return None, None, False
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.where(free > 1e-8, np.abs(fitted.residuals) / (fitted.sigma * np.sqrt(free)), 0.0)
    worst = int(size.argmax())
    place = np.argwhere(design.present)[worst]
    squared, df = float(size[worst]) ** 2, design.df
    outlier = False
    if df >= 6:
        deleted = math.sqrt(squared * (df - 1) / max(df - squared, 1e-12))
        outlier = 2 * float(stdtr(df - 1, -deleted)) * len(size) < 0.05
    return float(size[worst]), (int(place[0]), int(place[1])), outlier


def widest_arm(scores: Floats, design: Design, alpha: float = 0.05) -> tuple[int, float] | None:
    """Return the arm whose runs scatter more than those of the others, and σ without it; None where no arm does.

    An F test of what it adds to the squared residuals of scores (A, S) against the fit to all other runs, Bonferroni
    over the arms but the baseline. No arm is named where fewer than four degrees of freedom would be left.
    """
    squares = float(np.square(fit(scores, design).residuals).sum())
    found: tuple[float, int, float] | None = None
    for a in range(1, len(scores)):
        present = np.delete(design.present, a, axis=0)
        seeds = present.any(axis=0)
        rest = Design.of(present[:, seeds])
        added = design.df - rest.df
        if added < 1 or rest.df < 4:
            continue
        sigma = float(fit(np.delete(scores, a, axis=0)[:, seeds], rest).sigma)
        if sigma > 0:
            ratio = (squares - rest.df * sigma**2) / added / sigma**2
            found = min(found or (1.0, 0, 0.0), (float(fdtrc(added, rest.df, max(ratio, 0.0))), a, sigma))
    if found is None or found[0] * (len(scores) - 1) >= alpha:
        return None
    return found[1:]
