"""A fully convolutional network over any encoder of timm's: scores at the last maps, summed at the finest.

    maps    of the encoder at strides s_1 < … < s_n, the last ``levels`` of them           (B, C_k, H/s_k, W/s_k)
    score   1×1 convolution of each                                                        (B, K, H/s_k, W/s_k)
    sum     from the coarsest: enlarged bilinearly to the next finer, added to its scores
    answer  enlarged bilinearly                                                            (B, K, H, W)

Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, arXiv:1411.4038,
section 4.2. They enlarge by transposed convolutions that start as bilinear; here they stay bilinear.
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
    """Images (B, C, H, W) -> logits (B, K, H, W).

    Args:
        encoder: a network of timm's with ``features_only``.
        encoder_options: passed to ``timm.create_model``.
        num_classes: K.
        in_chans: C.
        levels: number of maps that are scored, from the coarsest, at least 1.
        pretrained_encoder: start from timm's weights for the encoder.

    Raises:
        UserError: timm has no such encoder, or cannot build it with these options so that it gives its maps, or it has
            fewer maps than ``levels``.
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
            raise UserError(f"timm knows no network {encoder!r}.{did_you_mean(encoder, list_models())}")
        options = dict(encoder_options or {})
        try:
            encoder_net: Any = timm.create_model(
                encoder, pretrained=pretrained_encoder, features_only=True, in_chans=in_chans, **options
            )
        except (AttributeError, RuntimeError, TypeError) as error:
            raise UserError(f"timm could not build the encoder {encoder} with options {options}: {error}") from error
        self.num_classes = num_classes
        self.encoder: nn.Module = encoder_net
        widths = encoder_net.feature_info.channels()
        if not 1 <= levels <= len(widths):
            raise UserError(
                f"levels = {levels}: the encoder {encoder} gives {len(widths)} maps; 1 to {len(widths)} are needed"
            )
        self.score = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in widths[-levels:])
        self.default_cfg = {"classifier": default_cfgs["fcn"].default.classifier}

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to logits (B, K, H, W)."""
        maps = self.encoder(x)[-len(self.score) :]
        total: Tensor | None = None
        for score, features in zip(reversed(self.score), reversed(maps), strict=True):
            here = score(features)
            total = here if total is None else here + _enlarged(total, here.shape[2:])
        assert total is not None
        return _enlarged(total, x.shape[2:])


def _enlarged(scores: Tensor, size: Any) -> Tensor:
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


@register_model
def fcn(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build :class:`FCN` by timm's name for it."""
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        options.pop(key, None)
    return FCN(pretrained_encoder=pretrained, **options)
