"""Small studies for the tests of the statistics."""

import numpy as np

from saccade.metrics.metric import Metric
from saccade.study import stats

TOP1 = Metric(name="top-1", unit="%", margin=1.0, low=0.0, high=100.0, score=len)
PIXELS = Metric(name="error", unit="px", margin=0.25, low=0.0, higher_is_better=False, digits=3, score=len)
"""An error in pixels: unbounded, and lower is better."""


def analyse(scores, correct=None, **rest):
    """Of top-1, from right answers (seeds, images) instead of pseudo-values."""
    values = correct and {name: 100.0 * np.asarray(right) for name, right in correct.items()}
    return stats.analyse(scores, **{"metric": TOP1, "values": values} | rest)


# Worked by hand. Arm means 91, 93, 91; residuals six times 1/3 in size and three times 2/3, so their squares sum to 2
# with (3-1)(3-1) = 4 degrees of freedom: s² = 1/2, se = sqrt(2/3 · 1/2) = 0.57735, t of a = 3.4641.
BY_HAND = {"none": [90, 92, 91], "a": [92, 93, 94], "b": [89, 92, 92]}


def rows(analysis):
    return {row.name: row for row in analysis.differences}


def draw(seed, arms=4, seeds=3, sigma=0.8, gains=()):
    """Scores of a study of arms none, m1, m2, …; the last gains are zero."""
    rng = np.random.default_rng(seed)
    gain = np.zeros(arms)
    gain[: len(gains)] = gains
    table = 90 + gain[:, None] + rng.normal(0, 1.3, seeds) + rng.normal(0, sigma, (arms, seeds))
    return {"none" if a == 0 else f"m{a}": row for a, row in enumerate(table)}
