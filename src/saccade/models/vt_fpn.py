"""VT-FPN: a pyramid whose levels exchange a few visual tokens, with a semantic head, on any encoder of timm.

    encoder      feature maps at the strides 4, 8, 16, 32                 X_k (B, C_k, H/s_k, W/s_k)
    lateral      L_k = 1×1 convolution of X_k                             (B, 256, H/s_k, W/s_k)
    tokenizer    T_k, averages of the pixels of L_k under 8 filters       (B, 1024, 8)
    transformer  [T_1 … T_4] relate to each other                         (B, 1024, 32)
    projector    L_k + attention of the pixels of L_k to T_k              (B, 256, H/s_k, W/s_k)
    head         see ``_semantic_head.py``                                (B, K, H, W)

Levels meet in the tokens alone, without a top-down path or 3×3 convolutions. Each has its own tokenizer and projector,
of ``_visual_tokens.py``.

The authors published no code. Taken from the paper: levels, numbers of tokens and channels, one transformer, the head.
Chosen to meet the printed cost, 8.5 G multiply-adds of this part at 800×1216 pixels and 2.0 G at 473×473 on ResNet-50
(tables 9 and 10): laterals of 256 channels, queries of 16 groups, and tokenizers without a value layer.

Source: Wu et al., "Visual Transformers: Where Do Transformers Really Belong in Vision Models?", ICCV 2021,
arXiv:2006.03677.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn

from saccade.models._encoders import build_encoder
from saccade.models._semantic_head import (
    PYRAMID_CHANNELS,
    PyramidSegmenter,
    check_options,
    scaled_channels,
    segmenter_config,
)
from saccade.models._visual_tokens import FilterTokenizer, Projector, TokenTransformer

__all__ = ["vt_fpn"]

default_cfgs = segmenter_config("vt_fpn")
_HEADS = 16
"""Heads of the attention, and groups of the projectors' query."""


class _TokenPyramid(nn.Module):
    """Pyramid whose levels exchange tokens; ``channels`` is a multiple of 16, ``token_channels`` of 32."""

    def __init__(self, in_channels: Sequence[int], channels: int, tokens: int, token_channels: int) -> None:
        super().__init__()
        self.channels, self.tokens = channels, tokens
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        for lateral in self.laterals:
            nn.init.kaiming_uniform_(lateral.weight, a=1)  # type: ignore[arg-type]
            nn.init.zeros_(lateral.bias)  # type: ignore[arg-type]
        self.tokenizers = nn.ModuleList(FilterTokenizer(channels, tokens, token_channels) for _ in in_channels)
        for tokenizer in self.tokenizers:
            # It would run at every pixel, and the linear output layer can do its work.
            tokenizer.value = nn.Identity()
        self.transformer = TokenTransformer(token_channels, _HEADS)
        self.projectors = nn.ModuleList(
            Projector(channels, None, token_channels, _HEADS, groups=_HEADS) for _ in in_channels
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return maps (B, channels, H_k, W_k) for maps (B, C_k, H_k, W_k), both from fine to coarse."""
        maps = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        tokens = torch.cat([tokenizer(x) for tokenizer, x in zip(self.tokenizers, maps, strict=True)], 2)
        of_levels = self.transformer(tokens).split(self.tokens, 2)
        return [projector(x, t) for projector, x, t in zip(self.projectors, maps, of_levels, strict=True)]


@register_model
def vt_fpn(
    pretrained: bool = False,
    encoder: str = "resnet50",
    encoder_options: Mapping[str, Any] | None = None,
    num_classes: int = 21,
    in_chans: int = 3,
    strides: Sequence[int] | None = None,
    width: float = 1.0,
    drop_rate: float = 0.0,
    tokens: int = 8,
    token_channels: int = 1024,
    **options: Any,
) -> PyramidSegmenter:
    """Build a VT-FPN, registered with timm as ``vt_fpn``.

    Args are those of ``semantic_fpn``, but ``width`` also scales the tokens, by multiples of 32, and:
        tokens: number of tokens per level.
        token_channels: channels of a token at ``width`` 1.
    """
    check_options(vt_fpn, options)
    network, strides, widths = build_encoder(encoder, encoder_options, in_chans, strides, 4, pretrained)
    channels = scaled_channels(PYRAMID_CHANNELS, width, _HEADS)
    pyramid = _TokenPyramid(widths, channels, tokens, scaled_channels(token_channels, width, 2 * _HEADS))
    config = default_cfgs["vt_fpn"]
    return PyramidSegmenter(network, pyramid, strides, config, num_classes, in_chans, width, drop_rate)
