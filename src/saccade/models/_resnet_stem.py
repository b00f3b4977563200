"""Replace the stem of timm's ResNet."""

from __future__ import annotations

from typing import Any

from timm.models.resnet import ResNet
from torch import nn

__all__ = ["replace_stem"]


def replace_stem(network: ResNet, in_chans: int, kernel_size: int, stride: int, max_pool: bool) -> None:
    """Give ``network`` one convolution as stem, as wide as its first norm, and correct ``feature_info``.

    Args:
        network: changed in place.
        in_chans: number of image channels.
        kernel_size: side of the kernel.
        stride: stride of the convolution.
        max_pool: False removes the max pool.
    """
    norm: Any = network.bn1
    stem = nn.Conv2d(
        in_chans,
        norm.num_features,
        kernel_size,
        stride,
        kernel_size // 2,
        bias=False,
        device=norm.weight.device,
        dtype=norm.weight.dtype,
    )
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.add_module("conv1", stem)
    if not max_pool:
        network.add_module("maxpool", nn.Identity())
    # timm's reductions assume stride 2 in both stem and pool.
    stages: list[dict[str, Any]] = list(network.feature_info)
    stages[0]["reduction"] = stride
    for stage in stages[1:]:
        stage["reduction"] = stage["reduction"] // 4 * stride * (2 if max_pool else 1)
