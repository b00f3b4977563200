r"""Deformable attention: each pixel attends to keys sampled at positions predicted by a small network.

    q = W_q x + b_q                                              (B, C, H, W)
    o = W_o GELU(LN(DWConv_{kernel_size, stride}(q)))            (B, G, 2, H_k, W_k)  weights shared by the G groups
    p = clamp(r + o, −1, 1)                                      (B, G, M, 2)         M = H_k·W_k positions, y then x
    x̃ = x sampled bilinearly at p; k = W_k x̃, v = W_v x̃ + b_v    (B, C, M)
    A = softmax_M(qᵀk/√E + T((q_xy − p)/2))                      (B, heads, H·W, M)   E = C/heads
    y = W_y (A v) + b_y                                          (B, C, H, W)

T is a table (2H − 1)×(2W − 1) of relative positions per head, built for maps of ``size``, else interpolated.
``position="log"`` replaces T by a network 2 -> 32 -> heads/G, shared by the groups, of sign(d)·log₂(1 + |d|)/3,
d = 4(q_xy − p); its last layer has no bias. If ``offset_range`` s is at least 0, as in the paper,
p = r + s·tanh(o)/(H_k − 1, W_k − 1), not clamped. If s < 0, as in the authors' networks, p is clamped.

Coordinates use align_corners=True. The authors' reference points r = 2(i + ½)/(H_k − 1) − 1 are half a step too far, so
the last row and column fall outside the map, as here. Deviations: r = 0 if H_k = 1 (the code divides by zero); no bias
b_k, which a softmax ignores; no dropout; no other position biases.

Source: Xia et al., "Vision Transformer with Deformable Attention", CVPR 2022, arXiv:2201.00520; code: LeapLabTHU/DAT,
``DAttentionBaseline``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from saccade.bases import check_choice
from saccade.ops.eager import is_captured
from saccade.ops.memory_format import match_memory_format
from saccade.ops.relative import (
    coordinates,
    pixel_coordinates,
    relative_attention,
    relative_bias,
    relative_bias_definition,
    table_runs,
)
from saccade.ops.sizes import at_least_one

__all__ = ["DeformableAttention"]

SPEC = {
    "name": "dat",
    "title": "Deformable attention",
    "paper": {"authors": "Xia, Pan, Song, Li, Huang", "title": "Vision Transformer with Deformable Attention",
              "venue": "CVPR", "year": 2022, "arxiv": "2201.00520"},
    "kind": "transform",
    "evidence": "oracle",
    "code": ["LeapLabTHU/DAT"],
    "position": {"default": "stage[-2]"},
    "limits": [
        "num_heads must divide channels",
        "groups must divide num_heads",
        "kernel_size must exceed stride, and stride be positive",
    ],
    "needs": ["size"],
}  # fmt: skip


def parameters(
    channels: int, num_heads: int, groups: int, kernel_size: int, position: str, size: tuple[int, int]
) -> int:
    height, width = size
    biases = {"table": num_heads * (2 * height - 1) * (2 * width - 1), "log": 96 + 32 * num_heads // groups, "none": 0}
    return 4 * channels**2 + 3 * channels + channels // groups * (kernel_size**2 + 5) + biases[position]


MAX_CHUNK = 2**22
"""Maximum number of elements of A computed at once."""
MAX_SAVED = 2**24
"""Maximum number saved for the backward pass; a larger A is recomputed."""


class DeformableAttention(nn.Module):
    """Multi-head attention with keys sampled at learnt positions.

    The positions p (B, G, H_k, W_k, 2) pass through ``tap``.

    Args:
        channels: C.
        num_heads: number of heads.
        groups: G, number of channel groups with separate sampling positions.
        stride: spacing of the sampling positions in pixels.
        kernel_size: that of the depthwise convolution of o, above ``stride``.
        offset_range: maximum offset in half grid steps; if negative, offsets are unbounded and positions clamped.
        position: bias of the logits: a ``table``, a small network (``log``) or ``none``.
        size: (H, W) of the feature map, needed for a table.

    Raises:
        ValueError: a limit of SPEC is violated, ``position`` is unknown, or a table lacks ``size``.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 8,
        groups: int = 4,
        stride: int = 2,
        kernel_size: int = 5,
        offset_range: float = -1.0,
        position: Literal["table", "log", "none"] = "table",
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"num_heads must divide channels, got {num_heads} and {channels}")
        if groups < 1 or num_heads % groups:
            raise ValueError(f"groups must divide num_heads, got {groups} and {num_heads}")
        if stride < 1 or kernel_size <= stride:
            raise ValueError(f"kernel_size must exceed stride, and stride be positive, got {kernel_size} and {stride}")
        check_choice("position", position, "table", "log", "none")
        if position == "table" and size is None:
            raise ValueError("a table of relative positions needs size=(height, width) of the map, got None")
        if size is not None and min(size) < 1:
            raise ValueError(f"size must be at least (1, 1), got {size}")
        self.heads, self.groups, self.range = num_heads, groups, offset_range
        self.scale = (channels // num_heads) ** -0.5
        group_channels = channels // groups
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)
        self.near = nn.Conv2d(  # DWConv of o
            group_channels, group_channels, kernel_size, stride, kernel_size // 2, groups=group_channels
        )
        self.norm = nn.LayerNorm(group_channels)
        self.move = nn.Conv2d(group_channels, 2, 1, bias=False)  # W_o
        self.table: nn.Parameter | None = None
        self.distance: nn.Sequential | None = None  # network of the bias "log"
        if position == "table":
            assert size is not None
            self.table = nn.Parameter(torch.empty(num_heads, 2 * size[0] - 1, 2 * size[1] - 1))
            nn.init.trunc_normal_(self.table, std=0.01)
        elif position == "log":
            self.distance = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, num_heads // groups, bias=False))
        self.tap = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        query = self.query(x)
        positions = self._positions(query)
        sampled = self._sample(x, positions)
        grouped = [
            t.flatten(2).unflatten(1, (self.groups, -1)) for t in (query, self.key(sampled), self.value(sampled))
        ]
        q, k, v = (t.unflatten(2, (self.heads // self.groups, -1)) for t in grouped)
        output = self._attend(q, k, v, positions, (x.shape[2], x.shape[3]))
        y: Tensor = self.project(output.unflatten(2, x.shape[2:])).to(x.dtype)
        return match_memory_format(y, x)

    def _positions(self, query: Tensor) -> Tensor:
        """Return the sampling positions p (B, G, M, 2), in float32 or wider."""
        features = self.near(query.unflatten(1, (self.groups, -1)).flatten(0, 1)).movedim(1, 3)
        offset = self.move(F.gelu(self.norm(features)).movedim(3, 1).to(features.dtype))  # (B·G, 2, H_k, W_k)
        offset = offset if offset.dtype == torch.float64 else offset.float()
        height, width = offset.shape[2:]
        half_steps = [1 / at_least_one(n - 1) for n in (height, width)]
        y, x = offset.unbind(1)
        if self.range >= 0:
            y, x = (self.range * half * o.tanh() for half, o in zip(half_steps, (y, x), strict=True))
        # r, half a step too far, but 0 if n = 1.
        reference_y, reference_x = (
            coordinates(n, offset) + half * half * (n - 1) for n, half in zip((height, width), half_steps, strict=True)
        )
        positions = torch.stack((y + reference_y[:, None], x + reference_x), -1)
        if self.range < 0:
            positions = positions.clamp(-1, 1)
        positions = self.tap(positions.unflatten(0, (-1, self.groups)))
        return positions.flatten(2, 3)

    def _sample(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return x sampled at the positions of each group: (B, C, 1, M)."""
        grouped = x.unflatten(1, (self.groups, -1)).flatten(0, 1).to(positions.dtype)
        sampled = F.grid_sample(grouped, positions.flatten(0, 1).flip(-1)[:, None], align_corners=True)
        return sampled.unflatten(0, (-1, self.groups)).flatten(1, 2).to(x.dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, size: tuple[int, int]) -> Tensor:
        """Return A v (B, C, H·W), group by group; on the CPU in chunks of images and query rows."""
        batch, (height, width) = q.shape[0], size
        unchunked = is_captured() or q.device.type != "cpu" or batch == 0
        elements_per_row = q.shape[2] * k.shape[-1] * width  # of A, for one image
        n_rows = height if unchunked else max(1, min(height, MAX_CHUNK // elements_per_row))
        n_images = batch if unchunked else max(1, MAX_CHUNK // (elements_per_row * n_rows))
        n_elements = batch * self.groups * height * elements_per_row
        recompute = not unchunked and torch.is_grad_enabled() and n_elements > MAX_SAVED
        run_chunk = partial(checkpoint, use_reentrant=False, preserve_rng_state=False) if recompute else _call_directly
        group_outputs = []
        for g in range(self.groups):
            table = None if self.table is None else self.table.unflatten(0, (self.groups, -1))[g]
            # ``relative_bias`` needs a table of the map's size and positions within [−1, 1].
            can_use_relative_bias = (
                table is not None and (2 * height - 1, 2 * width - 1) == table.shape[1:] and self.range < 0
            )
            if table is not None and can_use_relative_bias and recompute:
                output = relative_attention(q[:, g], k[:, g], v[:, g], positions[:, g], table, size, self.scale)
                group_outputs.append(output.flatten(1, 2))
                continue
            bias = self._bias(table, size, can_use_relative_bias and not unchunked)
            attend = partial(_attend_chunk, bias=bias, scale=self.scale)
            if unchunked:
                group_outputs.append(attend(q[:, g], k[:, g], v[:, g], positions[:, g], slice(0, height)))
                continue
            image_outputs = []
            for first in range(0, batch, n_images):
                images = slice(first, first + n_images)
                queries, keys, values = q[images, g].unflatten(-1, size), k[images, g], v[images, g]
                row_outputs = [
                    run_chunk(attend, queries[..., rows, :].flatten(-2), keys, values, positions[images, g], rows)
                    for rows in (slice(top, top + n_rows) for top in range(0, height, n_rows))
                ]
                image_outputs.append(torch.cat(row_outputs, -1))
            group_outputs.append(torch.cat(image_outputs))
        return torch.cat(group_outputs, 1)

    def _bias(self, table: Tensor | None, size: tuple[int, int], use_relative_bias: bool) -> Bias | None:
        """Return the function that computes the bias (B, heads/G, M, Q) of one group, if any."""
        if table is not None:
            if use_relative_bias:
                return partial(relative_bias, table_runs(table), size=size)
            return partial(relative_bias_definition, table, size=size)
        return None if self.distance is None else partial(_log_bias, self.distance, size=size)


class Bias(Protocol):
    """Function from key positions (B, M, 2) and rows of queries to the bias of the logits."""

    def __call__(self, positions: Tensor, *, rows: slice) -> Tensor:
        """Return the bias (B, heads, M, Q)."""


def _attend_chunk(
    q: Tensor, k: Tensor, v: Tensor, positions: Tensor, rows: slice, bias: Bias | None, scale: float
) -> Tensor:
    """Return the output (B, heads·E, Q) for queries (B, heads, E, Q) and keys and values (B, heads, E, M)."""
    heads, dtype = q.shape[1], v.dtype
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    if bias is None:
        logits = k.transpose(1, 2) @ (q * scale)
    else:
        bias_values = bias(positions, rows=rows).flatten(0, 1).to(q.dtype)
        logits = torch.baddbmm(bias_values, k.transpose(1, 2), q, alpha=scale)
    return (v @ logits.softmax(1).to(dtype)).unflatten(0, (-1, heads)).flatten(1, 2)


def _log_bias(network: nn.Module, positions: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """Return the bias (B, heads/G, M, Q) of ``position="log"``."""
    distance = 4 * (pixel_coordinates(size, rows, positions) - positions[:, :, None])  # (B, M, Q, 2)
    distance = distance.sign() * (1 + distance.abs()).log2() / 3
    weight = next(network.parameters())
    bias: Tensor = network(distance.to(weight.dtype)).movedim(-1, 1)
    return bias


def _call_directly(function: Callable[..., Tensor], *args: Any) -> Tensor:
    return function(*args)
