"""Residual Attention Networks: residual units and attention modules, in which a soft mask multiplies a trunk branch.

    z = R(x),  T = R(R(z)),  M = σ(hourglass of D halvings of z)
    y = R(T ⊙ (1 + M))                                    module A (D = 3), B (D = 2), C (D = 1); section 3.2, eq. 3

    stem     7×7 convolution, stride 2, BN, ReLU, 3×3 max pool, stride 2              (B, 64, H/4, W/4)
    layer1   R, modules A                                                             (B, 256, H/4, W/4)
    layer2   R with stride 2, modules B                                               (B, 512, H/8, W/8)
    layer3   R with stride 2, modules C                                               (B, 1024, H/16, W/16)
    layer4   R with stride 2, R, R                                                    (B, 2048, H/32, W/32)
    head     BN, ReLU, global average pooling, linear                                 (B, num_classes)

R is a pre-activation bottleneck without biases, BN-ReLU-1×1-BN-ReLU-3×3-BN-ReLU-1×1, a quarter as wide inside; in the
first unit of a layer the shortcut is a 1×1 convolution of ReLU(BN(x)). The mask, the mechanism ``ran``, upsamples to
the size of the map it is added to, so any image is accepted.

Wang et al., "Residual Attention Network for Image Classification", CVPR 2017, arXiv:1704.06904; layout of the
authors' networks, fwang91/residual-attention-network, folder imagenet_model (one older file there has tanh for σ).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from timm.layers.classifier import create_classifier
from timm.layers.create_conv2d import create_conv2d
from timm.layers.drop import calculate_drop_path_rates
from timm.layers.norm_act import BatchNormAct2d
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models.resnetv2 import DownsampleConv, PreActBottleneck
from torch import Tensor, nn

from saccade.attention.residual_attention import SoftMask
from saccade.errors import UserError
from saccade.models._sequential_classifier import check_stem

__all__ = ["AttentionModule", "ResidualAttentionNetwork", "ran56", "ran92", "ran_small"]


def _cfg(**changes: Any) -> dict[str, Any]:
    return {
        "url": "", "num_classes": 1000, "input_size": (3, 224, 224), "pool_size": (7, 7), "crop_pct": 0.875,
        "interpolation": "bilinear", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
        "first_conv": "conv1", "classifier": "fc", "license": "apache-2.0", **changes,
    }  # fmt: skip


default_cfgs = generate_default_cfgs(
    {
        "ran56.untrained": _cfg(),
        "ran92.untrained": _cfg(),
        "ran_small.untrained": _cfg(
            num_classes=10, input_size=(3, 32, 32), pool_size=(4, 4), crop_pct=1.0, mean=(0.5,) * 3, std=(0.25,) * 3
        ),
    }
)

_residual_unit = partial(PreActBottleneck, conv_layer=create_conv2d, norm_layer=BatchNormAct2d)


class AttentionModule(nn.Module):
    """Attention module with p = 1, t = 2 and r = 1 units, for feature maps (B, C, H, W).

    Args:
        channels: C.
        depth: number of halvings of the mask branch.
        drop_path_rate: probability of dropping the residual branch of units outside the mask.
    """

    def __init__(self, channels: int, depth: int, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        first, *trunk, last = (_residual_unit(channels, drop_path_rate=drop_path_rate) for _ in range(4))
        self.first: nn.Module = first
        self.trunk = nn.Sequential(*trunk)
        self.mask = SoftMask(channels, depth)
        self.last: nn.Module = last

    def forward(self, x: Tensor) -> Tensor:
        """Return y (B, C, H, W)."""
        z = self.first(x)
        gate = self.mask.tap(self.mask.gate(z))  # 1 + M
        y: Tensor = self.last(self.trunk(z) * gate)
        return y


class ResidualAttentionNetwork(nn.Module):
    """Residual Attention Network that maps images (B, in_chans, H, W) to logits (B, num_classes).

    Args:
        modules: number of attention modules of the layers 1, 2 and 3.
        channels: those of the stem and of the four layers.
        last_units: number of residual units of layer 4.
        num_classes: number of classes; 0 for no classifier.
        in_chans: number of image channels.
        global_pool: timm's pooling before the classifier.
        drop_rate: dropout probability before it.
        drop_path_rate: stochastic depth of the last unit, growing linearly from 0 at the first.
        width: factor on ``channels``, rounded to multiples of 8 (stem) and 32 (layers), at least one.
        stem_stride: 4 is the paper's stem; 1 or 2 a 3×3 convolution of that stride without max pool.

    Raises:
        UserError: ``modules``, ``channels``, ``last_units``, ``width`` or ``stem_stride`` is out of range.
    """

    def __init__(
        self,
        modules: Sequence[int] = (1, 1, 1),
        channels: Sequence[int] = (64, 256, 512, 1024, 2048),
        last_units: int = 3,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        width: float = 1.0,
        stem_stride: int = 4,
    ) -> None:
        super().__init__()
        if len(modules) != 3 or min(modules) < 0:
            raise UserError(f"modules must be three numbers of at least 0, got {list(modules)}")
        if len(channels) != 5 or min(channels) < 1:
            raise UserError(f"channels must be five positive numbers, got {list(channels)}")
        if last_units < 1:
            raise UserError(f"last_units must be at least 1, got {last_units}")
        check_stem(stem_stride, width)
        stem, *widths = (_rounded(c * width, 32 if k else 8) for k, c in enumerate(channels))
        self.num_classes, self.drop_rate, self.grad_checkpointing = num_classes, drop_rate, False
        paper_stem = stem_stride == 4
        self.conv1 = create_conv2d(in_chans, stem, 7 if paper_stem else 3, stride=2 if paper_stem else stem_stride)
        self.bn1 = nn.BatchNorm2d(stem)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if paper_stem else nn.Identity()
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": stem, "reduction": min(stem_stride, 2), "module": "act1"}
        ]

        depths = [1 + modules[0], 1 + modules[1], 1 + modules[2], last_units]
        rates: Any = calculate_drop_path_rates(drop_path_rate, depths, stagewise=True)
        in_channels, reduction = stem, stem_stride
        for k, (out, layer_rates) in enumerate(zip(widths, rates, strict=True), 1):
            stride = 1 if k == 1 else 2
            blocks: list[nn.Module] = [
                _residual_unit(
                    in_channels, out, stride=stride, proj_layer=DownsampleConv, drop_path_rate=layer_rates[0]
                )
            ]
            for rate in layer_rates[1:]:
                blocks.append(
                    AttentionModule(out, 4 - k, drop_path_rate=rate)
                    if k < 4
                    else _residual_unit(out, drop_path_rate=rate)
                )
            self.add_module(f"layer{k}", nn.Sequential(*blocks))
            in_channels, reduction = out, reduction * stride
            self.feature_info.append({"num_chs": out, "reduction": reduction, "module": f"layer{k}"})
        self.norm = BatchNormAct2d(in_channels)
        self.num_features = in_channels
        self.global_pool, self.fc = create_classifier(in_channels, num_classes, pool_type=global_pool)
        self.head_hidden_size = in_channels * self.global_pool.feat_mult()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the feature map after BN and ReLU (B, num_features, H/32, W/32), sides rounded up."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        for name in ("layer1", "layer2", "layer3", "layer4"):
            layer = getattr(self, name)
            x = checkpoint_seq(layer, x) if self.grad_checkpointing else layer(x)
        normalised: Tensor = self.norm(x)
        return normalised

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (B, num_classes) of features (B, num_features, h, w), or what the classifier would see."""
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images x (B, in_chans, H, W)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, and the pooling if ``global_pool`` is given."""
        reference = self.norm.weight
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=pool_type, device=reference.device, dtype=reference.dtype
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of parameter names by depth, for layer-wise learning rates."""
        blocks: Any = r"^layer(\d+)" if coarse else [(r"^layer(\d+)\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^(?:conv1|bn1)", "blocks": blocks}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Repeat each block's forward pass in the backward pass, to save memory."""
        self.grad_checkpointing = enable


def _rounded(channels: float, step: int) -> int:
    return max(round(channels / step), 1) * step


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    network: nn.Module = build_model_with_cfg(
        ResidualAttentionNetwork, name, pretrained, feature_cfg={"out_indices": (0, 1, 2, 3, 4)}, **options
    )
    return network


@register_model
def ran56(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build Attention-56: one module A, B and C; 31.811 M parameters, 6.271 G MACs (the paper prints 31.9 M, 6.2 G)."""
    return _create("ran56", pretrained, options)


@register_model
def ran92(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build Attention-92: one A, two B, three C; 52.466 M parameters as the authors' prototxt (the paper: 51.3 M)."""
    return _create("ran92", pretrained, {"modules": (1, 2, 3), **options})


@register_model
def ran_small(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build our network for small images: ``ran56`` at a quarter of the width, 3×3 stem, one unit in layer 4."""
    defaults = {"channels": (16, 64, 128, 256, 512), "last_units": 1, "stem_stride": 1}
    return _create("ran_small", pretrained, {**defaults, **options})
