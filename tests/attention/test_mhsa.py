"""Multi-head self-attention of BoTNet: cases worked out on paper, timm's layer, and its memory."""

from math import log

import pytest
import torch
import torchvision
from largest import Largest
from timm.layers.bottleneck_attn import BottleneckAttn
from torch import nn

from by_hand import equals, image, with_values
from saccade import create, replace, replacements
from saccade.attention import mhsa
from saccade.attention.mhsa import MultiHeadSelfAttention
from saccade.ops.attention import attention, attention_definition

LN2, LN3 = log(2), log(3)


def test_content_by_hand():
    # Four channels, one head: s = 1/2. Query 2 in the third channel, keys ln 3 and 0 there: logits ln 3 and 0 at both
    # pixels, weights 3/4 and 1/4 of the values 8 and 16.
    weight = torch.zeros(12, 4)
    weight[2, 2], weight[6, 3], weight[8, 0] = 1, 1, 1
    mhsa = with_values(create("mhsa", 4, num_heads=1, size=(1, 2)), qkv__weight=weight.tolist())
    x = image([[8, 16]], [[0, 0]], [[2, 2]], [[LN3, 0]])
    equals(mhsa(x), [[[[10, 10]], [[0, 0]], [[0, 0]], [[0, 0]]]])


def test_positions_by_hand():
    # One channel, so s = 1; q = 1, k = 0. 2×2 pixels a, b / c, d. height of −1, 0, 1: ln 2, 0, 0; width: 0, 0, ln 3.
    # From a: b is one to the right (3); weights 1, 3, 1, 3 of 8. From b: none to the right, none above: a mean.
    # From c: above (2) and to the right (3): a 2, b 6, c 1, d 3 of 12. From d: above: 2, 2, 1, 1 of 6.
    mhsa = with_values(
        create("mhsa", 2, out_channels=1, num_heads=1, size=(2, 2)), qkv__weight=[[0, 1], [0, 0], [1, 0]],
        height=[LN2, 0, 0], width=[0, 0, LN3],
    )  # fmt: skip
    a, b, c, d = 24, 48, 72, 96
    equals(
        mhsa(image([[a, b], [c, d]], [[1, 1], [1, 1]])),
        [[[[(a + 3 * b + c + 3 * d) / 8, 60], [(2 * a + 6 * b + c + 3 * d) / 12, (2 * a + 2 * b + c + d) / 6]]]],
    )


@pytest.mark.parametrize(("scaled", "expected"), [(True, 12), (False, 64 / 5)])
def test_the_factor_is_on_the_positions_unless_told_otherwise(scaled, expected):
    # Four channels, s = 1/2; q = (2, 0, 0, 0), k = 0. From the left pixel the right one has q·r = 2 ln 2: halved, its
    # weight is 2/3 of the values 0 and 18 or, in full, 4/5 of 0 and 16.
    weight = torch.zeros(12, 4)
    weight[0, 0], weight[8, 1] = 1, 1
    width = torch.zeros(3, 4, dtype=torch.float64)
    width[2, 0] = LN2
    mhsa = with_values(
        create("mhsa", 4, num_heads=1, size=(1, 2), scale_pos_embed=scaled), qkv__weight=weight.tolist(),
        width=width.tolist(),
    )  # fmt: skip
    y = mhsa(image([[2, 2]], [[0, 18 if scaled else 16]], [[0, 0]], [[0, 0]]))
    assert y[0, 0, 0, 0].item() == pytest.approx(expected, abs=1e-12)


def test_a_stride_averages_and_a_bias_is_added():
    # No query: each pixel is the mean 5 of 1 … 9, and so is each mean of them.
    mhsa = with_values(
        create("mhsa", 1, num_heads=1, size=(3, 3), stride=2, bias=True), qkv__weight=[0, 0, 1], bias=[100]
    )
    equals(mhsa(image([[1, 2, 3], [4, 5, 6], [7, 8, 9]])), [[[[105, 105], [105, 105]]]])


