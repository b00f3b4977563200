r"""Local attention: every pixel takes a weighted mean of the values in the window around it.

    l_p(a, b) = q_p · k_{p+(a,b)} + ρ_p(a) + κ_p(b)     a, b: row and column of the window, p + (0, 0) its middle
    y_p = Σ_{a,b} softmax_{a,b}(l_p) v_{p+(a,b)}         keys and values are zero outside the map

ρ and κ are what the position in the window adds to a logit, the sum of a term of its row and one of its column. Pixels
outside the map take part, as in a convolution that is padded with zeros: their weight is exp(ρ + κ) before it is
normalised, and their value is zero.

``local_attention_definition`` writes this down with ``F.unfold``, which copies each key and value as often as the
window has pixels; ``local_attention`` is what networks call: it copies what tiles of the map see, once for each tile.
A tile of 4×8 queries shares the 10×14 keys of its 7×7 windows, so that logits are products of matrices; keys outside a
query's own window have −∞ in ρ or κ. Three times as many logits are formed as needed, but by BLAS, some planes of the
map at a time, and they are formed again in the backward pass: nothing is kept but the operands.

Source: Ramachandran et al., "Stand-Alone Self-Attention in Vision Models", NeurIPS 2019, arXiv:1906.05909, where
ρ_p(a) + κ_p(b) = q_p · [r_a; r_b].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.ops.autocast import autocast_enabled, operand_dtype, without_autocast
from saccade.ops.counted import counted
from saccade.ops.eager import is_captured, is_composed, is_transformed

__all__ = ["local_attention", "local_attention_definition"]

_TILE = (4, 8)
"""Height and width of a tile at most: smaller ones form fewer logits in vain, larger ones are better for BLAS."""

_SLICE = {"cpu": 1 << 19}
"""Logits formed at a time; a single plane may have more. On the CPU they should stay in the cache."""

_SLICE_ELSEWHERE = 1 << 26
"""On other devices: enough to fill them, and a bound on their memory."""


def _macs(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> int:
    """Multiply-adds of both products of one call; the softmax is not counted."""
    window, pixels = rows.shape[2] * columns.shape[2], query.shape[3] * query.shape[4]
    return query.shape[0] * query.shape[1] * pixels * window * (query.shape[2] + value.shape[2])


@counted(_macs)
def local_attention_definition(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The equations at the head of the module, differentiated by autograd: the referee of ``local_attention``.

    Arguments, result and errors are those of ``local_attention``.
    """
    _check(query, key, value, rows, columns)
    window, size = (rows.shape[2], columns.shape[2]), query.shape[3:]
    operand = operand_dtype(query)
    precise = torch.promote_types(operand, torch.float32)
    query, key, value, rows, columns = (t.to(precise) for t in (query, key, value, rows, columns))

    def windows(t: Tensor) -> Tensor:
        patches = F.unfold(t.flatten(1, 2), window, padding=(window[0] // 2, window[1] // 2))
        return patches.reshape(*t.shape[:3], *window, *size)

    with without_autocast(query):
        logits = torch.einsum("nhcyx,nhcabyx->nhabyx", query, windows(key)) + rows[:, :, :, None] + columns[:, :, None]
        weights = logits.flatten(2, 3).softmax(2).unflatten(2, window)
        return torch.einsum("nhabyx,nhcabyx->nhcyx", weights, windows(value)).to(operand)


@counted(_macs)
def local_attention(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attention over the window around each pixel, without a copy of the window for each pixel.

    Args:
        query: (B, heads, E, H, W).
        key: (B, heads, E, H, W).
        value: (B, heads, V, H, W).
        rows: ρ, (B, heads, kh, H, W): what is added to the logits of each row of the window, kh odd.
        columns: κ, (B, heads, kw, H, W): the same for its columns, kw odd.

    Returns:
        (B, heads, V, H, W) in the dtype of the operands. Everything is computed in float32 at least; under autocast
        operands may have any dtype and the result has that of autocast.

    Compiled, traced or exported (``torch.compile``, ``torch.export``, ONNX), in ``torch.func`` and in forward mode the
    call is ``local_attention_definition``. Gradients that are to be differentiated again (``create_graph=True``) are
    the definition's too.

    Raises:
        ValueError: operands that do not belong together, with the numbers found and needed.
    """
    if is_captured() or is_transformed():
        return local_attention_definition(query, key, value, rows, columns)
    _check(query, key, value, rows, columns)
    operand = operand_dtype(query)
    precise = torch.promote_types(operand, torch.float32)
    operands = (t.to(precise).flatten(0, 1) for t in (query, key, value, rows, columns))
    with without_autocast(query):
        y: Tensor = _LocalAttention.apply(*operands)
    return y.unflatten(0, query.shape[:2]).to(operand)


class _Tiling(NamedTuple):
    """How planes are cut into T tiles each; a tile has h·w queries and (h + kh − 1)·(w + kw − 1) keys."""

    size: tuple[int, int]
    window: tuple[int, int]
    grid: tuple[int, int]
    """Tiles along the height and the width."""
    tile: tuple[int, int]
    """h, w."""
    keys: tuple[int, int]
    """Height and width of what a tile sees."""

    @classmethod
    def of(cls, query: Tensor, rows: Tensor, columns: Tensor) -> _Tiling:
        size, window = (query.shape[2], query.shape[3]), (rows.shape[1], columns.shape[1])
        tall, wide = (-(-n // most) for n, most in zip(size, _TILE, strict=True))
        tile = -(-size[0] // tall), -(-size[1] // wide)
        return cls(size, window, (tall, wide), tile, (tile[0] + window[0] - 1, tile[1] + window[1] - 1))

    def slices(self, planes: Tensor) -> Iterator[slice]:
        """The planes some at a time."""
        logits = self.grid[0] * self.grid[1] * self.tile[0] * self.tile[1] * self.keys[0] * self.keys[1]
        step = max(1, _SLICE.get(planes.device.type, _SLICE_ELSEWHERE) // logits)
        return (slice(start, start + step) for start in range(0, planes.shape[0], step))

    def tiles(self, planes: Tensor) -> Tensor:
        """(n, c, H, W), with zeros where tiles reach further, -> (n·T, c, h·w)."""
        (tall, wide), (h, w) = self.grid, self.tile
        planes = F.pad(planes, (0, wide * w - self.size[1], 0, tall * h - self.size[0]))
        cut = planes.reshape(*planes.shape[:2], tall, h, wide, w).permute(0, 2, 4, 1, 3, 5)
        return cut.reshape(-1, planes.shape[1], h * w)

    def planes(self, tiles: Tensor) -> Tensor:
        """The inverse of ``tiles``."""
        (tall, wide), (h, w) = self.grid, self.tile
        joined = tiles.reshape(-1, tall, wide, tiles.shape[1], h, w).permute(0, 3, 1, 4, 2, 5)
        return joined.reshape(-1, tiles.shape[1], tall * h, wide * w)[..., : self.size[0], : self.size[1]]

    def windows(self, planes: Tensor) -> Tensor:
        """(n, c, H, W), with zeros around, -> (n·T, c, keys): what each tile sees."""
        (tall, wide), (h, w), (above, before) = self.grid, self.tile, self._middle
        right, below = wide * w - self.size[1] + before, tall * h - self.size[0] + above
        planes = F.pad(planes, (before, right, above, below))
        seen = planes.unfold(2, self.keys[0], h).unfold(3, self.keys[1], w).permute(0, 2, 3, 1, 4, 5)
        return seen.reshape(-1, planes.shape[1], self.keys[0] * self.keys[1])

    def gathered(self, windows: Tensor) -> Tensor:
        """The transpose of ``windows``: the sum over the tiles that see a pixel.

        What a tile sees is cut into pieces of its own size, and pieces of one place are added to all tiles at once.
        """
        (tall, wide), (h, w), (above, before) = self.grid, self.tile, self._middle
        seen = windows.reshape(-1, tall, wide, windows.shape[1], *self.keys).permute(0, 3, 1, 4, 2, 5)
        down, right = -(-self.keys[0] // h), -(-self.keys[1] // w)
        total = windows.new_zeros((seen.shape[0], seen.shape[1], tall + down - 1, h, wide + right - 1, w))
        for i in range(down):
            for j in range(right):
                piece = seen[:, :, :, i * h : (i + 1) * h, :, j * w : (j + 1) * w]
                total[:, :, i : i + tall, : piece.shape[3], j : j + wide, : piece.shape[5]] += piece
        total = total.flatten(4, 5).flatten(2, 3)
        return total[:, :, above : above + self.size[0], before : before + self.size[1]]

    def weights(self, query: Tensor, key: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The weights (n·T, h·w, keys) from the tiles of queries, rows and columns and the windows of keys."""
        shape, outside = (query.shape[0], *self.tile), -torch.inf
        row = query.new_full((*shape, self.keys[0]), outside)
        column = query.new_full((*shape, self.keys[1]), outside)
        self._row_band(row).copy_(rows.mT.unflatten(1, self.tile))
        self._column_band(column).copy_(columns.mT.unflatten(1, self.tile))
        logits = (row[..., :, None] + column[..., None, :]).view(shape[0], query.shape[2], key.shape[2])
        return torch.softmax(logits.baddbmm_(query.mT, key), 2)

    def position_gradients(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Tiles of the gradients of rows and columns from the gradient (n·T, h·w, keys) of the logits."""
        grad = grad.view(-1, *self.tile, *self.keys)
        row, column = self._row_band(grad.sum(4)), self._column_band(grad.sum(3))
        return row.flatten(1, 2).mT, column.flatten(1, 2).mT

    def _row_band(self, rows: Tensor) -> Tensor:
        """Of (n, h, w, rows of keys), contiguous, the kh rows that are in the window of each query, (n, h, w, kh)."""
        (h, w), k = self.tile, self.keys[0]
        return rows.as_strided((len(rows), h, w, self.window[0]), (h * w * k, w * k + 1, k, 1))

    def _column_band(self, columns: Tensor) -> Tensor:
        """The same of (n, h, w, columns of keys)."""
        (h, w), k = self.tile, self.keys[1]
        return columns.as_strided((len(columns), h, w, self.window[1]), (h * w * k, w * k, k + 1, 1))

    @property
    def _middle(self) -> tuple[int, int]:
        return self.window[0] // 2, self.window[1] // 2


class _LocalAttention(torch.autograd.Function):
    """The fast form, of planes (B·heads, …) of one dtype."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value, rows, columns)
        t = _Tiling.of(query, rows, columns)
        y = torch.empty_like(value, memory_format=torch.contiguous_format)
        for part in t.slices(query):
            q, r, c = (t.tiles(planes[part]) for planes in (query, rows, columns))
            weights = t.weights(q, t.windows(key[part]), r, c)
            y[part] = t.planes(torch.bmm(t.windows(value[part]), weights.mT))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        operands = ctx.saved_tensors
        with without_autocast(grad):
            if is_composed():
                pull = torch.func.vjp(_planes_definition, *operands)[1]
                found: tuple[Tensor | None, ...] = pull(grad)
                return found
            query, key, value, rows, columns = operands
            t = _Tiling.of(query, rows, columns)
            grads = [torch.empty_like(each, memory_format=torch.contiguous_format) for each in operands]
            for part in t.slices(query):
                q, r, c, g = (t.tiles(planes[part]) for planes in (query, rows, columns, grad))
                k = t.windows(key[part])
                weights = t.weights(q, k, r, c)
                grad_weights = torch.bmm(g.mT, t.windows(value[part]))
                logits = torch._softmax_backward_data(grad_weights, weights, 2, weights.dtype)
                row, column = t.position_gradients(logits)
                grads[0][part] = t.planes(torch.bmm(k, logits.mT))
                grads[1][part] = t.gathered(torch.bmm(q, logits))
                grads[2][part] = t.gathered(torch.bmm(g, weights))
                grads[3][part] = t.planes(row)
                grads[4][part] = t.planes(column)
        return tuple(grads)


def _planes_definition(*operands: Tensor) -> Tensor:
    """The definition for planes (B·heads, …)."""
    return local_attention_definition(*(planes[None] for planes in operands))[0]


def _check(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Refuse operands that do not belong together, with the numbers found and needed."""
    operands = {"query": query, "key": key, "value": value, "rows": rows, "columns": columns}
    tensors = tuple(operands.values())
    why = None
    if any(t.ndim != 5 for t in tensors):
        why = "all operands must have 5 dimensions (B, heads, channels, H, W)"
    elif any(t.shape[:2] != query.shape[:2] or t.shape[3:] != query.shape[3:] for t in tensors):
        why = "all operands must have the same batch, heads, height and width"
    elif query.shape[2] != key.shape[2]:
        why = "query and key must have one width"
    elif rows.shape[2] % 2 == 0 or columns.shape[2] % 2 == 0:
        why = "a window with a middle has an odd number of rows and of columns"
    if why is not None:
        raise ValueError(f"{why}, got {', '.join(f'{name} {tuple(t.shape)}' for name, t in operands.items())}")
    if any(t.dtype != query.dtype for t in tensors) and not autocast_enabled(query):
        dtypes = ", ".join(f"{name} {t.dtype}" for name, t in operands.items()).replace("torch.", "")
        raise ValueError(f"outside autocast all operands must have one dtype, got {dtypes}")
