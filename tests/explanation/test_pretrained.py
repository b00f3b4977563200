"""Pretrained networks of torchvision read images as their weights say; no weights are downloaded."""

import pytest
import torchvision
from PIL import Image
from torch import nn

from saccade.explanation.pretrained import prepare_pretrained


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)


@pytest.mark.parametrize("name", ["efficientnet_v2_l", "swin_s", "resnet50", "resnet18"])
def test_the_image_is_that_of_the_weights(name, monkeypatch):
    monkeypatch.setattr(torchvision.models, "get_model", lambda *args, **options: Small())
    weights = torchvision.models.get_model_weights(name).DEFAULT
    network = prepare_pretrained(f"torchvision:{name}")
    picture = Image.effect_noise((600, 520), 60).convert("RGB")
    expected = weights.transforms()(picture)
    assert network.tensor(picture).shape == expected.shape
    assert (network.tensor(picture) - expected).abs().mean() < 0.02
    assert network.class_names == tuple(weights.meta["categories"])
    assert prepare_pretrained(f"torchvision:{name}", size=64).tensor(picture).shape == (3, 64, 64)


def test_detectors_name_their_classes(monkeypatch):
    monkeypatch.setattr(torchvision.models, "get_model", lambda *args, **options: Small())
    names = prepare_pretrained("torchvision:fcos_resnet50_fpn").class_names
    assert (names[0], names[18]) == ("__background__", "dog")
