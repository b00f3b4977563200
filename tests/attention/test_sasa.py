"""Stand-alone self-attention: cases worked out on paper, and networks whose 3×3 convolutions it replaces."""

from math import log

import pytest
import torch
import torchvision
from torch import nn

from by_hand import equals, image, with_values
from saccade import create, replace, replacements
from saccade.attention.sasa import StandAloneSelfAttention

LN2 = log(2)


def qkv(query, key, value):
    """The three matrices (2, 2) one below the other."""
    return [*query, *key, *value]


def test_without_logits_it_is_a_mean_padded_with_zeros():
    # q = 0: nine equal weights, (1 + 2 + 3 + 4)/9 at each of the four pixels; the second channel is twice the first.
    sasa = with_values(
        create("sasa", 2, window=3, num_heads=1), qkv__weight=qkv([[0, 0]] * 2, [[0, 0]] * 2, [[1, 0], [2, 0]])
    )
    x = image([[9, 18], [27, 36]], [[5, 6], [7, 8]])
    equals(sasa(x), [[[[10, 10], [10, 10]], [[20, 20], [20, 20]]]])


def test_content_by_hand():
    # One row of two pixels, keys (ln 2, 0) and (0, 0), queries (1, 0) both: logits ln 2 of the left pixel, zero of the
    # right one and of the seven outside the map. Weights 2/10 and 1/10, values (30, 0) and (0, 10).
    sasa = with_values(
        create("sasa", 4, out_channels=2, window=3, num_heads=1),
        qkv__weight=[[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0] * 4, [1, 0, 0, 0], [0, 1, 0, 0]],
    )
    x = image([[30, 0]], [[0, 10]], [[1, 1]], [[LN2, 0]])
    equals(sasa(x), [[[[6, 6]], [[1, 1]]]])


def test_rows_and_columns_by_hand():
    # q = (1, 1): the first half of a head meets rows, the second columns. ln 2 for the row above and for the column to
    # the right: weights 2 for the upper row, 2 for the right column, 4 for the corner of both, 1 for the other four.
    # At the lower left pixel the window holds, of the map, itself (1), its right neighbour (2), the one above (2) and
    # the one above to the right (4).
    sasa = with_values(
        create("sasa", 2, window=3, num_heads=1),
        qkv__weight=qkv([[0, 1], [0, 1]], [[0, 0]] * 2, [[1, 0], [0, 0]]),
        row=[LN2, 0, 0], column=[0, 0, LN2],
    )  # fmt: skip
    x = image([[16, 32], [48, 64]], [[1, 1], [1, 1]])
    expected_lower_left = (48 * 1 + 64 * 2 + 16 * 2 + 32 * 4) / 16
    assert sasa(x)[0, 0, 1, 0].item() == pytest.approx(expected_lower_left, abs=1e-12)
    # At the upper right pixel: itself (1), left (1), below (1) and below to the left (1).
    assert sasa(x)[0, 0, 0, 1].item() == pytest.approx((32 + 16 + 64 + 48) / 16, abs=1e-12)


def test_the_first_half_of_a_head_meets_rows_and_the_second_columns():
    # As above with q = (1, 0), then (0, 1). At the lower left pixel the upper row counts twice, then the right column;
    # twelve in all.
    for query, above, right in (([[0, 1], [0, 0]], 2, 1), ([[0, 0], [0, 1]], 1, 2)):
        sasa = with_values(
            create("sasa", 2, window=3, num_heads=1), qkv__weight=qkv(query, [[0, 0]] * 2, [[1, 0], [0, 0]]),
            row=[LN2, 0, 0], column=[0, 0, LN2],
        )  # fmt: skip
        x = image([[16, 32], [48, 64]], [[1, 1], [1, 1]])
        expected = (48 + 64 * right + 16 * above + 32 * above * right) / 12
        assert sasa(x)[0, 0, 1, 0].item() == pytest.approx(expected, abs=1e-12)


def test_embeddings_start_as_heavy_as_a_unit_key():
    torch.manual_seed(0)
    sasa = create("sasa", 1024, num_heads=2)  # E = 512
    for embedding in (sasa.row, sasa.column):
        assert embedding.std().item() == pytest.approx(512**-0.5, rel=0.05)