@pytest.mark.parametrize("scaled", [True, False])
def test_equals_timm(scaled):
    torch.manual_seed(0)
    ours = create("mhsa", 12, out_channels=20, num_heads=5, size=(5, 7), scale_pos_embed=scaled).double()
    timm = BottleneckAttn(12, 20, feat_size=(5, 7), num_heads=5, scale_pos_embed=scaled).double()
    names = {"qkv.weight": "qkv.weight", "pos_embed.height_rel": "height", "pos_embed.width_rel": "width"}
    timm.load_state_dict({theirs: ours.state_dict()[mine] for theirs, mine in names.items()})
    x = torch.randn(2, 12, 5, 7, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(2, 20, 5, 7, dtype=torch.float64)
    found = torch.autograd.grad(ours(x), [x, ours.qkv.weight, ours.height, ours.width], cotangent)
    known = torch.autograd.grad(timm(x), [x, *timm.parameters()], cotangent)
    known = [known[0], *(dict(zip(dict(timm.named_parameters()), known[1:], strict=True))[name] for name in names)]
    torch.testing.assert_close(ours(x), timm(x), rtol=0, atol=1e-12)
    for mine, theirs in zip(found, known, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
    ours.height.data = ours.height.flip(0)
    assert (ours(x) - timm(x)).abs().max() > 1e-3


def test_the_matrix_is_not_formed(monkeypatch):
    x = torch.randn(1, 8, 48, 48, requires_grad=True)
    sizes = []
    for form in (attention, attention_definition):
        monkeypatch.setattr(mhsa, "attention", form)
        with Largest() as largest:
            create("mhsa", 8, size=(48, 48))(x).sum().backward()
        sizes.append(largest.bytes)
    matrices = 4 * 48**4 * x.element_size()
    assert sizes[0] <= matrices / 8
    assert sizes[1] >= matrices


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": None}, "size=\\(height, width\\)"),
        ({"size": (0, 3)}, "at least \\(1, 1\\), got \\(0, 3\\)"),
        ({"num_heads": 3}, "got 16 and 3"),
        ({"kernel_size": 2}, "so that the convolution keeps the size; that is 0.5, got None"),
        ({"padding": 0}, "so that the convolution keeps the size; that is 1, got 0"),
        ({"groups": 4}, "got 4"),
        ({"stride": 0}, "at least 1"),
    ],
)
def test_what_it_cannot_do_is_refused_with_numbers(options, words):
    with pytest.raises(ValueError, match=words):
        MultiHeadSelfAttention(16, **{"size": (4, 4), **options})


def test_embeddings_start_with_the_deviation_of_a_unit_key():
    torch.manual_seed(0)
    mhsa = create("mhsa", 1024, num_heads=2, size=(8, 5))  # d = 512
    for embedding in (mhsa.height, mhsa.width):
        assert embedding.std().item() == pytest.approx(512**-0.5, rel=0.05)


def test_a_map_of_another_size_is_refused():
    with pytest.raises(ValueError, match="maps of 4×5, got 5×4"):
        create("mhsa", 8, size=(4, 5))(torch.zeros(1, 8, 5, 4))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_maps_have_the_size_a_convolution_gives_them(stride):
    x = torch.randn(2, 8, 7, 4)
    for kernel_size, dilation in ((1, 1), (3, 1), (3, 2), (5, 1)):
        mhsa = create(
            "mhsa", 8, out_channels=12, kernel_size=kernel_size, stride=stride, dilation=dilation, size=(7, 4)
        )
        padding = dilation * (kernel_size - 1) // 2
        assert mhsa(x).shape == nn.Conv2d(8, 12, kernel_size, stride, padding, dilation)(x).shape


def test_it_replaces_the_last_stage_of_a_resnet():
    # 3 · (9 − 3) · 512² weights less; embeddings of (2·4 − 1) + (2·6 − 1) in the first, of 3 + 5 in the other two.
    net = replace(torchvision.models.resnet50(), "mhsa", input=(3, 64, 96))
    assert [(row.convolution, row.size) for row in replacements(net)] == [
        ("layer4.0.conv2", (4, 6)), ("layer4.1.conv2", (2, 3)), ("layer4.2.conv2", (2, 3)),
    ]  # fmt: skip
    size = 25_557_032 - 3 * 6 * 512**2 + 128 * (18 + 8 + 8)
    assert sum(p.numel() for p in net.parameters()) == size
    assert net.eval()(torch.randn(1, 3, 64, 96)).shape == (1, 1000)
