"""Faster R-CNN of torchvision with a feature pyramid on any encoder of timm.

    encoder     feature maps at the strides s_1 < … < s_n                 (B, C_k, H/s_k, W/s_k)
    pyramid     one map per stride, and a pooled one at twice the last stride
    RPN         objectness and a box for each anchor of each level; proposals after non-maximum suppression
    box head    7×7 RoIAlign, two linear layers; class scores and one box per class

Ren et al., "Faster R-CNN", NeurIPS 2015, arXiv:1506.01497; Lin et al., CVPR 2017, arXiv:1612.03144.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timm.models import register_model
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from saccade.models._detectors import Pyramid, check_options, declare, detector_config

__all__ = ["faster_rcnn"]

default_cfgs = detector_config("faster_rcnn", ("rpn.head", "roi_heads.box_head", "roi_heads.box_predictor"))
_ROI_SIZE = 7
_OPTIONS = (
    "encoder", "encoder_options", "strides", "fpn_channels", "extra_levels", "anchor_scale", "aspect_ratios",
    "box_head",
)  # fmt: skip


@register_model
def faster_rcnn(
    pretrained: bool = False,
    encoder: str = "resnet50",
    encoder_options: Mapping[str, Any] | None = None,
    num_classes: int = 91,
    in_chans: int = 3,
    strides: Sequence[int] | None = None,
    fpn_channels: int = 256,
    extra_levels: bool = True,
    anchor_scale: float = 8.0,
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    box_head: int = 1024,
    **options: Any,
) -> nn.Module:
    """Build a Faster R-CNN, registered with timm as ``faster_rcnn``.

    Args:
        pretrained: True to load the encoder's weights.
        encoder: name of a timm network.
        encoder_options: options for ``timm.create_model``.
        num_classes: number of classes, including the background.
        in_chans: number of image channels.
        strides: strides of the encoder's maps; None for the last four.
        fpn_channels: channels of the pyramid.
        extra_levels: True to add the pooled level.
        anchor_scale: side of the square anchors, in strides.
        aspect_ratios: height / width of the anchors.
        box_head: width of the linear layers.
        **options: other options of torchvision's class.
    """
    options = check_options(FasterRCNN, options, _OPTIONS)
    pooled = LastLevelMaxPool() if extra_levels else None
    pyramid = Pyramid(encoder, encoder_options, in_chans, strides, 4, fpn_channels, pooled, pretrained)
    levels = [*pyramid.strides, *[2 * pyramid.strides[-1]] * extra_levels]
    names = [str(n) for n in range(len(pyramid.strides))]
    network = FasterRCNN(
        pyramid,
        rpn_anchor_generator=AnchorGenerator(
            tuple((anchor_scale * stride,) for stride in levels), (tuple(aspect_ratios),) * len(levels)
        ),
        box_roi_pool=MultiScaleRoIAlign(names, output_size=_ROI_SIZE, sampling_ratio=2),
        box_head=TwoMLPHead(fpn_channels * _ROI_SIZE**2, box_head),
        box_predictor=FastRCNNPredictor(box_head, num_classes),
        **options,
    )
    return declare(
        network, (network.rpn.head, network.roi_heads.box_predictor), default_cfgs["faster_rcnn"], num_classes, in_chans
    )
