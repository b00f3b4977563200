"""Dual attention by hand: softmax(ln 3, 0) = (3/4, 1/4)."""

from math import log, sqrt

import pytest
import torch

from by_hand import equals, image, with_values
from saccade import create
from saccade.catalog import load

LN3 = log(3)


PLACES = {"position__query__bias": [1], "position__key__weight": [1, 0], "position__value__weight": [[1, 0], [0, 0]],
          "position__value__bias": [0, 5], "position__gamma": [2]}  # fmt: skip


def test_danet_positions():
    # every query is 1, keys (ln 3, 0): weights (3/4, 1/4) everywhere; values (ln 3, 0) and (5, 5); doubled
    danet = with_values(create("danet", 2, rd_ratio=0.5, channel=False), **PLACES)
    equals(danet(image([[LN3, 0]], [[0, 1]])), [[[[2.5 * LN3, 1.5 * LN3]], [[10, 11]]]])


def test_danet_channels_take_the_least_alike():
    # a = (√ln 3, 0), b = (0, √ln 3): G = diag(ln 3), rows of X (1/4, 3/4) and (3/4, 1/4); doubled and added
    root = sqrt(LN3)
    danet = with_values(create("danet", 2, position=False), channel__gamma=[2])
    equals(danet(image([[root, 0]], [[0, root]])), [[[[1.5 * root, 1.5 * root]], [[1.5 * root, 1.5 * root]]]])


def test_danet_adds_its_branches_to_one_map():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    both = with_values(create("danet", 4, rd_ratio=0.5))
    with torch.no_grad():
        for p in both.parameters():
            p.normal_()
    alone = []
    for left_out in ("channel", "position"):
        branch = create("danet", 4, rd_ratio=0.5, **{left_out: False}).double()
        branch.load_state_dict({n: v for n, v in both.state_dict().items() if not n.startswith(left_out)})
        alone.append(branch(x) - x)
    equals(both(x), (x + alone[0] + alone[1]).tolist())
    assert min(part.abs().max() for part in alone) > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_danet_channels_of_large_values_do_not_overflow(dtype):
    # products of 300 · 300 over 35 pixels are far beyond the largest float16, 65504
    danet = create("danet", 8, position=False)
    torch.nn.init.ones_(danet.channel.gamma)
    x = (300 * torch.randn(1, 8, 7, 5)).to(dtype)
    y = danet.to(dtype)(x)
    assert y.isfinite().all()
    assert (y - x).abs().max() > 1


def test_danet_needs_a_branch():
    with pytest.raises(ValueError, match="one of position and channel"):
        load("danet")(8, position=False, channel=False)
