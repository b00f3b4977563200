"""Networks of many libraries, none of them fresh: how each is made, what it is shown, what it computes.

A host is the smallest member of its family, or a shortened one, for what matters is how it is built, not how much there
is of it. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn
from torchvision.models import detection

import adversarial_hosts

__all__ = ["HOSTS", "Detector", "Host", "flat", "photographs"]

Make = Callable[..., nn.Module]
Size = tuple[int, int, int]
SIZE = (3, 64, 48)


def flat(output: Any) -> list[Tensor]:
    """The tensors of an output, in order."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (list, tuple)) else ()
    return [tensor for part in parts for tensor in flat(part)]


def photographs(count: int, size: Size, draw: torch.Generator) -> Tensor:
    """Noise (count, C, H, W) whose brightness and contrast differ as those of photographs do."""
    contrast, brightness = (fill(count, size[0], 1, 1, generator=draw) for fill in (torch.rand, torch.randn))
    return 2 * contrast * torch.randn(count, *size, generator=draw) + brightness


@dataclass(frozen=True)
class Host:
    """A network that takes a batch of pictures.

    Args:
        make: a new one; keywords are passed on.
        size: (C, H, W) of the pictures it is shown.
        tiny: the same for maps of one pixel at the end, where it allows that.
    """

    one_size: ClassVar[bool] = True
    """Are all pictures it is shown of one size?"""

    make: Make
    size: Size = SIZE
    tiny: Size | None = None

    def example(self, count: int, draw: torch.Generator) -> Any:
        """What it is called with: (count, C, H, W)."""
        return photographs(count, self.size, draw)

    def look(self) -> Any:
        """``input=`` of ``saccade.plug``."""
        return self.size

    def outputs(self, network: nn.Module, given: Any) -> list[Tensor]:
        """All that ``network`` computes in the mode it is in."""
        return flat(network(given))

    def loss(self, network: nn.Module, given: Any) -> Tensor:
        """Something to be made smaller, from the network in train mode."""
        wanted = torch.Generator().manual_seed(6)
        return torch.stack(
            [(t.float() - torch.randn(t.shape, generator=wanted)).square().mean()
             for t in self.outputs(network, given) if t.is_floating_point() and t.requires_grad]
        ).sum()  # fmt: skip


@dataclass(frozen=True)
class Detector(Host):
    """A network of torchvision's detection: it takes a list of pictures, and in training boxes as well.

    It is compared on the maps of its backbone and on what it finds in eval mode, and on its losses in training.
    """

    one_size: ClassVar[bool] = False

    def example(self, count: int, draw: torch.Generator) -> Any:
        """``count`` pictures of two sizes."""
        _, height, width = self.size
        pictures = photographs(count, (3, height + 8, width + 8), draw)
        return [x[:, : height + 8 * (n % 2), : width + 8 * (1 - n % 2)].clone() for n, x in enumerate(pictures)]

    def look(self) -> Any:
        """One picture in a list."""
        return self.example(1, torch.Generator().manual_seed(1))

    def outputs(self, network: Any, given: Any) -> list[Tensor]:
        """The maps of the backbone, boxes, scores and labels; in train mode the losses."""
        if not network.training:
            maps: list[Tensor] = []
            hook = network.backbone.register_forward_hook(lambda _, __, output: maps.extend(flat(output)))
            try:
                found = flat(network(given))
            finally:
                hook.remove()
            return [*maps, *found]
        boxes = torch.tensor([[4.0, 6, 30, 40], [12, 3, 25, 20]])
        targets = [{"boxes": boxes + 2 * n, "labels": torch.tensor([1, 2])} for n in range(len(given))]
        return flat(network(given, targets))

    def loss(self, network: nn.Module, given: Any) -> Tensor:
        """The sum of the losses."""
        return torch.stack(self.outputs(network, given)).sum()


def _timm(name: str, size: Size = SIZE, *, tiny: Size | None = None, **own: Any) -> Host:
    return Host(lambda **options: timm.create_model(name, **({"num_classes": 5} | own | options)), size, tiny)


def _torchvision(name: str, size: Size = SIZE, *, tiny: Size | None = None, **own: Any) -> Host:
    return Host(lambda: torchvision.models.get_model(name, weights=None, num_classes=5, **own), size, tiny)


def _headless(host: Host, head: Callable[[nn.Module], None]) -> Host:
    """The same body with another head: the hundred million weights of the usual one only take time."""

    def small(**options: Any) -> nn.Module:
        with torch.device("meta"):
            network = host.make(**options)
        head(network)
        network.to_empty(device="cpu")
        for module in network.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
        return network

    return Host(small, host.size, host.tiny)


def _vgg_head(network: Any) -> None:
    if hasattr(network, "pre_logits"):  # timm
        network.pre_logits = nn.Identity()
        network.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 5))
    elif hasattr(network, "avgpool"):  # torchvision; features_only has no head at all
        network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 5)


