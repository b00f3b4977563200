"""Selective kernel: cases worked out on paper, the authors' bottleneck, and networks of their sizes."""

import math

import pytest
import torch
import torchvision
from torch import nn

from authors import SK
from by_hand import equals, image, unmoved, with_values
from oracles import EACH_SET, disagreement, read
from saccade import create, replace, replacements
from saccade.attention.selective_kernel import SelectiveKernel

SMALL = {"branch_groups": 1, "rd_ratio": 1.0, "variant": "fair"}


def test_an_open_gate_is_half_of_each():
    # select = 0: a = 1/2. The near branch is x, the far one 3 x; ReLU closes what is negative.
    sk = unmoved(with_values(create("sk", 1, kernel_size=1, **SMALL), near__0__weight=[1], far__0__weight=[3]))
    equals(sk(image([[2, -5], [0, 4]])), [[[[4, 0], [0, 8]]]])


def test_the_choice_by_hand():
    # near = x, far = 3 x, s = 4 · mean x = 8; z = ReLU(8 · ln 3 / 8) = ln 3; logits (1, 0) · ln 3: a = 3/4, 1/4.
    # y = (3/4) x + (1/4) 3 x = 1.5 x. With the logits the other way, (1/4) x + (3/4) 3 x = 2.5 x.
    for select, factor in (([1, 0], 1.5), ([0, 1], 2.5)):
        sk = unmoved(
            with_values(
                create("sk", 1, kernel_size=1, **SMALL), near__0__weight=[1], far__0__weight=[3],
                squeeze__0__weight=[math.log(3) / 8], select__weight=select,
            )
        )  # fmt: skip
        equals(sk(image([[1, 3]])), [[[[factor, 3 * factor]]]])


def test_the_far_branch_of_the_paper_reaches_twice_as_far():
    # All taps 1, on a map that is 1 in the middle: near sees it one pixel away, far two pixels away, and not between.
    x = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    x[..., 3, 3] = 1
    for variant, reach in (("paper", 2), ("fair", 1)):
        sk = with_values(
            create("sk", 1, branch_groups=1, rd_ratio=1.0, variant=variant),
            near__0__weight=[0] * 9, far__0__weight=[1] * 9,
        )  # fmt: skip
        y = unmoved(sk)(x)[0, 0]
        assert {tuple(place) for place in y.nonzero().tolist()} == {
            (3 + dy * reach, 3 + dx * reach) for dy in (-1, 0, 1) for dx in (-1, 0, 1)
        }


def test_the_gate_is_tapped_and_a_bias_is_added():
    sk = unmoved(with_values(create("sk", 2, kernel_size=1, bias=True, **SMALL), bias=[7, -1]))
    seen = []
    sk.tap.register_forward_hook(lambda module, args, gate: seen.append(gate))
    equals(sk(image([[1]], [[2]])), [[[[7]], [[-1]]]])
    equals(seen[0], [[[[0.5]], [[0.5]]]])


def test_the_bottleneck_has_32_channels_at_least_in_the_paper():
    widths = {c: create("sk", c).squeeze[0].out_channels for c in (128, 256, 512, 1024)}
    assert widths == {128: 32, 256: 32, 512: 32, 1024: 64}
    assert create("sk", 128, variant="fair").squeeze[0].out_channels == 8
    assert create("sk", 128, rd_ratio=0.5).squeeze[0].out_channels == 64


def test_groups_of_the_branches():
    branches = {v: create("sk", 64, variant=v, groups=g) for v, g in (("paper", 32), ("fair", 2))}
    assert [(sk.near[0].groups, sk.far[0].groups) for sk in branches.values()] == [(32, 32), (2, 32)]
    assert create("sk", 64, branch_groups=8).near[0].groups == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"branch_groups": 5}, "branch_groups must divide the channels, got 5 for 64 in and 64 out"),
        ({"groups": 3}, "groups must divide the channels, got 3 for"),
        ({"dilation": 0}, "stride and dilation must be at least 1, got 64, 64, 3, 1 and 0"),
        ({"out_channels": -32}, "must be at least 1, got 64, -32, 3, 1 and 1"),
        ({"padding": -1}, "padding must be at least 0, got -1"),
        ({"groups": 16}, "groups must be 1 or branch_groups with variant='paper', got 16 and 32"),
        ({"kernel_size": 2}, r"must be even, got 1 \* \(2 - 1\)"),
        ({"variant": "fair", "rd_ratio": 0.001}, r"at least 1, got 64 \* 0.001"),
        ({"variant": "caffe"}, "'paper' or 'fair', got 'caffe'"),
    ],
)
def test_what_it_cannot_do_is_refused_with_numbers(options, words):
    with pytest.raises(ValueError, match=words):
        SelectiveKernel(64, **options)


@pytest.mark.parametrize("variant", ["paper", "fair"])
@pytest.mark.parametrize("geometry", [(3, 2, 1, 1), (3, 1, 0, 1), (5, 2, 2, 1), (3, 1, 2, 2), (1, 2, 0, 1)])
def test_maps_have_the_size_a_convolution_gives_them(variant, geometry):
    x = torch.randn(2, 4, 9, 6)
    kernel_size, stride, padding, dilation = geometry
    sk = create(
        "sk", 4, out_channels=8, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation,
        variant=variant, branch_groups=2, rd_ratio=0.5,
    )  # fmt: skip
    assert sk(x).shape == nn.Conv2d(4, 8, *geometry)(x).shape


@EACH_SET
def test_a_bottleneck_around_it_equals_the_authors(folder):
    oracle = read(folder, "sk_bottleneck")
    assert oracle.meta["mode"] == "eval"
    block = nn.ModuleDict({
        "conv1": nn.Conv2d(128, 32, 1, bias=False), "bn1": nn.BatchNorm2d(32), "sk": create("sk", 32, variant="fair"),
        "conv3": nn.Conv2d(32, 128, 1, bias=False), "bn3": nn.BatchNorm2d(128),
    }).double().eval()  # fmt: skip

    def ours(theirs):
        layer, _, last = theirs.rpartition(".")
        return (f"sk.{SK[layer]}" if layer in SK else layer) + f".{last}"

    state = {ours(theirs): value for theirs, value in (oracle.of("param") | oracle.of("buffer")).items()}
    missing = block.load_state_dict(state, strict=False)
    assert [name for name in missing.missing_keys if not name.endswith("num_batches_tracked")] == []
    assert not missing.unexpected_keys
    x = oracle.arrays["x"].requires_grad_()
    hidden = block["sk"](block["bn1"](block["conv1"](x)).relu())
    y = (block["bn3"](block["conv3"](hidden)) + x).relu()
    y.backward(oracle.arrays["cotangent"])
    found = {"y": y, "grad_x": x.grad}
    found |= {f"grad:{theirs}": block.get_parameter(ours(theirs)).grad for theirs in oracle.of("grad")}
    assert max(disagreement(oracle, found).values()) <= 1


@pytest.mark.parametrize(
    ("net", "options", "norms", "size"),
    [
        # 26,154,496 of PytorchInsight, and 27.480 million of SKNet-50, and the norms that the host has behind its 3×3
        # convolutions, of which the authors' blocks have none.
        ("resnet50", {"variant": "fair"}, 2 * 3776, 26_154_496),
        ("resnext50_32x4d", {}, 2 * 7552, 27_479_784),
    ],
)
def test_networks_have_the_size_of_the_authors(net, options, norms, size):
    host = replace(torchvision.models.get_model(net, weights=None), "sk", input=(3, 32, 32), **options)
    assert sum(p.numel() for p in host.parameters()) == size + norms
    assert len(replacements(host)) == 16
