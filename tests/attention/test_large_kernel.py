"""Large kernel attention worked out on paper."""

import pytest
import torch

from by_hand import equals, gates, image, with_values
from saccade import create
from saccade.attention.large_kernel import LargeKernelAttention


def _taps(side, *ones):
    """A kernel of ``side``² zeros with ones at some places (row, column)."""
    return [1.0 if divmod(n, side) in ones else 0.0 for n in range(side * side)]


def test_middle_taps_square_the_map():
    # near and far pass x on, the mixing doubles it and adds 1: the gate is 2x + 1, unbounded and negative too
    lka = with_values(
        create("lka", 1), near__weight=_taps(5, (2, 2)), far__weight=_taps(7, (3, 3)), mix__weight=[2], mix__bias=[1]
    )
    equals(lka(image([[1, -3], [10, 0]])), [[[[3, 15], [210, 0]]]])


def test_it_looks_two_pixels_near_and_nine_far():
    # near's last tap of the middle row is 2 to the right, far's is 3·3 = 9 to the right: column 0 reads column 11
    lka = with_values(create("lka", 1), near__weight=_taps(5, (2, 4)), far__weight=_taps(7, (3, 6)), mix__weight=[1])
    row = [float(n + 1) for n in range(13)]
    equals(gates(lka(image([row])), image([row])), [[12, 13, *[0] * 11]])


def test_it_looks_as_far_as_its_options_say():
    # K = 10, d = 2: near is 3×3, far ⌈10/2⌉ = 5 taps, 2 apart: 1 + 4 pixels down
    lka = with_values(
        create("lka", 1, kernel_size=10, dilation=2), near__weight=_taps(3, (2, 1)), far__weight=_taps(5, (4, 2)),
        mix__weight=[1],
    )  # fmt: skip
    column = [[float(n + 1)] for n in range(7)]
    equals(gates(lka(image(column)), image(column)), [[6, 7, 0, 0, 0, 0, 0]])


def test_channels_meet_in_the_mixing_alone():
    # x = (2, 3): depthwise biases add 1 and 2 before the mixing swaps them: gates (3 + 2, 2 + 1)
    lka = with_values(
        create("lka", 2), near__weight=_taps(5, (2, 2)) * 2, near__bias=[1, 0], far__weight=_taps(7, (3, 3)) * 2,
        far__bias=[0, 2], mix__weight=[[0, 1], [1, 0]],
    )  # fmt: skip
    equals(lka(image([[2]], [[3]])), [[[[10]], [[9]]]])


def test_it_starts_as_the_authors_do():
    torch.manual_seed(0)
    lka = create("lka", 400)
    for conv, fan_out in ((lka.near, 25), (lka.far, 49), (lka.mix, 400)):
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
        assert not conv.bias.any()


def test_its_size_at_64_channels_is_that_of_the_authors_module():
    # 25 and 49 taps and a bias for each channel, 64² + 64 for the mixing
    assert sum(p.numel() for p in create("lka", 64).parameters()) == 64 * (26 + 50 + 65) == 9024


@pytest.mark.parametrize(("kernel_size", "dilation"), [(22, 3), (21, 0), (0, 3)])
def test_a_kernel_that_would_shift_the_map_is_refused(kernel_size, dilation):
    with pytest.raises(ValueError, match=f"{kernel_size if dilation else dilation}"):
        LargeKernelAttention(4, kernel_size=kernel_size, dilation=dilation)
