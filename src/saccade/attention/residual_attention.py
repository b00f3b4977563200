r"""Soft mask of the Residual Attention Network: a gate above 1 from a small hourglass.

    d₁ = R(pool(x)),  d_i = R(pool(d_{i−1}))                         i = 2 … D, sides halved and rounded up
    u_D = R(d_D)
    u_i = R(up(u_{i+1}) + R(d_i))                                    i = D − 1 … 1, with one R in each skip connection
    M   = σ(W₂ ReLU(BN(W₁ ReLU(BN(up(u₁))))))                        (B, C, H, W)     W₁, W₂: 1×1, C -> C
    y   = x ⊙ (1 + M)                                                (B, C, H, W)     eq. 3

D is ``depth``: 3, 2 and 1 for maps of 56², 28² and 14² in the paper (``depth=[3, 2, 1]``). pool is 3×3 max pooling with
stride 2; up is bilinear with align_corners=True. R is a residual unit z + f(z), f = BN-ReLU-1×1-BN-ReLU-3×3-BN-ReLU-1×1
through C·rd_ratio channels, without biases. This is the mask branch of the authors' networks with one residual unit
between poolings, as in the paper. The paper's mask multiplies a parallel trunk branch; here the mask gates x.

Source: Wang et al., "Residual Attention Network for Image Classification", CVPR 2017, arXiv:1704.06904; code:
fwang91/residual-attention-network.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Gate, reduced_channels
from saccade.ops.sizes import at_least_one

__all__ = ["SoftMask"]

SPEC = {
    "name": "ran",
    "title": "Soft mask of the Residual Attention Network",
    "paper": {"authors": "Wang, Jiang, Qian, Yang, Li, Zhang, Wang, Tang",
              "title": "Residual Attention Network for Image Classification", "venue": "CVPR", "year": 2017,
              "arxiv": "1704.06904"},
    "kind": "gate",
    "evidence": "paper",
    "position": {"default": "stage[:-1]"},
    "limits": ["channels * rd_ratio must be at least 1", "depth must be positive"],
    "gate": (1.0, 2.0),
}  # fmt: skip


def parameters(channels: int, depth: int, rd_ratio: float) -> int:
    hidden = int(channels * rd_ratio)
    unit_count = 2 * channels + 2 * channels * hidden + 4 * hidden + 9 * hidden**2
    return (3 * depth - 1) * unit_count + 4 * channels + 2 * channels**2


class SoftMask(Gate):
    """Gate 1 + σ(·) from an hourglass of residual units.

    Args:
        channels: C.
        depth: D, number of halvings.
        rd_ratio: width of the 3×3 convolutions / C.

    Raises:
        ValueError: the 3×3 convolutions would have no channel, or ``depth`` is not positive.
    """

    def __init__(self, channels: int, depth: int = 1, rd_ratio: float = 1 / 4) -> None:
        super().__init__()
        hidden = reduced_channels(channels, rd_ratio)
        if depth < 1:
            raise ValueError(f"depth must be positive, got {depth}")
        self.down = nn.ModuleList(_Unit(channels, hidden) for _ in range(depth))
        self.bottom = _Unit(channels, hidden)
        self.skip = nn.ModuleList(_Unit(channels, hidden) for _ in range(depth - 1))
        self.up = nn.ModuleList(_Unit(channels, hidden) for _ in range(depth - 1))
        self.head = nn.Sequential(*_bn_relu_conv(channels, channels, 1), *_bn_relu_conv(channels, channels, 1))

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W), between 1 and 2."""
        # In training, batch norm would include padding in the statistics.
        max_pool = _padded_max_pool if torch.compiler.is_compiling() and not self.training else _max_pool
        maps = [_PaddedMap(x, (x.shape[2], x.shape[3]))]
        for down in self.down:
            maps.append(down(max_pool(maps[-1])))
        z = self.bottom(maps.pop())
        for skip, up in zip(reversed(self.skip), reversed(self.up), strict=True):
            skip_map = maps.pop()
            values = _upsample(z, skip_map) + skip(skip_map).values
            z = up(_PaddedMap(values, skip_map.size, skip_map.mask))
        logits: Tensor = self.head(_upsample(z, maps[0]))
        return 1 + logits.sigmoid()


