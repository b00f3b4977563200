"""The layer that is explained by default, for classifiers, segmenters and detectors of several libraries."""

import pytest
import timm
import torch
import torchvision
from torch import nn

import saccade
import saccade.models
from saccade.errors import UserError
from saccade.explanation.target_layer import check_layers, last_maps, target_layer

# The name of a network of timm or torchvision, the side of its image, and its last feature map before the head.
CLASSIFIERS = [
    ("resnet18", 64, "layer4.1"),
    ("resnet18", 32, "layer3.1"),  # layer4 has one pixel
    ("mobilenetv2_100", 64, "bn2"),
    ("densenet121", 64, "features.norm5"),
    ("vgg11", 64, "features"),  # its last child is a pooling without weights
    ("convnext_atto", 64, "stages.3"),
    ("inception_v3", 128, "Mixed_7c"),
    ("swin_tiny_patch4_window7_224", 224, "norm"),  # maps (B, H, W, C)
    ("vt_resnet18", 64, "vt.0.projector"),  # the map of the last module does not reach the result
    ("se_resnet18", 64, "layer4.1"),
    ("resnet10_small", 40, "layer4.0"),
    ("ran_small", 32, "norm"),
    ("torchvision:resnet18", 64, "layer4.1"),
    ("torchvision:mobilenet_v2", 64, "features.18"),
    ("torchvision:vgg11", 64, "features"),
    ("torchvision:convnext_tiny", 64, "features.7.2"),
    ("torchvision:squeezenet1_1", 64, "classifier.1"),
]


@pytest.mark.parametrize(("name", "side", "layer"), CLASSIFIERS, ids=str)
def test_classifiers(name, side, layer):
    with torch.device("meta"):
        library, _, rest = name.rpartition(":")
        network = torchvision.models.get_model(rest, weights=None) if library else timm.create_model(name)
        assert target_layer(network, torch.zeros(2, network_channels(network), side, side)) == layer


def network_channels(network):
    return next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels


@pytest.mark.parametrize(
    ("build", "side", "layer"),
    [
        (lambda: timm.create_model("sasa_resnet26"), 64, "layer4.0"),  # its operators do not run on the meta device
        (lambda: timm.create_model("unet", encoder="test_resnet", num_classes=3), 64, "encoder.model.layer4"),
        (lambda: timm.create_model("fcn", encoder="test_resnet", num_classes=3), 64, "encoder.layer4"),
        (lambda: timm.create_model("faster_rcnn", encoder="test_resnet", num_classes=3, box_head=16, fpn_channels=32),
         64, "backbone.encoder.layer4"),
        (lambda: torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=3), 64, "backbone.features.1"),
    ],
    ids=["sasa_resnet26", "unet", "fcn", "faster_rcnn", "ssdlite"],
)  # fmt: skip
def test_networks_that_the_meta_device_does_not_run(build, side, layer):
    assert target_layer(build().eval(), torch.randn(1, 3, side, side)) == layer


def test_plugs_are_not_layers():
    plain, network = (timm.create_model("test_resnet") for _ in range(2))
    images = torch.randn(1, 3, 64, 48)
    saccade.plug(network, "cbam", where="stage", input=(3, 64, 48))
    assert target_layer(network, images) == target_layer(plain, images) == "layer4.0"
    with pytest.raises(UserError, match="no layer"):
        check_layers(network, [next(path for path, _ in network.named_modules() if path.endswith("saccade"))])


def test_the_search_changes_nothing():
    network = timm.create_model("test_resnet").train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    target_layer(network, torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in network.modules())
    network(torch.randn(2, 3, 64, 64))  # the twin: a forward pass in train mode changes the statistics
    assert any(not torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_networks_without_feature_maps():
    with pytest.raises(UserError, match="no module of Sequential returns a feature map"):
        target_layer(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5)), torch.randn(1, 3, 8, 8))
    with pytest.raises(UserError, match="on tokens"):
        target_layer(timm.create_model("test_vit"), torch.randn(1, 3, 160, 160))


def test_layers_are_checked_and_listed():
    network = timm.create_model("test_resnet")
    assert check_layers(network, ["layer4.0", "bn1", "layer4.0"]) == ["layer4.0", "bn1"]
    with pytest.raises(UserError, match=r"Did you mean 'layer4\.0\.bn1'"):
        check_layers(network, ["layer4.bn1"])
    with pytest.raises(UserError, match="at least one layer"):
        check_layers(network, [])
    assert last_maps(network, torch.randn(1, 3, 64, 64))[-1] == "layer4.0"
