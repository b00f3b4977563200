r"""SE-ResNet, SE-ResNeXt and SENet-154: residual networks with a channel gate at the end of each branch.

    stem    7×7 convolution, stride 2, 64 channels; 3×3 max pool, stride 2     (B, in_chans, H, W) -> (B, 64, H/4, W/4)
    block   y = ReLU(x' + g ⊙ u),  u = BN(f(x)),  g = σ(W₂ ReLU(W₁ mean_{h,w} u))     x' is x or its projection
    stage   k = 1 … 4, stride 1, 2, 2, 2    -> (B, e·64·2^(k−1), H/2^(k+1), W/2^(k+1)), e = 1 for basic blocks, else 4
    head    global average pooling, linear                                     -> (B, num_classes)

The layout is that of the authors' Caffe networks: stride 2 is in the first 1×1 convolution of SE-ResNet, and in the
3×3 convolution of SE-ResNeXt and SENet-154; W₁ and W₂ have biases; the max pool has no padding. SENet-154 has a stem of
three 3×3 convolutions, 64 groups, inner convolutions twice as wide, the first of them halved, and 3×3 projections. At
``width=1`` and ``stem_stride=4`` the state dict has the keys and shapes of timm's ``legacy_se*`` networks; outputs
are equal from depth 50 on, whose weights ``pretrained=True`` loads. The sizes printed for "SE stage 2, 3, 4" are those
of ``se_stages`` 1, 2, 3.

Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507. The article has no depths 18 and 34;
timm's have a ReLU before the gate, which these have not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from timm.layers.drop import DropPath
from timm.layers.helpers import make_divisible
from timm.models import build_model_with_cfg, generate_default_cfgs, get_pretrained_cfg, register_model
from torch import Tensor, nn

from saccade.bases import BatchNorm2d
from saccade.errors import UserError
from saccade.models._sequential_classifier import SequentialClassifier, check_stages, check_stem, init_convolutions
from saccade.models._squeeze_excite import ChannelGate, check_squeeze

__all__ = [
    "SENet",
    "se_net154",
    "se_resnet18",
    "se_resnet34",
    "se_resnet50",
    "se_resnet101",
    "se_resnet152",
    "se_resnext50_32x4d",
    "se_resnext101_32x4d",
]  # fmt: skip

_TIMM_NAMES = {
    "se_resnet50": "legacy_seresnet50",
    "se_resnet101": "legacy_seresnet101",
    "se_resnet152": "legacy_seresnet152",
    "se_resnext50_32x4d": "legacy_seresnext50_32x4d",
    "se_resnext101_32x4d": "legacy_seresnext101_32x4d",
    "se_net154": "legacy_senet154",
}


def _timm_cfg(name: str) -> dict[str, Any]:
    config: Any = get_pretrained_cfg(name)
    return config.to_dict()


_PRETRAINED = {f"{name}.in1k": _timm_cfg(f"{timm_name}.in1k") for name, timm_name in _TIMM_NAMES.items()}
_UNTRAINED = {**_PRETRAINED["se_resnet50.in1k"], "url": "", "tag": ""}
default_cfgs = generate_default_cfgs(
    {**_PRETRAINED, "se_resnet18.untrained": _UNTRAINED, "se_resnet34.untrained": _UNTRAINED}
)
_BLOCKS = ("basic", "bottleneck", "resnext", "senet154")


class _Layer(NamedTuple):
    kernel_size: int
    channels: int
    stride: int
    groups: int


def _block_layers(block: str, channels: int, stride: int) -> list[_Layer]:
    """Return the convolutions of a block; ``channels`` is the article's width of the stage, 64 in stage 1."""
    if block == "basic":
        return [_Layer(3, channels, stride, 1), _Layer(3, channels, 1, 1)]
    last = _Layer(1, 4 * channels, 1, 1)
    if block == "bottleneck":
        return [_Layer(1, channels, stride, 1), _Layer(3, channels, 1, 1), last]
    if block == "resnext":
        inner = make_divisible(2 * channels, 32)
        return [_Layer(1, inner, 1, 1), _Layer(3, inner, stride, 32), last]
    narrow, wide = make_divisible(2 * channels, 64), make_divisible(4 * channels, 64)
    return [_Layer(1, narrow, 1, 1), _Layer(3, wide, stride, 64), last]


def _conv(in_channels: int, layer: _Layer) -> nn.Conv2d:
    kernel_size, channels, stride, groups = layer
    return nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)


class _Block(nn.Module):
    """Residual block (B, C, H, W) -> (B, O, H/stride, W/stride); ``gate`` is the identity in a stage without gates."""

    def __init__(
        self,
        in_channels: int,
        layers: Sequence[_Layer],
        gate: nn.Module,
        downsample: nn.Module | None,
        drop_path: float,
    ) -> None:
        super().__init__()
        widths = [in_channels, *(layer.channels for layer in layers)]
        self.n_layers = len(layers)
        for i, (layer, (before, after)) in enumerate(zip(layers, pairwise(widths), strict=True), start=1):
            self.add_module(f"conv{i}", _conv(before, layer))
            self.add_module(f"bn{i}", BatchNorm2d(after))
        self.relu = nn.ReLU(inplace=True)
        self.se_module = gate
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.n_layers + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            if i < self.n_layers:
                x = self.relu(x)
        y: Tensor = self.relu(self.drop_path(self.se_module(x)) + shortcut)
        return y


