r"""Spatial transformer: x is resampled by a predicted affine transformation.

    p = means of x over a 7×7 grid                                   (B, C, 7, 7)
    z = ReLU(W₂ ReLU(W₁ p + b₁) + b₂)                                W₁: 1×1, C -> h; W₂: 49·h -> h, h = 128
    θ = W₃ z + b₃                                                    (B, 6), or (B, 3) for ``attention``
    (x_s, y_s)ᵀ = A_θ (x_t, y_t, 1)ᵀ                                 A_θ: (B, 2, 3)                     eq. 1
    y(x_t, y_t) = Σ_{n,m} x_{nm} max(0, 1 − |x_s − m|) max(0, 1 − |y_s − n|)    zero padding            eq. 5

``transform="affine"``: all of A_θ is predicted. ``"attention"``: A_θ = [s 0 t_x; 0 s t_y], a zoom and a shift (eq. 2).
Coordinates use align_corners=True; a single pixel has coordinate 0.

The localisation network follows the authors' for CUB, which has no pooling (p = x). The paper starts at the identity
(W₃ = 0), where ``saccade.plug``'s neutral start would make all gradients 0. Here W₃ and b₃ are normal around it, with
standard deviations 0.01/√h and 0.01.

Source: Jaderberg et al., "Spatial Transformer Networks", NeurIPS 2015, arXiv:1506.02025.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import check_choice
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
    "moves_features": True,
}  # fmt: skip


def parameters(channels: int, transform: str, hidden: int, regions: int) -> int:
    outputs = 6 if transform == "affine" else 3
    return channels * hidden + 2 * hidden + (regions * hidden) ** 2 + (hidden + 1) * outputs


INIT_STD = 0.01
"""Standard deviation of the initial θ around the identity, in normalised coordinates."""


class SpatialTransformer(nn.Module):
    """Bilinear resampling by an affine transformation.

    A_θ (B, 2, 3) passes through ``tap``.

    Args:
        channels: C.
        transform: ``affine`` or ``attention``.
        hidden: h, width of both hidden layers.
        regions: grid size of the average pooling, 7 in the paper.

    Raises:
        ValueError: ``transform`` is unknown, or ``hidden`` or ``regions`` is not positive.
    """

    def __init__(
        self,
        channels: int,
        transform: Literal["affine", "attention"] = "affine",
        hidden: int = 128,
        regions: int = 7,
    ) -> None:
        super().__init__()
        check_choice("transform", transform, "affine", "attention")
        if hidden < 1 or regions < 1:
            raise ValueError(f"hidden and regions must be positive, got {hidden} and {regions}")
        self.free = transform == "affine"  # affine: all of A_θ is predicted
        self.regions = regions
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.look = nn.Linear(regions * regions * hidden, hidden)  # hidden layer W₂
        identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0] if self.free else [1.0, 0.0, 0.0]
        self.place = _PreciseLinear(hidden, len(identity))  # output layer W₃
        self.tap = nn.Identity()
        nn.init.normal_(self.place.weight, std=INIT_STD * hidden**-0.5)
        with torch.no_grad():
            self.place.bias.normal_(std=INIT_STD).add_(torch.tensor(identity))

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        # Coordinates need float32: bfloat16 errs by half a pixel on a map of 224².
        x_float32 = x if x.dtype == torch.float64 else x.float()
        with without_autocast(x):
            matrix: Tensor = self.tap(self._matrix(x_float32))
            y = F.grid_sample(x_float32, _grid(matrix, x_float32), align_corners=True).to(x.dtype)
        return match_memory_format(y, x)

    def _matrix(self, x: Tensor) -> Tensor:
        """Return A_θ (B, 2, 3), in the dtype of x."""
        row_weights, column_weights = (_averaging_weights(x.shape[axis], self.regions, x) for axis in (2, 3))
        parameter_dtypes = (p.dtype for p in self.reduce.parameters() if p.is_floating_point())
        p = (row_weights @ (x @ column_weights.transpose(0, 1))).to(next(parameter_dtypes, x.dtype))
        z = self.look(self.reduce(p).relu().flatten(1)).relu()
        theta = self.place(z).to(x.dtype)
        if self.free:
            return theta.view(-1, 2, 3)
        scale, shift_x, shift_y = theta.unbind(1)
        zero = torch.zeros_like(scale)
        return torch.stack([scale, zero, shift_x, zero, scale, shift_y], 1).view(-1, 2, 3)


class _PreciseLinear(nn.Linear):
    """Linear layer computed in float32 or wider."""

    def forward(self, z: Tensor) -> Tensor:
        dtype = torch.promote_types(z.dtype, torch.float32)
        return F.linear(z.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


def _averaging_weights(size: int, n_cells: int, like: Tensor) -> Tensor:
    """Return averaging weights (n_cells, size) over equal cells; pixels across an edge count fractionally."""
    pixel_start = torch.arange(size, device=like.device, dtype=like.dtype)
    edges = torch.arange(n_cells + 1, device=like.device, dtype=like.dtype) * (size / n_cells)
    coverage = (edges[:, None] - pixel_start).clamp(0, 1)  # fraction of each pixel before each edge
    return (coverage[1:] - coverage[:-1]) * (n_cells / size)


def _grid(matrix: Tensor, like: Tensor) -> Tensor:
    """Return the sampling grid (B, H, W, 2), x then y."""
    x, y = (coordinates(like.shape[axis], like) for axis in (3, 2))
    x_factor, y_factor, shift = matrix[:, None, None].unbind(-1)  # (B, 1, 1, 2) each
    return x_factor * x[:, None] + (y_factor * y[:, None, None] + shift)
