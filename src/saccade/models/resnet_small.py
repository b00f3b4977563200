"""ResNets for small images: timm's ResNet with a stem that does not reduce the resolution.

    stem   3×3 convolution, stride 1, no max pool     (B, in_chans, H, W) -> (B, width, H, W)
    stage  k = 1 … 4, basic blocks, stride 1, 2, 2, 2                     -> (B, width·2^(k−1), H/2^(k−1), W/2^(k−1))
    head   global average pooling, linear                                 -> (B, num_classes)

The stem of the CIFAR networks (section 4.2) and the stages of the ImageNet networks in He, Zhang, Ren, Sun, "Deep
Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from saccade.errors import UserError
from saccade.models._resnet_stem import replace_stem

__all__ = ["ResNetSmall", "resnet10_small"]

default_cfgs = generate_default_cfgs(
    {
        "resnet10_small.untrained": {
            "url": "",
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "pool_size": (4, 4),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "first_conv": "conv1",
            "classifier": "fc",
            "license": "apache-2.0",
        }
    }
)


class ResNetSmall(ResNet):
    """timm's ResNet of basic blocks with a 3×3 stem.

    Args:
        layers: number of blocks per stage.
        width: number of channels of the first stage, even; each later stage doubles the number.
        stem_stride: stride of the stem; 2 divides the cost of all stages by four.
        in_chans: number of image channels.
        zero_init_last: True to initialise the last norm of each block with zeros.
        **options: any other option of ``timm.models.resnet.ResNet``.

    Raises:
        UserError: ``width`` is odd or below 2, ``stem_stride`` below 1, or there are not four stages.
    """

    def __init__(
        self,
        layers: Sequence[int] = (1, 1, 1, 1),
        width: int = 16,
        stem_stride: int = 1,
        in_chans: int = 3,
        zero_init_last: bool = True,
        **options: Any,
    ) -> None:
        if width < 2 or width % 2:
            raise UserError(f"width must be even and at least 2, got {width}")
        if stem_stride < 1:
            raise UserError(f"stem_stride must be at least 1, got {stem_stride}")
        if len(layers) != 4:
            raise UserError(f"layers must give the blocks of four stages, got {list(layers)}")
        channels = tuple(width * 2**k for k in range(4))
        block: Any = BasicBlock  # Any: timm annotates the parameter as an instance instead of a class
        # timm's plain stem always has 64 channels; its deep stem has 2·stem_width, as the stages need. The
        # stem is replaced below.
        super().__init__(
            block, tuple(layers), in_chans=in_chans, stem_type="deep", stem_width=width // 2, channels=channels,
            zero_init_last=zero_init_last, **options,
        )  # fmt: skip
        replace_stem(self, in_chans, kernel_size=3, stride=stem_stride, max_pool=False)


@register_model
def resnet10_small(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build a network of ten layers: one basic block in each stage, widths 16, 32, 64, 128."""
    return build_model_with_cfg(ResNetSmall, "resnet10_small", pretrained, **options)
