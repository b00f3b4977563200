"""Global second-order pooling in cases small enough to be worked out on paper. σ(ln k) = k / (1 + k)."""

from math import log

import pytest
import torch

from by_hand import equals, gates, image, with_values
from saccade import create

LN3 = log(3)


def _of_two(**options):
    """C = d = 2, batch norms that change nothing; channel 0 is gated by σ of the covariance of both channels."""
    gsop = create("gsop", 2, dim=2, **options)
    return with_values(gsop, reduce__weight=[[1, 0], [0, 1]], reduce_bn__weight=[1, 1], row_bn__weight=[1, 1],
                       row__weight=[[0, 1], *[[0, 0]] * 7], expand__weight=[[1, *[0] * 7], [0] * 8])  # fmt: skip


def test_a_covariance_is_a_gate():
    # channels (0, 2) and (0, 2 ln 3) of means 1 and ln 3: covariance 1 · ln 3. What is negative is cut off before.
    x = image([[-1, 2]], [[-7, 2 * LN3]])
    equals(gates(_of_two(stride=1)(x), x), [[3 / 4, 3 / 4], [1 / 2, 1 / 2]])


@pytest.mark.parametrize(("stride", "expected"), [(2, 3 / 4), (None, 3 / 4), (3, 1 / 2)])
def test_every_second_pixel(stride, expected):
    # stride 2: the pixels of the test above; stride 3: the first and the fourth, where channel 1 does not vary
    x = image([[-1, 9, 2, 4]], [[-7, 5, 2 * LN3, -7]])
    equals(gates(_of_two(stride=stride)(x), x)[0], [expected] * 4)


@pytest.mark.parametrize(("channels", "stride"), [(256, 2), (257, 1)])
def test_the_stride_goes_by_the_channels(channels, stride):
    assert create("gsop", channels, dim=2).stride == stride


def test_the_layers_start_with_a_variance_that_goes_by_their_outputs():
    torch.manual_seed(0)
    gsop = create("gsop", 512, dim=32)
    assert gsop.reduce.weight.std().item() == pytest.approx(1 / 4, rel=0.03)  # √(2/32)
    assert gsop.expand.weight.std().item() == pytest.approx(1 / 16, rel=0.03)  # √(2/512)


def test_the_position_variant_ends_in_a_relu():
    gsop = with_values(create("gsop", 2, variant="position"), expand__bias=[LN3] * 64)
    equals(gsop(image([[4, -4]], [[8, 0]])), [[[[3, 0]], [[6, 0]]]])


def test_the_grid_of_the_position_variant_lies_over_the_map():
    # the upper half of the grid has gate 3/4, the lower 1/4; 2×1 pixels see four rows each
    gsop = with_values(create("gsop", 1, variant="position"), expand__bias=[LN3] * 32 + [-LN3] * 32)
    equals(gsop(image([[4], [4]])), [[[[3], [1]]]])


def test_exported_at_stride_two_it_takes_a_single_pixel():
    gsop = create("gsop", 8, dim=4).eval()
    axes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    exported = torch.export.export(gsop, (torch.randn(2, 8, 7, 5),), dynamic_shapes=(axes,)).module()
    for size in ((1, 1), (8, 6)):
        x = torch.randn(3, 8, *size)
        torch.testing.assert_close(exported(x), gsop(x))
