r"""Deformable attention: each pixel attends to a few sampled places, whose offsets the map predicts.

    q = W_q x + b_q                                              (B, C, H, W)
    o = W_o GELU(LN(DWConv_{k×k, stride}(q)))                    (B, G, 2, H_k, W_k)  G groups of channels share weights
    p = clamp(r + o, −1, 1)                                      (B, G, M, 2)          M = H_k·W_k places, y then x
    x̃ = x sampled at p, bilinear; k = W_k x̃, v = W_v x̃ + b_v    (B, C, M)
    A = softmax_M(qᵀk/√E + T((q_xy − p)/2))                      (B, heads, H·W, M)    E = C/heads
    y = W_y (A v) + b_y                                          (B, C, H, W)

T is a table of relative positions for each head, (2H − 1)×(2W − 1), interpolated; ``position="log"`` has a network 2 ->
32 -> heads/G of sign(d)·log₂(1 + |d|)/3, d = 4(q_xy − p), in its place (shared by groups, no last bias),
``position="none"`` nothing. With ``offset_range`` s ≥ 0, as in the paper, p = r + s·tanh(o)/(H_k − 1, W_k − 1), not
clamped; below zero, the default and the authors' released networks, p is clamped as above.

As in the authors' code, which this equals, coordinates run from −1 to 1 corner on corner, but the reference points are
2(i + ½)/(H_k − 1) − 1, half a step too far, so that the last row and column fall outside. The table belongs to one
``size`` of map and is stretched over any other. Deviations: r = 0 where H_k = 1 and the code divides by zero; no bias
of the keys, which a softmax ignores; no dropout, no convolutional or fixed biases, and nothing of the block around it.

The paper has it in the last two stages; defaults and position are those of the third stage of DAT-T++. Both:
``where="stage[-2:]"`` with ``num_heads=[8, 16]``, ``groups=[4, 8]``, ``stride=[2, 1]``, ``kernel_size=[5, 3]``.

On the CPU A is formed for a few rows at a time, and again in the backward pass.

Source: Xia, Pan, Song, Li, Huang, "Vision Transformer with Deformable Attention", CVPR 2022, arXiv:2201.00520; the
authors' code, LeapLabTHU/DAT, ``DAttentionBaseline``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from saccade.bases import one_of
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


AT_ONCE = 2**22
"""Numbers of A that are formed at once."""
KEPT = 2**24
"""Numbers of A that are kept for the backward pass; more are formed again."""


class DeformableAttention(nn.Module):
    """Multi-head attention whose keys are sampled at learnt places.

    The places p, (B, G, H_k, W_k, 2), pass through ``tap``.

    Args:
        channels: C of the map (B, C, H, W).
        num_heads: heads; each has C/num_heads channels.
        groups: G, parts of the channels with places of their own; each has num_heads/G heads.
        stride: one place for so many pixels in height and in width.
        kernel_size: k, the side of the convolution that moves a place, wider than ``stride``.
        offset_range: how many steps of the grid a place may move; below zero to anywhere on the map.
        position: what is added to the logits: a ``table``, a small network (``log``) or ``none``.
        size: (H, W) of the map, which a table needs.

    Raises:
        ValueError: outside the limits of SPEC, no such ``position``, a table without ``size``, or a ``size`` of 0.
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
        one_of("position", position, "table", "log", "none")
        if position == "table" and size is None:
            raise ValueError("a table of relative positions needs size=(height, width) of the map, got None")
        if size is not None and min(size) < 1:
            raise ValueError(f"size must be at least (1, 1), got {size}")
        self.heads, self.groups, self.range = num_heads, groups, offset_range
        self.scale = (channels // num_heads) ** -0.5
        each = channels // groups
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)
        self.near = nn.Conv2d(each, each, kernel_size, stride, kernel_size // 2, groups=each)
        self.norm = nn.LayerNorm(each)
        self.move = nn.Conv2d(each, 2, 1, bias=False)
        self.table: nn.Parameter | None = None
        self.distance: nn.Sequential | None = None
        if position == "table":
            assert size is not None
            self.table = nn.Parameter(torch.empty(num_heads, 2 * size[0] - 1, 2 * size[1] - 1))
            nn.init.trunc_normal_(self.table, std=0.01)
        elif position == "log":
            self.distance = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, num_heads // groups, bias=False))
        self.tap = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W), in the dtype of x."""
        query = self.query(x)
        places = self._places(query)
        sampled = self._sampled(x, places)  # (B, C, 1, M)
        parts = [t.flatten(2).unflatten(1, (self.groups, -1)) for t in (query, self.key(sampled), self.value(sampled))]
        q, k, v = (t.unflatten(2, (self.heads // self.groups, -1)) for t in parts)  # (B, G, heads/G, E, H·W or M)
        attended = self._attended(q, k, v, places, (x.shape[2], x.shape[3]))
        y: Tensor = self.project(attended.unflatten(2, x.shape[2:])).to(x.dtype)
        return match_memory_format(y, x)

    def _places(self, query: Tensor) -> Tensor:
        """p, (B, G, M, 2), in float32 at least: where the map is sampled."""
        near = self.near(query.unflatten(1, (self.groups, -1)).flatten(0, 1)).movedim(1, 3)
        offset = self.move(F.gelu(self.norm(near)).movedim(3, 1).to(near.dtype))  # (B·G, 2, H_k, W_k)
        offset = offset if offset.dtype == torch.float64 else offset.float()
        height, width = offset.shape[2:]
        halves = [1 / at_least_one(n - 1) for n in (height, width)]  # of a step of the grid
        y, x = offset.unbind(1)
        if self.range >= 0:
            y, x = (self.range * half * moved.tanh() for half, moved in zip(halves, (y, x), strict=True))
        # Half a step off the grid; but one row, or column, has no step, and lies in the middle.
        down, across = (
            coordinates(n, offset) + half * half * (n - 1) for n, half in zip((height, width), halves, strict=True)
        )
        places = torch.stack((y + down[:, None], x + across), -1)
        if self.range < 0:
            places = places.clamp(-1, 1)
        seen: Tensor = self.tap(places.unflatten(0, (-1, self.groups)))
        return seen.flatten(2, 3)

    def _sampled(self, x: Tensor, places: Tensor) -> Tensor:
        """The map at the places of each group, (B, C, 1, M)."""
        grouped = x.unflatten(1, (self.groups, -1)).flatten(0, 1).to(places.dtype)
        sampled = F.grid_sample(grouped, places.flatten(0, 1).flip(-1)[:, None], align_corners=True)
        return sampled.unflatten(0, (-1, self.groups)).flatten(1, 2).to(x.dtype)

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
        """A v, (B, C, H·W): of each group, formed at once or a few images and rows at a time."""
        batch, (height, width) = q.shape[0], size
        whole = is_captured() or q.device.type != "cpu" or batch == 0
        row = q.shape[2] * k.shape[-1] * width  # numbers of A for a row of one image
        rows = height if whole else max(1, min(height, AT_ONCE // row))
        images = batch if whole else max(1, AT_ONCE // (row * rows))
        again = not whole and torch.is_grad_enabled() and batch * self.groups * height * row > KEPT
        run = partial(checkpoint, use_reentrant=False, preserve_rng_state=False) if again else _called
        groups = []
        for g in range(self.groups):
            table = None if self.table is None else self.table.unflatten(0, (self.groups, -1))[g]
            own = table is not None and (2 * height - 1, 2 * width - 1) == table.shape[1:] and self.range < 0
            if table is not None and own and again:
                part_of = relative_attention(q[:, g], k[:, g], v[:, g], places[:, g], table, size, self.scale)
                groups.append(part_of.flatten(1, 2))
                continue
            part = partial(_part, bias=self._bias(table, size, own and not whole), scale=self.scale)
            if whole:
                groups.append(part(q[:, g], k[:, g], v[:, g], places[:, g], slice(0, height)))
                continue
            of_images = []
            for first in range(0, batch, images):
                some = slice(first, first + images)
                at, keys, values = q[some, g].unflatten(-1, size), k[some, g], v[some, g]
                of_rows = [
                    run(part, at[..., taken, :].flatten(-2), keys, values, places[some, g], taken)
                    for taken in (slice(top, top + rows) for top in range(0, height, rows))
                ]
                of_images.append(torch.cat(of_rows, -1))
            groups.append(torch.cat(of_images))
        return torch.cat(groups, 1)

    def _bias(self, table: Tensor | None, size: tuple[int, int], by_rows: bool) -> Bias | None:
        """What gives the bias of a group's heads, (B, heads/G, M, Q), for its places (B, M, 2) and some rows."""
        if table is not None:
            if by_rows:
                return partial(relative_bias, table_runs(table), size=size)
            return partial(relative_bias_definition, table, size=size)
        return None if self.distance is None else partial(_logarithmic, self.distance, size=size)


