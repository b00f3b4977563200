"""Criss-cross attention in cases small enough to be worked out on paper."""

from math import log

import pytest
import torch

from by_hand import equals, image, with_values
from saccade import create

LN3 = log(3)


def test_without_queries_a_pixel_hears_the_mean_of_its_cross():
    # Each of 3 + 2 − 1 pixels once: at (0, 0) (1 + 2 + 3 + 4)/4 = 10/4, at (1, 1) (4 + 5 + 6 + 2)/4 = 17/4
    cc = with_values(create("cc", 1, rd_ratio=1.0, recurrence=1), value__weight=[1], gamma=[4])
    equals(cc(image([[1, 2, 3], [4, 5, 6]])), [[[[11, 13, 15], [20, 22, 24]]]])


def test_a_row_by_itself():
    # H = 1: nobody in the column. q = 1, k = x: weights (1/4, 3/4); o = 3/4 · 2 ln 3 + 5
    cc = with_values(create("cc", 1, rd_ratio=1.0, recurrence=1), query__bias=[1], key__weight=[1], value__weight=[2],
                     value__bias=[5], gamma=[1])  # fmt: skip
    o = 1.5 * LN3 + 5
    equals(cc(image([[0, LN3]])), [[[[o, LN3 + o]]]])


def test_twice_reaches_every_pixel():
    # γ = 3, no queries: y adds the sum of its cross of three. Once: (2, 1; 1, 0). Twice: (2 + 4, 1 + 3; 1 + 3, 0 + 2)
    values = {"value__weight": [1], "gamma": [3]}
    x = image([[1, 0], [0, 0]])
    equals(with_values(create("cc", 1, rd_ratio=1.0, recurrence=1), **values)(x), [[[[2, 1], [1, 0]]]])
    equals(with_values(create("cc", 1, rd_ratio=1.0), **values)(x), [[[[6, 4], [4, 2]]]])


@pytest.mark.parametrize("recurrence", [1, 2, 3])
def test_far_pixels_are_heard_from_the_second_time_on(recurrence):
    torch.manual_seed(0)
    cc = create("cc", 8, recurrence=recurrence).double()
    torch.nn.init.ones_(cc.gamma)
    x = torch.randn(1, 8, 4, 5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(cc(x)[0, :, 1, 2].sum(), x)
    assert int((slope.abs().sum(1) > 0).sum()) == (4 + 5 - 1 if recurrence == 1 else 4 * 5)
