"""The attention stem: cases worked out on paper, its equations pixel by pixel, and networks whose first convolution it
replaces.
"""

from math import log

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from by_hand import equals, image, with_values
from saccade import create, plug, plugs, replace, replacements
from saccade.attention.sasa_stem import AttentionStem
from saccade.contract.randomize import randomize
from saccade.cost.call import ForwardCall
from saccade.cost.macs import operator_macs

LN2, LN3 = log(2), log(3)
BESIDE = {"relative_row": [-900, 0, -900], "relative_column": [-900, 0, -900]}
"""With a query of (1, 1) in blocks of 2×2: every pixel sees itself alone."""


def small(channels, **options):
    """One head, and where nothing else is said blocks of 2×2 and one matrix of values."""
    return create("sasa_stem", channels, **{"window": 2, "num_heads": 1, "mixtures": 1, **options})


def drawn(channels=3, **options):
    torch.manual_seed(0)
    return create("sasa_stem", channels, **options).double()


def test_each_block_has_a_mean_of_its_own_and_what_is_outside_of_the_map_has_no_part_in_it():
    # q = 0: equal weights. Blocks of 4, 2, 2 and 1 pixels: (1 + 2 + 4 + 5)/4, (3 + 6)/2, (7 + 8)/2 and 9. Padded with
    # zeros they were 3, 2.25, 3.75 and 2.25.
    stem = with_values(small(1, out_channels=2), value=[1, 2])
    x = image([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    blocks = [[3, 3, 4.5], [3, 3, 4.5], [7.5, 7.5, 9]]
    equals(stem(x), [[blocks, [[2 * y for y in row] for row in blocks]]])


def test_content_by_hand():
    # Keys ln 2 and 0, queries 1: weights 2/3 and 1/3 of the values 30 and 3. In the next block both keys are ln 3.
    stem = with_values(
        small(3, out_channels=2), query=[[0, 1, 0], [0] * 3], key=[[0, 0, 1], [0] * 3], value=[[1, 0, 0], [0] * 3]
    )
    x = image([[30, 3, 8, 4]], [[1] * 4], [[LN2, 0, LN3, LN3]])
    equals(stem(x), [[[[21, 21, 6, 6]], [[0] * 4]]])


def test_rows_and_columns_by_hand():
    # q = (1, 1). ln 2 for the row below and for the column to the left: at the upper right pixel, itself 1, the left
    # one 2, the one below 2, the one below to the left 4; at the lower left there is neither, and at the other two one.
    stem = with_values(
        small(2), query=[[0, 1], [0, 1]], value=[[1, 0], [0, 0]],
        relative_row=[0, 0, LN2], relative_column=[LN2, 0, 0],
    )  # fmt: skip
    x = image([[36, 72], [108, 144]], [[1, 1], [1, 1]])
    found = stem(x)[0, 0]
    equals(found[0, 1], (72 * 1 + 36 * 2 + 144 * 2 + 108 * 4) / 9)
    equals(found[1, 0], (36 + 72 + 108 + 144) / 4)
    equals(found[0, 0], (36 + 72 + 2 * 108 + 2 * 144) / 6)
    equals(found[1, 1], (72 + 144 + 2 * 36 + 2 * 108) / 6)


@pytest.mark.parametrize(("query", "upper", "left"), [([[0, 1], [0, 0]], 2, 1), ([[0, 0], [0, 1]], 1, 2)])
def test_the_first_half_of_a_head_meets_rows_and_the_second_columns(query, upper, left):
    # ln 2 for the row above and for the column to the left: at the lower right pixel either the upper row counts twice
    # or the left column.
    stem = with_values(
        small(2), query=query, value=[[1, 0], [0, 0]], relative_row=[LN2, 0, 0], relative_column=[LN2, 0, 0]
    )
    x = image([[36, 72], [108, 144]], [[1, 1], [1, 1]])
    equals(stem(x)[0, 0, 1, 1], (36 * upper * left + 72 * upper + 108 * left + 144) / 6)


def test_a_mixture_of_values_by_hand():
    # ν₁ = (1, 0), ν₂ = 0; row and column embeddings are 0 and ln 3 in the first of two numbers: the first matrix has
    # 1/2, 3/4, 3/4 and 9/10 at the places of a block. The first makes channel 1 of x, the second channel 2.
    stem = with_values(
        small(2, mixtures=2), query=[[0, 1], [0, 1]], value=[[[1, 0], [0, 0]], [[0, 0], [1, 0]]],
        row=[[0, 0], [LN3, 0]], column=[[0, 0], [LN3, 0]], mixture=[[1, 0], [0, 0]], **BESIDE,
    )  # fmt: skip
    x = image([[20] * 4, [20] * 4, [40] * 4], [[1] * 4] * 3)
    equals(stem(x), [[
        [[10, 15, 10, 15], [15, 18, 15, 18], [20, 30, 20, 30]],
        [[10, 5, 10, 5], [5, 2, 5, 2], [20, 10, 20, 10]],
    ]])  # fmt: skip


def test_rows_and_columns_of_the_mixture_are_not_the_same():
    # As above, with ln 3 for the lower row alone: 1/2 in the upper row, 3/4 in the lower.
    stem = with_values(
        small(2, mixtures=2), query=[[0, 1], [0, 1]], value=[[[1, 0], [0, 0]], [[0, 0], [1, 0]]],
        row=[[0, 0], [LN3, 0]], mixture=[[1, 0], [0, 0]], **BESIDE,
    )  # fmt: skip
    equals(stem(image([[20, 20], [20, 20]], [[1, 1], [1, 1]]))[0, 0], [[10, 10], [15, 15]])


def test_a_stride_keeps_the_largest_and_a_bias_is_added():
    # Every pixel sees itself; −1 and −2 show that no zero is taken for a pixel.
    numbers = {"query": [[0, 1], [0, 1]], "value": [[1, 0], [-1, 0]], **BESIDE}
    x = image([[1, 9, -1], [4, 5, -2], [7, 8, -3]], [[1] * 3] * 3)
    stem = with_values(small(2, stride=2, bias=True), bias=[100, 0], **numbers)
    equals(stem(x), [[[[109, 99], [108, 97]], [[-1, 2], [-7, 3]]]])
    # A patch of 2×2 that is not padded: what is left of the map has no output.
    stem = with_values(small(2, stride=2, kernel_size=2, padding=0), **numbers)
    equals(stem(x), [[[[9]], [[-1]]]])
    # One window over two blocks and more.
    stem = with_values(small(2, stride=3), **numbers)
    equals(stem(x), [[[[9]], [[3]]]])


def test_heads_attend_apart_and_share_the_mixture():
    # Four channels in two heads: a query in the first alone turns the first head's weights from equal.
    stem = create("sasa_stem", 4, window=4, num_heads=2, mixtures=2)
    weight = torch.zeros(4, 4)
    weight[0, 0] = 1
    eye = torch.eye(4)
    stem = with_values(
        stem, query=weight.tolist(), key=weight.tolist(), value=torch.stack([eye, -eye]).tolist(),
        row=[[0, 0], [1, 0], [2, 0], [3, 0]], column=[[0, 1], [0, 2], [0, 0], [0, 3]], mixture=[[1, 0.5], [0, 0]],
    )  # fmt: skip
    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).expand(1, 4, 4, 4)
    y = stem(x)
    equals(y[:, 2], y[:, 3].tolist())
    # p₁ − p₂ = tanh of half the logit: row a, column b of it are a + b' / 2, b' = 1, 2, 0, 3.
    signs = torch.tanh(torch.arange(4.0)[:, None] / 2 + torch.tensor([1.0, 2.0, 0.0, 3.0]) / 4).double()
    mean = (signs * x[0, 0]).mean()
    torch.testing.assert_close(y[0, 3], mean.expand(4, 4), rtol=0, atol=1e-7)
    assert (y[0, 0] - mean).abs().max() > 0.01


def written_down(stem, x):
    """The equations, pixel by pixel; M matrices of values for each of them."""
    w, heads, (height, width) = stem.window, stem.num_heads, x.shape[2:]
    p = torch.ones(w, w, 1).double()
    if len(stem.value) > 1:
        p = torch.einsum("abe,me->abm", stem.row[:, None] + stem.column, stem.mixture).softmax(2)
    y = x.new_zeros(len(x), len(stem.query), height, width)
    for n, i, j in torch.cartesian_prod(*map(torch.arange, (len(x), height, width))).tolist():
        top, left = i - i % w, j - j % w
        seen = [(a, b) for a in range(top, min(top + w, height)) for b in range(left, min(left + w, width))]
        query = (stem.query @ x[n, :, i, j]).unflatten(0, (heads, -1))
        scores, values = [], []
        for a, b in seen:
            r = torch.cat([stem.relative_row[a - i + w - 1], stem.relative_column[b - j + w - 1]])
            scores.append((query * ((stem.key @ x[n, :, a, b]).unflatten(0, (heads, -1)) + r)).sum(1))
            matrix = (p[a - top, b - left][:, None, None] * stem.value).sum(0)
            values.append((matrix @ x[n, :, a, b]).unflatten(0, (heads, -1)))
        y[n, :, i, j] = (torch.stack(scores).softmax(0)[..., None] * torch.stack(values)).sum(0).flatten()
    return y


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((7, 5), {"out_channels": 16}),
        ((8, 4), {"out_channels": 8}),
        ((1, 6), {"out_channels": 24, "num_heads": 2, "mixtures": 3}),
        ((4, 7), {"out_channels": 12, "num_heads": 3, "window": 3, "mixtures": 1}),
        ((2, 3), {"out_channels": 8, "window": 1}),
    ],
)
def test_it_is_the_equations_pixel_by_pixel(size, options):
    stem = drawn(**options)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = written_down(stem, x)
    torch.testing.assert_close(stem(x), expected, rtol=0, atol=1e-12)
    with torch.no_grad():  # the twin: one number of the embeddings
        stem.relative_row[options.get("window", 4) - 1, 0] += 0.5
    moved = (stem(x) - expected).abs().max()
    assert moved > 1e-3 if min(size) > 1 and options.get("window") != 1 else moved < 1e-12  # of one row alone no matter


