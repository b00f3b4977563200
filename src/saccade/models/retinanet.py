"""RetinaNet of torchvision on any encoder of timm.

    encoder     feature maps at the strides s_1 < … < s_n                 (B, C_k, H/s_k, W/s_k)
    pyramid     one map per stride, and two coarser ones from strided convolutions
    head        four convolutions each for the class scores and the boxes of the anchors of each level

Group norm follows these convolutions, as in torchvision's second version; the paper has none, and trains slowly from
random weights.

Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from timm.models import register_model
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from saccade.models._detectors import (
    NORM_GROUPS,
    Pyramid,
    check_normalised_width,
    check_options,
    declare,
    detector_config,
)

__all__ = ["retinanet"]

default_cfgs = detector_config(
    "retinanet",
    (
        "backbone.fpn.extra_blocks", "head.classification_head.conv", "head.classification_head.cls_logits",
        "head.regression_head.conv", "head.regression_head.bbox_reg",
    ),
)  # fmt: skip
_OPTIONS = (
    "encoder", "encoder_options", "strides", "fpn_channels", "extra_levels", "anchor_scale", "aspect_ratios",
    "detections_per_img",
)  # fmt: skip
_OCTAVES = 2.0 ** (0 / 3), 2.0 ** (1 / 3), 2.0 ** (2 / 3)
"""Sides of the three anchors of each aspect ratio, relative to the smallest."""


@register_model
def retinanet(
    pretrained: bool = False,
    encoder: str = "resnet50",
    encoder_options: Mapping[str, Any] | None = None,
    num_classes: int = 91,
    in_chans: int = 3,
    strides: Sequence[int] | None = None,
    fpn_channels: int = 256,
    extra_levels: bool = True,
    anchor_scale: float = 4.0,
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    detections_per_img: int = 100,
    **options: Any,
) -> nn.Module:
    """Build a RetinaNet, registered with timm as ``retinanet``.

    Arguments are those of ``faster_rcnn``; ``anchor_scale`` is the side of the smallest square anchor of a level.

    Raises:
        UserError: ``fpn_channels`` is not a multiple of 32, or below 64.
    """
    check_normalised_width(fpn_channels)
    options = check_options(RetinaNet, options, _OPTIONS)
    coarser = LastLevelP6P7(fpn_channels, fpn_channels) if extra_levels else None
    pyramid = Pyramid(encoder, encoder_options, in_chans, strides, 3, fpn_channels, coarser, pretrained)
    levels = [*pyramid.strides, *[pyramid.strides[-1] * factor for factor in (2, 4)] * extra_levels]
    sizes = tuple(tuple(anchor_scale * stride * octave for octave in _OCTAVES) for stride in levels)
    anchors = AnchorGenerator(sizes, (tuple(aspect_ratios),) * len(levels))
    head = RetinaNetHead(
        fpn_channels,
        anchors.num_anchors_per_location()[0],
        num_classes,
        norm_layer=partial(nn.GroupNorm, NORM_GROUPS),
    )
    network = RetinaNet(
        pyramid,
        num_classes,
        anchor_generator=anchors,
        head=head,
        detections_per_img=detections_per_img,
        **options,
    )
    return declare(network, (network.head,), default_cfgs["retinanet"], num_classes, in_chans)