def _alex_head(network: Any) -> None:
    network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(256, 5)


def _smp(make: Callable[..., nn.Module], encoder: str, **options: Any) -> Host:
    return Host(lambda: make(encoder, encoder_weights=None, classes=3, **options), (3, 64, 96))


_ANCHORS = ((8,), (16,), (32,), (64,), (128,))
_SMALL: dict[str, Any] = {"min_size": 64, "max_size": 96, "num_classes": 3}


def _pyramid(levels: Any = None) -> nn.Module:
    norm = torchvision.ops.misc.FrozenBatchNorm2d
    backbone = torchvision.models.resnet18(weights=None, norm_layer=norm)
    returned, extra = ([2, 3, 4], levels) if levels else ([1, 2, 3, 4], None)
    return detection.backbone_utils._resnet_fpn_extractor(
        backbone, 3, returned_layers=returned, **({"extra_blocks": extra} if extra else {})
    )


def _faster() -> nn.Module:
    anchors = detection.anchor_utils.AnchorGenerator(_ANCHORS, ((0.5, 1.0, 2.0),) * 5)
    few = dict.fromkeys(["rpn_pre_nms_top_n_train", "rpn_pre_nms_top_n_test", "rpn_post_nms_top_n_train"], 50)
    few |= {"rpn_post_nms_top_n_test": 20, "box_batch_size_per_image": 16}
    head = detection.faster_rcnn.TwoMLPHead(256 * 7**2, 64)
    predictor = detection.faster_rcnn.FastRCNNPredictor(64, 3)
    return detection.FasterRCNN(
        _pyramid(), rpn_anchor_generator=anchors, box_head=head, box_predictor=predictor, box_score_thresh=0.0,
        **_SMALL | {"num_classes": None}, **few,
    )  # fmt: skip


def _faster_mobile() -> nn.Module:
    return detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, box_score_thresh=0.0, **_SMALL
    )


def _retina() -> nn.Module:
    return detection.RetinaNet(
        _pyramid(torchvision.ops.feature_pyramid_network.LastLevelP6P7(256, 256)), score_thresh=0.0, **_SMALL
    )


def _fcos() -> nn.Module:
    return detection.FCOS(
        _pyramid(torchvision.ops.feature_pyramid_network.LastLevelP6P7(256, 256)), score_thresh=0.0, **_SMALL
    )


def _hugging_face(kind: str, **options: Any) -> Host:
    def make() -> nn.Module:
        config = getattr(transformers, f"{kind}Config")(num_labels=5, **options)
        made: nn.Module = getattr(transformers, f"{kind}ForImageClassification")(config)
        return made

    return Host(make)


def _shortened(**options: Any) -> nn.Module:
    resnet = torchvision.models.resnet
    return resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=5, **options)


ORIGINAL: dict[str, Host] = {
    "torchvision resnet18": _torchvision("resnet18", tiny=(3, 32, 32)),
    "torchvision resnet50": _torchvision("resnet50", tiny=(3, 32, 32)),
    "torchvision mobilenet_v2": _torchvision("mobilenet_v2", tiny=(3, 32, 32)),
    "torchvision densenet121": _torchvision("densenet121", tiny=(3, 32, 32)),
    "torchvision convnext_tiny": _torchvision("convnext_tiny", tiny=(3, 32, 32)),
    "torchvision vgg11": _headless(_torchvision("vgg11", tiny=(3, 32, 32)), _vgg_head),
    "torchvision vgg11_bn": _headless(_torchvision("vgg11_bn", tiny=(3, 32, 32)), _vgg_head),
    "timm resnet18": _timm("resnet18", tiny=(3, 32, 32)),
    "timm resnet50": _timm("resnet50", tiny=(3, 32, 32)),
    "timm mobilenetv2_100": _timm("mobilenetv2_100", tiny=(3, 32, 32)),
    "timm densenet121": _timm("densenet121", tiny=(3, 32, 32)),
    "timm convnext_atto": _timm("convnext_atto", tiny=(3, 32, 32)),
    "timm vgg11": _headless(_timm("vgg11", tiny=(3, 32, 32)), _vgg_head),
    "timm vgg11_bn": _headless(_timm("vgg11_bn", tiny=(3, 32, 32)), _vgg_head),
    "user's Sequential": Host(adversarial_hosts.Plain, tiny=(3, 32, 32)),
}
"""The hosts that ``--deep`` tries under every condition."""

