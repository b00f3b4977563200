r"""Soft mask of the Residual Attention Network: a gate of at least 1 from a small hourglass.

    d₁ = R(pool(x)),  d_i = R(pool(d_{i−1}))                         i = 2 … D, sides halved and rounded up
    u_D = R(d_D)                                                     the bottom
    u_i = R(up(u_{i+1}) + R(d_i))                                    i = D − 1 … 1: a skip through a unit of its own
    M   = σ(W₂ ReLU(BN(W₁ ReLU(BN(up(u₁))))))                        (B, C, H, W)     W₁, W₂: 1×1, C -> C
    y   = x ⊙ (1 + M)                                                (B, C, H, W)     eq. 3

D is ``depth``. pool is a maximum of 3×3 with stride 2; up is bilinear, corner on corner. R is a residual unit, z +
f(z), f = BN-ReLU-1×1-BN-ReLU-3×3-BN-ReLU-1×1 through C·rd_ratio channels, without biases. That is the mask branch with
r = 1 of the authors' networks; D is 3, 2 and 1 behind maps of 56², 28² and 14² (``depth=[3, 2, 1]`` on a ResNet).

In the paper the mask multiplies a trunk of two residual units beside it; here it gates the map it is computed from.
Sizes are rounded up by a line of padding, on every map. One set of the authors' definitions ends in tanh where the
other, and the paper, have σ.

Source: Wang, Jiang, Qian, Yang, Li, Zhang, Wang, Tang, "Residual Attention Network for Image Classification", CVPR
2017, arXiv:1704.06904; the authors' definitions of networks, fwang91/residual-attention-network.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Gate, reduced
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
    unit = 2 * channels + 2 * channels * hidden + 4 * hidden + 9 * hidden**2
    return (3 * depth - 1) * unit + 4 * channels + 2 * channels**2


class SoftMask(Gate):
    """1 + σ of an hourglass of residual units.

    Args:
        channels: C of the map (B, C, H, W).
        depth: D, how often the map is halved.
        rd_ratio: width of the residual units' 3×3 convolutions as a part of C, rounded down.

    Raises:
        ValueError: the 3×3 convolutions would have no channel, or ``depth`` is not positive.
    """

    def __init__(self, channels: int, depth: int = 1, rd_ratio: float = 1 / 4) -> None:
        super().__init__()
        hidden = reduced(channels, rd_ratio)
        if depth < 1:
            raise ValueError(f"depth must be positive, got {depth}")
        self.down = nn.ModuleList(_Unit(channels, hidden) for _ in range(depth))
        self.bottom = _Unit(channels, hidden)
        self.skip = nn.ModuleList(_Unit(channels, hidden) for _ in range(depth - 1))
        self.up = nn.ModuleList(_Unit(channels, hidden) for _ in range(depth - 1))
        self.head = nn.Sequential(*_activated(channels, channels, 1), *_activated(channels, channels, 1))

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), between 1 and 2."""
        # Batch statistics, of training, count every row: there no map may have one too many.
        halve = _halved_for_any_size if torch.compiler.is_compiling() and not self.training else _halved
        maps = [_Map(x, (x.shape[2], x.shape[3]))]
        for down in self.down:
            maps.append(down(halve(maps[-1])))
        z = self.bottom(maps.pop())
        for skip, up in zip(reversed(self.skip), reversed(self.up), strict=True):
            met = maps.pop()
            z = up(_Map(_enlarged(z, met) + skip(met).values, met.size, met.inside))
        mask: Tensor = self.head(_enlarged(z, maps[0]))
        return 1 + mask.sigmoid()


class _Map(NamedTuple):
    """A map, and which part of it is one."""

    values: Tensor
    """(B, C, h, w)."""
    size: tuple[int, int]
    """The rows and columns that count."""
    inside: Tensor | None = None
    """(h, w), true where they are; None where all count."""


class _Unit(nn.Module):
    """Pre-activation bottleneck: z + f(z)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(*_activated(channels, hidden, 1), BatchNorm2d(hidden), nn.ReLU())
        self.spread = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.restore = nn.Sequential(*_activated(hidden, channels, 1))

    def forward(self, z: _Map) -> _Map:
        inner = self.reduce(z.values)
        if z.inside is not None:
            inner = inner * z.inside.to(inner.dtype)  # zeros stand outside the map
        return z._replace(values=z.values + self.restore(self.spread(inner)))


def _activated(channels: int, out: int, side: int) -> list[nn.Module]:
    """BN, ReLU, convolution."""
    return [BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, out, side, padding=side // 2, bias=False)]


def _halved(z: _Map) -> _Map:
    """The maximum over 3×3 around every second pixel."""
    values = F.max_pool2d(z.values, 3, stride=2, padding=1)
    return _Map(values, (values.shape[2], values.shape[3]))


def _halved_for_any_size(z: _Map) -> _Map:
    """The same, where a graph is made that must serve maps of any size.

    Half of two rows is one, and torch makes another graph where a side is one. So every map gets more rows and columns
    than half, ⌊h/2⌋ + 1, and what is too many does not count.
    """
    values = z.values if z.inside is None else z.values.masked_fill(~z.inside, -torch.inf)
    values = F.max_pool2d(F.pad(values, (1, 2, 1, 2), value=-torch.inf), 3, stride=2)
    size = ((z.size[0] + 1) // 2, (z.size[1] + 1) // 2)
    rows, columns = (torch.arange(values.shape[2 + n], device=values.device) < size[n] for n in (0, 1))
    inside = rows[:, None] & columns
    return _Map(values.masked_fill(~inside, 0), size, inside)  # a window outside the map holds −∞ alone


def _enlarged(z: _Map, like: _Map) -> Tensor:
    """The values of z between which lines are drawn, corner on corner, at the size of ``like``."""
    if z.inside is None:
        return F.interpolate(z.values, size=like.size, mode="bilinear", align_corners=True)
    rows, columns = (_hats(z, like, axis) for axis in (0, 1))
    values = z.values.flatten(0, 1)  # one matrix for each map: a product that folds axes asks for their size again
    rows, columns = (t.expand(values.shape[0], -1, -1) for t in (rows, columns))
    return (rows @ values @ columns.transpose(1, 2)).unflatten(0, z.values.shape[:2])


def _hats(z: _Map, like: _Map, axis: int) -> Tensor:
    """The weights (rows of ``like``, rows of z) of the lines along one axis."""
    old, new = (torch.arange(m.values.shape[2 + axis], device=z.values.device, dtype=z.values.dtype) for m in (z, like))
    steps = at_least_one(like.size[axis] - 1)
    return (1 - (new[:, None] * ((z.size[axis] - 1) / steps) - old).abs()).clamp(min=0)
