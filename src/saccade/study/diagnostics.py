"""Diagnostics of a least-squares fit."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, stdtr

from saccade.study.blocks import Design, Fit, fit

__all__ = ["largest_residual", "most_variable_arm", "seed_sd"]

Floats = NDArray[np.float64]


def seed_sd(table: Floats, design: Design, sigma: float | None) -> float | None:
    """Return the variance component of seeds as an SD, from scores (A, S) and the residual SD; None if unknown."""
    if sigma is None or math.isnan(design.seed_variance_factor):
        return None
    seed_effects = design.seed_weights @ table[design.present]
    return math.sqrt(max(float(seed_effects.var(ddof=1)) - design.seed_variance_factor * sigma**2, 0.0))


def largest_residual(fitted: Fit, design: Design) -> tuple[float | None, tuple[int, int] | None, bool]:
    """Return the largest internally studentised residual, its (arm, seed) index, and True if it is an outlier.

    An outlier's externally studentised residual has a Bonferroni-corrected p < 0.05. No outlier is reported
    below six degrees of freedom, because rounded scores may coincide and make σ too small.
    """
    leverage_complement = np.diag(design.residual_projector)
    if design.df == 0 or not fitted.sigma > 0:
        return None, None, False
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised = np.where(
            leverage_complement > 1e-8, np.abs(fitted.residuals) / (fitted.sigma * np.sqrt(leverage_complement)), 0.0
        )
    largest = int(studentised.argmax())
    index = np.argwhere(design.present)[largest]
    squared, df = float(studentised[largest]) ** 2, design.df
    is_outlier = False
    if df >= 6:
        externally_studentised = math.sqrt(squared * (df - 1) / max(df - squared, 1e-12))
        is_outlier = 2 * float(stdtr(df - 1, -externally_studentised)) * len(studentised) < 0.05
    return float(studentised[largest]), (int(index[0]), int(index[1])), is_outlier


def most_variable_arm(scores: Floats, design: Design, alpha: float = 0.05) -> tuple[int, float] | None:
    """Return the index of the most variable arm and σ without that arm; None if no arm varies significantly more.

    A Bonferroni-corrected F test compares the arm's part of the residual sum of squares of scores (A, S) with the fit
    to all other runs, which needs four degrees of freedom.
    """
    sum_of_squares = float(np.square(fit(scores, design).residuals).sum())
    best: tuple[float, int, float] | None = None
    for arm in range(1, len(scores)):
        present = np.delete(design.present, arm, axis=0)
        seeds = present.any(axis=0)
        rest = Design.from_present(present[:, seeds])
        added_df = design.df - rest.df
        if added_df < 1 or rest.df < 4:
            continue
        sigma = float(fit(np.delete(scores, arm, axis=0)[:, seeds], rest).sigma)
        if sigma > 0:
            ratio = (sum_of_squares - rest.df * sigma**2) / added_df / sigma**2
            best = min(best or (1.0, 0, 0.0), (float(fdtrc(added_df, rest.df, max(ratio, 0.0))), arm, sigma))
    if best is None or best[0] * (len(scores) - 1) >= alpha:
        return None
    return best[1:]
