"""The attention gate of Attention U-Net, worked out on paper. σ(ln k) = k / (1 + k)."""

from math import log

import pytest
import torch
import torch.nn.functional as F

from by_hand import equals, gates, image, with_values
from saccade import UserError, create
from saccade.contract.randomize import perturb

LN2, LN3 = log(2), log(3)


def test_the_gate_by_hand():
    # s is (1, 2; 3, 4), W_s adds the four pixels: 10. g is the mean of (2, 4; 6, 8) = 5, W_g doubles it, b_g = −19.
    # ReLU(10 + 10 − 19) = 1, ψ = ln 3, b_ψ = 0: α = 3/4 on all four pixels. u, the first channel, is not gated.
    gate = with_values(create("skip_gate", 2, rd_ratio=1), skip__weight=[1, 1, 1, 1], signal__weight=[2],
                       signal__bias=[-19], psi__weight=[LN3])  # fmt: skip
    x = image([[2, 4], [6, 8]], [[1, 2], [3, 4]])
    equals(gates(gate(x), x), [[1, 1, 1, 1], [0.75, 0.75, 0.75, 0.75]])
    gate.signal.bias.data.fill_(-30)  # off: α = σ(0)
    equals(gates(gate(x), x), [[1, 1, 1, 1], [0.5, 0.5, 0.5, 0.5]])
    gate.psi.bias.data.fill_(LN2)
    equals(gates(gate(x), x)[1], [2 / 3] * 4)


def test_the_coefficients_are_doubled_between_their_centres():
    # The means of u over pairs of its five columns are (0, ln 3, ln 3), the last of one column; ψ = 1 makes α
    # (1/2, 3/4, 3/4). Columns between the centres of two pairs mix them by quarters.
    gate = with_values(create("skip_gate", 2, rd_ratio=1), signal__weight=[1], psi__weight=[1])
    x = image([[0, 0, LN3, LN3, LN3]], [[1, 1, 1, 1, 1]])
    equals(gate(x)[0, 1, 0], [0.5, 0.75 * 0.5 + 0.25 * 0.75, 0.25 * 0.5 + 0.75 * 0.75, 0.75, 0.75])


@pytest.mark.parametrize("size", [(6, 8), (4, 4)])
def test_it_is_the_equation_of_the_paper(size):
    """With nearest upsampling, g is the coarse map; bilinear resampling is torch's where sides are even."""
    torch.manual_seed(0)
    gate = perturb(create("skip_gate", 10, skip=(0, 6)))
    coarse, s = torch.randn(2, 4, *(n // 2 for n in size)), torch.randn(2, 6, *size)
    x = torch.cat([s, F.interpolate(coarse, scale_factor=2)], 1)
    q = gate.psi((F.conv2d(s, gate.skip.weight, stride=2) + gate.signal(coarse)).relu())
    alpha = F.interpolate(q.sigmoid(), scale_factor=2, mode="bilinear")
    y = gate(x)
    torch.testing.assert_close(y[:, :6], alpha * s)
    assert torch.equal(y[:, 6:], x[:, 6:])
    assert alpha.std() > 0.01
    assert not torch.allclose(y[:, :6], s)


@pytest.mark.parametrize("skip", [(4, 10), (0, 6), (2, 7)])
def test_only_the_skip_is_gated_and_the_gradient_reaches_both(skip):
    torch.manual_seed(1)
    gate, x = perturb(create("skip_gate", 10, skip=skip)), torch.randn(2, 10, 5, 7, requires_grad=True)
    y, inside = gate(x), torch.zeros(10, dtype=torch.bool)
    inside[skip[0] : skip[1]] = True
    assert torch.equal(y[:, ~inside], x[:, ~inside])
    assert ((y[:, inside] / x[:, inside]).amax() < 1).item()
    (gradient,) = torch.autograd.grad(y[:, inside].sum(), x)
    assert (gradient.abs().amax((0, 2, 3)) > 0).all()  # of u by the gate alone


def test_a_list_from_a_file_is_a_range():
    assert create("skip_gate", 10, skip=[2, 7]).signal.in_channels == 5
    assert create("skip_gate", 9).skip.in_channels == 5  # the second half, the larger one


@pytest.mark.parametrize("skip", [(0, 10), (4, 4), (-1, 3), (4, 11), (1, 2, 3), 3, (2.0, 4.0), (True, 4)])
def test_a_range_that_is_none_is_refused(skip):
    with pytest.raises(UserError, match="skip must be the first channel of the skip and the one behind its last"):
        create("skip_gate", 10, skip=skip)
