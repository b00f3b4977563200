"""SGE, worked out on paper. σ(ln k) = k / (1 + k)."""

from math import exp, log, sqrt

import pytest
import torch

from by_hand import equals, gates, image, with_values
from saccade import create

LN3 = log(3)


def test_sge_gates_each_group_by_its_likeness_to_its_mean():
    # Group 0: means (1, 2), s = (0·1 + 1·2, 2·1 + 3·2) = (2, 8), deviations ∓3, std √18 = 3√2, ŝ = ∓1/√2.
    # w = √2 ln 3: logits ∓ln 3, gates (1/4, 3/4). Group 1 has w = 0, b = ln 3: 3/4 everywhere.
    sge = with_values(create("sge", 4, groups=2), weight=[sqrt(2) * LN3, 0], bias=[0, LN3])
    x = image([[0, 2]], [[1, 3]], [[5, 1]], [[-1, 2]])
    equals(sge(x), [[[[0, 1.5]], [[0.25, 2.25]], [[3.75, 0.75]], [[-0.75, 1.5]]]], within=1e-5)


def test_sge_starts_even():
    x = torch.rand(2, 6, 3, 5) + 1
    equals(create("sge", 6)(x), (x / (1 + exp(-1))).tolist(), within=1e-6)


def test_sge_of_a_constant_map_knows_only_its_bias():
    sge = with_values(create("sge", 2, groups=1), weight=[7], bias=[LN3])
    for x in (image([[3, 3]], [[5, 5]]), image([[3]], [[5]])):
        equals(gates(sge(x), x), [[0.75] * x.shape[3]] * 2)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (24, 8), (64, 64), (96, 32), (2048, 64)])
def test_sge_takes_as_many_groups_as_divide(channels, groups):
    assert create("sge", channels).groups == groups


def test_sge_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="sge: groups must divide channels, got 4 and 10"):
        create("sge", 10, groups=4)
