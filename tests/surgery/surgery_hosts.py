"""Small hosts with random weights and statistics, and fixtures that build and run them."""

import copy
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.densenet import DenseNet
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vgg import VGG, make_layers

from saccade import list_mechanisms, spec
from saccade.contract.randomize import randomize
from saccade.surgery import plug

SIZE = (3, 64, 48)


_VGG = [16, "M", 32, "M", 32, "M"]


def _torchvision_vgg():
    with torch.device("meta"):  # its own classifier holds 120 million weights
        host = VGG(nn.Identity(), init_weights=False)
    host.features, host.avgpool, host.classifier = make_layers(_VGG), nn.AdaptiveAvgPool2d(1), nn.Linear(32, 5)
    return host


def _timm_vgg():
    host = timm.models.vgg.VGG(_VGG, norm_layer=nn.BatchNorm2d)
    host.pre_logits, host.head = nn.Identity(), timm.layers.ClassifierHead(32, 5)
    return host


def _user():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(inplace=True)),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(48, 48, 3), nn.ReLU(True)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 5),
    )


HOSTS = {
    "torchvision resnet": lambda: ResNet(BasicBlock, [2, 1, 1, 1], num_classes=5),
    "torchvision mobilenet_v2": lambda: MobileNetV2(5, inverted_residual_setting=[[1, 16, 1, 1], [6, 32, 2, 2]]),
    "torchvision densenet": lambda: DenseNet(16, (2, 2, 2), 32, num_classes=5),
    "torchvision convnext": lambda: ConvNeXt(
        [CNBlockConfig(32, 48, 1), CNBlockConfig(48, 64, 2), CNBlockConfig(64, None, 1)], num_classes=5
    ),
    "torchvision vgg": _torchvision_vgg,
    "timm resnet": lambda: timm.create_model("resnet18", layers=(1, 1, 1, 1), channels=(32, 48, 64, 64), num_classes=5),
    "timm mobilenetv2": lambda: timm.create_model("mobilenetv2_100", depth_multiplier=0.3, num_classes=5),
    "timm densenet": lambda: timm.create_model("densenet121", growth_rate=16, block_config=(2, 2, 2), num_classes=5),
    "timm convnext": lambda: timm.create_model("convnext_atto", depths=(1, 1, 2, 1), dims=(32, 32, 48, 64)),
    "timm vgg_bn": _timm_vgg,
    "user's Sequential": _user,
}


@pytest.fixture(scope="session")
def make():
    """make(name) -> a new host of the table, randomized; the same at every call."""

    def of(name, seed=1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return randomize(HOSTS[name](), seed)

    return of


NARROW = {"gsop": {"stride": 1}}
"""Options of what is made for larger maps.

By default gsop sees every second pixel, which of a map of 2×2 is one: the covariance of one pixel is zero, and nothing
in front of it learns.
"""

# Each host with one mechanism or two, two hosts with those of other kinds too; test_any_host.py has every mechanism in
# many more, under the first conditions alone.
PAIRS = [
    (host, mechanism)
    for host in HOSTS
    for mechanism in list_mechanisms("plug")
    if mechanism == "das"
    or (mechanism == "se" and host.startswith("timm"))
    # SimAM has no parameters to train, and a classifier has no skip.
    or (host == "timm resnet" and mechanism != "simam" and "skip" not in spec(mechanism).needs)
    or (host == "timm densenet" and mechanism in ("bam", "cbam", "gc"))
]


@pytest.fixture(scope="module", params=PAIRS, ids=" ".join)
def pair(request, make):
    """A host, and a copy of it with a mechanism where its paper puts it."""
    name, mechanism = request.param
    host = make(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        plugged = plug(copy.deepcopy(host), mechanism, input=SIZE, **NARROW.get(mechanism, {}))
    x = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(2))
    options = NARROW.get(mechanism, {})
    return SimpleNamespace(name=name, mechanism=mechanism, options=options, host=host, plugged=plugged, x=x)


@pytest.fixture(scope="session")
def computed():
    """computed(host, x, context) -> outputs in eval and train mode, then the gradients and buffers of the host.

    What a pair's bare host computes is kept: it is asked for once per mechanism.
    """
    kept = {}

    def of(host, x, context, key=None):
        if key is None or (key, context) not in kept:
            found = _computed(copy.deepcopy(host), x, context)
            if key is None:
                return found
            kept[key, context] = found
        return kept[key, context]

    return of


def flat(output):
    """The tensors of an output, in order."""
    return [output] if isinstance(output, torch.Tensor) else [t for part in output for t in flat(part)]


def _computed(host, x, context):
    found = {}
    for mode in (False, True):
        host.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        with context():
            outputs = flat(host.train(mode)(x))
        sum(t.float().square().mean() for t in outputs).backward()
        found |= {f"{mode} {n}": t.detach() for n, t in enumerate(outputs)}
    own = [(n, p) for n, p in host.named_parameters() if "saccade" not in n]
    return found | {n: p.grad for n, p in own if p.grad is not None} | {
        n: b for n, b in host.named_buffers() if "saccade" not in n
    }  # fmt: skip
