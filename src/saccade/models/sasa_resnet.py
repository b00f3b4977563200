r"""Stand-alone self-attention ResNets: bottleneck ResNets whose 3×3 convolutions, and stem, are local attention.

    stem   attention in blocks of 4×4, norm, ReLU, 4×4 max pool   (B, in_chans, H, W) -> (B, C, H/4, W/4), C = 64·width
           or 7×7 convolution, stride 2, norm, ReLU, 3×3 max pool
    block  1×1, norm, ReLU; attention over 7×7 pixels, norm, ReLU; 1×1, norm; plus shortcut, ReLU
    stage  k = 1 … 4, stride 1, 2, 2, 2                           -> (B, 4·C·2^(k−1), H/2^(k+1), W/2^(k+1))
    head   global average pooling, linear                         -> (B, num_classes)

With stride 2, attention at full resolution precedes 2×2 average pooling. All else is ResNet v1.5's, with timm's keys.

Source: Ramachandran et al., "Stand-Alone Self-Attention in Vision Models", NeurIPS 2019, arXiv:1906.05909. The authors
published no code; our choices are those of ``sasa`` and ``sasa_stem``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from saccade.attention.sasa import StandAloneSelfAttention
from saccade.attention.sasa_stem import AttentionStem
from saccade.errors import UserError
from saccade.models._sequential_classifier import check_stem

__all__ = ["SASAResNet", "sasa_resnet26", "sasa_resnet38", "sasa_resnet50"]

_CONFIG = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "first_conv": "conv1",
    "classifier": "fc",
    "license": "apache-2.0",
}
default_cfgs = generate_default_cfgs({f"sasa_resnet{depth}.untrained": _CONFIG for depth in (26, 38, 50)})

_STEMS = ("attention", "plain_attention", "conv")


class SASAResNet(ResNet):
    """timm's ResNet of bottlenecks with local attention in place of 3×3 convolutions.

    Args:
        layers: number of blocks per stage.
        width: factor of all channel counts; C is rounded to a multiple of 16.
        stem: "attention"; "plain_attention", with one value matrix for all pixels of a block; or "conv".
        stem_stride: 4; or 1 or 2: attention in blocks of 2×2, or one 3×3 convolution without pooling.
        kernel_size: side of the attention window.
        heads: number of heads; None means C/8, 8 at ``width`` 1.
        position: that of ``sasa``.
        attention_groups: stages with attention in place of convolutions.
        in_chans: number of image channels.
        zero_init_last: True to initialise the last norm of each block with zeros.
        bn_momentum: weight of a batch in running statistics; the paper's is 0.0001.
        **options: num_classes, global_pool, drop_rate and drop_path_rate.

    Raises:
        UserError: an option has no such value, or heads do not divide the channels.
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        width: float = 1.0,
        stem: str = "attention",
        stem_stride: int = 4,
        kernel_size: int = 7,
        heads: int | None = None,
        position: str = "relative",
        attention_groups: Sequence[int] = (1, 2, 3, 4),
        in_chans: int = 3,
        zero_init_last: bool = True,
        bn_momentum: float = 0.1,
        **options: Any,
    ) -> None:
        check_stem(stem_stride, width)
        if stem not in _STEMS:
            raise UserError(f"stem must be one of {', '.join(_STEMS)}, got {stem!r}")
        if len(layers) != 4:
            raise UserError(f"layers must give the blocks of four stages, got {list(layers)}")
        if not set(attention_groups) <= {1, 2, 3, 4}:
            raise UserError(f"attention_groups must be numbers of stages, 1 to 4, got {list(attention_groups)}")
        unknown = sorted(set(options) - {"num_classes", "global_pool", "drop_rate", "drop_path_rate"})
        if unknown:
            raise UserError(f"{type(self).__name__} has no option {', '.join(unknown)}")
        channels = max(16, 16 * round(4 * width))
        block: Any = Bottleneck  # Any: timm annotates the parameter as an instance instead of a class
        # timm's plain stem always has 64 channels; the deep stem, of 2·stem_width, is replaced below.
        super().__init__(
            block, tuple(layers), in_chans=in_chans, stem_type="deep", stem_width=channels // 2,
            channels=tuple(channels * 2**k for k in range(4)), zero_init_last=zero_init_last,
            norm_layer=partial(nn.BatchNorm2d, momentum=bn_momentum), **options,
        )  # fmt: skip
        self._build_stem(stem, stem_stride, in_chans, channels)
        n_heads = channels // 8 if heads is None else heads
        for group in sorted(set(attention_groups)):
            stage: Any = self.get_submodule(f"layer{group}")
            for bottleneck in stage:
                bottleneck.conv2 = _attention(bottleneck.conv2, kernel_size, n_heads, position)

    def _build_stem(self, stem: str, stride: int, in_chans: int, channels: int) -> None:
        first: nn.Module
        pool: nn.Module = nn.Identity()
        if stem == "conv":
            kernel_size, first_stride = (7, 2) if stride == 4 else (3, stride)
            first = nn.Conv2d(in_chans, channels, kernel_size, first_stride, kernel_size // 2, bias=False)
            nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
            if stride == 4:
                pool = nn.MaxPool2d(3, 2, 1)
        else:
            first_stride, window = 1, max(2, stride)  # one pixel has nothing to attend to
            mixtures = 4 if stem == "attention" else 1
            first = AttentionStem(in_chans, channels, window=window, num_heads=channels // 16, mixtures=mixtures)
            if stride > 1:
                pool = nn.MaxPool2d(stride, ceil_mode=True)
        self.add_module("conv1", first)
        self.add_module("maxpool", pool)
        # timm's reductions assume stride 2 in both stem and pool.
        stages: list[dict[str, Any]] = list(self.feature_info)
        stages[0]["reduction"] = first_stride
        for stage in stages[1:]:
            stage["reduction"] = stage["reduction"] // 4 * stride


def _attention(convolution: nn.Conv2d, kernel_size: int, n_heads: int, position: str) -> nn.Module:
    """Build the attention that replaces a 3×3 convolution."""
    (stride, _), channels = convolution.stride, convolution.out_channels
    try:
        return StandAloneSelfAttention(
            channels, stride=stride, window=kernel_size, num_heads=n_heads, position=position
        )
    except ValueError as e:
        raise UserError(f"attention of {channels} channels: {e}") from e


@register_model
def sasa_resnet26(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build a network of 1, 2, 4 and 1 blocks."""
    return _create("sasa_resnet26", pretrained, (1, 2, 4, 1), options)


@register_model
def sasa_resnet38(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build a network of 2, 3, 5 and 2 blocks."""
    return _create("sasa_resnet38", pretrained, (2, 3, 5, 2), options)


@register_model
def sasa_resnet50(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build a network of 3, 4, 6 and 3 blocks."""
    return _create("sasa_resnet50", pretrained, (3, 4, 6, 3), options)


def _create(name: str, pretrained: bool, layers: Sequence[int], options: dict[str, Any]) -> nn.Module:
    return build_model_with_cfg(SASAResNet, name, pretrained, **{"layers": layers, **options})
