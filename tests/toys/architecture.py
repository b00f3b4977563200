"""Two convolutions and a head."""

from timm.models import generate_default_cfgs, register_model
from torch import nn

default_cfgs = generate_default_cfgs(
    {"toy_net.untrained": {"url": "", "input_size": (3, 16, 16), "classifier": "head"}}
)


class ToyNet(nn.Module):
    """Channels 4 and 8."""

    def __init__(self, num_classes=10, in_chans=3):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(in_chans, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean((2, 3)))


@register_model
def toy_net(pretrained=False, num_classes=10, in_chans=3, **options):
    return ToyNet(num_classes, in_chans)
