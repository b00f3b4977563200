"""Stand-alone self-attention ResNets: the tables of the paper, the layers against ResNet v1.5, options."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import saccade.models  # noqa: F401 (registers)
from saccade.attention.sasa import StandAloneSelfAttention
from saccade.attention.sasa_stem import AttentionStem
from saccade.contract.randomize import randomize
from saccade.cost.call import ForwardCall
from saccade.cost.macs import operator_macs
from saccade.errors import UserError


def make(name="sasa_resnet26", **options):
    torch.manual_seed(0)
    return randomize(timm.create_model(name, **{"width": 0.25, "num_classes": 5, **options})).eval()


def millions_and_billions(name, **options):
    """Parameters in 10⁶ and FLOPs in 10⁹ by the rule of the paper's tables.

    Two FLOPs a multiply-add. The tables count q · r for each of the k² neighbours; the operators make k rows and k
    columns of half the width. The tables count the sum of the stem's four values of a pixel, which is no matrix
    product here.
    """
    added = []
    with torch.device("meta"):
        net = timm.create_model(name, **options).eval()
        for module in net.modules():
            if isinstance(module, StandAloneSelfAttention) and module.row is not None:
                module.register_forward_hook(
                    lambda unit, args, _: added.append(args[0].numel() * (unit.window**2 - unit.window))
                )
        macs = operator_macs(ForwardCall(net, (torch.zeros(1, 3, 224, 224),), {})) + sum(added)
    if isinstance(net.conv1, AttentionStem) and net.conv1.mixtures > 1:
        macs += 224**2 * 64 * net.conv1.mixtures
    return sum(p.numel() for p in net.parameters()) / 1e6, 2 * macs / 1e9


@pytest.mark.parametrize(
    ("depth", "stem", "millions", "exactly", "billions"),
    [
        (26, "attention", 10.3, 10.323, 4.7), (26, "conv", 10.3, 10.331, 4.5), (38, "attention", 14.1, 14.165, 6.0),
        (38, "conv", 14.1, 14.173, 5.7), (50, "attention", 18.0, 18.008, 7.2), (50, "conv", 18.0, 18.016, 7.0),
        (50, "plain_attention", 18.0, 18.007, 7.1),
    ],
)  # fmt: skip
def test_size_and_cost_are_those_of_table_1(depth, stem, millions, exactly, billions):
    # Table 1 of arXiv:1906.05909; the last row is that of the table of stems.
    found, cost = millions_and_billions(f"sasa_resnet{depth}", stem=stem)
    assert found == pytest.approx(exactly, abs=6e-4)
    assert found == pytest.approx(millions, rel=0.006)
    assert cost == pytest.approx(billions, rel=0.015)


@pytest.mark.parametrize(
    ("option", "value", "millions", "billions"),
    [
        ("kernel_size", 3, 18.0, 6.6), ("kernel_size", 5, 18.0, 6.7), ("kernel_size", 9, 18.0, 7.3),
        ("kernel_size", 11, 18.0, 7.7),
        ("position", "relative_only", 16.7, 6.1),
        ("attention_groups", (2, 3, 4), 18.1, 7.3), ("attention_groups", (3, 4), 18.5, 7.5),
        ("attention_groups", (4,), 20.8, 8.0), ("attention_groups", (), 25.6, 8.2),
        ("attention_groups", (1,), 25.5, 7.9), ("attention_groups", (1, 2), 25.0, 7.8),
        ("attention_groups", (1, 2, 3), 22.7, 7.2),
    ],
)  # fmt: skip
def test_cost_of_the_ablations(option, value, millions, billions):
    # The ablations of arXiv:1906.05909, ResNet-50 with a convolution stem. Largest differences: kernels of 3, 6.51
    # instead of 6.6; of 11, 7.79 instead of 7.7; attention in the first two stages, 7.71 instead of 7.8.
    found, cost = millions_and_billions("sasa_resnet50", stem="conv", **{option: value})
    assert found == pytest.approx(millions, rel=0.004)
    assert cost == pytest.approx(billions, rel=0.015)


@pytest.mark.parametrize("position", ["none", "absolute"])
def test_without_relative_positions_the_cost_is_lower_than_printed(position):
    # The table prints 6.9, 0.1 less than with relative positions; by the rule above it is 0.19 less.
    assert millions_and_billions("sasa_resnet50", stem="conv", position=position)[1] == pytest.approx(6.78, abs=0.005)


def test_other_layers_are_those_of_resnet():
    # Keys and shapes of timm's ResNet-50, whose blocks have the stride in the 3×3 convolution.
    with torch.device("meta"):
        ours, resnet = (timm.create_model(name).state_dict() for name in ("sasa_resnet50", "resnet50"))
    shapes = {key: value.shape for key, value in ours.items()}
    expected = {key: value.shape for key, value in resnet.items()}
    replaced = {key for key in expected if ".conv2." in key} | {"conv1.weight"}
    assert len(replaced) == 17
    assert {key: shapes[key] for key in expected.keys() - replaced} == {
        key: expected[key] for key in expected.keys() - replaced
    }
    assert all(".conv2." in key or key.startswith("conv1.") for key in shapes.keys() - expected.keys())


def test_a_block_of_stride_2_attends_before_it_averages():
    block = make().layer2[0]
    x = torch.randn(2, 64, 10, 14)
    unit = StandAloneSelfAttention(32, num_heads=2)
    unit.load_state_dict(block.conv2.state_dict())
    inner = F.relu(block.bn1(block.conv1(x)))
    full, pooled = F.avg_pool2d(unit(inner), 2), unit(F.avg_pool2d(inner, 2))
    by_hand, otherwise = (
        F.relu(block.bn3(block.conv3(F.relu(block.bn2(y)))) + block.downsample(x)) for y in (full, pooled)
    )
    torch.testing.assert_close(block(x), by_hand, rtol=1e-5, atol=1e-5)
    assert (block(x) - otherwise).abs().max() > 0.01


def test_a_pixel_sees_its_window_alone():
    for kernel_size in (3, 7):
        block = make(kernel_size=kernel_size).layer1[0].double()
        x = torch.randn(1, 16, 17, 17, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(block(x)[0, :, 8, 8].sum(), x)
        seen = slope[0].abs().sum(0).nonzero()
        reach = kernel_size // 2
        assert (seen.amin(0).tolist(), seen.amax(0).tolist()) == ([8 - reach] * 2, [8 + reach] * 2)


@pytest.mark.parametrize("stem", ["attention", "conv"])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_feature_info_matches_the_feature_maps(stem, stride):
    height, width = 40, 56
    net = timm.create_model("sasa_resnet26", features_only=True, stem=stem, stem_stride=stride, width=0.25)
    maps = net(torch.randn(2, 3, height, width))
    first = {"attention": 1, "conv": {1: 1, 2: 2, 4: 2}[stride]}[stem]
    assert net.feature_info.reduction() == [first, *(stride * r for r in (1, 2, 4, 8))]
    assert net.feature_info.channels() == [m.shape[1] for m in maps] == [16, 64, 128, 256, 512]
    for reduction, m in zip(net.feature_info.reduction(), maps, strict=True):
        assert m.shape[2:] == (-(-height // reduction), -(-width // reduction))


def test_the_attention_stem_pools_its_own_blocks():
    # One maximum a block: what its neighbours hold changes nothing. A convolution stem overlaps.
    for stem, stride, side in (("attention", 4, 4), ("attention", 2, 2), ("conv", 4, None)):
        net, x = make(stem=stem, stem_stride=stride), torch.randn(1, 3, 16, 16)
        moved = x.clone()
        moved[..., stride:] += 1
        first, second = (net.maxpool(net.act1(net.bn1(net.conv1(image)))) for image in (x, moved))
        assert torch.equal(first[..., 0], second[..., 0]) is (side is not None)
        assert not torch.equal(first[..., 1:], second[..., 1:])
        assert getattr(net.conv1, "window", None) == side
    assert make(stem_stride=1).conv1.window == 2


def test_attention_groups_choose_the_stages():
    for groups in ((), (2, 4), [1]):
        net = make(attention_groups=groups)
        kinds = [{type(block.conv2) for block in getattr(net, f"layer{k}")} for k in (1, 2, 3, 4)]
        expected = [StandAloneSelfAttention if k in groups else nn.Conv2d for k in (1, 2, 3, 4)]
        assert kinds == [{kind} for kind in expected]


def test_width_keeps_eight_channels_a_head_in_the_first_stage():
    for width, channels in ((0.25, 16), (0.1, 16), (0.5, 32), (1.0, 64), (1.6, 96)):
        with torch.device("meta"):
            net = timm.create_model("sasa_resnet26", width=width)
        assert net.num_features == net.head_hidden_size == 32 * channels
        assert [stage[0].conv2.num_heads for stage in (net.layer1, net.layer4)] == [channels // 8] * 2
        assert net.conv1.num_heads == channels // 16
    with torch.device("meta"):
        assert timm.create_model("sasa_resnet26", heads=4).layer3[0].conv2.num_heads == 4


def test_options_reach_the_layers():
    net = make(position="none", kernel_size=5, bn_momentum=1e-4, in_chans=1, drop_path_rate=0.1)
    assert {block.conv2.window for block in net.layer3} == {5}
    assert {block.conv2.position for block in net.layer3} == {"none"}
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-4}
    assert net.layer4[0].drop_path.drop_prob == pytest.approx(0.1)
    assert net(torch.randn(2, 1, 33, 47)).shape == (2, 5)


def test_head():
    net, x = make(num_classes=7), torch.randn(2, 3, 32, 40)
    features = net.forward_features(x)
    assert net.forward_head(features, pre_logits=True).shape == (2, 512)
    torch.testing.assert_close(net.forward_head(features), net(x), rtol=0, atol=0)
    assert not torch.equal(net(x + 1), net(x))
    net.reset_classifier(3, "max")
    assert net.get_classifier().out_features == net(x).shape[1] == 3
    assert make(num_classes=0)(torch.randn(1, 3, 1, 1)).shape == (1, 512)


@pytest.mark.parametrize("options", [{}, {"stem": "conv", "position": "absolute"}, {"position": "relative_only"}])
def test_every_parameter_learns(options):
    net = make(**options).train()
    net(torch.randn(3, 3, 24, 20)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, "above 0, got 0"),
        ({"stem": "patch"}, "attention, plain_attention, conv, got 'patch'"),
        ({"stem_stride": 3}, "1, 2 or 4, got 3"),
        ({"layers": (1, 1)}, r"got \[1, 1\]"),
        ({"attention_groups": (0, 1)}, r"1 to 4, got \[0, 1\]"),
        ({"kernel_size": 4}, "attention of 16 channels: window must be odd and at least 3, got 4"),
        ({"heads": 5}, "got 16 and 5 heads"),
        ({"heads": 0}, "at least 1, got 16, 16, 1 and 0"),
        ({"position": "learned"}, "relative, relative_only, absolute, none, got 'learned'"),
        ({"output_stride": 8}, "SASAResNet has no option output_stride"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        timm.create_model("sasa_resnet26", **{"width": 0.25, **options})
