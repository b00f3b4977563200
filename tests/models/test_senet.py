"""SE-ResNet, SE-ResNeXt and SENet-154, registered with timm."""

import pickle

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import saccade
import saccade.models  # registers
from saccade.contract.randomize import perturb, randomize
from saccade.errors import UserError
from saccade.models._squeeze_excite import ChannelGate


def make(name="se_resnet18", **options):
    torch.manual_seed(0)
    return perturb(randomize(timm.create_model(name, **{"width": 0.25, "stem_stride": 2, **options}))).eval()


def size(name="se_resnet50", macs=True, **options):
    """Parameters in millions and multiply-adds in billions, at 224×224."""
    with torch.device("meta"):
        net = timm.create_model(name, **options).eval()
    counter = FlopCounterMode(display=False)
    if macs:
        with counter, torch.no_grad():
            net(torch.empty(1, 3, 224, 224, device="meta"))
    return [sum(p.numel() for p in net.parameters()) / 1e6, counter.get_total_flops() / 2e9]


# Counts of the authors' prototxt files; the article prints 28.1 M and 3.87 G for SE-ResNet-50.
SIZES = {
    "se_resnet50": (28.088, 3.860),
    "se_resnet101": (49.327, 7.575),
    "se_resnext50_32x4d": (27.560, 4.233),
    "se_resnext101_32x4d": (48.955, 7.975),
    "se_net154": (115.089, 20.688),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    assert size(name) == pytest.approx(SIZES[name], abs=6e-4)


@pytest.mark.parametrize(
    ("options", "millions"),
    [({"reduction": 4}, 35.7), ({"reduction": 8}, 30.7), ({"reduction": 16}, 28.1), ({"reduction": 32}, 26.9),
     ({"se_stages": ()}, 25.6), ({"se_stages": (1,)}, 25.6), ({"se_stages": (2,)}, 25.7), ({"se_stages": (3,)}, 26.4)],
)  # fmt: skip
def test_sizes_of_the_ablations(options, millions):
    # The article's tables of reduction ratios and of stages (2, 3, 4 there); it adds rounded numbers.
    assert size(macs=False, **options)[0] == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(
    ("name", "timm_name"),
    [("se_resnet50", "legacy_seresnet50"), ("se_resnext50_32x4d", "legacy_seresnext50_32x4d"),
     ("se_net154", "legacy_senet154")],
)  # fmt: skip
def test_timms_weights_give_timms_output(name, timm_name):
    torch.manual_seed(0)
    layers = (1, 2, 1, 2)
    theirs = timm.create_model(timm_name, layers=layers)
    perturb(randomize(theirs)).eval()
    ours, x = timm.create_model(name, layers=layers).eval(), torch.randn(1, 3, 65, 81)
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        expected = theirs(x)
        assert (ours(x) - expected).abs().max() <= 1e-6 * expected.abs().max()
        ours.layer4[1].se_module.fc2.bias -= 1
        assert (ours(x) - expected).abs().max() > 1e-5 * expected.abs().max()


def test_all_keys_are_timms():
    names = saccade.models.senet._TIMM_NAMES | {"se_resnet18": "legacy_seresnet18", "se_resnet34": "legacy_seresnet34"}
    for name, timm_name in names.items():
        with torch.device("meta"):
            ours, theirs = (timm.create_model(n, layers=(1, 2, 2, 1)).state_dict() for n in (name, timm_name))
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_pretrained_weights_are_read(tmp_path):
    theirs = perturb(randomize(timm.create_model("legacy_seresnet50")))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    assert timm.models.get_pretrained_cfg("se_resnet50").url == timm.models.get_pretrained_cfg("legacy_seresnet50").url
    net = timm.create_model(
        "se_resnet50", pretrained=True, num_classes=4, pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")}
    )
    assert torch.equal(net.layer4[2].se_module.fc1.weight, theirs.layer4[2].se_module.fc1.weight)
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize("squeeze", ["avg", "max"])
def test_the_gate_is_the_mechanism(squeeze):
    gate = perturb(ChannelGate(32, 8, squeeze))
    same = saccade.create("se", 32, rd_ratio=1 / 8, squeeze={"avg": "mean"}.get(squeeze, squeeze))
    for ours, theirs in ((gate.fc1, same.squeeze), (gate.fc2, same.excite)):
        theirs.weight.data, theirs.bias.data = ours.weight.data.flatten(1), ours.bias.data
    x = torch.randn(2, 32, 5, 7)
    torch.testing.assert_close(gate(x), same(x))
    assert not torch.allclose(gate(x), ChannelGate(32, 8, squeeze)(x))


def test_gates_are_where_se_stages_says():
    net = make("se_resnet34", se_stages=(2, 4))
    gates = [name for name, module in net.named_modules() if isinstance(module, ChannelGate)]
    assert gates == [f"layer{k}.{i}.se_module" for k, n in ((2, 4), (4, 3)) for i in range(n)]
    seen = {}
    for name in gates:
        net.get_submodule(name).tap.register_forward_hook(lambda *a, name=name: seen.update({name: a[2]}))
    net(torch.randn(2, 3, 32, 32))
    assert [seen[name].shape[1:] for name in gates] == [(32, 1, 1)] * 4 + [(128, 1, 1)] * 3
    assert all(value.min() >= 0 and value.max() <= 1 and value.std() > 0 for value in seen.values())


def test_squeeze_and_stages_change_the_output():
    x, full = torch.randn(2, 3, 32, 32), make()
    other = make(squeeze="max")
    other.load_state_dict(full.state_dict())
    assert not torch.allclose(other(x), full(x))
    plain = make(se_stages=())
    plain.load_state_dict(full.state_dict(), strict=False)
    assert not torch.allclose(plain(x), full(x))
    for name, module in full.named_modules():
        if name.endswith("se_module"):
            module.fc2.weight.data.zero_()
            module.fc2.bias.data.fill_(40.0)  # the sigmoid of 40 is 1
    torch.testing.assert_close(plain(x), full(x))


@pytest.mark.parametrize("name", ["se_resnet18", "se_resnet50", "se_resnext50_32x4d", "se_net154"])
@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_feature_maps(name, stem_stride):
    options = {"width": 0.25, "stem_stride": stem_stride, "layers": (1, 1, 2, 1)}
    net = timm.create_model(name, features_only=True, **options).eval()
    maps = net(torch.randn(1, 3, 64, 96))
    assert net.feature_info.reduction() == [min(stem_stride, 2), *(stem_stride * 2**k for k in range(4))]
    for channels, reduction, m in zip(net.feature_info.channels(), net.feature_info.reduction(), maps, strict=True):
        assert m.shape == (1, channels, 64 // reduction, 96 // reduction)


@pytest.mark.parametrize("extractor", ["dict", "hook", "getter"])
def test_feature_extractors_agree(extractor):
    x = torch.randn(2, 3, 33, 47)
    nets = [make(features_only=True, feature_cls=cls).eval() for cls in ("list", extractor)]
    expected, found = (list(m.values() if isinstance(m := net(x), dict) else m) for net in nets)
    assert [m.shape for m in expected] == [m.shape for m in found]
    torch.testing.assert_close(found, expected)


def test_intermediates_and_head():
    net, x = make(), torch.randn(2, 3, 33, 47)
    final, maps = net.forward_intermediates(x)
    assert torch.equal(net.forward_head(final), net(x))
    assert torch.equal(net.layer3(maps[2]), maps[3])
    (stopped,) = net.forward_intermediates(x, [-3], stop_early=True, intermediates_only=True)
    assert torch.equal(stopped, maps[2])
    assert torch.equal(net.forward_head(final, pre_logits=True), final.mean((2, 3)))
    with pytest.raises(ValueError, match="NHWC"):
        net.forward_intermediates(x, output_fmt="NHWC")


def test_the_classifier_is_replaced():
    net, x = make(global_pool="max"), torch.randn(2, 3, 32, 32)
    net.reset_classifier(5)
    assert (net(x).shape, net.get_classifier().out_features, net.num_classes) == ((2, 5), 5, 5)
    net.reset_classifier(0, "avg")
    assert torch.equal(net(x), net.forward_features(x).mean((2, 3)))
    assert net.head_hidden_size == net.num_features == 128


def test_checkpointing_gives_the_same_gradients():
    net, x = make().train(), torch.randn(4, 3, 32, 32)
    gradients = []
    for enable in (False, True):
        net.set_grad_checkpointing(enable)
        net.zero_grad()
        net(x).square().mean().backward()
        gradients.append(net.layer0.conv1.weight.grad.clone())
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


def test_layer_groups_cover_all_parameters():
    net = make()
    for coarse, n_groups in ((True, 6), (False, 10)):
        groups = timm.models.group_parameters(net, net.group_matcher(coarse))
        assert len(groups) == n_groups
        assert sum(map(len, groups.values())) == len(list(net.parameters()))


def test_one_image_and_one_pixel():
    for stem_stride in (1, 2):
        net = make(stem_stride=stem_stride, num_classes=3, in_chans=1)
        assert net(torch.randn(1, 1, 1, 1)).shape == (1, 3)
        assert net.train()(torch.randn(1, 1, 8, 8)).shape == (1, 3)
    assert make(stem_stride=4)(torch.randn(1, 3, 3, 5)).shape == (1, 1000)
    with pytest.raises(UserError, match="2×9 pixels; with this stem the network needs at least 3×3"):
        make(stem_stride=4)(torch.randn(1, 3, 2, 9))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"stem_stride": 3}, "got 3"), ({"width": 0}, "got 0"), ({"se_stages": (0, 1)}, "got 0"),
     ({"squeeze": "mean"}, "got 'mean'"), ({"reduction": 0}, "got 0"), ({"layers": (1, 1)}, r"got \[1, 1\]"),
     ({"block": "wide"}, "got 'wide'")],
)  # fmt: skip
def test_wrong_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        saccade.models.senet.SENet(**options)


def test_dropout_and_stochastic_depth():
    assert timm.create_model("se_net154", layers=(1, 1, 1, 1), width=0.25).drop_rate == 0.2
    net, x = make(drop_path_rate=0.5), torch.randn(2, 3, 32, 32)
    assert torch.equal(net(x), net(x))
    rates = [getattr(block.drop_path, "drop_prob", 0) for k in range(1, 5) for block in getattr(net, f"layer{k}")]
    assert rates == pytest.approx([0.5 * i / 7 for i in range(8)])


def test_it_is_pickled():
    net, x = make(layers=(1, 1, 1, 1)), torch.randn(3, 3, 32, 32)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))
