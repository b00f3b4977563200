"""Cases small enough to be worked out on paper; the working stands beside the numbers.

Used throughout: σ(ln k) = k / (1 + k), so that a logit of ln 3 is a gate of 3/4.
"""

from math import erf, exp, log, sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import tensor

from by_hand import equals, gates, image, unmoved, with_values
from saccade import create

LN2, LN3 = log(2), log(3)

# --------------------------------------------------------------------------------------------------------------------
# SE


def test_se_with_nothing_but_biases():
    # z = (1, 3); W₁z + b₁ = 2·1 − 1·3 + 0.5 = −0.5, which the ReLU closes; s = σ(b₂) = σ(0, ln 3) = (1/2, 3/4)
    se = with_values(create("se", 2, rd_ratio=0.5), squeeze__weight=[2, -1], squeeze__bias=[0.5], excite__weight=[5, 7],
               excite__bias=[0, LN3])  # fmt: skip
    x = image([[0.5, 1.5]], [[2, 4]])
    equals(se(x), [[[[0.25, 0.75]], [[1.5, 3]]]])


def test_se_through_an_open_unit():
    # z = (1, 3); W₁z + b₁ = 1 + 3 − 1 = 3; logits 3 · (ln 2 / 3, −ln 4 / 3) = (ln 2, −ln 4); s = (2/3, 1/5)
    se = with_values(create("se", 2, rd_ratio=0.5), squeeze__weight=[1, 1], squeeze__bias=[-1],
               excite__weight=[LN2 / 3, -2 * LN2 / 3])  # fmt: skip
    x = image([[0, 2], [3, -1]], [[3, 3], [5, 1]])
    equals(se(x), [[[[0, 4 / 3], [2, -2 / 3]], [[0.6, 0.6], [1, 0.2]]]])


def test_se_without_bias_at_zero_halves():
    se = with_values(create("se", 3, rd_ratio=1.0, bias=False))
    assert {name for name, _ in se.named_parameters()} == {"squeeze.weight", "excite.weight"}
    equals(se(image([[2]], [[-4]], [[6]])), [[[[1]], [[-2]], [[3]]]])


def test_se_rounds_its_bottleneck_down():
    # 47 / 16 = 2.94: two units. 2·47·2 weights and 47 + 2 biases.
    assert sum(p.numel() for p in create("se", 47).parameters()) == 2 * 47 * 2 + 49


# --------------------------------------------------------------------------------------------------------------------
# ECA


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


# --------------------------------------------------------------------------------------------------------------------
# CBAM


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


# --------------------------------------------------------------------------------------------------------------------
# DAS


def _randomised(module):
    with torch.no_grad():
        for p in module.parameters():
            p.normal_()
    return module.double().eval()


def _compressed(das, x):
    """z of equation 1, step by step."""
    z = F.conv2d(F.conv2d(x, das.depthwise.weight, padding=1, groups=x.shape[1]), das.pointwise.weight)
    return F.gelu(F.instance_norm(z) + das.shift[:, None, None])


def test_das_starts_on_the_regular_grid_at_half_strength():
    # The offset convolution starts at zero: no offsets, every modulation σ(0) = 1/2. So d is half a plain convolution
    # plus its bias, A = σ(LN(d)).
    torch.manual_seed(0)
    das = create("das", 10).double().eval()
    x = torch.randn(2, 10, 5, 7, dtype=torch.float64)
    d = F.conv2d(_compressed(das, x), das.deform.weight, padding=1) / 2 + das.deform.bias[:, None, None]
    a = F.layer_norm(d.movedim(1, 3), (10,)).movedim(3, 1).sigmoid()
    equals(das(x), (x * a).tolist(), within=1e-10)


def test_das_without_a_kernel_halves():
    # d = 0, LN(0) = 0, A = 1/2
    das = with_values(create("das", 5), norm__weight=[1] * 5)
    equals(das(image([[2, 4]], [[6, 8]], [[1, 3]], [[5, 7]], [[-2, 0]])),
        [[[[1, 2]], [[3, 4]], [[0.5, 1.5]], [[2.5, 3.5]], [[-1, 0]]]])  # fmt: skip


