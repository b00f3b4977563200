r"""Spatial transformer: the map is resampled by an affine map that a small network predicts.

    p = mean of x over 7×7 equal parts of the map                    (B, C, 7, 7)
    h = ReLU(W₂ ReLU(W₁ p + b₁) + b₂)                                W₁: 1×1, C -> h; W₂: 49·h -> h, h = 128
    θ = W₃ h + b₃                                                    (B, 6), or (B, 3) for ``attention``
    (x_s, y_s)ᵀ = A_θ (x_t, y_t, 1)ᵀ                                 A_θ: (B, 2, 3)                     eq. 1
    y(x_t, y_t) = Σ_{n,m} x_{nm} max(0, 1 − |x_s − m|) max(0, 1 − |y_s − n|)    zero outside the map     eq. 5

``transform="affine"``: A_θ is free. ``"attention"``: A_θ = [s 0 t_x; 0 s t_y], a crop that is moved and zoomed (eq. 2).
Coordinates run from −1, the middle of the first pixel, to 1, the middle of the last (``align_corners=True``); the only
coordinate of one pixel is 0.

The localisation network has the shape of the authors' for birds: ``regions``² = 7×7 positions, a 1×1 layer and a hidden
layer of ``hidden`` = 128 units. Their 7×7 is the map's own size; here it is the mean over 7×7 equal parts, so that no
parameter depends on the size.

The paper starts at the identity (W₃ = 0), where sampling is the identity but for rounding and a neutral plug would
never learn. So W₃ starts with deviation 0.01/√h and b₃ 0.01 off the identity, an eighth of a pixel on a map of 28². The
paper's networks have it in front of the first convolutions; here it stands between stages.

Source: Jaderberg, Simonyan, Zisserman, Kavukcuoglu, "Spatial Transformer Networks", NeurIPS 2015, arXiv:1506.02025.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import one_of
from saccade.ops.autocast import without_autocast
from saccade.ops.memory_format import match_memory_format
from saccade.ops.relative import coordinates

__all__ = ["SpatialTransformer"]

SPEC = {
    "name": "stn",
    "title": "Spatial transformer",
    "paper": {"authors": "Jaderberg, Simonyan, Zisserman, Kavukcuoglu", "title": "Spatial Transformer Networks",
              "venue": "NeurIPS", "year": 2015, "arxiv": "1506.02025"},
    "kind": "transform",
    "evidence": "paper",
    "position": {"default": "stage[:-1]"},
    "limits": ["hidden and regions must be positive"],
}  # fmt: skip


def parameters(channels: int, transform: str, hidden: int, regions: int) -> int:
    numbers = 6 if transform == "affine" else 3
    return channels * hidden + 2 * hidden + (regions * hidden) ** 2 + (hidden + 1) * numbers


START = 0.01
"""How far θ starts from the identity, in the map's half sides."""


class SpatialTransformer(nn.Module):
    """Bilinear sampling at places that are an affine function of the target's.

    A_θ, (B, 2, 3), passes through ``tap``.

    Args:
        channels: C of the map (B, C, H, W).
        transform: ``affine``, six numbers, or ``attention``, a scale and a shift.
        hidden: h, the width of both hidden layers of the localisation network.
        regions: the side of the grid of means that it reads.

    Raises:
        ValueError: there is no such transform, or ``hidden`` or ``regions`` is not positive.
    """

    def __init__(
        self,
        channels: int,
        transform: Literal["affine", "attention"] = "affine",
        hidden: int = 128,
        regions: int = 7,
    ) -> None:
        super().__init__()
        one_of("transform", transform, "affine", "attention")
        if hidden < 1 or regions < 1:
            raise ValueError(f"hidden and regions must be positive, got {hidden} and {regions}")
        self.free = transform == "affine"
        self.regions = regions
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.look = nn.Linear(regions * regions * hidden, hidden)
        identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0] if self.free else [1.0, 0.0, 0.0]
        self.place = _PreciseLinear(hidden, len(identity))
        self.tap = nn.Identity()
        nn.init.normal_(self.place.weight, std=START * hidden**-0.5)
        with torch.no_grad():
            self.place.bias.normal_(std=START).add_(torch.tensor(identity))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), in the dtype of x."""
        # Places need the digits of float32: eight bits leave an error of half a pixel on a map of 224².
        precise = x if x.dtype == torch.float64 else x.float()
        with without_autocast(x):
            matrix: Tensor = self.tap(self._matrix(precise))
            y = F.grid_sample(precise, _grid(matrix, precise), align_corners=True).to(x.dtype)
        return match_memory_format(y, x)

    def _matrix(self, x: Tensor) -> Tensor:
        """A_θ, (B, 2, 3), in the dtype of x."""
        rows, columns = (_means(x.shape[axis], self.regions, x) for axis in (2, 3))
        learnt = (p.dtype for p in self.reduce.parameters() if p.is_floating_point())
        p = (rows @ (x @ columns.transpose(0, 1))).to(next(learnt, x.dtype))
        z = self.look(self.reduce(p).relu().flatten(1)).relu()
        theta = self.place(z).to(x.dtype)
        if self.free:
            return theta.view(-1, 2, 3)
        scale, across, down = theta.unbind(1)
        zero = torch.zeros_like(scale)
        return torch.stack([scale, zero, across, zero, scale, down], 1).view(-1, 2, 3)


class _PreciseLinear(nn.Linear):
    """A linear layer computed in float32 at least, whatever the dtype of its parameters."""

    def forward(self, z: Tensor) -> Tensor:
        dtype = torch.promote_types(z.dtype, torch.float32)
        return F.linear(z.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


def _means(size: int, parts: int, like: Tensor) -> Tensor:
    """The weights (parts, size) of the means over equal parts of ``size`` pixels, whole and cut ones."""
    first = torch.arange(size, device=like.device, dtype=like.dtype)
    edges = torch.arange(parts + 1, device=like.device, dtype=like.dtype) * (size / parts)
    before = (edges[:, None] - first).clamp(0, 1)  # how much of each pixel lies before each edge
    return (before[1:] - before[:-1]) * (parts / size)


def _grid(matrix: Tensor, like: Tensor) -> Tensor:
    """Where each pixel of the result is taken from, (B, H, W, 2), x then y."""
    x, y = (coordinates(like.shape[axis], like) for axis in (3, 2))
    across, down, shift = matrix[:, None, None].unbind(-1)  # (B, 1, 1, 2) each
    return across * x[:, None] + (down * y[:, None, None] + shift)