def test_a_stride_averages_and_a_bias_is_added():
    # q = (1, 1), and e⁻⁹⁰⁰ for all rows and columns but the middle: the value itself. 3×3 pixels by 2×2, the last row
    # and column by what is left of them.
    sasa = with_values(
        create("sasa", 2, window=3, num_heads=1, stride=2, bias=True),
        qkv__weight=qkv([[0, 1], [0, 1]], [[0, 0]] * 2, [[1, 0], [0, 0]]),
        row=[-900, 0, -900], column=[-900, 0, -900], bias=[100, 0],
    )  # fmt: skip
    x = image([[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[1] * 3] * 3)
    equals(sasa(x), [[[[103, 104.5], [107.5, 109]], [[0, 0], [0, 0]]]])


def test_heads_attend_apart():
    # Four channels in two heads: a query in the first head alone turns the first head's weights from equal.
    weight = torch.zeros(12, 4)
    weight[0, 0] = weight[4, 0] = 1  # query and key of the first channel
    weight[8:] = torch.eye(4)
    sasa = with_values(create("sasa", 4, window=3, num_heads=2), qkv__weight=weight.tolist())
    x = torch.randn(1, 4, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, mean = sasa(x), nn.functional.avg_pool2d(x, 3, 1, 1)
    torch.testing.assert_close(y[:, 2:], mean[:, 2:], rtol=0, atol=1e-12)
    assert (y[:, :2] - mean[:, :2]).abs().max() > 0.01


def two_heads(position, channels=8, **options):
    torch.manual_seed(0)
    return create("sasa", channels, window=3, num_heads=2, position=position, **options).double()


@pytest.mark.parametrize("position", ["none", "absolute", "relative_only"])
def test_positions_are_the_default_without_a_part(position):
    # "none": no embeddings; "absolute": none either, and sinusoids added to x; "relative_only": W_k = 0.
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 5, 4, generator=random, dtype=torch.float64)
    relative, other = two_heads("relative"), two_heads(position)
    expected_input = x
    with torch.no_grad():
        if position == "relative_only":
            other.row.copy_(relative.row), other.column.copy_(relative.column)
            other.qkv.weight.copy_(torch.cat([relative.qkv.weight[:8], relative.qkv.weight[16:]]))
        else:
            other.qkv.weight.copy_(relative.qkv.weight)
        unlike = (other(x) - relative(x)).abs().max()
        if position == "relative_only":
            relative.qkv.weight[8:16] = 0
        else:
            assert (other.row, other.column) == (None, None)
            relative.row.zero_(), relative.column.zero_()
        if position == "absolute":
            # Four channels for the row, four for the column: sines of wavelength 2π and 200π, then cosines.
            angle = [torch.sin, lambda t: torch.sin(t / 100), torch.cos, lambda t: torch.cos(t / 100)]
            rows, columns = torch.arange(5.0, dtype=torch.float64), torch.arange(4.0, dtype=torch.float64)
            expected_input = x + torch.stack(
                [f(rows)[:, None].expand(5, 4) for f in angle] + [f(columns).expand(5, 4) for f in angle]
            )
    torch.testing.assert_close(other(x), relative(expected_input), rtol=1e-9, atol=1e-12)
    assert unlike > 0.01


def test_only_absolute_positions_tell_two_windows_with_the_same_pixels_apart():
    # A map without content: with zeros for padding, pixels two from the border have the same window.
    for position, equal in (("relative", True), ("relative_only", True), ("none", True), ("absolute", False)):
        y = two_heads(position, channels=7, out_channels=8)(torch.ones(1, 7, 6, 7, dtype=torch.float64))
        assert torch.allclose(y[..., 2, 2], y[..., 3, 4]) is equal


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"position": "learned"}, "relative, relative_only, absolute, none, got 'learned'"),
        ({"num_heads": 3}, "multiple of 2 \\* num_heads.*16 and 3"),
        ({"out_channels": 24, "num_heads": 8}, "got 24 and 8 heads"),
        ({"window": 4}, "at least 3, got 4"),
        ({"window": 1}, "at least 3, got 1"),
        ({"kernel_size": 2}, "got 2 and None"),
        ({"padding": 0}, "got 3 and 0"),
        ({"dilation": 2, "padding": 1}, "got 2 and 1"),
        ({"groups": 4}, "got 1 and 4"),
        ({"stride": 0}, "at least 1"),
    ],
)
def test_what_it_cannot_do_is_refused_with_numbers(options, words):
    with pytest.raises(ValueError, match=words):
        StandAloneSelfAttention(16, **options)


@pytest.mark.parametrize("size", [(7, 7), (9, 4), (1, 6)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_maps_have_the_size_a_convolution_gives_them(size, stride):
    x = torch.randn(2, 16, *size)
    for kernel_size in (1, 3, 5):
        sasa = create("sasa", 16, out_channels=32, kernel_size=kernel_size, stride=stride)
        assert sasa(x).shape == nn.Conv2d(16, 32, kernel_size, stride, kernel_size // 2)(x).shape


def test_networks_have_the_printed_size():
    # Table 1 of the paper: 10.3, 14.1 and 18.0 million parameters for bottlenecks by [1, 2, 4, 1], [2, 3, 5, 2] and
    # [3, 4, 6, 3]; the widths of 64 to 512 share the sum 3 C² + 7 C/8 that takes the place of 9 C².
    for layers, millions in (((1, 2, 4, 1), "10.33"), ((2, 3, 5, 2), "14.17"), ((3, 4, 6, 3), "18.02")):
        with torch.device("meta"):
            net = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, layers)
        size = sum(p.numel() for p in net.parameters())
        for width, blocks in zip((64, 128, 256, 512), layers, strict=True):
            with torch.device("meta"):
                unit = create("sasa", width)
            size += blocks * (sum(p.numel() for p in unit.parameters()) - 9 * width**2)
        assert f"{size / 1e6:.2f}" == millions


def test_it_replaces_every_3x3_of_a_resnet():
    net = replace(torchvision.models.resnet50(), "sasa", input=(3, 32, 32))
    assert sum(p.numel() for p in net.parameters()) == 18_015_504
    assert [row.convolution.rpartition(".")[2] for row in replacements(net)] == ["conv2"] * 16
    assert net.eval()(torch.randn(1, 3, 64, 40)).shape == (1, 1000)
