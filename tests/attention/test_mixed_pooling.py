"""Mixed pooling module by hand."""

from typing import Any

import pytest
import torch

from by_hand import equals, image, with_values
from saccade import create

CENTRE = [0, 0, 0, 0, 1, 0, 0, 0, 0]
NEAR: dict[str, Any] = {"near_in__0__weight": [1, 0, 0, 0], "near_in__1__weight": [1], "near_out__0__weight": CENTRE}
NEAR |= {"near_out__1__weight": [1], "join__0__weight": [[1, 0], *[[0, 0]] * 3], "join__1__weight": [1] * 4}
FOUR = image([[1, 3]], [[-1, 2]], [[0, 0]], [[5, -5]])


def test_mixed_pooling_that_adds_nothing_is_a_relu():
    mpm = with_values(create("mpm", 4), join__1__bias=[0, 2, 0, 0])
    equals(mpm(FOUR), [[[[1, 3]], [[1, 4]], [[0, 0]], [[5, 0]]]])


@pytest.mark.parametrize("pool", ["fine", "coarse"])
@pytest.mark.parametrize(("side", "expected"), [(1, [3, 5]), (2, [2, 6])])
def test_windows_of_mixed_pooling(pool, side, expected):
    # One window: the mean, 2, for both pixels. Two to a side: each pixel its own window, and back again.
    values = NEAR | {f"{pool}__0__weight": CENTRE, f"{pool}__1__weight": [1]}
    mpm = with_values(create("mpm", 4, **{pool: side}), **values)
    equals(mpm(FOUR)[0, 0], [expected])


def test_strips_of_mixed_pooling():
    # v = ReLU(x_0), rows of means (1, 3) and columns (2, 2) -> sums (3, 3; 5, 5), added to x_0
    values = {"far_in__0__weight": [1, 0, 0, 0], "far_in__1__weight": [1], "far_out__0__weight": CENTRE}
    values |= {"rows__0__weight": [0, 1, 0], "rows__1__weight": [1], "columns__0__weight": [0, 1, 0]}
    values |= {"columns__1__weight": [1], "far_out__1__weight": [1], "join__1__weight": [1] * 4}
    mpm = with_values(create("mpm", 4), **values, join__0__weight=[[0, 1], *[[0, 0]] * 3])
    x = image([[1, 1], [3, 3]], *[[[0, 0], [0, 0]]] * 3)
    equals(mpm(x)[0, 0], [[4, 4], [8, 8]])


def test_the_output_of_mixed_pooling_may_be_changed_in_place():
    mpm, x = create("mpm", 8), torch.randn(2, 8, 5, 3, requires_grad=True)
    mpm(x).relu_().sum().backward()
    assert x.grad is not None
