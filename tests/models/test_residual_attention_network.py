"""Residual Attention Networks against the authors' sizes and the equations."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from saccade.contract.randomize import randomize
from saccade.errors import UserError
from saccade.models.residual_attention_network import AttentionModule


def make(name="ran_small", **options):
    torch.manual_seed(0)
    return randomize(timm.create_model(name, **options)).eval()


def close(a, b, within=1e-4):
    torch.testing.assert_close(a, b, rtol=within, atol=within)


@pytest.mark.parametrize(
    ("name", "modules", "parameters", "macs"),
    # Computed from the layers of fwang91/residual-attention-network. The paper prints 31.9 M and 6.2 G for the first,
    # 51.3 M and 10.4 G for the second, whose prototxt has 1.2 M more.
    [("ran56", 3, 31.811e6, 6.271e9), ("ran92", 6, 52.466e6, 10.534e9)],
)
def test_the_sizes_of_the_authors_networks(name, modules, parameters, macs):
    with torch.device("meta"):
        net = timm.create_model(name).eval()
        with FlopCounterMode(display=False) as counter:
            assert net(torch.empty(1, 3, 224, 224)).shape == (1, 1000)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(parameters, abs=500)
    assert counter.get_total_flops() / 2 == pytest.approx(macs, abs=5e5)
    assert sum(isinstance(m, AttentionModule) for m in net.modules()) == modules
    assert name == f"ran{12 * modules + 20}"


def test_the_masks_end_at_7_by_7_as_in_the_paper():
    with torch.device("meta"):
        net = timm.create_model("ran92").eval()
        sides = []
        for module in net.modules():
            if isinstance(module, AttentionModule):
                module.mask.bottom.register_forward_hook(lambda _, args, out: sides.append(tuple(out.values.shape[2:])))
        net(torch.empty(1, 3, 224, 224))
    assert sides == [(7, 7)] * 6


def _activated(norm, x):
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps).relu()


def _unit(r, x):
    active = _activated(r.norm1, x)
    shortcut = x if r.downsample is None else F.conv2d(active, r.downsample.conv.weight, stride=r.conv2.stride)
    z = F.conv2d(active, r.conv1.weight)
    z = F.conv2d(_activated(r.norm2, z), r.conv2.weight, stride=r.conv2.stride, padding=1)
    return shortcut + F.conv2d(_activated(r.norm3, z), r.conv3.weight)


def _described(net, x):
    """The docstring, line by line; the mask alone is the mechanism, which has tests of its own."""
    x = _activated(net.bn1, F.conv2d(x, net.conv1.weight, stride=net.conv1.stride, padding=net.conv1.padding))
    if net.conv1.kernel_size == (7, 7):
        x = F.max_pool2d(x, 3, 2, 1)
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        for block in layer:
            if isinstance(block, AttentionModule):
                z = _unit(block.first, x)
                trunk = _unit(block.trunk[1], _unit(block.trunk[0], z))
                x = _unit(block.last, trunk * block.mask.gate(z))
            else:
                x = _unit(block, x)
    return F.linear(_activated(net.norm, x).mean((2, 3)), net.fc.weight, net.fc.bias)


@pytest.mark.parametrize("options", [{}, {"stem_stride": 2}, {"stem_stride": 4, "modules": (1, 2, 0), "last_units": 3}])
def test_equals_its_description(options):
    net = make(num_classes=7, in_chans=2, width=0.5, **options).double().requires_grad_(False)
    x = torch.randn(2, 2, 33, 47, dtype=torch.float64)
    y = net(x)
    close(y, _described(net, x), 1e-8)
    net.layer1[1].mask.head[-1].weight.neg_()
    assert not torch.allclose(net(x), y, rtol=1e-3)
    close(net(x), _described(net, x), 1e-8)


def test_masks_pass_through_their_taps():
    net, x, masks = make(num_classes=3), torch.randn(2, 3, 32, 32), []
    for module in net.modules():
        if isinstance(module, AttentionModule):
            module.mask.tap.register_forward_hook(lambda _, args, out: masks.append(out.detach()))
    y = net(x)
    assert [m.shape[1:] for m in masks] == [(64, 32, 32), (128, 16, 16), (256, 8, 8)]
    assert all(1 <= float(m.min()) < float(m.max()) <= 2 for m in masks)
    net.layer2[1].mask.tap.register_forward_hook(lambda _, args, out: torch.ones_like(out))
    assert not torch.allclose(net(x), y)


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (31, 50), (64, 64)])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_any_image_size(size, stride):
    net = make(width=0.5, stem_stride=stride)
    x = torch.randn(3, 3, *size)
    maps = net.forward_features(x)
    assert maps.shape[2:] == tuple(-(-side // (8 * stride)) for side in size)
    close(net(x)[1:], net(x[1:]))  # images do not see each other
    assert not torch.allclose(net(x[1:]), net(x[:2]))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_feature_info_matches_the_feature_maps(stride):
    height, width = 40, 56
    net = timm.create_model("ran_small", features_only=True, stem_stride=stride, width=0.5)
    maps = net(torch.randn(2, 3, height, width))
    first = [1, 2, 2][stride // 2]
    assert net.feature_info.reduction() == [first, *(r * stride for r in (1, 2, 4, 8))]
    assert net.feature_info.channels() == [m.shape[1] for m in maps] == [8, 32, 64, 128, 256]
    for reduction, m in zip(net.feature_info.reduction(), maps, strict=True):
        assert m.shape[2:] == (-(-height // reduction), -(-width // reduction))


def test_feature_maps_equal_those_of_the_network():
    net = make(width=0.5)
    features = timm.create_model("ran_small", features_only=True, width=0.5).eval()
    features.load_state_dict(net.state_dict(), strict=False)
    x = torch.randn(2, 3, 24, 24)
    close(net.forward_head(net.norm(features(x)[-1])), net(x))
    assert not torch.allclose(net.forward_head(features(x)[-1]), net(x))


def test_width_is_rounded():
    # 0.3 · (64, 256, 512, 1024, 2048) = 19.2, 76.8, 153.6, 307.2, 614.4
    assert [i["num_chs"] for i in make("ran56", width=0.3).feature_info] == [16, 64, 160, 320, 608]
    assert [i["num_chs"] for i in make("ran_small", width=0.1).feature_info] == [8, 32, 32, 32, 64]


def test_the_head():
    net, x = make(num_classes=7, width=0.5, drop_rate=0.5), torch.randn(2, 3, 16, 16)
    assert net.forward_head(net.forward_features(x), pre_logits=True).shape == (2, 256)
    assert net.get_classifier() is net.fc
    close(net(x), net(x))
    assert not torch.allclose(net.train()(x), net(x))
    net.eval().reset_classifier(3, global_pool="catavgmax")
    assert net(x).shape == (2, 3)
    assert net.head_hidden_size == 512 == net.fc.in_features
    net.reset_classifier(0)
    assert net(x).shape == (2, 512)


def test_stochastic_depth_grows_to_the_last_unit():
    net = make(drop_path_rate=0.3, last_units=2)
    rates = [getattr(m, "drop_prob", 0.0) for n, m in net.named_modules() if n.endswith("drop_path")]
    # eight blocks; a module's four units share its rate
    assert rates == pytest.approx([0.3 * k / 7 for k in (0, 1, 1, 1, 1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 5, 6, 7)])


def test_gradients_reach_every_parameter_with_and_without_checkpointing():
    grads = []
    for enable in (False, True):
        net = make(width=0.5).train()
        net.set_grad_checkpointing(enable)
        net(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))).square().sum().backward()
        grads.append({name: p.grad for name, p in net.named_parameters()})
    assert all(g is not None and bool(g.abs().sum() > 0) for g in grads[0].values())
    for name, g in grads[0].items():
        close(g, grads[1][name])


def test_copies_and_memory_formats_compute_the_same():
    net, x = make(width=0.5).requires_grad_(False), torch.randn(2, 3, 20, 20)
    y = net(x)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), y)
    close(net.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last)), y)
    with torch.autocast("cpu", torch.bfloat16):
        assert float((net(x).float() - y).norm() / y.norm()) < 0.03


@pytest.mark.parametrize(
    ("options", "words"),
    [({"stem_stride": 3}, "got 3"), ({"width": 0}, "got 0"), ({"modules": (1, 1)}, r"got \[1, 1\]"),
     ({"last_units": 0}, "got 0"), ({"channels": (8, 32)}, r"got \[8, 32\]")],
)  # fmt: skip
def test_wrong_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        timm.create_model("ran_small", **options)


@pytest.mark.parametrize("coarse", [True, False])
def test_layer_groups_are_in_order(coarse):
    net = timm.create_model("ran_small", width=0.5)
    groups = timm.models.group_parameters(net, net.group_matcher(coarse), reverse=True)
    order = [groups[f"{name}.weight"] for name in ("conv1", "layer1.0.conv1", "layer4.0.conv1")]
    assert order == sorted(set(order))