def test_pixels_of_other_blocks_are_not_seen():
    stem = drawn(out_channels=8)
    x = torch.randn(1, 3, 9, 10, dtype=torch.float64).requires_grad_()
    y = stem(x)
    for i, j in ((0, 0), (3, 3), (4, 3), (5, 7), (8, 9)):
        (slope,) = torch.autograd.grad(y[0, :, i, j].sum(), x, retain_graph=True)
        seen = torch.zeros(9, 10, dtype=torch.bool)
        seen[i - i % 4 : i - i % 4 + 4, j - j % 4 : j - j % 4 + 4] = True
        torch.testing.assert_close(slope[0].abs().sum(0) > 0, seen, rtol=0, atol=0)


def test_where_its_parameters_start():
    torch.manual_seed(0)
    stem = create("sasa_stem", 3, out_channels=4096, num_heads=2)  # E = 2048
    for matrix in (stem.query, stem.key, stem.value):
        assert matrix.abs().max().item() == pytest.approx(3**-0.5, rel=0.01)
    for embedding in (stem.relative_row, stem.relative_column, stem.mixture):
        assert embedding.std().item() == pytest.approx(2048**-0.5, rel=0.05)
    logits = (stem.row[:, None] + stem.column) @ stem.mixture.mT
    assert 0.3 < logits.std().item() < 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": 3}, "multiple of 2 \\* num_heads.*16 and 3"),
        ({"out_channels": 20}, "got 20 and 4 heads"),
        ({"window": 0}, "at least 1, got 16, 16, 7, 1, 0, 4 and 4"),
        ({"mixtures": 0}, "at least 1"),
        ({"stride": 0}, "at least 1"),
        ({"kernel_size": 2}, "got kernel_size=2, stride=1 and padding=None"),
        ({"padding": 0, "stride": 2}, "got kernel_size=7, stride=2 and padding=0"),
        ({"kernel_size": 6, "stride": 2, "padding": 1}, "padding=1"),
        ({"dilation": 2}, "got 2 and 1"),
        ({"groups": 4}, "got 1 and 4"),
    ],
)
def test_what_it_cannot_do_is_refused_with_numbers(options, words):
    with pytest.raises(ValueError, match=words):
        AttentionStem(16, **options)