class SENet(SequentialClassifier):
    """Residual network with channel gates in the stages ``se_stages``.

    Args:
        block: ``basic``, ``bottleneck``, ``resnext`` (32 groups) or ``senet154``.
        layers: number of blocks per stage.
        width: multiplies all channel counts, rounded to multiples of 8, or of the groups.
        stem_stride: 4 for the article's stem; 1 or 2 for one 3×3 convolution of that stride without max pool.
        se_stages: stages with gates, 1 to 4; () gives the plain network.
        squeeze: pooling of the gates, ``avg`` or ``max``.
        reduction: channels / bottleneck channels of a gate.
        num_classes, in_chans, global_pool, drop_rate: as in timm's networks.
        drop_path_rate: stochastic depth rate of the last block, linear from 0.

    Raises:
        UserError: an option is wrong.
    """

    def __init__(
        self,
        block: str = "bottleneck",
        layers: Sequence[int] = (3, 4, 6, 3),
        width: float = 1.0,
        stem_stride: int = 4,
        se_stages: Sequence[int] = (1, 2, 3, 4),
        squeeze: str = "avg",
        reduction: int = 16,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_stem(stem_stride, width)
        check_stages("se_stages", se_stages, (1, 2, 3, 4))
        check_squeeze(reduction, squeeze)
        if block not in _BLOCKS:
            raise UserError(f"block must be one of {', '.join(_BLOCKS)}, got {block!r}")
        if len(layers) != 4 or min(layers) < 1:
            raise UserError(f"layers must give the blocks of four stages, at least 1 each, got {list(layers)}")
        is_senet154 = block == "senet154"
        narrow, channels = (make_divisible(n * width) for n in (64, 128 if is_senet154 else 64))
        if stem_stride < 4:
            stem = [_Layer(3, channels, stem_stride, 1)]
        elif is_senet154:
            stem = [_Layer(3, narrow, 2, 1), _Layer(3, narrow, 1, 1), _Layer(3, channels, 1, 1)]
        else:
            stem = [_Layer(7, channels, 2, 1)]
        network: dict[str, nn.Module] = {
            "layer0": _stem(in_chans, stem),
            # Caffe rounds the size up instead of padding.
            "pool0": nn.MaxPool2d(3, 2, ceil_mode=True) if stem_stride == 4 else nn.Identity(),
        }
        features: list[dict[str, Any]] = [{"num_chs": channels, "reduction": min(stem_stride, 2), "module": "layer0"}]
        index, last_index = 0, max(1, sum(layers) - 1)
        for stage, n_blocks in enumerate(layers, start=1):
            blocks: list[nn.Module] = []
            for i in range(n_blocks):
                stride = 2 if stage > 1 and i == 0 else 1
                convs = _block_layers(block, make_divisible(64 * 2 ** (stage - 1) * width), stride)
                outputs = convs[-1].channels
                downsample = None
                if stride > 1 or channels != outputs:
                    kernel_size = 3 if is_senet154 and stage > 1 else 1
                    downsample = nn.Sequential(
                        _conv(channels, _Layer(kernel_size, outputs, stride, 1)), BatchNorm2d(outputs)
                    )
                gate = ChannelGate(outputs, reduction, squeeze) if stage in se_stages else nn.Identity()
                blocks.append(_Block(channels, convs, gate, downsample, drop_path_rate * index / last_index))
                channels, index = outputs, index + 1
            network[f"layer{stage}"] = nn.Sequential(*blocks)
            reduction_of_stage = stem_stride * 2 ** (stage - 1)
            features.append({"num_chs": channels, "reduction": reduction_of_stage, "module": f"layer{stage}"})
        smallest_side = 3 if stem_stride == 4 else 1  # the max pool needs two pixels
        super().__init__(network, features, num_classes, in_chans, global_pool, drop_rate, smallest_side)
        init_convolutions(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return timm's patterns of layer groups: the stem and the blocks, or the stages if ``coarse``."""
        return {"stem": r"^layer0", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


def _stem(in_channels: int, layers: Sequence[_Layer]) -> nn.Sequential:
    stem = nn.Sequential()
    for i, layer in enumerate(layers, start=1):
        stem.add_module(f"conv{i}", _conv(in_channels, layer))
        stem.add_module(f"bn{i}", BatchNorm2d(layer.channels))
        stem.add_module(f"relu{i}", nn.ReLU(inplace=True))
        in_channels = layer.channels
    return stem


def _build(name: str, block: str, layers: Sequence[int], pretrained: bool, options: dict[str, Any]) -> nn.Module:
    return build_model_with_cfg(SENet, name, pretrained, block=block, **{"layers": layers, **options})


@register_model
def se_resnet18(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build SE-ResNet-18."""
    return _build("se_resnet18", "basic", (2, 2, 2, 2), pretrained, options)


@register_model
def se_resnet34(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build SE-ResNet-34."""
    return _build("se_resnet34", "basic", (3, 4, 6, 3), pretrained, options)


@register_model
def se_resnet50(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build SE-ResNet-50."""
    return _build("se_resnet50", "bottleneck", (3, 4, 6, 3), pretrained, options)


@register_model
def se_resnet101(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build SE-ResNet-101."""
    return _build("se_resnet101", "bottleneck", (3, 4, 23, 3), pretrained, options)


@register_model
def se_resnet152(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build SE-ResNet-152."""
    return _build("se_resnet152", "bottleneck", (3, 8, 36, 3), pretrained, options)


@register_model
def se_resnext50_32x4d(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build SE-ResNeXt-50 (32×4d)."""
    return _build("se_resnext50_32x4d", "resnext", (3, 4, 6, 3), pretrained, options)


@register_model
def se_resnext101_32x4d(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build SE-ResNeXt-101 (32×4d)."""
    return _build("se_resnext101_32x4d", "resnext", (3, 4, 23, 3), pretrained, options)


@register_model
def se_net154(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build SENet-154, with a dropout rate of 0.2; timm has another network of the name ``senet154``."""
    return _build("se_net154", "senet154", (3, 8, 36, 3), pretrained, {"drop_rate": 0.2, **options})
