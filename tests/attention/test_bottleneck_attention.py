"""Bottleneck Attention Module by hand. σ(ln k) = k / (1 + k)."""

from math import log

import torch

from by_hand import equals, image, unmoved, with_values
from saccade import create

LN2, LN3 = log(2), log(3)


MIDDLE = [0, 0, 0, 0, 1, 0, 0, 0, 0]


# C = 2, one unit. Channel branch: means (1, 2), unit 1 + 2 − 1 = 2. Spatial branch: channel 0 alone, (0, 2), through
# the middle taps. Both are positive, so the ReLUs let them through.
PAIR = image([[0, 2]], [[1, 3]])


def test_bam_multiplies_its_branches():
    # M_c = (ln 3 / 2 · 2, −ln 3 / 2 · 2) = (ln 3, −ln 3); M_s = 0.5 · (0, 2) = (0, 1); the product is (0, ±ln 3), σ of
    # it (1/2, 3/4) in channel 0 and (1/2, 1/4) in channel 1; y = x (1 + σ)
    bam = with_values(create("bam", 2, rd_ratio=0.5), channel__0__weight=[1, 1], channel__0__bias=[-1],
                channel__3__weight=[LN3 / 2, -LN3 / 2], spatial__0__weight=[1, 0], spatial__3__weight=MIDDLE,
                spatial__6__weight=MIDDLE, spatial__9__weight=[0.5])  # fmt: skip
    equals(unmoved(bam)(PAIR), [[[[0, 3.5]], [[1.5, 3.75]]]])


def test_bam_of_the_paper_adds_them():
    # The same branches, and behind each its batch norm, which takes 1 from M_s: M_c = (ln 3, −ln 3) and
    # M_s = ln 3 / 2 · (0, 2) + 1 − 1 = (0, ln 3); sums (ln 3, ln 9), (−ln 3, 0), σ of them (3/4, 9/10), (1/4, 1/2)
    bam = with_values(create("bam", 2, rd_ratio=0.5, variant="paper"), channel__0__weight=[1, 1], channel__0__bias=[-1],
                channel__2__weight=[LN3 / 2, -LN3 / 2], spatial__0__weight=[1, 0], spatial__2__weight=MIDDLE,
                spatial__4__weight=MIDDLE, spatial__6__weight=[LN3 / 2], spatial__6__bias=[1])  # fmt: skip
    bam.spatial[7].running_mean.fill_(1)
    equals(unmoved(bam)(PAIR), [[[[0, 3.8]], [[1.25, 4.5]]]])


def test_bam_sees_four_pixels_away():
    # The right tap of f₁ alone: at column 0 it reads column 4, where the map is ln 3; elsewhere it reads zeros outside.
    # M_c = b₁ = 1. y = x (1 + σ(ln 3)) = 1.75 x at column 0, 1.5 x elsewhere.
    bam = with_values(create("bam", 1, rd_ratio=1.0), channel__3__bias=[1], spatial__0__weight=[1],
                spatial__3__weight=[0, 0, 0, 0, 0, 1, 0, 0, 0], spatial__6__weight=MIDDLE,
                spatial__9__weight=[1])  # fmt: skip
    equals(unmoved(bam)(image([[4, 4, 4, 4, LN3]])), [[[[7, 6, 6, 6, 1.5 * LN3]]]])


def test_bam_of_one_image_of_one_pixel_is_trained_with_the_running_statistics():
    # (1, C, 1, 1) has no variance over the batch: train and eval agree there, and the statistics stay
    torch.manual_seed(0)
    bam = create("bam", 16)
    x = torch.randn(1, 16, 1, 1)
    expected = bam.eval()(x)
    equals(bam.train()(x), expected.tolist(), within=1e-6)
    assert {int(n) for name, n in bam.named_buffers() if name.endswith("tracked")} == {0}
