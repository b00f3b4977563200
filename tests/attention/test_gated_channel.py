"""GCT, worked out on paper. tanh(ln k) = (k² − 1)/(k² + 1)."""

from math import log, sqrt

import pytest
import torch

from by_hand import equals, gates, image, with_values
from saccade import create

LN2 = log(2)
X = image([[3, 4]], [[0, 5 * sqrt(7)]])  # norms 5 and 5√7; sums of absolute values 7 and 5√7


def test_gated_channel_by_energy():
    # ε is next to nothing. s = (5, 5√7), mean of squares (25 + 175)/2 = 100: ŝ = (1/2, √7/2).
    # γ = (2 ln 2, 0), β = (0, −ln 2): logits (ln 2, −ln 2), tanh ±3/5
    gct = with_values(create("gated_channel", 2, eps=1e-20), alpha=[1, 1], gamma=[2 * LN2, 0], beta=[0, -LN2])
    equals(gates(gct(X), X)[:, 1], [1.6, 0.4])


def test_gated_channel_has_epsilon_under_both_roots():
    # s = (1 + 4 + 1 + 1 + 2)^½ = 3, ŝ = 3/(9 + 2)^½; with γ = ln 2/ŝ the gate is 1 + 3/5
    gct = with_values(create("gated_channel", 1, eps=2.0), alpha=[1], gamma=[LN2 * sqrt(11) / 3])
    x = image([[1, 2], [-1, 1]])
    equals(gates(gct(x), x), [[1.6] * 4])


def test_gated_channel_weighs_what_it_embeds():
    # α = (√7, 1): both embeddings are 5√7, ŝ = 1 each
    gct = with_values(create("gated_channel", 2, eps=1e-20), alpha=[sqrt(7), 1], gamma=[LN2, -LN2])
    equals(gates(gct(X), X)[:, 1], [1.6, 0.4])


def test_gated_channel_by_absolute_values():
    # s = (7, −21) with α = (1, −3): mean of |s| is 14, ŝ = (1/2, −3/2)
    x = image([[3, -4]], [[-2, 5]])
    gct = with_values(create("gated_channel", 2, mode="l1", eps=1e-20), alpha=[1, -3], gamma=[2 * LN2, -2 / 3 * LN2])
    equals(gates(gct(x), x), [[1.6, 1.6], [1.6, 1.6]])


def test_gated_channel_starts_as_the_identity():
    x = torch.randn(2, 8, 5, 3)
    gct = create("gated_channel", 8)
    torch.testing.assert_close(gct(x), x, rtol=0, atol=0)
    torch.nn.init.ones_(gct.beta)
    assert not torch.equal(gct(x), x)


def test_gated_channel_refuses_another_norm():
    with pytest.raises(ValueError, match="'l1' or 'l2', got 'l3'"):
        create("gated_channel", 8, mode="l3")
