"""Semantic FPN: a feature pyramid and a semantic head on any encoder of timm.

    encoder   feature maps at the strides 4, 8, 16, 32                    X_k (B, C_k, H/s_k, W/s_k)
    lateral   L_k = 1×1 convolution of X_k                                (B, 256, H/s_k, W/s_k)
    top-down  M_4 = L_4, M_k = L_k + nearest upsampling of M_{k+1}
    output    3×3 convolution of M_k                                      (B, 256, H/s_k, W/s_k)
    head      see ``_semantic_head.py``                                   (B, K, H, W)

The pyramid, torchvision's, has no norm or activation, as in detectron2.

Pyramid: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, arXiv:1612.03144. Network: Kirillov et
al., "Panoptic Feature Pyramid Networks", CVPR 2019, arXiv:1901.02446, section 3.1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from timm.models import register_model
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from saccade.models._encoders import build_encoder
from saccade.models._semantic_head import (
    PYRAMID_CHANNELS,
    PyramidSegmenter,
    check_options,
    scaled_channels,
    segmenter_config,
)

__all__ = ["semantic_fpn"]

default_cfgs = segmenter_config("semantic_fpn")


class _TopDown(nn.Module):
    """torchvision's pyramid, from a list of maps to another."""

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.fpn = FeaturePyramidNetwork(in_channels, channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return maps (B, channels, H_k, W_k) for maps (B, C_k, H_k, W_k), both from fine to coarse."""
        levels: dict[str, Tensor] = self.fpn(OrderedDict((str(n), level) for n, level in enumerate(maps)))
        return list(levels.values())


@register_model
def semantic_fpn(
    pretrained: bool = False,
    encoder: str = "resnet50",
    encoder_options: Mapping[str, Any] | None = None,
    num_classes: int = 21,
    in_chans: int = 3,
    strides: Sequence[int] | None = None,
    width: float = 1.0,
    drop_rate: float = 0.0,
    **options: Any,
) -> PyramidSegmenter:
    """Build a semantic FPN, registered with timm as ``semantic_fpn``.

    Args:
        pretrained: True to load the encoder's weights.
        encoder: name of a timm network.
        encoder_options: options for ``timm.create_model``.
        num_classes: number of classes K.
        in_chans: number of image channels.
        strides: those of the encoder's maps; None for the last four.
        width: factor of the channels, rounded to multiples of 16 in the pyramid and 4 in the head.
        drop_rate: probability that a channel is dropped before the classifier.
        **options: keywords that timm passes; others are refused.
    """
    check_options(semantic_fpn, options)
    network, strides, widths = build_encoder(encoder, encoder_options, in_chans, strides, 4, pretrained)
    pyramid = _TopDown(widths, scaled_channels(PYRAMID_CHANNELS, width, 16))
    config = default_cfgs["semantic_fpn"]
    return PyramidSegmenter(network, pyramid, strides, config, num_classes, in_chans, width, drop_rate)
