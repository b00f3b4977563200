"""Global Context block by hand. σ(ln k) = k / (1 + k)."""

from math import log

import pytest
import torch

from by_hand import equals, image, with_values
from saccade import create

LN2, LN3 = log(2), log(3)


# Mask logits (0, ln 3): m = (1/4, 3/4). z = (3/4 ln 3, 1 + 6) = (3/4 ln 3, 7). W₁ z = (7, −7): mean 0, variance 49
# against ε = 1e-5, LN gives (1, −1) but for 1e-7, and the ReLU (1, 0).
LOOKED = image([[0, LN3]], [[4, 8]])


LOOK = {"mask__weight": [1, 0]}


def _bottleneck(kind, **last):
    return {f"{kind}__0__weight": [[0, 1], [0, -1]], f"{kind}__1__weight": [1, 1]} | {
        f"{kind}__3__{name}": value for name, value in last.items()
    }


def test_gc_adds_what_it_saw_to_every_place():
    # t = W₂ (1, 0) + b₂ = (2 + 0.5, 3 − 1) = (2.5, 2)
    add = _bottleneck("add", weight=[[2, 5], [3, 5]], bias=[0.5, -1])
    gc = with_values(create("gc", 2, rd_ratio=1.0), **LOOK, **add)
    equals(gc(LOOKED), [[[[2.5, LN3 + 2.5]], [[6, 10]]]], within=1e-6)


def test_gc_scales_first_and_adds_then():
    # t' = (ln 3, −ln 3): σ = (3/4, 1/4). y = x σ(t') + t
    add = _bottleneck("add", weight=[[2, 5], [3, 5]], bias=[0.5, -1])
    scale = _bottleneck("scale", weight=[[LN3, 9], [-LN3, 9]])
    both = with_values(create("gc", 2, rd_ratio=1.0, fuse_scale=True), **LOOK, **add, **scale)
    equals(both(LOOKED), [[[[2.5, 0.75 * LN3 + 2.5]], [[3, 4]]]], within=1e-6)
    alone = with_values(create("gc", 2, rd_ratio=1.0, fuse_add=False, fuse_scale=True), **LOOK, **scale)
    equals(alone(LOOKED), [[[[0, 0.75 * LN3]], [[1, 2]]]], within=1e-6)


def test_gc_starts_as_the_identity_where_it_adds_and_as_a_half_where_it_scales():
    x = torch.randn(2, 32, 5, 3)
    torch.testing.assert_close(create("gc", 32)(x), x, rtol=0, atol=0)
    equals(create("gc", 32, fuse_scale=True)(x), (x / 2).tolist(), within=1e-6)


@pytest.mark.parametrize(("channels", "units"), [(8, 2), (16, 2), (32, 2), (47, 2), (48, 3), (256, 16)])
def test_gc_keeps_two_units(channels, units):
    assert create("gc", channels).add[0].out_features == units
