"""Efficient Channel Attention by hand. σ(ln k) = k / (1 + k)."""

from math import log

import pytest
import torch

from by_hand import equals, gates, image, with_values
from saccade import create

LN2, LN3 = log(2), log(3)


@pytest.mark.parametrize(
    ("channels", "kernel"),
    # (log₂C + 1)/2: 2.5, 3, 3.5, 3.79 -> 3;  4, 4.5, 5, 5.5 -> 5;  6 -> 7. An even whole part goes up by one.
    [(16, 3), (32, 3), (64, 3), (96, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)],
)
def test_eca_kernel_of_equation_12(channels, kernel):
    assert create("eca", channels).conv.kernel_size == (kernel,)


def test_eca_of_three_channels():
    # z = (1, 2, 4), kernel ln 2 · (1, 0, −1), zeros outside, not flipped:
    # logits ln 2 · (0 − 2, 1 − 4, 2 − 0) = (−ln 4, −ln 8, ln 4); s = (1/5, 1/9, 4/5)
    eca = with_values(create("eca", 3, kernel_size=3), conv__weight=[LN2, 0, -LN2])
    x = image([[0, 2]], [[1, 3]], [[4, 4]])
    equals(eca(x), [[[[0, 0.4]], [[1 / 9, 3 / 9]], [[3.2, 3.2]]]])


def test_eca_with_the_middle_tap_alone_sees_its_own_channel():
    # z = (ln 3, −ln 3, 0); s = (3/4, 1/4, 1/2)
    eca = with_values(create("eca", 3, kernel_size=5), conv__weight=[0, 0, 1, 0, 0])
    equals(
        gates(eca(image([[LN3]], [[-LN3]], [[1e-30]])), image([[LN3]], [[-LN3]], [[1e-30]])), [[0.75], [0.25], [0.5]]
    )


def test_eca_images_have_their_own_gates():
    # kernel of one tap, 1: s = σ(z), z = ln 3 in the first image and −ln 3 in the second
    eca = with_values(create("eca", 1, kernel_size=1), conv__weight=[1])
    x = torch.cat([image([[LN3, LN3]]), image([[-LN3, -LN3]])])
    equals(eca(x)[:, 0, 0, 0], [0.75 * LN3, -0.25 * LN3])