def test_das_number_by_number():
    # C = 5, c = ⌊0.2·5⌋ = 1. The depthwise kernels are their middle tap, the pointwise layer takes channel 0, whose two
    # values 1003 and 997 the instance norm makes +1 and −1 (variance 9 against ε = 1e-5: off by 6e-7).
    # z = GELU(±1) = (Φ(1), −Φ(−1)) = (0.8413, −0.1587). The deformable kernel is its middle tap with weights
    # (2, −2, 0, 0, 0): times the modulation 1/2, d = (z, −z, 0, 0, 0). Over the channels: mean 0, variance 2z²/5, so
    # LN(d) = (±√2.5, ∓√2.5, 0, 0, 0), + where z > 0. A = σ of that.
    middle = [0, 0, 0, 0, 1, 0, 0, 0, 0]
    das = with_values(create("das", 5), depthwise__weight=middle * 5, pointwise__weight=[1, 0, 0, 0, 0],
                deform__weight=[[w * tap for tap in middle] for w in (2, -2, 0, 0, 0)],
                norm__weight=[1] * 5)  # fmt: skip
    x = image([[1003, 997]], [[1, 1]], [[1, 1]], [[1, 1]], [[1, 1]])
    phi = (1 + erf(1 / sqrt(2))) / 2
    assert phi == pytest.approx(0.8413447)

    def gate(z):
        return 1 / (1 + exp(-z / sqrt(2 * z * z / 5 + 1e-5)))

    high, low = gate(phi), gate(phi - 1)
    assert high == pytest.approx(1 / (1 + exp(-sqrt(2.5))), abs=1e-5)
    assert low == pytest.approx(1 - high, abs=2e-4)  # ε of the layer norm against a small z
    equals(gates(das(x), x), [[high, low], [1 - high, 1 - low], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]], within=1e-6)


def test_das_offsets_are_pixels_down_then_right():
    # Offset biases of (dy, dx) = (0, 1) for each tap, modulation σ(40) = 1: every tap looks one pixel to the right,
    # zeros outside. That is a plain convolution of z padded by (0, 2) in place of (1, 1) in that direction.
    torch.manual_seed(1)
    das = _randomised(create("das", 10))
    x = torch.randn(1, 10, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        das.offset.weight.zero_()
        das.offset.bias.copy_(tensor([0.0, 1.0] * 9 + [40.0] * 9))
    z = F.pad(_compressed(das, x), (0, 2, 1, 1))
    d = F.conv2d(z, das.deform.weight, das.deform.bias)
    a = F.layer_norm(d.movedim(1, 3), (10,), das.norm.weight, das.norm.bias).movedim(3, 1).sigmoid()
    equals(das(x), (x * a).tolist(), within=1e-10)


def test_das_on_one_pixel_knows_only_its_shift():
    # A 1×1 map is its own mean: the instance norm gives 0, z = GELU(b) for any x, and the gate does not depend on x.
    torch.manual_seed(2)
    das = _randomised(create("das", 10))
    x = torch.rand(1, 10, 1, 1, dtype=torch.float64) + 1
    equals(gates(das(x), x), gates(das(3 * x), 3 * x).tolist())
    with torch.no_grad():
        before = gates(das(x), x)
        das.shift.add_(1)
    assert (gates(das(x), x) - before).abs().max() > 1e-3


# --------------------------------------------------------------------------------------------------------------------
# BAM


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


# --------------------------------------------------------------------------------------------------------------------
# GC

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
    assert torch.equal(create("gc", 32)(x), x)
    equals(create("gc", 32, fuse_scale=True)(x), (x / 2).tolist(), within=1e-6)


@pytest.mark.parametrize(("channels", "units"), [(8, 2), (16, 2), (32, 2), (47, 2), (48, 3), (256, 16)])
def test_gc_keeps_two_units(channels, units):
    assert create("gc", channels).add[0].out_features == units


# --------------------------------------------------------------------------------------------------------------------
# Coordinate attention


def _coord(shift):
    """C = 1: the first of the 8 units carries mean + ``shift``, the others are silent."""
    first = [1, 0, 0, 0, 0, 0, 0, 0]
    coord = with_values(create("coord", 1), squeeze__weight=first, squeeze__bias=[shift * one for one in first],
                  rows__weight=[LN3 / 4 * one for one in first], columns__weight=[LN2 / 2 * one for one in first],
                  rows__bias=[-3 * LN3 / 4], columns__bias=[-2 * LN2])  # fmt: skip
    return unmoved(coord)


def test_coord_gates_rows_and_columns():
    # Means of the rows (2, 6), of the columns (3, 5); plus 1: (3, 7), (4, 6), from 3 on h-swish is the identity.
    # g^h = σ((f − 3) ln 3 / 4) = σ(0, ln 3) = (1/2, 3/4); g^w = σ((f − 4) ln 2 / 2) = σ(0, ln 2) = (1/2, 2/3)
    equals(_coord(1)(image([[1, 3], [5, 7]])), [[[[0.25, 1], [1.875, 3.5]]]])


def test_coord_bends_below_three():
    # A map of one pixel, 1, shift 0: f = 1 · ReLU6(4)/6 = 2/3 for row and column
    def sigmoid(z):
        return 1 / (1 + exp(-z))

    equals(_coord(0)(image([[1]])), [[[[sigmoid((2 / 3 - 3) * LN3 / 4) * sigmoid((2 / 3 - 4) * LN2 / 2)]]]])


@pytest.mark.parametrize(("channels", "width"), [(1, 8), (256, 8), (287, 8), (288, 9), (960, 30)])
def test_coord_has_eight_units_or_more(channels, width):
    assert create("coord", channels).squeeze.out_channels == width


# --------------------------------------------------------------------------------------------------------------------
# Triplet attention

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


# --------------------------------------------------------------------------------------------------------------------
# SimAM


def test_simam_of_four_values():
    # mean 1, d = (1, 1, 1, 9), v = 12/3 = 4; with λ = 2: E = d/24 + 1/2 = 13/24 three times, and 21/24
    y = create("simam", 1, e_lambda=2.0)(image([[0, 0], [0, 4]]))
    equals(y, [[[[0, 0], [0, 4 / (1 + exp(-21 / 24))]]]])
    shifted = image([[1, 1], [1, 5]])
    low, high = 1 / (1 + exp(-13 / 24)), 1 / (1 + exp(-21 / 24))
    equals(gates(create("simam", 1, e_lambda=2.0)(shifted), shifted), [[low, low, low, high]])


def test_simam_of_a_constant_map_and_of_one_pixel_is_its_least_gate():
    least = 1 / (1 + exp(-1 / 2))
    for x in (image([[3, 3], [3, 3]]), image([[3]])):
        equals(gates(create("simam", 1)(x), x), [[least] * x.numel()])


def test_simam_learns_nothing():
    assert list(create("simam", 8).state_dict()) == []


# --------------------------------------------------------------------------------------------------------------------
# Shuffle attention


def test_sa_of_one_group():
    # a = channels 0, 1 with means (ln 3, 0): σ = (3/4, 1/2). b = channels 2, 3, normalised to (−1, 1), ε = 1e-5 against
    # variance 1. Channel 2: 2 · (∓1) · ln 3 / 2, σ = (1/4, 3/4); channel 3: (0 · (∓1) + 2) · (−ln 3 / 2), σ = 1/4.
    # Then channels 0, 1, 2, 3 go to 0, 2, 1, 3.
    sa = with_values(create("sa", 4, groups=1), channel_weight=[1, 1], norm_weight=[2, 0], norm_bias=[0, 2],
               spatial_weight=[LN3 / 2, -LN3 / 2])  # fmt: skip
    x = image([[0, 2 * LN3]], [[1, -1]], [[5, 7]], [[8, 10]])
    equals(sa(x), [[[[0, 1.5 * LN3]], [[1.25, 5.25]], [[0.5, -0.5]], [[2, 2.5]]]], within=1e-4)


def test_sa_starts_even_and_shuffles_the_halves_into_each_other():
    # every gate is σ(1); channels 0 … 5 come out as 0, 3, 1, 4, 2, 5
    x = torch.rand(2, 6, 3, 5) + 1
    equals(create("sa", 6)(x), (x[:, [0, 3, 1, 4, 2, 5]] / (1 + exp(-1))).tolist(), within=1e-6)


def test_sa_halves_each_group():
    # two groups of (channel half, spatial half): channels 0 and 2 have means (ln 3, −ln 3), 1 and 3 see u_b alone
    sa = with_values(create("sa", 4, groups=2), channel_weight=[1], spatial_bias=[LN2])
    x = image([[LN3]], [[1]], [[-LN3]], [[1]])
    equals(sa(x), [[[[0.75 * LN3]], [[-0.25 * LN3]], [[2 / 3]], [[2 / 3]]]])


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(2, 1), (24, 4), (64, 32), (94, 1), (96, 16), (128, 64), (192, 32), (256, 64), (320, 32), (2048, 64)],
)
def test_sa_takes_as_many_groups_as_divide(channels, groups):
    assert create("sa", channels).groups == groups