class Bias(Protocol):
    """A bias of the logits, (B, heads, M, Q), for the keys' places (B, M, 2) and the rows of the map that ask."""

    def __call__(self, places: Tensor, *, rows: slice) -> Tensor:
        """The bias."""


def _part(q: Tensor, k: Tensor, v: Tensor, places: Tensor, rows: slice, bias: Bias | None, scale: float) -> Tensor:
    """(B, heads·E, Q) of queries (B, heads, E, Q), and keys and values (B, heads, E, M)."""
    heads, dtype = q.shape[1], v.dtype
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    if bias is None:
        logits = k.transpose(1, 2) @ (q * scale)
    else:
        added = bias(places, rows=rows).flatten(0, 1).to(q.dtype)
        logits = torch.baddbmm(added, k.transpose(1, 2), q, alpha=scale)  # (B·heads, M, Q)
    return (v @ logits.softmax(1).to(dtype)).unflatten(0, (-1, heads)).flatten(1, 2)


def _logarithmic(network: nn.Module, places: Tensor, size: tuple[int, int], rows: slice) -> Tensor:
    """The bias of ``position="log"``."""
    apart = 4 * (pixel_coordinates(size, rows, places) - places[:, :, None])  # (B, M, Q, 2)
    apart = apart.sign() * (1 + apart.abs()).log2() / 3
    weight = next(network.parameters())
    bias: Tensor = network(apart.to(weight.dtype)).movedim(-1, 1)
    return bias


def _called(function: Callable[..., Tensor], *given: Any) -> Tensor:
    return function(*given)
