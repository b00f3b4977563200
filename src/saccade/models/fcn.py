"""Fully convolutional network on any encoder of timm: class scores of the last feature maps, upsampled and summed.

    encoder   feature maps at strides s_1 < … < s_n; the last ``levels`` are used      (B, C_k, H/s_k, W/s_k)
    score     a 1×1 convolution per feature map                                        (B, K, H/s_k, W/s_k)
    sum       from the coarsest: upsample bilinearly to the next finer map, add its scores
    output    upsample bilinearly                                                      (B, K, H, W)

Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, arXiv:1411.4038,
section 4.2. The paper upsamples with transposed convolutions initialised as bilinear; here the upsampling is fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch.nn.functional as F
from timm.models import generate_default_cfgs, is_model, list_models, register_model
from torch import Tensor, nn

from saccade.errors import UserError, did_you_mean

__all__ = ["FCN", "fcn"]

default_cfgs = generate_default_cfgs(
    {
        "fcn.untrained": {
            "url": "", "num_classes": 21, "input_size": (3, 224, 224), "classifier": "score", "notes": ("dense",),
        }
    }
)  # fmt: skip


class FCN(nn.Module):
    """Fully convolutional network that maps images (B, C, H, W) to logits (B, K, H, W).

    Args:
        encoder: name of a timm network that supports ``features_only``.
        encoder_options: options for ``timm.create_model``.
        num_classes: number of classes K.
        in_chans: number of image channels C.
        levels: number of feature maps to use, from the coarsest.
        pretrained_encoder: True to load timm's weights.

    Raises:
        UserError: timm cannot build the encoder, or ``levels`` is not between 1 and the number of feature maps.
    """

    def __init__(
        self,
        encoder: str = "resnet18",
        encoder_options: Mapping[str, Any] | None = None,
        num_classes: int = 21,
        in_chans: int = 3,
        levels: int = 3,
        pretrained_encoder: bool = False,
    ) -> None:
        super().__init__()
        if not is_model(encoder.partition(".")[0]):
            raise UserError(f"timm has no network {encoder!r}.{did_you_mean(encoder, list_models())}")
        options = dict(encoder_options or {})
        try:
            backbone: Any = timm.create_model(
                encoder, pretrained=pretrained_encoder, features_only=True, in_chans=in_chans, **options
            )
        except (AttributeError, RuntimeError, TypeError) as error:
            raise UserError(f"timm could not build the encoder {encoder} with options {options}: {error}") from error
        self.num_classes = num_classes
        self.encoder: nn.Module = backbone
        widths = backbone.feature_info.channels()
        if not 1 <= levels <= len(widths):
            raise UserError(
                f"levels = {levels}: the encoder {encoder} has {len(widths)} feature maps; give 1 to {len(widths)}"
            )
        self.score = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in widths[-levels:])
        self.default_cfg = {"classifier": default_cfgs["fcn"].default.classifier}

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K, H, W) for images x (B, C, H, W)."""
        maps = self.encoder(x)[-len(self.score) :]
        total: Tensor | None = None
        for classifier, features in zip(reversed(self.score), reversed(maps), strict=True):
            level_scores = classifier(features)
            total = level_scores if total is None else level_scores + _upsample(total, level_scores.shape[2:])
        assert total is not None
        return _upsample(total, x.shape[2:])


def _upsample(scores: Tensor, size: Any) -> Tensor:
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


@register_model
def fcn(pretrained: bool = False, encoder: str = "resnet18", **options: Any) -> nn.Module:
    """Build :class:`FCN`, registered with timm as ``fcn``."""
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        options.pop(key, None)
    return FCN(encoder, pretrained_encoder=pretrained, **options)
