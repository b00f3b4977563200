"""Efficient Multi-scale Attention by hand and against its equations."""

from math import log

import pytest
import torch
import torch.nn.functional as F

from by_hand import equals, gates, image, with_values
from saccade import create

LN3 = log(3)


def _emattn(**values):
    return with_values(create("emattn", 2, groups=1), **values)


def test_emattn_of_nothing_halves():
    equals(_emattn()(image([[2, 4]], [[6, -8]])), [[[[1, 2]], [[3, -4]]]])


def test_emattn_means_of_the_first_branch_are_its_shift():
    # u = β = (ln 3, 0) and v = b₃ = (ln 3, 0): both softmaxes are (3/4, 1/4), s = 3/4 ln 3 twice
    emattn = _emattn(norm_bias=[LN3, 0], near__bias=[LN3, 0])
    gate = 3**1.5 / (1 + 3**1.5)
    equals(gates(emattn(image([[2, 4]], [[6, 8]])), image([[2, 4]], [[6, 8]])), [[gate] * 2] * 2)


def test_emattn_3x3_branch():
    # v = (x₀, 0), weighed (1/2, 1/2): s = (ln 3, 0) of x₀ = (2 ln 3, 0)
    middle = [[[0, 0, 0], [0, 1, 0], [0, 0, 0]]]
    empty = [[[0, 0, 0]] * 3]
    emattn = _emattn(near__weight=[[*middle, *empty], [*empty, *empty]])
    equals(emattn(image([[2 * LN3, 0]], [[8, 8]])), [[[[1.5 * LN3, 0]], [[6, 4]]]])


def test_emattn_mean_of_the_3x3_branch_sees_zeros_outside():
    # The left tap, times 6 ln 3 / 5: at three pixels of ones it sees (0, 1, 1), mean 2/3, so v has means (0.8 ln 3, 0)
    # and softmax (3^0.8, 1)/(1 + 3^0.8). u = β = (0, ln 9); first softmax (1, 9)/10: s = 0.1 v₀ + ln 9/(1 + 3^0.8).
    left = [[[0, 0, 0], [1.2 * LN3, 0, 0], [0, 0, 0]]]
    empty = [[[0, 0, 0]] * 3]
    emattn = _emattn(near__weight=[[*left, *empty], [*empty, *empty]], norm_bias=[0, 2 * LN3])
    x = image([[1, 1, 1]], [[1, 1, 1]])
    powers = [3 ** (0.12 * seen + 2 / (1 + 3**0.8)) for seen in (0, 1, 1)]
    equals(gates(emattn(x), x)[0], [power / (1 + power) for power in powers])


def test_emattn_norm_of_the_1x1_branch():
    # σ(h) σ(w) = 1/4: ±1000 is normed to ±1 (variance 10⁶ against ε = 10⁻⁵), weighed 1/2: s = ±1/2 · ln 9
    emattn = _emattn(norm_weight=[2 * LN3, 0])
    x = image([[4000, -4000]], [[1, 1]])
    equals(gates(emattn(x), x)[1], [0.75, 0.25], within=1e-9)


def test_emattn_layers_serve_every_group():
    torch.manual_seed(0)
    halves, one = create("emattn", 6, groups=2).double(), create("emattn", 3, groups=1).double()
    one.load_state_dict(halves.state_dict())
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    equals(halves(x), torch.cat([one(part) for part in x.chunk(2, 1)], 1).tolist())


def test_emattn_takes_as_many_groups_as_fit():
    assert [create("emattn", channels).groups for channels in (7, 24, 64, 112)] == [1, 8, 32, 16]
    with pytest.raises(ValueError, match="emattn: groups must divide channels, got 32 and 24"):
        create("emattn", 24, groups=32)


def _plain(module, x):
    """The equations as they stand, with the map v."""
    batch, _, height, width = x.shape
    x = x.reshape(batch * module.groups, -1, height, width)
    h, w = module.sides(torch.cat([x.mean(3), x.mean(2)], 2)[..., None]).sigmoid().split([height, width], 2)
    u = F.group_norm(x * h * w.mT, x.shape[1], module.norm_weight, module.norm_bias)
    v = module.near(x)
    s = sum((a.mean((2, 3)).softmax(1)[:, :, None, None] * b).sum(1, keepdim=True) for a, b in ((u, v), (v, u)))
    return (x * s.sigmoid()).reshape(batch, -1, height, width)


@pytest.mark.parametrize("size", [(5, 7), (1, 6), (4, 1), (2, 2)])
def test_emattn_equals_its_equations(size):
    torch.manual_seed(1)
    emattn = create("emattn", 12, groups=3).double()
    for p in emattn.parameters():
        torch.nn.init.normal_(p)
    x, cotangent = torch.randn(2, 2, 12, *size, dtype=torch.float64)
    leaves = [x.requires_grad_(), *emattn.parameters()]
    found, known = (torch.autograd.grad(y, leaves, cotangent) for y in (emattn(x), _plain(emattn, x)))
    equals(emattn(x), _plain(emattn, x).tolist())
    torch.testing.assert_close(found, known, rtol=0, atol=1e-11)
