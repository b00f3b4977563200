"""resnet10_small, registered with timm."""

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock

import saccade.models  # registers
from saccade.errors import UserError


def make(**options):
    torch.manual_seed(0)
    net = timm.create_model("resnet10_small", **options).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_(0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return net


def test_it_is_registered():
    assert "resnet10_small" in timm.list_models("resnet*")
    assert timm.models.is_model("resnet10_small")
    assert "resnet_small" in saccade.models.names()


def test_its_weights_by_hand():
    # stem 9·16 + 2·16; stage 1: 2·9·16² + 4·16; stage k: 9·C/2·C + 9·C² + C/2·C + 6·C at C = 32, 64, 128; head.
    stem = 9 * 1 * 16 + 32
    stages = 2 * 9 * 16**2 + 4 * 16 + sum(9 * c // 2 * c + 9 * c**2 + c // 2 * c + 6 * c for c in (32, 64, 128))
    net = make(num_classes=10, in_chans=1)
    assert sum(p.numel() for p in net.parameters()) == stem + stages + 128 * 10 + 10
    assert [sum(isinstance(m, BasicBlock) for m in getattr(net, f"layer{k}")) for k in (1, 2, 3, 4)] == [1] * 4


@pytest.mark.parametrize("extractor", ["list", "dict", "hook", "getter", "fx"])
@pytest.mark.parametrize("stride", [1, 2])
def test_feature_info_matches_the_feature_maps(extractor, stride):
    height, width = 40, 56
    net = timm.create_model("resnet10_small", features_only=True, feature_cls=extractor, stem_stride=stride)
    maps = net(torch.randn(2, 3, height, width))
    maps = list(maps.values() if isinstance(maps, dict) else maps)
    assert net.feature_info.reduction() == [r * stride for r in (1, 1, 2, 4, 8)]
    assert net.feature_info.channels() == [m.shape[1] for m in maps] == [16, 16, 32, 64, 128]
    for reduction, m in zip(net.feature_info.reduction(), maps, strict=True):
        assert m.shape[2:] == (-(-height // reduction), -(-width // reduction))


def test_feature_maps_equal_those_of_the_network():
    net, x = make(num_classes=7, in_chans=1), torch.randn(2, 1, 33, 47)
    final, maps = net.forward_intermediates(x)
    torch.testing.assert_close(net.forward_head(final), net(x), rtol=0, atol=0)
    torch.testing.assert_close(net.layer2(maps[1]), maps[2], rtol=0, atol=0)
    assert net(x).shape == (2, 7)
    assert not torch.equal(net(x + 1), net(x))


@pytest.mark.parametrize("zero", [True, False])
def test_zero_init_last_is_timms(zero):
    net = timm.create_model("resnet10_small", zero_init_last=zero)
    scales = [block.bn2.weight for block in net.modules() if isinstance(block, BasicBlock)]
    assert [bool((scale == 0).all()) for scale in scales] == [zero] * 4


def test_options():
    wide = make(width=24, layers=(2, 1, 1, 3), num_classes=5, drop_rate=0.1)
    assert wide.num_features == 192
    assert len(wide.layer4) == 3
    assert wide(torch.randn(1, 3, 17, 19)).shape == (1, 5)
    assert make(output_stride=8).feature_info[-1]["reduction"] == 2
    assert make(num_classes=0)(torch.randn(2, 3, 8, 8)).shape == (2, 128)
    net = make()
    net.reset_classifier(3)
    assert net(torch.randn(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"width": 15}, "got 15"), ({"width": 0}, "got 0"), ({"layers": (1, 1)}, r"got \[1, 1\]"),
     ({"stem_stride": 0}, "got 0")],
)  # fmt: skip
def test_wrong_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        timm.create_model("resnet10_small", **options)


def test_one_image_of_one_pixel_in_eval():
    assert make(num_classes=4)(torch.randn(1, 3, 1, 1)).shape == (1, 4)
