"""Networks to export, and how to run the files."""

import onnxruntime
import timm
import torch
from torch import nn
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.resnet import BasicBlock, ResNet

from saccade import plug
from saccade.contract.randomize import perturb

SIZE = (3, 64, 48)


def resnet18():
    """The stem and one block of the second stage of ResNet-18."""
    host = ResNet(BasicBlock, [1, 1, 1, 1])
    host.layer1 = host.layer3 = host.layer4 = nn.Identity()
    host.fc = nn.Linear(128, 5)
    return host


class SmallUNet(nn.Module):
    """Two levels: the finer map joins the coarser one, upsampled."""

    def __init__(self):
        super().__init__()
        self.fine, self.pool = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()), nn.MaxPool2d(2, ceil_mode=True)
        self.coarse = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU())
        self.join, self.head = nn.Sequential(nn.Conv2d(40, 16, 3, padding=1), nn.ReLU()), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        s = self.fine(x)
        u = nn.functional.interpolate(self.coarse(self.pool(s)), s.shape[2:])
        return self.head(self.join(torch.cat([u, s], 1)))


HOSTS = {
    "unet": SmallUNet,
    "resnet18": resnet18,
    "mobilenet_v2": lambda: MobileNetV2(5, inverted_residual_setting=[[1, 16, 1, 1], [6, 32, 1, 2]]),
}


def small_network(mechanism=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        host = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
            nn.MaxPool2d(2),
            nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU()),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 5),
        )
        return perturb(host if mechanism is None else plug(host, mechanism, where=["0", "2"], input=SIZE))


def resnet10(mechanism, **options):
    return perturb(plug(timm.create_model("resnet10_small", num_classes=5), mechanism, input=SIZE, **options))


def random_images(*shape, seed=7):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run_onnx(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(array) for array in session.run(None, {"image": images.numpy()})]


def distance(network, images, found):
    with torch.no_grad():
        wanted = network.eval()(images)
    return ((wanted - found).abs().max() / wanted.abs().max()).item()


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)


class Pair(Body):
    def forward(self, x):
        y = self.conv(x)
        return y.mean((2, 3)), [y, -y]


class NotDeterministic(Body):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count += self.kind == "counts"
        return self.conv(x) + self.count + torch.randn(1) * (self.kind == "draws")


class Named(Body):
    def forward(self, x):
        y = self.conv(x)
        return {"map": y, "nothing": None, "logits": y.mean((2, 3))}
