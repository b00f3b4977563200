"""Triplet Attention by hand. σ(ln k) = k / (1 + k)."""

from math import log

from by_hand import equals, gates, image, unmoved, with_values
from saccade import create

LN2, LN3 = log(2), log(3)


SIDES = {"height__conv__weight": [1, 0], "width__conv__weight": [0, 1]}


# One row, 1×1 convolutions. g_H reads the maximum over the one row, x itself: σ = (3/4, 1/4), (2/3, 2/3). g_W reads the
# mean over the columns, (0, ln 2): 1/2 in channel 0 and 2/3 in channel 1.
TURNED = image([[LN3, -LN3]], [[LN2, LN2]])


def test_triplet_averages_three_gates():
    # g_C reads the maximum over the channels, (ln 3, ln 2): (3/4, 2/3).
    # Means of three: (3/4 + 1/2 + 3/4)/3 = 2/3, (1/4 + 1/2 + 2/3)/3 = 17/36; (2/3 + 2/3 + 3/4)/3 = 25/36, 2/3
    triplet = unmoved(with_values(create("triplet", 2, kernel_size=1), **SIDES, channel__conv__weight=[1, 0]))
    equals(gates(triplet(TURNED), TURNED), [[2 / 3, 17 / 36], [25 / 36, 2 / 3]])


def test_triplet_without_the_spatial_gate_averages_two():
    triplet = unmoved(with_values(create("triplet", 2, kernel_size=1, no_spatial=True), **SIDES))
    equals(gates(triplet(TURNED), TURNED), [[5 / 8, 3 / 8], [2 / 3, 2 / 3]])


def test_triplet_convolves_channels_with_columns_and_rows_with_channels():
    # 3×3 kernels of one tap, on the maximum. Height: the plane is (C, W), the upper tap reads the channel before;
    # width: the plane is (H, C), the left tap does. Both see 0 before channel 0 and ln 3 before channel 1.
    upper, left = [0, 1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0, 0]
    triplet = with_values(create("triplet", 2, kernel_size=3, no_spatial=True), height__conv__weight=upper + 9 * [0],
                    width__conv__weight=left + 9 * [0])  # fmt: skip
    x = image([[LN3, LN3], [LN3, LN3]], [[5, 5], [5, 5]])
    equals(gates(unmoved(triplet)(x), x), [[0.5] * 4, [0.75] * 4])


def test_triplet_starts_with_a_spatial_gate_of_one_half():
    triplet = create("triplet", 4)
    assert triplet.channel.bn.weight.item() == 0
    assert triplet.height.bn.weight.item() == triplet.width.bn.weight.item() == 1
    assert {part.bn.momentum for part in (triplet.height, triplet.width, triplet.channel)} == {0.01}
