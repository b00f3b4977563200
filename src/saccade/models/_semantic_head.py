"""Segmentation networks with a pyramid: encoder, pyramid of equally wide maps, semantic head.

    encoder   feature maps at the strides s_1 < … < s_n, each twice the last or a higher power of two
                                                                          (B, C_k, H/s_k, W/s_k)
    pyramid   maps of D channels                                          (B, D, H/s_k, W/s_k)
    head      map k: 3×3 convolution, group norm, ReLU, bilinear upsampling by two, repeated until it has the size of
              map 1, which gets one convolution and no upsampling; sum    (B, E, H/s_1, W/s_1)
              1×1 convolution                                             (B, K, H/s_1, W/s_1)
    output    upsample bilinearly                                         (B, K, H, W)

Head: Kirillov, Girshick, He, Dollár, "Panoptic Feature Pyramid Networks", CVPR 2019, arXiv:1901.02446, section 3.1.
Number of convolutions, initial weights and groups of four channels at 128 follow ``SemSegFPNHead`` of detectron2.
Images are not padded: maps of odd sizes are resized to each other and to the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch.nn.functional as F
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from saccade.errors import UserError, did_you_mean

__all__ = [
    "PYRAMID_CHANNELS", "PyramidSegmenter", "SemanticHead", "check_options", "scaled_channels", "segmenter_config",
]  # fmt: skip

PYRAMID_CHANNELS = 256
"""Channels of a pyramid at ``width`` 1."""
_HEAD_CHANNELS = 128
_GROUP_SIZE = 4
"""Channels in a group of the head's norm."""
_TIMM_KEYWORDS = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


class SemanticHead(nn.Module):
    """Head that sums upsampled maps and classifies their pixels.

    Args:
        in_channels: channels D of every map.
        strides: ascending strides of the maps.
        channels: channels E, a multiple of 4.
        num_classes: number of classes K.
        drop_rate: probability that a channel is dropped before the classifier.

    Raises:
        UserError: the strides are not powers of two times the first.
    """

    def __init__(
        self, in_channels: int, strides: Sequence[int], channels: int, num_classes: int, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        ratios = [stride / strides[0] for stride in strides]
        if any(ratio != 2 ** (int(ratio).bit_length() - 1) for ratio in ratios):
            raise UserError(f"each stride must be a power of two times the first, got {', '.join(map(str, strides))}")
        self.doublings = [int(ratio).bit_length() - 1 for ratio in ratios]
        """Upsamplings of each map."""
        self.levels = nn.ModuleList(
            nn.ModuleList(_convolution(channels if n else in_channels, channels) for n in range(max(1, doublings)))
            for doublings in self.doublings
        )
        self.dropout = nn.Dropout2d(drop_rate)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        _initialise(self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits (B, K, H/s_1, W/s_1) for maps (B, D, H/s_k, W/s_k)."""
        levels = zip(maps, self.levels, self.doublings, strict=True)
        total: Any = sum(_enlarge(x, level, doublings, maps[0].shape[2:]) for x, level, doublings in levels)
        logits: Tensor = self.classifier(self.dropout(total))
        return logits


class PyramidSegmenter(nn.Module):
    """Segmentation network that maps images (B, C, H, W) to logits (B, K, H, W).

    Args:
        encoder: network from images to maps.
        pyramid: network from these to maps of ``pyramid.channels`` channels.
        strides: strides of the maps.
        config: timm's configuration.
        num_classes: K.
        in_chans: C.
        width: factor of the head's 128 channels, rounded to a multiple of 4.
        drop_rate: see ``SemanticHead``.
    """

    def __init__(
        self,
        encoder: nn.Module,
        pyramid: nn.Module,
        strides: Sequence[int],
        config: Any,
        num_classes: int,
        in_chans: int,
        width: float,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.encoder, self.pyramid = encoder, pyramid
        channels = scaled_channels(_HEAD_CHANNELS, width, _GROUP_SIZE)
        in_channels: Any = pyramid.channels
        self.head = SemanticHead(in_channels, strides, channels, num_classes, drop_rate)
        self.pretrained_cfg = {
            "architecture": config.default.architecture,
            "classifier": config.default.classifier,
            "input_size": (in_chans, *config.default.input_size[1:]),
        }
        self.default_cfg = self.pretrained_cfg

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K, H, W) for images x (B, C, H, W)."""
        return _resize(self.head(self.pyramid(self.encoder(x))), x.shape[2:])


def segmenter_config(name: str) -> Any:
    """Return timm's configuration of the segmentation network ``name``, whose heads are pyramid and head."""
    return generate_default_cfgs(
        {
            f"{name}.untrained": {
                "url": "", "num_classes": 21, "input_size": (3, 224, 224), "classifier": ("pyramid", "head"),
                "license": "apache-2.0", "notes": ("dense",),
            }
        }
    )  # fmt: skip


def check_options(build: Callable[..., nn.Module], options: Mapping[str, Any]) -> None:
    """Raise UserError if ``options``, beyond the parameters of ``build``, holds a name not timm's own."""
    known = signature(build).parameters.keys() - {"pretrained", "options"}
    for key in options:
        if key not in _TIMM_KEYWORDS:
            raise UserError(f"{build.__name__} has no option {key!r}.{did_you_mean(key, known)}")


def scaled_channels(channels: int, width: float, divisor: int) -> int:
    """Return ``channels`` · ``width``, rounded to the nearest multiple of ``divisor``, at least ``divisor``.

    Raises:
        UserError: ``width`` is not above 0.
    """
    if width <= 0:
        raise UserError(f"width must be above 0, got {width}")
    return max(divisor, round(channels * width / divisor) * divisor)


def _enlarge(x: Tensor, convolutions: Any, doublings: int, size: Sequence[int]) -> Tensor:
    """Return x after its ``convolutions``, each followed by one of the ``doublings`` to ``size``, if any."""
    for n, convolution in enumerate(convolutions, 1):
        x = convolution(x)
        if doublings:
            factor = 2 ** (doublings - n)
            x = _resize(x, [-(-side // factor) for side in size])
    return x


def _convolution(in_channels: int, channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
    _initialise(convolution)
    return nn.Sequential(convolution, nn.GroupNorm(channels // _GROUP_SIZE, channels), nn.ReLU())


def _initialise(convolution: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
