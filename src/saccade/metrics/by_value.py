"""Metrics of the images with one value of a column, such as the view of a radiograph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from saccade.metrics.metric import Metric
from saccade.metrics.rows import Rows, select_images

__all__ = ["restrict"]


def restrict(metric: Metric, name: str, code: int, constants: Mapping[str, Tensor] | None = None) -> Metric:
    """Return ``metric`` under ``name`` for the images whose entry of ``by`` in the rows is ``code``.

    Args:
        metric: metric of all images.
        name: name of the new metric.
        code: value of ``by``.
        constants: maps a key to the entry (K,) that replaces this column of the rows in every image.
    """

    def select(rows: Rows) -> Rows:
        chosen = select_images(rows, torch.nonzero(rows["by"] == code)[:, 0])
        n_images = len(chosen["by"])
        return chosen | {key: value.expand(n_images, *value.shape) for key, value in (constants or {}).items()}

    def score(rows: Rows) -> float:
        chosen = select(rows)
        if not len(chosen["by"]):
            return math.nan
        if metric.values is not None:
            return float(metric.values(chosen).double().mean())
        assert metric.score is not None
        return metric.score(chosen)

    def score_without(rows: Rows, units: Tensor) -> Tensor:
        assert metric.score_without is not None
        chosen = select(rows | {"unit": units})
        scores = torch.full((int(units.max()) + 1,), score(rows), dtype=torch.float64)
        if not len(chosen["by"]):
            return scores
        present, codes = chosen.pop("unit").unique(return_inverse=True)
        scores[present] = metric.score_without(chosen, codes)
        return scores

    return replace(
        metric, name=name, values=None, score=score, by_class=None,
        score_without=None if metric.score_without is None else score_without,
    )  # fmt: skip
