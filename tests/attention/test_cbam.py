"""CBAM by hand. σ(ln k) = k / (1 + k). tanh(ln 3) = 4/5."""

from math import log, sqrt

import pytest
import torch
from torch import tensor

from by_hand import equals, image, with_values
from saccade import create

LN2, LN3 = log(2), log(3)


def _cbam(**values):
    """C = 2, one hidden unit, 1×1 spatial convolution, batch norm that changes nothing unless ``values`` say so."""
    return with_values(create("cbam", 2, rd_ratio=0.5, spatial_kernel_size=1), **{"bn__weight": [1], **values})


CHANNEL = {"mlp__0__weight": [1, 0], "mlp__2__weight": [1, 0], "mlp__2__bias": [0, LN3 / 2]}


# With x below: channel 0 has mean ln 2 and maximum 2 ln 2. The MLP passes channel 0 through its unit to channel 0, so
# the two branches add up to 3 ln 2 = ln 8: M_c = 8/9. Channel 1 has only its bias, counted in both branches: ln 3, 3/4.
X = image([[0, 2 * LN2]], [[4 / 3 * LN3, 0]])


SEEN = image([[0, 16 / 9 * LN2]], [[LN3, 0]])


def test_cbam_channel_gate_adds_two_branches():
    # the spatial convolution is zero: M_s = 1/2
    equals(_cbam(**CHANNEL)(X), (SEEN / 2).tolist())


def test_cbam_spatial_gate_reads_the_maximum_first():
    # max_c x' = (ln 3, 16/9 ln 2); M_s = (3/4, 2^(16/9) / (1 + 2^(16/9)))
    power = 2 ** (16 / 9)
    expected = SEEN * tensor([0.75, power / (1 + power)], dtype=torch.float64)
    equals(_cbam(**CHANNEL, conv__weight=[1, 0])(X), expected.tolist())


def test_cbam_spatial_gate_reads_the_mean_second():
    # mean_c x' = (ln 3 / 2, 8/9 ln 2); M_s = (√3 / (1 + √3), 2^(8/9) / (1 + 2^(8/9)))
    power = 2 ** (8 / 9)
    expected = SEEN * tensor([sqrt(3) / (1 + sqrt(3)), power / (1 + power)], dtype=torch.float64)
    equals(_cbam(**CHANNEL, conv__weight=[0, 1])(X), expected.tolist())


def test_cbam_with_its_own_start_has_a_spatial_gate_of_one_half():
    # BN starts at scale 0 and shift 0, so M_s = σ(0) whatever the convolution; with a silent MLP y = x/4
    cbam = create("cbam", 16).eval().double()
    for layer in (cbam.mlp[0], cbam.mlp[2]):
        torch.nn.init.zeros_(layer.weight)
    x = torch.randn(2, 16, 5, 3, dtype=torch.float64)
    equals(cbam(x), (x / 4).tolist())
    assert cbam.conv.weight.abs().min() > 0


def test_cbam_spatial_convolution_has_zeros_outside():
    # x = 2 everywhere, M_c = 1/2, x' = 1: both summaries are 1. With 98 weights of ln 3 / 98 the middle of a 7×7 map
    # sees 98 ones: ln 3, M_s = 3/4. A corner sees 2·16 of them: ln 3 · 32/98.
    cbam = with_values(create("cbam", 2, rd_ratio=0.5), conv__weight=[LN3 / 98] * 98, bn__weight=[1])
    y = cbam(torch.full((1, 2, 7, 7), 2.0, dtype=torch.float64))
    equals(y[0, :, 3, 3], [0.75, 0.75])
    corner = 3 ** (32 / 98)
    equals(y[0, :, 0, 6], [corner / (1 + corner)] * 2)


def _ablated_cbam(**options):
    """One hidden unit that passes channel 0 on to channel 0; a 1×1 spatial convolution that adds what it sees."""
    branches = options.get("branches", "both")
    values = {}
    if branches != "spatial":
        values |= {"mlp__0__weight": [1, 0], "mlp__2__weight": [1, 0]}
    if branches != "channel":
        values |= {"conv__weight": [1] * (2 if options.get("spatial_pool", "both") == "both" else 1), "bn__weight": [1]}
    return with_values(create("cbam", 2, rd_ratio=0.5, spatial_kernel_size=1, **options), **values)


# Channel 0 has mean ln 2 and maximum 2 ln 2, channel 1 is 0 at both places.
PAIR = image([[0, 2 * LN2]], [[0, 0]])


@pytest.mark.parametrize(
    ("options", "gate"),
    [
        # of channel 0 at its second place, where max and mean of the channels are m = 2 ln 2 · M_c and m/2
        ({"branches": "channel"}, 8 / 9),
        ({"branches": "channel", "channel_pool": "mean"}, 2 / 3),
        ({"branches": "channel", "channel_pool": "max"}, 4 / 5),
        ({"branches": "spatial"}, 8 / 9),  # σ(2 ln 2 + ln 2)
        ({"branches": "spatial", "spatial_pool": "mean"}, 2 / 3),
        ({"branches": "spatial", "spatial_pool": "max"}, 4 / 5),
        ({"order": "parallel"}, 64 / 81),
        ({"order": "parallel", "channel_pool": "mean", "spatial_pool": "max"}, 2 / 3 * 4 / 5),
        # after M_c = 2/3 the spatial gate sees 4/3 ln 2
        ({"channel_pool": "mean", "spatial_pool": "max"}, 2 / 3 / (1 + 2 ** (-4 / 3))),
        # M_s = 4/5 there and 1/2 at the first place, where the map is 0: the mean becomes 4/5 ln 2
        ({"order": "spatial", "channel_pool": "mean", "spatial_pool": "max"}, 4 / 5 / (1 + 2 ** (-4 / 5))),
    ],
    ids=str,
)
def test_cbam_has_the_branches_pools_and_order_it_is_told(options, gate):
    y = _ablated_cbam(**options)(PAIR)
    equals(y[0, 0, 0, 1] / PAIR[0, 0, 0, 1], gate)
