"""Dual relation-aware attention by hand: softmax(ln 3, 0) = (3/4, 1/4)."""

from math import log, sqrt

import pytest
import torch
import torch.nn.functional as F

from by_hand import equals, image, unmoved, with_values
from saccade import create
from saccade.attention.dual_relation import _cells
from saccade.catalog import load

LN3 = log(3)


def test_dra_has_fifty_centers():
    # Nothing is asked for, so P is the mean value: of one centre 1·2, four 2·2, nine 3·2 and 36 4·2, 180/50 · 2 = 7.2
    eye = torch.eye(4, dtype=torch.float64)
    scaled = {f"position__centers__{n}__0__weight": ((n + 1) * eye).tolist() for n in range(4)}
    dra = unmoved(with_values(create("dra", 4, channel=False), **scaled, position__value__weight=eye.tolist(),
                               position__scale=[1]))  # fmt: skip
    equals(dra(torch.full((1, 4, 7, 5), 2.0, dtype=torch.float64)), [[[[9.2] * 5] * 7] * 4])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 12), (7, 5), (13, 1), (17, 31)])
def test_cells_of_dra_are_those_of_adaptive_pooling(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    for side, cells in zip((1, 2, 3, 6), _cells(x), strict=True):
        equals(cells, F.adaptive_avg_pool2d(x, side).tolist())


def test_dra_channels():
    # Y = x, which is positive: E = diag(ln 3), as in danet's case; two centres of two channels
    root = sqrt(LN3)
    dra = unmoved(with_values(create("dra", 2, position=False, center_ratio=1.0),
                               channel__centers__0__weight=[[1, 0], [0, 1]], channel__scale=[2]))  # fmt: skip
    equals(dra(image([[root, 0]], [[0, root]])), [[[[1.5 * root, 1.5 * root]], [[1.5 * root, 1.5 * root]]]])


def test_dra_of_one_center_of_channels_adds_it():
    # softmax of one is 1: y = x + ReLU(x₀ − x₁)
    dra = unmoved(with_values(create("dra", 2, position=False, center_ratio=0.5),
                               channel__centers__0__weight=[1, -1], channel__scale=[1]))  # fmt: skip
    equals(dra(image([[3, 1]], [[1, 2]])), [[[[5, 1]], [[3, 2]]]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rd_ratio": 0.1}, r"channels \* rd_ratio must be at least 1, got 8 \* 0.1"),
        ({"center_ratio": 0.1}, r"channels \* center_ratio must be at least 1, got 8 \* 0.1"),
        ({"position": False, "channel": False}, "one of position and channel must be true"),
    ],
)
def test_dra_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        load("dra")(8, **{"center_ratio": 0.5, **options})
