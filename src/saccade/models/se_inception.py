r"""SE-BN-Inception: BN-Inception with a channel gate after the concatenation of each module.

    stem     7×7, 64, stride 2; max pool; 1×1, 64; 3×3, 192; max pool     (B, in_chans, H, W) -> (B, 192, H/8, W/8)
    module   concatenation of 1×1 | 1×1, 3×3 | 1×1, 3×3, 3×3 | pool, 1×1, times the gate of its mean
    stage    modules 3a, 3b                  -> (B, 320, H/8, W/8)
             3c (stride 2), 4a, 4b, 4c, 4d   -> (B, 608, H/16, W/16)
             4e (stride 2), 5a, 5b           -> (B, 1024, H/32, W/32)
    head     global average pooling, linear  -> (B, num_classes)

A batch norm and a ReLU follow each convolution. Modules of stride 2 have no 1×1 branch, and no convolution after the
pool. Channel counts are those of the authors' Caffe network. Sizes are rounded up at each stride; at even sizes the max
pools are Caffe's.

Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507; Ioffe, Szegedy, "Batch Normalization",
ICML 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.helpers import make_divisible
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from saccade.bases import BatchNorm2d
from saccade.models._sequential_classifier import SequentialClassifier, check_stages, check_stem, init_convolutions
from saccade.models._squeeze_excite import ChannelGate, check_squeeze

__all__ = ["SEInception", "se_bn_inception"]

default_cfgs = generate_default_cfgs(
    {
        "se_bn_inception.untrained": {
            "url": "", "num_classes": 1000, "input_size": (3, 224, 224), "pool_size": (7, 7), "crop_pct": 0.875,
            "interpolation": "bilinear", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
            "first_conv": "conv1.conv", "classifier": "last_linear", "license": "apache-2.0",
        }
    }
)  # fmt: skip


class _Module(NamedTuple):
    """Channel counts of the branches, and the pooling of the fourth; ``subsample`` is a max pool of stride 2."""

    single: int
    triple: tuple[int, int]
    double_triple: tuple[int, int]
    projection: int
    pool: str


_MODULES = {
    "3a": _Module(64, (64, 64), (64, 96), 32, "avg"),
    "3b": _Module(64, (64, 96), (64, 96), 64, "avg"),
    "3c": _Module(0, (128, 160), (64, 96), 0, "subsample"),
    "4a": _Module(224, (64, 96), (96, 128), 128, "avg"),
    "4b": _Module(192, (96, 128), (96, 128), 128, "avg"),
    "4c": _Module(160, (128, 160), (128, 160), 128, "avg"),
    "4d": _Module(96, (128, 192), (160, 192), 128, "avg"),
    "4e": _Module(0, (128, 192), (192, 256), 0, "subsample"),
    "5a": _Module(352, (192, 320), (160, 224), 128, "avg"),
    "5b": _Module(352, (192, 320), (192, 224), 128, "max"),
}


class _MaxPool(nn.Module):
    """3×3 max pool of stride 2, (B, C, H, W) -> (B, C, ⌈H/2⌉, ⌈W/2⌉), of a map without negative values."""

    def forward(self, x: Tensor) -> Tensor:
        # Zeros cannot exceed the maximum of a window, which has at least one value of x.
        return F.max_pool2d(F.pad(x, (0, 2, 0, 2)), 3, 2)


def _pool(kind: str) -> nn.Module:
    if kind == "subsample":
        return _MaxPool()
    return nn.MaxPool2d(3, 1, 1) if kind == "max" else nn.AvgPool2d(3, 1, 1)


def _convolution(in_channels: int, channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=BatchNorm2d(channels), relu=nn.ReLU(inplace=True)))


class _Inception(nn.Module):
    """Module of up to four branches, (B, C, H, W) -> (B, O, H/stride, W/stride)."""

    def __init__(self, in_channels: int, module: _Module, width: float, gate: tuple[int, str] | None) -> None:
        super().__init__()
        single, projection = (make_divisible(n * width) if n else 0 for n in (module.single, module.projection))
        reduce, triple = (make_divisible(n * width) for n in module.triple)
        double_reduce, double = (make_divisible(n * width) for n in module.double_triple)
        stride = 2 if module.pool == "subsample" else 1
        branches: dict[str, nn.Module] = {"single": _convolution(in_channels, single, 1)} if single else {}
        branches["triple"] = nn.Sequential(
            _convolution(in_channels, reduce, 1), _convolution(reduce, triple, 3, stride)
        )
        branches["double_triple"] = nn.Sequential(
            _convolution(in_channels, double_reduce, 1),
            _convolution(double_reduce, double, 3),
            _convolution(double, double, 3, stride),
        )
        projections = [_convolution(in_channels, projection, 1)] if projection else []
        branches["pool"] = nn.Sequential(_pool(module.pool), *projections)
        self.branches = nn.ModuleDict(branches)
        self.out_channels = single + triple + double + (projection or in_channels)
        self.se = nn.Identity() if gate is None else ChannelGate(self.out_channels, *gate)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.se(torch.cat([branch(x) for branch in self.branches.values()], 1))
        return y


class SEInception(SequentialClassifier):
    """BN-Inception with channel gates in the modules of ``se_stages``.

    Args:
        width: multiplies all channel counts, rounded to multiples of 8.
        stem_stride: 4 for the article's stem; 1 or 2 replaces the first convolution and max pool by one 3×3
            convolution of that stride. The stem's second max pool halves the size again.
        se_stages: stages with gates, 3 to 5 as in the modules' names; () gives the plain network.
        squeeze: pooling of the gates, ``avg`` or ``max``.
        reduction: channels / bottleneck channels of a gate.
        num_classes, in_chans, global_pool, drop_rate: as in timm's networks.

    Raises:
        UserError: an option is wrong.
    """

    def __init__(
        self,
        width: float = 1.0,
        stem_stride: int = 4,
        se_stages: Sequence[int] = (3, 4, 5),
        squeeze: str = "avg",
        reduction: int = 16,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        check_stem(stem_stride, width)
        check_stages("se_stages", se_stages, (3, 4, 5))
        check_squeeze(reduction, squeeze)
        narrow, channels = (make_divisible(n * width) for n in (64, 192))
        is_small = stem_stride < 4
        layers: dict[str, nn.Module] = {
            "conv1": _convolution(in_chans, narrow, 3 if is_small else 7, stem_stride if is_small else 2),
            "pool1": nn.Identity() if is_small else _MaxPool(),
            "conv2": nn.Sequential(_convolution(narrow, narrow, 1), _convolution(narrow, channels, 3)),
            "pool2": _MaxPool(),
        }
        stride = 2 * stem_stride
        features: list[dict[str, Any]] = [
            {"num_chs": narrow, "reduction": min(stem_stride, 2), "module": "conv1"},
            {"num_chs": channels, "reduction": stem_stride, "module": "conv2"},
        ]
        for name, module in _MODULES.items():
            gate = (reduction, squeeze) if int(name[0]) in se_stages else None
            inception = _Inception(channels, module, width, gate)
            layers[f"inception_{name}"], channels = inception, inception.out_channels
            if module.pool == "subsample":
                stride *= 2
            if name in ("3b", "4d", "5b"):
                features.append({"num_chs": channels, "reduction": stride, "module": f"inception_{name}"})
        super().__init__(layers, features, num_classes, in_chans, global_pool, drop_rate, smallest_side=1)
        init_convolutions(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of layer groups: the stem and the modules, or the stages if ``coarse``."""
        if coarse:
            return {"stem": r"^conv\d", "blocks": r"^inception_(\d)"}
        blocks = [(rf"^inception_{name}", (index,)) for index, name in enumerate(_MODULES)]
        return {"stem": r"^conv\d", "blocks": blocks}


@register_model
def se_bn_inception(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build SE-BN-Inception."""
    return build_model_with_cfg(SEInception, "se_bn_inception", pretrained, **options)
