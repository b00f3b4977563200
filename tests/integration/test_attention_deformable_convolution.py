"""Deformable convolution by hand: one tap, moved by known offsets; what the options do."""

import math

import pytest
import torch
import torch.nn.functional as F

from by_hand import equals, image, with_values
from saccade import create

RAMP = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def _same(found, expected):
    equals(found, expected.tolist())


def _one_tap(name, down, right, *, z=0.0, **options):
    """One channel, a kernel of one pixel with the weight 2, and the same offset everywhere."""
    made = create(name, 1, kernel_size=1, **options)
    values = {"weight": [[[[2.0]]]], "offset.weight": [[[[0.0]]]] * (3 if name == "dcn2" else 2)}
    bias = [down, right, z] if name == "dcn2" else [down, right]
    return with_values(made, **values, **{"offset.bias": bias})


def test_a_whole_step_down_and_half_a_step_right():
    # Row r reads row r + 1, halfway between a pixel and its right neighbour; outside is zero.
    expected = [[9.0, 11.0, 6.0], [15.0, 17.0, 9.0], [0.0, 0.0, 0.0]]
    _same(_one_tap("dcn1", 1.0, 0.5)(image(RAMP)), image(expected))


def test_down_comes_before_right():
    expected = [[8.0, 10.0, 12.0], [14.0, 16.0, 18.0], [0.0, 0.0, 0.0]]
    _same(_one_tap("dcn1", 1.0, 0.0)(image(RAMP)), image(expected))
    expected = [[4.0, 6.0, 0.0], [10.0, 12.0, 0.0], [16.0, 18.0, 0.0]]
    _same(_one_tap("dcn1", 0.0, 1.0)(image(RAMP)), image(expected))


def test_a_quarter_in_both_directions():
    # 2 · (9/16·1 + 3/16·2 + 3/16·4 + 1/16·5) at the first pixel: the value of the ramp 0.25 right and 0.25 down.
    assert _one_tap("dcn1", 0.25, 0.25)(image(RAMP))[0, 0, 0, 0].item() == pytest.approx(2 * (1 + 0.25 + 0.75))


def test_the_modulation_scales_the_tap():
    # σ(0) = 1/2 of 2·x; σ(ln 3) = 3/4; with s = 2 the modulation is 1 and 3/2.
    _same(_one_tap("dcn2", 0.0, 0.0)(image(RAMP)), image(RAMP))
    z = math.log(3)
    _same(_one_tap("dcn2", 0.0, 0.0, z=z)(image(RAMP)), 1.5 * image(RAMP))
    _same(_one_tap("dcn2", 0.0, 0.0, z=z, scale=2.0)(image(RAMP)), 3.0 * image(RAMP))


def test_each_group_of_channels_has_its_own_offsets():
    made = create("dcn1", 2, kernel_size=1, groups=2, offset_groups=2)
    zero = torch.zeros(4, 2, 1, 1).tolist()
    made = with_values(
        made, weight=[[[[1.0]]], [[[1.0]]]], **{"offset.weight": zero, "offset.bias": [0.0, 1.0, 1.0, 0.0]}
    )
    x = torch.cat([image(RAMP), image(RAMP)], 1)
    _same(made(x)[:, :1], image([[2, 3, 0], [5, 6, 0], [8, 9, 0]]))
    _same(made(x)[:, 1:], image([[4, 5, 6], [7, 8, 9], [0, 0, 0]]))


@pytest.mark.parametrize("name", ["dcn1", "dcn2"])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"out_channels": 10}, {"kernel_size": 5}, {"stride": 2}, {"padding": 0}, {"dilation": 2}, {"groups": 2},
        {"bias": True}, {"stride": 2, "dilation": 2, "padding": 3, "kernel_size": 2, "out_channels": 4, "groups": 4},
    ],
    ids=str,
)  # fmt: skip
def test_at_its_start_it_is_a_convolution_of_the_same_numbers(name, options):
    torch.manual_seed(0)
    made, x = create(name, 8, **options).double(), torch.randn(2, 8, 9, 7, dtype=torch.float64)
    if made.bias is not None:
        torch.nn.init.normal_(made.bias)
    same = made.dilation * (made.kernel_size - 1) // 2
    numbers = made.stride, options.get("padding", same), made.dilation, made.groups
    wanted = F.conv2d(x, made.weight * (0.5 if name == "dcn2" else 1.0), made.bias, *numbers)
    _same(made(x), wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "8"),
        ({"out_channels": 9, "groups": 2}, "got 2 for 8 in and 9 out"),
        ({"offset_groups": 3}, "offset_groups must divide the channels, got 3 and 8"),
        ({"kernel_size": 4}, r"if padding is None, which keeps the size; got 1 \* \(4 - 1\)"),
        ({"stride": 0}, "stride, dilation and groups must be at least 1, got 0"),
        ({"padding": -1}, "padding must be at least 0, got -1"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        create("dcn2", 8, **options)
