"""Shuffle Attention by hand. σ(ln k) = k / (1 + k)."""

from math import exp, log

import pytest
import torch

from by_hand import equals, image, with_values
from saccade import create

LN2, LN3 = log(2), log(3)


def test_sa_of_one_group():
    # a = channels 0, 1 with means (ln 3, 0): σ = (3/4, 1/2). b = channels 2, 3, normalised to (−1, 1), ε = 1e-5 against
    # variance 1. Channel 2: 2 · (∓1) · ln 3 / 2, σ = (1/4, 3/4); channel 3: (0 · (∓1) + 2) · (−ln 3 / 2), σ = 1/4.
    # Then channels 0, 1, 2, 3 go to 0, 2, 1, 3.
    sa = with_values(create("sa", 4, groups=1), channel_weight=[1, 1], norm_weight=[2, 0], norm_bias=[0, 2],
               spatial_weight=[LN3 / 2, -LN3 / 2])  # fmt: skip
    x = image([[0, 2 * LN3]], [[1, -1]], [[5, 7]], [[8, 10]])
    equals(sa(x), [[[[0, 1.5 * LN3]], [[1.25, 5.25]], [[0.5, -0.5]], [[2, 2.5]]]], within=1e-4)


def test_sa_starts_even_and_shuffles_the_halves_into_each_other():
    # every gate is σ(1); channels 0 … 5 come out as 0, 3, 1, 4, 2, 5
    x = torch.rand(2, 6, 3, 5) + 1
    equals(create("sa", 6)(x), (x[:, [0, 3, 1, 4, 2, 5]] / (1 + exp(-1))).tolist(), within=1e-6)


def test_sa_halves_each_group():
    # two groups of (channel half, spatial half): channels 0 and 2 have means (ln 3, −ln 3), 1 and 3 see u_b alone
    sa = with_values(create("sa", 4, groups=2), channel_weight=[1], spatial_bias=[LN2])
    x = image([[LN3]], [[1]], [[-LN3]], [[1]])
    equals(sa(x), [[[[0.75 * LN3]], [[-0.25 * LN3]], [[2 / 3]], [[2 / 3]]]])


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(2, 1), (24, 4), (64, 32), (94, 1), (96, 16), (128, 64), (192, 32), (256, 64), (320, 32), (2048, 64)],
)
def test_sa_takes_as_many_groups_as_divide(channels, groups):
    assert create("sa", channels).groups == groups