_SHORT = (1, 1, 1, 1)
_TIMM: dict[str, dict[str, Any]] = {
    "resnetv2_18": {},
    "resnext50_32x4d": {"layers": _SHORT},
    "res2net50_26w_4s": {"layers": _SHORT},
    "resnest14d": {},
    "skresnet18": {"layers": _SHORT},
    "resnetblur18": {"layers": _SHORT},
    "tresnet_m": {"layers": _SHORT},
    "regnetx_002": {},
    "regnety_002": {},
    "gernet_s": {},
    "dpn48b": {},
    "mobilenetv1_100": {},
    "mobilenetv3_small_100": {},
    "mobilenetv4_conv_small": {},
    "efficientnet_b0": {},
    "mnasnet_small": {},
    "tinynet_e": {},
    "mixnet_s": {},
    "hardcorenas_b": {},
    "lcnet_100": {},
    "lcnetv2_small": {},
    "convnextv2_atto": {},
    "inception_next_atto": {},
    "inception_v3": {"size": (3, 128, 96)},
    "inception_v4": {"size": (3, 128, 96)},
    "legacy_xception": {},
    "dla46x_c": {"size": (3, 64, 96)},
    "hrnet_w18_small": {"size": (3, 64, 96)},
    "ghostnet_100": {},
    "repghostnet_100": {},
    "repvgg_a0": {},
    "repvit_m0_9": {},
    "mobileone_s1": {},
    "nf_resnet26": {},
    "cs3darknet_focus_s": {},
    "cspnext_tiny": {},
    "darknet17": {},
    "ese_vovnet19b_slim_dw": {},
    "rexnet_100": {},
    "fastvit_t8": {},
    "fasternet_t0": {},
    "edgenext_xx_small": {},
    "efficientvit_b0": {},
    "mobilevit_xxs": {},
    "selecsls42": {"size": (3, 128, 96)},
    "starnet_s050": {},
    "mambaout_femto": {"size": (3, 64, 96)},
    "hgnetv2_b0": {},
    "poolformer_s12": {},
}
HOSTS: dict[str, Host] = ORIGINAL | {f"timm {name}": _timm(name, **options) for name, options in _TIMM.items()}
HOSTS |= {
    "timm convmixer": Host(lambda: timm.models.convmixer.ConvMixer(64, 4, kernel_size=7, patch_size=4, num_classes=5)),
    "torchvision alexnet": _headless(_torchvision("alexnet", (3, 96, 80)), _alex_head),
    "torchvision squeezenet1_1": _torchvision("squeezenet1_1"),
    "torchvision googlenet": _torchvision("googlenet", init_weights=False),
    "torchvision inception_v3": _torchvision("inception_v3", (3, 128, 96), init_weights=False, aux_logits=False),
    "torchvision shufflenet_v2_x0_5": _torchvision("shufflenet_v2_x0_5"),
    "torchvision mnasnet0_5": _torchvision("mnasnet0_5"),
    "torchvision mobilenet_v3_small": _torchvision("mobilenet_v3_small"),
    "torchvision efficientnet_b0": _torchvision("efficientnet_b0"),
    "torchvision regnet_y_400mf": _torchvision("regnet_y_400mf"),
    "torchvision resnext50_32x4d": Host(lambda: _shortened(groups=32, width_per_group=4)),
    "torchvision wide_resnet50_2": Host(lambda: _shortened(width_per_group=128)),
    "torchvision Faster R-CNN, ResNet-18": Detector(_faster, (3, 72, 64)),
    "torchvision Faster R-CNN, MobileNetV3": Detector(_faster_mobile, (3, 72, 64)),
    "torchvision RetinaNet, ResNet-18": Detector(_retina, (3, 72, 64)),
    "torchvision FCOS, ResNet-18": Detector(_fcos, (3, 72, 64)),
    "smp Unet, resnet18": _smp(smp.Unet, "resnet18"),
    "smp Unet, mobilenet_v2": _smp(smp.Unet, "mobilenet_v2"),
    "smp Unet++, timm-regnetx_002": _smp(smp.UnetPlusPlus, "timm-regnetx_002"),
    "smp FPN, efficientnet-b0": _smp(smp.FPN, "efficientnet-b0"),
    "smp FPN, tu-convnext_atto": _smp(smp.FPN, "tu-convnext_atto"),
    "smp DeepLabV3+, resnet18": _smp(smp.DeepLabV3Plus, "resnet18"),
    "transformers ResNet": _hugging_face("ResNet", embedding_size=32, hidden_sizes=[64, 64, 96, 128], depths=[1] * 4),
    "transformers ConvNeXt": _hugging_face("ConvNext", hidden_sizes=[32, 48, 64, 96], depths=[1, 1, 2, 1]),
    "transformers RegNet": _hugging_face(
        "RegNet", embedding_size=32, hidden_sizes=[32, 48, 64, 96], depths=[1, 1, 2, 1], groups_width=16
    ),
    "transformers MobileNetV2": _hugging_face("MobileNetV2", depth_multiplier=0.35),
}
HOSTS |= {f"own {name}": host for name, host in ((n, Host(m)) for n, m in adversarial_hosts.ADVERSARIAL.items())}
