"""FCOS of torchvision, a detector without anchors, on any encoder of timm.

    encoder     feature maps at the strides s_1 < … < s_n                 (B, C_k, H/s_k, W/s_k)
    pyramid     one map per stride, and two coarser ones from strided convolutions
    head        class scores, distances to the four sides and centre-ness of each pixel

Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, arXiv:1904.01355.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timm.models import register_model
from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from saccade.models._detectors import Pyramid, check_normalised_width, check_options, declare, detector_config

__all__ = ["fcos"]

default_cfgs = detector_config(
    "fcos",
    (
        "backbone.fpn.extra_blocks", "head.classification_head.conv", "head.classification_head.cls_logits",
        "head.regression_head.conv", "head.regression_head.bbox_reg", "head.regression_head.bbox_ctrness",
    ),
)  # fmt: skip
_OPTIONS = ("encoder", "encoder_options", "strides", "fpn_channels", "extra_levels", "head_convs")


@register_model
def fcos(
    pretrained: bool = False,
    encoder: str = "resnet50",
    encoder_options: Mapping[str, Any] | None = None,
    num_classes: int = 91,
    in_chans: int = 3,
    strides: Sequence[int] | None = None,
    fpn_channels: int = 256,
    extra_levels: bool = True,
    head_convs: int = 4,
    **options: Any,
) -> nn.Module:
    """Build an FCOS, registered with timm as ``fcos``.

    Arguments are those of ``faster_rcnn``; ``head_convs`` is the number of convolutions of each branch of the head.

    Raises:
        UserError: ``fpn_channels`` is not a multiple of 32, or below 64.
    """
    check_normalised_width(fpn_channels)
    options = check_options(FCOS, options, _OPTIONS)
    coarser = LastLevelP6P7(fpn_channels, fpn_channels) if extra_levels else None
    pyramid = Pyramid(encoder, encoder_options, in_chans, strides, 3, fpn_channels, coarser, pretrained)
    levels = [*pyramid.strides, *[pyramid.strides[-1] * factor for factor in (2, 4)] * extra_levels]
    network = FCOS(
        pyramid,
        num_classes,
        anchor_generator=AnchorGenerator(tuple((stride,) for stride in levels), ((1.0,),) * len(levels)),
        head=FCOSHead(fpn_channels, 1, num_classes, num_convs=head_convs),
        **options,
    )
    return declare(network, (network.head,), default_cfgs["fcos"], num_classes, in_chans)