class _PaddedMap(NamedTuple):
    """Feature map, possibly padded."""

    values: Tensor
    """Padded values (B, C, h, w)."""
    size: tuple[int, int]
    """Height and width without padding."""
    mask: Tensor | None = None
    """Boolean mask (h, w), False for padding; None without padding."""


class _Unit(nn.Module):
    """Residual unit R, a pre-activation bottleneck z + f(z)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(*_bn_relu_conv(channels, hidden, 1), BatchNorm2d(hidden), nn.ReLU())
        self.spread = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)  # 3×3 of f
        self.restore = nn.Sequential(*_bn_relu_conv(hidden, channels, 1))  # last 1×1 of f

    def forward(self, z: _PaddedMap) -> _PaddedMap:
        inner = self.reduce(z.values)
        if z.mask is not None:
            inner = inner * z.mask.to(inner.dtype)
        return z._replace(values=z.values + self.restore(self.spread(inner)))


def _bn_relu_conv(channels: int, out: int, kernel_size: int) -> list[nn.Module]:
    """Return the layers BN, ReLU and convolution."""
    return [
        BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, out, kernel_size, padding=kernel_size // 2, bias=False),
    ]


def _max_pool(z: _PaddedMap) -> _PaddedMap:
    """Return the 3×3 max pooling with stride 2."""
    values = F.max_pool2d(z.values, 3, stride=2, padding=1)
    return _PaddedMap(values, (values.shape[2], values.shape[3]))


def _padded_max_pool(z: _PaddedMap) -> _PaddedMap:
    """Return the max pooling padded to ⌊h/2⌋ + 1 rows and ⌊w/2⌋ + 1 columns.

    torch.compile would specialise the graph on sides of 1.
    """
    values = z.values if z.mask is None else z.values.masked_fill(~z.mask, -torch.inf)
    values = F.max_pool2d(F.pad(values, (1, 2, 1, 2), value=-torch.inf), 3, stride=2)
    size = ((z.size[0] + 1) // 2, (z.size[1] + 1) // 2)
    rows, columns = (torch.arange(values.shape[2 + n], device=values.device) < size[n] for n in (0, 1))
    mask = rows[:, None] & columns
    return _PaddedMap(values.masked_fill(~mask, 0), size, mask)  # windows in the padding contain only −∞


def _upsample(z: _PaddedMap, target: _PaddedMap) -> Tensor:
    """Upsample z bilinearly to the size of ``target``, with align_corners=True."""
    if z.mask is None:
        return F.interpolate(z.values, size=target.size, mode="bilinear", align_corners=True)
    row_weights, column_weights = (_interpolation_weights(z, target, axis) for axis in (0, 1))
    values = z.values.flatten(0, 1)  # 3-D: matmul of 4-D tensors adds a size guard
    row_weights, column_weights = (t.expand(values.shape[0], -1, -1) for t in (row_weights, column_weights))
    return (row_weights @ values @ column_weights.transpose(1, 2)).unflatten(0, z.values.shape[:2])


def _interpolation_weights(z: _PaddedMap, target: _PaddedMap, axis: int) -> Tensor:
    """Return linear interpolation weights (side of ``target``, side of z) along one axis."""
    source_index, target_index = (
        torch.arange(m.values.shape[2 + axis], device=z.values.device, dtype=z.values.dtype) for m in (z, target)
    )
    n_steps = at_least_one(target.size[axis] - 1)
    return (1 - (target_index[:, None] * ((z.size[axis] - 1) / n_steps) - source_index).abs()).clamp(min=0)
