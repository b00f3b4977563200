"""Small networks with a pyramid, images for them, and the cost of their parts."""

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from saccade.contract.randomize import perturb
from saccade.models import create_host
from saccade.recipe import Model

OPTIONS = {"encoder": "resnet10_small", "encoder_options": {"width": 4}, "width": 0.125}
"""Small networks: maps at the strides 1, 2, 4, 8."""
SIZE = (33, 46)


def make(name, num_classes=5, channels=3, **options):
    torch.manual_seed(0)
    return perturb(create_host(Model(name=name, options=OPTIONS | options), num_classes, channels)).eval()


def pictures(batch=2, channels=3, size=SIZE):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def macs(name, image_height, image_width, **options):
    """Return G multiply-adds of the pyramid and of the head, by the operators of one image."""
    with torch.device("meta"), torch.no_grad():
        net = timm.create_model(name, **options).eval()
        counter = FlopCounterMode(display=False)
        with counter:
            net(torch.zeros(1, 3, image_height, image_width))
    counts = counter.get_flop_counts()
    return [sum(counts[f"PyramidSegmenter.{part}"].values()) / 2e9 for part in ("pyramid", "head")]
