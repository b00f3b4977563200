"""The two modules of SPNet in cases small enough to be worked out on paper. σ(ln k) = k / (1 + k)."""

from math import log
from typing import Any

import pytest
import torch

from by_hand import equals, gates, image, with_values
from saccade import create

LN2, LN3 = log(2), log(3)


def test_rows_and_columns_are_added():
    # means of rows (ln 2, −ln 9), of columns (0, ln 2 − ln 9) -> (0, −ln 4.5); sums (ln 2, ·; ·, ·) through the ReLU
    spm = create("spm", 1)
    spm = with_values(spm, rows__weight=[0, 1, 0], rows_bn__weight=[1], columns__weight=[0, 1, 0],
                      columns_bn__weight=[1], mix__weight=[1])  # fmt: skip
    x = image([[2 * LN2, 1e-30], [-2 * LN2, 2 * LN3]])
    # rows: (ln 2, ln 3 − ln 2); columns: (0, ln 3); sums: (ln 2, ln 6; ln 1.5, ln 4.5)
    equals(gates(spm(x), x), [[2 / 3, 6 / 7, 3 / 5, 9 / 11]])


@pytest.mark.parametrize(("kernel_size", "reached"), [(3, 2), (5, 3)])
def test_the_length_of_the_strip_convolutions(kernel_size, reached):
    # The last tap alone: row h reads row h + half, zero outside. Row means are ln 3: gates 3/4 up to there, then 1/2.
    last = [0] * (kernel_size - 1) + [1]
    spm = with_values(create("spm", 1, kernel_size=kernel_size), rows__weight=last, rows_bn__weight=[1],
                      mix__weight=[1])  # fmt: skip
    x = image([[LN3]] * 4)
    equals(gates(spm(x), x), [[3 / 4] * (5 - reached) + [1 / 2] * (reached - 1)])


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