# --------------------------------------------------------------------------------------------------------------------
# Self-attention


def test_self_attention_of_two_pixels():
    # The query is channel 0, (1, 2); the key is channel 1, (ln 3, 0); the value is channel 2, (8, 16), into channel 2.
    # Logits of pixel 1: (ln 3, 0), weights (3/4, 1/4), o = 6 + 4 = 10. Of pixel 2: (ln 9, 0), weights (9/10, 1/10),
    # o = 7.2 + 1.6 = 8.8. With γ = 1/2, y = (8 + 5, 16 + 4.4).
    layer = with_values(create("self_attention", 3, rd_ratio=1 / 3), query__weight=[1, 0, 0], key__weight=[0, 1, 0],
                  value__weight=[0, 0, 0, 0, 0, 0, 0, 0, 1], gamma=[0.5])  # fmt: skip
    equals(layer(image([[1, 2]], [[LN3, 0]], [[8, 16]])), [[[[1, 2]], [[LN3, 0]], [[13, 20.4]]]])


def test_self_attention_that_asks_nothing_adds_the_mean():
    # logits 0: every pixel takes the mean 3 of (1, 2, 6) twice (γ = 2)
    layer = with_values(create("self_attention", 1, rd_ratio=1.0), key__weight=[1], value__weight=[1], gamma=[2])
    equals(layer(image([[1], [2], [6]])), [[[[7], [8], [12]]]])