@pytest.mark.parametrize("size", [(7, 7), (9, 4), (16, 5)])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding"),
    [(7, 1, 3), (7, 2, 3), (3, 2, 1), (3, 3, 1), (4, 4, 0), (2, 2, 0), (6, 2, 2), (7, 4, 3), (1, 1, 0), (4, 2, 1)],
)
def test_maps_have_the_size_a_convolution_gives_them(size, kernel_size, stride, padding):
    x, numbers = torch.randn(2, 3, *size), {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    assert create("sasa_stem", 3, out_channels=16, **numbers)(x).shape == nn.Conv2d(3, 16, **numbers)(x).shape


BOTTLENECK = torchvision.models.resnet.Bottleneck
PAPER = [
    ((1, 2, 4, 1), 4, "10.32", "4.70", "4.58"),
    ((2, 3, 5, 2), 4, "14.17", "5.94", "5.78"),
    ((3, 4, 6, 3), 4, "18.01", "7.18", "6.99"),
    ((3, 4, 6, 3), 1, "18.01", "7.10", "6.94"),
]


@pytest.mark.parametrize(("layers", "mixtures", "millions", "counted", "ours"), PAPER)
def test_networks_have_the_size_and_the_cost_of_the_paper(layers, mixtures, millions, counted, ours):
    # Table 1 of the paper, full attention: 10.3, 14.1 and 18.0 million parameters, 4.7, 6.0 and 7.2·10⁹ FLOPs, two to a
    # multiply-add; 7.1 for one matrix of values. It adds M values a pixel; ours weighs M·3 colours, which is no product
    # of matrices. In a window of 7×7 its q·r are counted for each of 49 neighbours, ours for 7 rows and 7 columns of
    # half the width.
    net = torchvision.models.ResNet(BOTTLENECK, layers)
    net.conv1.stride, net.maxpool = (1, 1), nn.MaxPool2d(4)
    replace(replace(net, "sasa_stem", input=(3, 32, 32), mixtures=mixtures), "sasa", input=(3, 32, 32))
    assert f"{sum(p.numel() for p in net.parameters()) / 1e6:.2f}" == millions
    macs = operator_macs(ForwardCall(net.eval().to("meta"), (torch.zeros(1, 3, 224, 224, device="meta"),), {}))
    assert f"{2 * macs / 1e9:.2f}" == ours
    stem, *units = replacements(net)
    theirs = macs + 224**2 * 64 * mixtures * (mixtures > 1)
    for row in units:
        side = 7 * row.size[0]  # of 224 pixels where it was seen on 32
        theirs += side**2 * row.channels * (49 - 7)
    assert (stem.convolution, len(units)) == ("conv1", sum(layers))
    assert f"{2 * theirs / 1e9:.2f}" == counted


def test_the_cost_of_the_stem_itself():
    # For each pixel: two matrices and M of values, 3·64 each; q·r, q·k and the sum of values over 16 pixels. And the
    # logits of p, once.
    stem = create("sasa_stem", 3, out_channels=64, stride=2)
    found = operator_macs(ForwardCall(stem, (torch.zeros(2, 3, 224, 224),), {}))
    assert found == 2 * 224**2 * (6 * 3 * 64 + 3 * 16 * 64) + 16 * 4 * 16


def resnet(stride=2):
    net = torchvision.models.ResNet(BOTTLENECK, [1, 1, 1, 1], num_classes=5)
    net.conv1.stride = (stride, stride)
    return randomize(net).eval()


def test_it_replaces_the_first_convolution_alone(caplog):
    net, x = resnet(), torch.randn(2, 3, 50, 39)
    before = {name: p.shape for name, p in net.named_parameters()}
    shape = net.maxpool(net.relu(net.bn1(net.conv1(x)))).shape
    replace(net, "sasa_stem", input=(3, 64, 48))
    (row,) = replacements(net)
    assert (row.convolution, row.position, row.channels, row.size) == ("conv1", "conv_stem", 3, (64, 48))
    assert (row.parameters, row.discarded, row.module.stride) == (1456, 9408, 2)
    kept = {name: p.shape for name, p in net.named_parameters() if "saccade" not in name}
    assert kept == {name: shape for name, shape in before.items() if name != "conv1.weight"}
    assert net.maxpool(net.relu(net.bn1(net.conv1(x)))).shape == shape
    assert net(x).shape == (2, 5)
    assert "9,408 weights of 1 convolution of ResNet are discarded" in caplog.text


@pytest.mark.parametrize("stride", [2, 4])
def test_pooling_changes_places_with_a_norm_whose_weights_are_positive(stride):
    torch.manual_seed(0)
    pooled, whole = (
        replace(resnet(stride), "sasa_stem", input=(3, 64, 48)),
        replace(resnet(1), "sasa_stem", input=(3, 64, 48)),
    )
    whole.conv1.load_state_dict(pooled.conv1.state_dict())
    x = torch.randn(2, 3, 24, 20)
    for positive in (True, False):
        for net in (pooled, whole):
            with torch.no_grad():
                net.bn1.weight.copy_(net.bn1.weight.abs() if positive else -net.bn1.weight.abs())
        one, other = pooled.bn1(pooled.conv1(x)), F.max_pool2d(whole.bn1(whole.conv1(x)), stride)
        assert ((one - other).abs().max().item() < 1e-5) is positive


def test_the_position_is_one_for_plugs_too():
    net = plug(resnet(), "se", where="conv_stem", input=(3, 64, 48))
    assert [(row.site, row.channels) for row in plugs(net)] == [("conv1", 64)]
