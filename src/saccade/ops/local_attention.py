r"""Local attention: every pixel takes a weighted mean of the values in the window around it.

    l_p(a, b) = q_p · k_{p+(a,b)} + ρ_p(a) + κ_p(b)     a, b: row and column of the window, p + (0, 0) its middle
    y_p = Σ_{a,b} softmax_{a,b}(l_p) v_{p+(a,b)}         keys and values are zero outside the map

ρ and κ are biases of the rows and columns of the window. Pixels outside the map take part, as in zero padding: their
unnormalised weight is exp(ρ + κ) and their value is zero.

The definition copies keys and values once per window. ``local_attention`` copies them once per tile: 4×8 queries share
the 10×14 keys of their 7×7 windows, and logits are matrix products. Keys outside a query's own window get −∞ in ρ or κ.

Source: Ramachandran et al., NeurIPS 2019, arXiv:1906.05909, where ρ_p(a) + κ_p(b) = q_p · [r_a; r_b].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.ops.autocast import autocast_enabled, operand_dtype, without_autocast
from saccade.ops.eager import is_captured, is_transformed, needs_composite_backward
from saccade.ops.macs import with_macs

__all__ = ["local_attention", "local_attention_definition"]

_TILE = (4, 8)
"""Largest height and width of a tile."""

_SLICE_LOGITS = {"cpu": 1 << 19}
"""Logits computed at a time, by device type; one plane may have more. On the CPU they should fit the cache."""

_SLICE_LOGITS_ELSEWHERE = 1 << 26
"""Number of logits computed at a time on other devices."""


def _macs(query: Tensor, key: Tensor, value: Tensor, row_bias: Tensor, column_bias: Tensor) -> int:
    window, pixels = row_bias.shape[2] * column_bias.shape[2], query.shape[3] * query.shape[4]
    return query.shape[0] * query.shape[1] * pixels * window * (query.shape[2] + value.shape[2])


@with_macs(_macs)
def local_attention_definition(
    query: Tensor, key: Tensor, value: Tensor, row_bias: Tensor, column_bias: Tensor
) -> Tensor:
    """Reference implementation of ``local_attention``."""
    _check_operands(query, key, value, row_bias, column_bias)
    window, size = (row_bias.shape[2], column_bias.shape[2]), query.shape[3:]
    dtype = operand_dtype(query)
    compute_dtype = torch.promote_types(dtype, torch.float32)
    query, key, value, row_bias, column_bias = (t.to(compute_dtype) for t in (query, key, value, row_bias, column_bias))

    def windows(t: Tensor) -> Tensor:
        patches = F.unfold(t.flatten(1, 2), window, padding=(window[0] // 2, window[1] // 2))
        return patches.reshape(*t.shape[:3], *window, *size)

    with without_autocast(query):
        logits = (
            torch.einsum("nhcyx,nhcabyx->nhabyx", query, windows(key))
            + row_bias[:, :, :, None]
            + column_bias[:, :, None]
        )
        weights = logits.flatten(2, 3).softmax(2).unflatten(2, window)
        return torch.einsum("nhabyx,nhcabyx->nhcyx", weights, windows(value)).to(dtype)


@with_macs(_macs)
def local_attention(query: Tensor, key: Tensor, value: Tensor, row_bias: Tensor, column_bias: Tensor) -> Tensor:
    """Return the attention over the window around each pixel, without a copy of the window for each pixel.

    Args:
        query: (B, heads, E, H, W).
        key: (B, heads, E, H, W).
        value: (B, heads, V, H, W).
        row_bias: ρ, (B, heads, kh, H, W), kh odd.
        column_bias: κ, (B, heads, kw, H, W), kw odd.

    Returns:
        (B, heads, V, H, W) in the dtype of the operands, computed in float32 at least; under autocast, in autocast's,
        for operands of any dtype.

    Raises:
        ValueError: shapes or dtypes do not match.
    """
    if is_captured() or is_transformed():
        return local_attention_definition(query, key, value, row_bias, column_bias)
    _check_operands(query, key, value, row_bias, column_bias)
    dtype = operand_dtype(query)
    compute_dtype = torch.promote_types(dtype, torch.float32)
    operands = (t.to(compute_dtype).flatten(0, 1) for t in (query, key, value, row_bias, column_bias))
    with without_autocast(query):
        y: Tensor = _LocalAttention.apply(*operands)
    return y.unflatten(0, query.shape[:2]).to(dtype)


class _Tiling(NamedTuple):
    """Division of planes, the maps (c, H, W) per image and head, into T tiles of h·w queries with key windows."""

    size: tuple[int, int]
    window: tuple[int, int]
    grid: tuple[int, int]
    """Numbers of tiles along height and width."""
    tile: tuple[int, int]
    """Height and width of a tile, (h, w)."""
    key_window: tuple[int, int]
    """Height and width of a tile's key window, (h + kh − 1, w + kw − 1)."""

    @classmethod
    def from_operands(cls, query: Tensor, row_bias: Tensor, column_bias: Tensor) -> _Tiling:
        size, window = (query.shape[2], query.shape[3]), (row_bias.shape[1], column_bias.shape[1])
        n_tile_rows, n_tile_columns = (-(-n // max_side) for n, max_side in zip(size, _TILE, strict=True))
        tile = -(-size[0] // n_tile_rows), -(-size[1] // n_tile_columns)
        return cls(
            size, window, (n_tile_rows, n_tile_columns), tile, (tile[0] + window[0] - 1, tile[1] + window[1] - 1)
        )

    def slices(self, planes: Tensor) -> Iterator[slice]:
        """Return slices of the planes with bounded numbers of logits."""
        n_logits = self.grid[0] * self.grid[1] * self.tile[0] * self.tile[1] * self.key_window[0] * self.key_window[1]
        step = max(1, _SLICE_LOGITS.get(planes.device.type, _SLICE_LOGITS_ELSEWHERE) // n_logits)
        return (slice(start, start + step) for start in range(0, planes.shape[0], step))

    def tiles(self, planes: Tensor) -> Tensor:
        """Cut planes (n, c, H, W), zero-padded to whole tiles, into tiles (n·T, c, h·w)."""
        (n_tile_rows, n_tile_columns), (h, w) = self.grid, self.tile
        planes = F.pad(planes, (0, n_tile_columns * w - self.size[1], 0, n_tile_rows * h - self.size[0]))
        tiles = planes.reshape(*planes.shape[:2], n_tile_rows, h, n_tile_columns, w).permute(0, 2, 4, 1, 3, 5)
        return tiles.reshape(-1, planes.shape[1], h * w)

    def planes(self, tiles: Tensor) -> Tensor:
        """Join tiles to planes: the inverse of ``tiles``."""
        (n_tile_rows, n_tile_columns), (h, w) = self.grid, self.tile
        planes = tiles.reshape(-1, n_tile_rows, n_tile_columns, tiles.shape[1], h, w).permute(0, 3, 1, 4, 2, 5)
        return planes.reshape(-1, tiles.shape[1], n_tile_rows * h, n_tile_columns * w)[
            ..., : self.size[0], : self.size[1]
        ]

    def key_windows(self, planes: Tensor) -> Tensor:
        """Return each tile's key window (n·T, c, keys) of zero-padded planes (n, c, H, W)."""
        (n_tile_rows, n_tile_columns), (h, w), (top, left) = self.grid, self.tile, self._padding
        right, below = n_tile_columns * w - self.size[1] + left, n_tile_rows * h - self.size[0] + top
        planes = F.pad(planes, (left, right, top, below))
        key_windows = planes.unfold(2, self.key_window[0], h).unfold(3, self.key_window[1], w).permute(0, 2, 3, 1, 4, 5)
        return key_windows.reshape(-1, planes.shape[1], self.key_window[0] * self.key_window[1])

    def key_windows_adjoint(self, windows: Tensor) -> Tensor:
        """Sum key windows to planes: the adjoint of ``key_windows``.

        Each window is cut into tile-sized pieces; the pieces at one offset within their windows are added at once.
        """
        (n_tile_rows, n_tile_columns), (h, w), (top, left) = self.grid, self.tile, self._padding
        key_windows = windows.reshape(-1, n_tile_rows, n_tile_columns, windows.shape[1], *self.key_window).permute(
            0, 3, 1, 4, 2, 5
        )
        n_down, n_right = -(-self.key_window[0] // h), -(-self.key_window[1] // w)
        total = windows.new_zeros(
            (key_windows.shape[0], key_windows.shape[1], n_tile_rows + n_down - 1, h, n_tile_columns + n_right - 1, w)
        )
        for i in range(n_down):
            for j in range(n_right):
                piece = key_windows[:, :, :, i * h : (i + 1) * h, :, j * w : (j + 1) * w]
                total[:, :, i : i + n_tile_rows, : piece.shape[3], j : j + n_tile_columns, : piece.shape[5]] += piece
        total = total.flatten(4, 5).flatten(2, 3)
        return total[:, :, top : top + self.size[0], left : left + self.size[1]]

    def weights(self, query: Tensor, key: Tensor, row_bias: Tensor, column_bias: Tensor) -> Tensor:
        """Return the weights (n·T, h·w, keys) from tiles of queries and of both biases, and from key windows."""
        shape, minus_infinity = (query.shape[0], *self.tile), -torch.inf
        row = query.new_full((*shape, self.key_window[0]), minus_infinity)
        column = query.new_full((*shape, self.key_window[1]), minus_infinity)
        self._row_band(row).copy_(row_bias.mT.unflatten(1, self.tile))
        self._column_band(column).copy_(column_bias.mT.unflatten(1, self.tile))
        logits = (row[..., :, None] + column[..., None, :]).view(shape[0], query.shape[2], key.shape[2])
        return torch.softmax(logits.baddbmm_(query.mT, key), 2)

    def bias_gradients(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return tiles of the gradients of both biases from the gradient of the logits, (n·T, h·w, keys)."""
        grad = grad.view(-1, *self.tile, *self.key_window)
        row, column = self._row_band(grad.sum(4)), self._column_band(grad.sum(3))
        return row.flatten(1, 2).mT, column.flatten(1, 2).mT

    def _row_band(self, rows: Tensor) -> Tensor:
        """View (n, h, w, key rows), contiguous, as (n, h, w, kh): the rows in each query's own window."""
        (h, w), k = self.tile, self.key_window[0]
        return rows.as_strided((len(rows), h, w, self.window[0]), (h * w * k, w * k + 1, k, 1))

    def _column_band(self, columns: Tensor) -> Tensor:
        """View (n, h, w, key columns), contiguous, as (n, h, w, kw): the columns in each query's own window."""
        (h, w), k = self.tile, self.key_window[1]
        return columns.as_strided((len(columns), h, w, self.window[1]), (h * w * k, w * k, k + 1, 1))

    @property
    def _padding(self) -> tuple[int, int]:
        return self.window[0] // 2, self.window[1] // 2


class _LocalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, row_bias: Tensor, column_bias: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value, row_bias, column_bias)
        tiling = _Tiling.from_operands(query, row_bias, column_bias)
        y = torch.empty_like(value, memory_format=torch.contiguous_format)
        for piece in tiling.slices(query):
            q, r, c = (tiling.tiles(planes[piece]) for planes in (query, row_bias, column_bias))
            weights = tiling.weights(q, tiling.key_windows(key[piece]), r, c)
            y[piece] = tiling.planes(torch.bmm(tiling.key_windows(value[piece]), weights.mT))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        operands = ctx.saved_tensors
        with without_autocast(grad):
            if needs_composite_backward():
                vjp = torch.func.vjp(_definition_with_folded_heads, *operands)[1]
                gradients: tuple[Tensor | None, ...] = vjp(grad)
                return gradients
            query, key, value, row_bias, column_bias = operands
            tiling = _Tiling.from_operands(query, row_bias, column_bias)
            grads = [torch.empty_like(operand, memory_format=torch.contiguous_format) for operand in operands]
            for piece in tiling.slices(query):
                q, r, c, g = (tiling.tiles(planes[piece]) for planes in (query, row_bias, column_bias, grad))
                k = tiling.key_windows(key[piece])
                weights = tiling.weights(q, k, r, c)
                grad_weights = torch.bmm(g.mT, tiling.key_windows(value[piece]))
                grad_logits = torch._softmax_backward_data(grad_weights, weights, 2, weights.dtype)
                grad_row, grad_column = tiling.bias_gradients(grad_logits)
                grads[0][piece] = tiling.planes(torch.bmm(k, grad_logits.mT))
                grads[1][piece] = tiling.key_windows_adjoint(torch.bmm(q, grad_logits))
                grads[2][piece] = tiling.key_windows_adjoint(torch.bmm(g, weights))
                grads[3][piece] = tiling.planes(grad_row)
                grads[4][piece] = tiling.planes(grad_column)
        return tuple(grads)


def _definition_with_folded_heads(*operands: Tensor) -> Tensor:
    return local_attention_definition(*(planes[None] for planes in operands))[0]


def _check_operands(query: Tensor, key: Tensor, value: Tensor, row_bias: Tensor, column_bias: Tensor) -> None:
    operands = {"query": query, "key": key, "value": value, "row_bias": row_bias, "column_bias": column_bias}
    tensors = tuple(operands.values())
    requirement = None
    if any(t.ndim != 5 for t in tensors):
        requirement = "all operands must have 5 dimensions (B, heads, channels, H, W)"
    elif any(t.shape[:2] != query.shape[:2] or t.shape[3:] != query.shape[3:] for t in tensors):
        requirement = "all operands must have the same batch, heads, height and width"
    elif query.shape[2] != key.shape[2]:
        requirement = "query and key must have the same number of channels"
    elif row_bias.shape[2] % 2 == 0 or column_bias.shape[2] % 2 == 0:
        requirement = "row_bias and column_bias must have odd kh and kw, so that the window has a middle"
    if requirement is not None:
        raise ValueError(f"{requirement}, got {', '.join(f'{name} {tuple(t.shape)}' for name, t in operands.items())}")
    if any(t.dtype != query.dtype for t in tensors) and not autocast_enabled(query):
        dtypes = ", ".join(f"{name} {t.dtype}" for name, t in operands.items()).replace("torch.", "")
        raise ValueError(f"outside autocast all operands must have one dtype, got {dtypes}")
