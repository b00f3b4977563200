"""SRM, worked out on paper. σ(ln k) = k / (1 + k)."""

from math import log, sqrt

import torch

from by_hand import equals, gates, image, with_values
from saccade import create

LN2, LN3 = log(2), log(3)


def _srm(weight, **values):
    srm = with_values(create("srm", 2, **values), weight=weight, bn__weight=[1, 1])
    srm.bn.running_var.fill_(1 - srm.bn.eps)
    return srm


def test_srm_weighs_mean_and_spread():
    # channel 0: mean 2, deviations ∓1, variance 2/(2 − 1) = 2, plus ε = 2: t = (2, 2);
    # z = ln 3 · 2 − ln 3 / 2 · 2 = ln 3: 3/4. Channel 1: mean 4, deviations ∓√7: variance 14, t = (4, 4); z = 0.
    x = image([[1, 3]], [[4 - sqrt(7), 4 + sqrt(7)]])
    equals(gates(_srm([[LN3, -LN3 / 2], [1, -1]], eps=2.0)(x), x), [[0.75, 0.75], [0.5, 0.5]])


def test_srm_norms_each_channel_over_the_images():
    # means 1 and 3 over two images, in training: −1 and +1 but for ε, times ln 2: 1/3 and 2/3
    srm = _srm([[1, 0], [0, 0]]).train()
    with torch.no_grad():
        srm.bn.weight.fill_(LN2)
    x = torch.cat([image([[1, 1]], [[2, 2]]), image([[3, 3]], [[2, 2]])])
    equals(srm(x)[:, 0, 0, 0], [1 / 3, 2], within=1e-5)


def test_srm_knows_a_spread_whose_square_float16_does_not():
    # deviations ∓300: a variance of 180 000, where float16 ends at 65 504; channel 0: z = ln 3, channel 1: 0
    srm = _srm([[0, LN3 / sqrt(180_000)], [0, 0]]).half()
    x = image([[-300, 300]], [[-300, 300]])
    equals(gates(srm(x.half()).double(), x), [[0.75, 0.75], [0.5, 0.5]], within=2e-3)


def test_srm_starts_at_one_half():
    x = torch.randn(2, 8, 5, 3)
    torch.testing.assert_close(create("srm", 8)(x), x / 2, rtol=0, atol=0)
