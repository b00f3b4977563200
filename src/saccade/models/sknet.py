r"""SKNet-50 and -101: ResNeXt bottlenecks whose 3×3 convolution is a selective kernel, the mechanism ``sk``.

    stem    7×7 convolution, stride 2, 64 channels; 3×3 max pool, stride 2     (B, in_chans, H, W) -> (B, 64, H/4, W/4)
    block   y = ReLU(x' + BN(W₃ SK(ReLU(BN(W₁ x)))))                           1×1 (C), SK of 32 groups (C), 1×1 (2C)
    stage   k = 1 … 4, stride 1, 2, 2, 2 in SK, C = 128·2^(k−1)                -> (B, 2C, H/2^(k+1), W/2^(k+1))
    head    global average pooling, linear                                     -> (B, num_classes)

The output equals that of timm's ``skresnext50_32x4d`` with the same weights; ``pretrained=True`` loads its weights.

A selective kernel has max(C/16, 32) bottleneck channels in every stage, as the article says; the authors' file of
SKNet-101 has 16 in stage 2. As in their files, the layers of its gate start small, so that both kernels weigh alike.

Li, Wang, Hu, Yang, "Selective Kernel Networks", CVPR 2019, arXiv:1903.06586.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from timm.layers.helpers import make_divisible
from timm.models import build_model_with_cfg, generate_default_cfgs, get_pretrained_cfg, register_model
from timm.models.resnet import ResNet
from torch import Tensor, nn

from saccade.attention.selective_kernel import SelectiveKernel
from saccade.bases import BatchNorm2d
from saccade.errors import UserError
from saccade.models._resnet_stem import replace_stem
from saccade.models._sequential_classifier import check_stem, init_convolutions

__all__ = ["SKNet", "sknet50", "sknet101"]

_TIMM_CFG: Any = get_pretrained_cfg("skresnext50_32x4d.ra_in1k")
_PRETRAINED = _TIMM_CFG.to_dict()
_UNTRAINED = {key: value for key, value in _PRETRAINED.items() if key not in ("hf_hub_id", "url", "tag")}
default_cfgs = generate_default_cfgs({"sknet50.ra_in1k": _PRETRAINED, "sknet101.untrained": _UNTRAINED})


class _Block(nn.Module):
    """Bottleneck (B, C, H, W) -> (B, 4·planes, H/stride, W/stride), called by timm's ResNet."""

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int,
        downsample: nn.Module | None,
        first_dilation: int,
        drop_path: nn.Module | None,
        reduction: int,
        **_: Any,  # options of timm's other blocks
    ) -> None:
        super().__init__()
        inner = make_divisible(2 * planes, 32)
        self.conv1 = nn.Conv2d(inplanes, inner, 1, bias=False)
        self.bn1 = BatchNorm2d(inner)
        self.conv2 = SelectiveKernel(inner, stride=stride, dilation=first_dilation, groups=32, rd_ratio=1 / reduction)
        self.conv3 = nn.Conv2d(inner, 4 * planes, 1, bias=False)
        self.bn3 = BatchNorm2d(4 * planes)
        self.act = nn.ReLU(inplace=True)
        self.drop_path = nn.Identity() if drop_path is None else drop_path
        self.downsample = downsample

    def zero_init_last(self) -> None:
        nn.init.zeros_(self.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv2(self.act(self.bn1(self.conv1(x))))
        y: Tensor = self.act(self.drop_path(self.bn3(self.conv3(x))) + shortcut)
        return y


class SKNet(ResNet):
    """timm's ResNet with selective kernels.

    Args:
        layers: number of blocks per stage.
        width: multiplies all channel counts, rounded to multiples of 8, in selective kernels of 32.
        stem_stride: 4 for the article's stem; 1 or 2 for one 3×3 convolution of that stride without max pool.
        reduction: channels / bottleneck channels of a selective kernel, whose bottleneck has at least 32.
        num_classes, in_chans, global_pool, drop_rate: as in timm's networks.
        drop_path_rate: stochastic depth rate of the last block, linear from 0.
        output_stride: 8 or 16 replaces strides of later stages by dilation.
        zero_init_last: True to initialise the last norm of each block with zeros.

    Raises:
        UserError: an option is wrong.
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        width: float = 1.0,
        stem_stride: int = 4,
        reduction: int = 16,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        output_stride: int = 32,
        zero_init_last: bool = False,
    ) -> None:
        check_stem(stem_stride, width)
        if reduction < 1:
            raise UserError(f"reduction must be at least 1, got {reduction}")
        if len(layers) != 4 or min(layers) < 1:
            raise UserError(f"layers must give the blocks of four stages, at least 1 each, got {list(layers)}")
        channels = tuple(make_divisible(64 * 2**k * width) for k in range(4))
        block: Any = _Block  # Any: timm annotates the parameter as an instance instead of a class
        # timm's plain stem always has 64 channels; its deep stem has 2·stem_width. The stem is replaced below.
        super().__init__(
            block, tuple(layers), num_classes=num_classes, in_chans=in_chans, output_stride=output_stride,
            global_pool=global_pool, stem_type="deep", stem_width=channels[0] // 2, channels=channels,
            norm_layer=BatchNorm2d, drop_rate=drop_rate, drop_path_rate=drop_path_rate, zero_init_last=zero_init_last,
            block_args={"reduction": reduction},
        )  # fmt: skip
        if stem_stride == 4:
            replace_stem(self, in_chans, kernel_size=7, stride=2, max_pool=True)
        else:
            replace_stem(self, in_chans, kernel_size=3, stride=stem_stride, max_pool=False)
        init_convolutions(self)
        for module in self.modules():
            if isinstance(module, SelectiveKernel):
                layers_of_gate: Any = (module.squeeze[0], module.select)
                for layer in layers_of_gate:
                    nn.init.normal_(layer.weight, std=0.01)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return a state dict of timm's ``skresnext50_32x4d`` with the keys of :class:`SKNet`; others are unchanged."""
    renamings = {
        r"\.conv2\.paths\.0\.conv\.": ".conv2.near.0.",
        r"\.conv2\.paths\.0\.bn\.": ".conv2.near.1.",
        r"\.conv2\.paths\.1\.conv\.": ".conv2.far.0.",
        r"\.conv2\.paths\.1\.bn\.": ".conv2.far.1.",
        r"\.conv2\.attn\.fc_reduce\.": ".conv2.squeeze.0.",
        r"\.conv2\.attn\.bn\.": ".conv2.squeeze.1.",
        r"\.conv2\.attn\.fc_select\.": ".conv2.select.",
        r"\.conv([13])\.conv\.": r".conv\1.",
        r"\.conv([13])\.bn\.": r".bn\1.",
    }
    keys = dict.fromkeys(state_dict)
    for pattern, replacement in renamings.items():
        keys = {key: re.sub(pattern, replacement, new or key) for key, new in keys.items()}
    return {str(keys[key]): value for key, value in state_dict.items()}


def _build(name: str, layers: Sequence[int], pretrained: bool, options: dict[str, Any]) -> nn.Module:
    return build_model_with_cfg(
        SKNet, name, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **{"layers": layers, **options}
    )


@register_model
def sknet50(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build SKNet-50."""
    return _build("sknet50", (3, 4, 6, 3), pretrained, options)


@register_model
def sknet101(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build SKNet-101."""
    return _build("sknet101", (3, 4, 23, 3), pretrained, options)
