"""A metric of the images with one value."""

import math

import numpy as np
import pytest
import torch

from saccade.metrics.by_value import restrict
from saccade.metrics.metric import Metric
from saccade.metrics.rows import select_images
from saccade.study.pseudovalues import pseudo_values


def _mean_without(rows, units):
    return torch.tensor([float(rows["value"][units != unit].mean()) for unit in range(int(units.max()) + 1)]).double()


MEAN = Metric(name="mean", unit="%", margin=1.0, values=lambda rows: rows["value"])
SCORE = Metric(name="mean", unit="%", margin=1.0, score=lambda rows: float(rows["value"].mean()))
FAST = Metric(
    name="mean", unit="%", margin=1.0, score=lambda rows: float(rows["value"].mean()), score_without=_mean_without
)
ROWS = {"value": torch.tensor([1.0, 2.0, 3.0, 10.0]).double(), "by": torch.tensor([0, 1, 0, -1])}


@pytest.mark.parametrize("metric", [MEAN, SCORE, FAST])
def test_only_images_of_the_value_count(metric):
    restricted = restrict(metric, "mean (view = AP)", 0)
    assert (restricted.name, restricted.unit, restricted.by_class) == ("mean (view = AP)", "%", None)
    assert restricted.compute(ROWS) == 2.0
    assert restrict(metric, "", 1).compute(ROWS) == 2.0
    assert restrict(metric, "", 1).compute({**ROWS, "value": ROWS["value"] + 1}) == 3.0
    assert math.isnan(restrict(metric, "", 2).score(ROWS))


@pytest.mark.parametrize("metric", [MEAN, SCORE, FAST])
def test_images_of_other_values_add_nothing_to_the_error(metric):
    # mean of 1 and 3; without the first 3, without the third 1, else 2
    values = pseudo_values(restrict(metric, "", 0), ROWS)
    assert values.tolist() == [4 * 2 - 3 * 3, 2, 4 * 2 - 3 * 1, 2]


@pytest.mark.parametrize("metric", [SCORE, FAST])
def test_a_group_that_holds_every_image_of_the_value(metric):
    rows = {**ROWS, "group": torch.tensor([0, 1, 0, 2])}
    values = pseudo_values(restrict(metric, "", 0), rows)
    np.testing.assert_array_equal(values, [np.nan, 2, 2])


def test_a_constant_replaces_a_column():
    weighted = Metric(
        name="w", unit="", margin=1.0, score=lambda rows: float((rows["value"] * rows["weight"][:, 0]).sum())
    )
    rows = {**ROWS, "weight": torch.ones(4, 1)}
    assert weighted.compute(select_images(rows, [0, 2])) == 4.0
    assert restrict(weighted, "", 0, {"weight": torch.tensor([3.0])}).compute(rows) == 12.0
