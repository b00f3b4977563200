"""Global-and-local attention worked out on paper; σ(ln k) = k / (1 + k), tanh(ln k) = (k² − 1)/(k² + 1)."""

from math import log

import pytest
import torch
import torchvision

from by_hand import equals, gates, image, with_values
from saccade import create, plug, plugs
from saccade.attention.gala import GlobalAndLocalAttention

LN2, LN3 = log(2), log(3)
X = image([[1, 3]], [[4, 6]])  # means (2, 5)
MIDDLE = [1.0 if n == 12 else 0.0 for n in range(25)]


def _gala(variant, **values):
    return with_values(create("gala", 2, rd_ratio=0.5, variant=variant), **values)


def test_both_sides_are_added_and_multiplied_for_each_channel():
    # g = W₂ ReLU(2 − 1) + b₂ = (2, 3). l = ReLU(x₀) − 1 = (0, 2).
    # Channel 0, α = ln 3 / 2, β = 0: ln 3 / 2 · (2, 4) = (ln 3, ln 9). Channel 1, α = 0, β = ln 3 / 6: (0, ln 3).
    values = {"what__0__weight": [1, 0], "what__0__bias": [-1], "what__2__weight": [1, 1], "what__2__bias": [1, 2],
              "where__0__weight": [1, 0], "alpha": [LN3 / 2, 0], "beta": [0, LN3 / 6]}  # fmt: skip
    official = _gala("official", **values, where__2__weight=MIDDLE, where__4__weight=[1], where__4__bias=[-1])
    equals(gates(official(X), X), [[3 / 4, 9 / 10], [1 / 2, 3 / 4]])
    paper = _gala("paper", **values, where__2__weight=[1], where__2__bias=[-1])
    equals(gates(paper(X), X), [[8 / 10, 80 / 82], [0, 8 / 10]])


def test_the_released_code_cuts_the_global_branch_below_zero():
    # g = (−1, 1) becomes (0, 1) there; α = ln 2 and l = 0: σ(0), σ(ln 2), and tanh(−ln 2), tanh(ln 2)
    values = {"what__2__bias": [-1, 1], "alpha": [LN2, LN2]}
    equals(gates(_gala("official", **values)(X), X), [[1 / 2, 1 / 2], [2 / 3, 2 / 3]])
    equals(gates(_gala("paper", **values)(X), X), [[-3 / 5, -3 / 5], [3 / 5, 3 / 5]])


def test_the_released_code_looks_two_pixels_to_every_side():
    # the last tap of the middle row reads two columns to the right: l = (x₀(2), 0, 0) = (ln 3, 0, 0)
    right = [1.0 if n == 14 else 0.0 for n in range(25)]
    gala = _gala("official", where__0__weight=[1, 0], where__2__weight=right, where__4__weight=[1], alpha=[1, 1])
    x = image([[1, 2, LN3]], [[1, 1, 1]])
    equals(gates(gala(x), x), [[3 / 4, 1 / 2, 1 / 2]] * 2)


def test_the_two_variants_differ_in_size_by_the_5x5_layer():
    sizes = [sum(p.numel() for p in create("gala", 16, variant=v).parameters()) for v in ("official", "paper")]
    assert sizes[0] - sizes[1] == 25 * 4 * 4 + 4
    assert sizes[1] == 16 * 4 * 2 + 4 + 16 + 16 * 4 + 4 + 4 + 1 + 2 * 16


def test_weights_start_as_in_the_released_code():
    torch.manual_seed(0)
    gala = create("gala", 1024)
    assert gala.alpha.abs().max() <= 2
    assert gala.alpha.std().item() == pytest.approx(0.88, abs=0.05)  # of a normal distribution cut there
    # Of the local branch likewise, 1024 and 25·256 inputs; of the global one uniform, of variance 2/(1024 + 256).
    assert gala.where[0].weight.std().item() == pytest.approx(0.88 / 32, rel=0.02)
    assert gala.what[0].weight.std().item() == pytest.approx(40**-0.5 / 4, rel=0.01)
    assert gala.what[2].weight.abs().max().item() == pytest.approx((6 / 1280) ** 0.5, rel=0.01)
    assert gala.where[2].weight.std().item() == pytest.approx(0.88 / 80, rel=0.02)
    assert not gala.where[2].bias.any()
    assert not gala.what[0].bias.any()


def test_it_stands_in_front_of_the_sum_of_the_first_block_of_each_stage():
    host = plug(torchvision.models.resnet18(weights=None), "gala", input=(3, 32, 32))
    assert [site.site for site in plugs(host)] == [f"layer{n}.0.bn2" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("options", [{"rd_ratio": 0.05}, {"variant": "papre"}])
def test_what_cannot_be_built_is_refused(options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        GlobalAndLocalAttention(16, **options)
