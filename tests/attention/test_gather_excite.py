"""Gather-Excite, worked out on paper. σ(ln k) = k / (1 + k)."""

from math import log

import pytest
import torch
import torch.nn.functional as F

from by_hand import equals, gates, image, with_values
from saccade import create

LN2, LN3 = log(2), log(3)


def test_ge_without_parameters_is_the_sigmoid_of_the_mean():
    x = image([[0, 2 * LN3]], [[-LN2, -LN2]])
    ge = create("ge", 2, extra_params=False)
    assert list(ge.parameters()) == []
    equals(gates(ge(x), x)[:, 1], [0.75, 1 / 3])


def test_ge_without_parameters_over_windows():
    # extent 2: windows of 3 at a stride of 2, only pixels inside count: means of columns (0, 1) and (1, 2, 3)
    x = image([[LN3, LN3, -LN3, -3 * LN3]])
    gate = [0.75, 0.75, 1 / 4, 1 / 4]  # (ln 3 + ln 3)/2 and (1 − 1 − 3)/3 ln 3 = −ln 3
    equals(gates(create("ge", 1, extra_params=False, extent=2)(x), x), [gate])


def test_ge_with_a_kernel_over_the_whole_map():
    # 1·0 + 2·ln 3/2 = ln 3 in channel 0; in channel 1 −1·ln 2 + 0 = −ln 2; batch norms with scale 1
    ge = create("ge", 2, size=(1, 2))
    ge = with_values(ge, gather__0__weight=[[1, 2], [-1, 0]], gather__1__weight=[1, 1])
    x = image([[0, LN3 / 2]], [[LN2, 5]])
    equals(gates(ge(x), x)[:, 1], [0.75, 1 / 3])


def test_ge_mixes_channels_after_a_relu():
    # gathered (1, −1); the ReLU leaves (1, 0); the unit holds 1 + 0, the logits (ln 3, −ln 2)
    ge = create("ge", 2, use_mlp=True, rd_ratio=0.5, size=(1, 1))
    ge = with_values(ge, gather__0__weight=[1, -1], gather__1__weight=[1, 1], mlp__1__weight=[1, 5],
                     mlp__3__weight=[LN3, -LN2])  # fmt: skip
    x = image([[1]], [[1]])
    equals(gates(ge(x), x), [[0.75], [1 / 3]])


def test_ge_of_the_mean_with_channels_mixed_is_se():
    torch.manual_seed(0)
    ge, se = create("ge", 16, extra_params=False, use_mlp=True), create("se", 16)
    se.squeeze.weight.data, se.squeeze.bias.data = ge.mlp[0].weight.data.flatten(1), ge.mlp[0].bias.data
    se.excite.weight.data, se.excite.bias.data = ge.mlp[2].weight.data.flatten(1), ge.mlp[2].bias.data
    x = torch.randn(2, 16, 5, 3)
    torch.testing.assert_close(ge(x), se(x))


@pytest.mark.parametrize(("extent", "steps"), [(2, 1), (4, 2), (8, 3)])
def test_ge_gathers_a_smaller_extent_in_steps_of_two(extent, steps):
    torch.manual_seed(0)
    ge = create("ge", 3, extent=extent).eval()
    kinds = [type(part).__name__ for part in ge.gather]
    assert kinds == (["Conv2d", "BatchNorm2d", "ReLU"] * steps)[:-1]
    x = torch.randn(1, 3, 17, 9)
    gate = ge.gather(x).sigmoid()
    assert gate.shape[2:] == (-(-17 // extent), -(-9 // extent))
    torch.testing.assert_close(ge(x), x * F.interpolate(gate, size=(17, 9)))


def test_ge_refuses_what_it_cannot_build_or_take():
    with pytest.raises(ValueError, match=r"size=\(H, W\)"):
        create("ge", 8)
    with pytest.raises(ValueError, match=r"got \(0, 3\)"):
        create("ge", 8, size=(0, 3))
    with pytest.raises(ValueError, match="ge: extent must be 0 or a power of two above 1, got 3"):
        create("ge", 8, extent=3)
    with pytest.raises(ValueError, match=r"maps of \(4, 3\), got \(3, 4\)"):
        create("ge", 8, size=(4, 3))(torch.zeros(1, 8, 3, 4))
