r"""SASA, stand-alone self-attention: attention within each pixel's neighbourhood, in place of a convolution.

    q, k, v = W_q x, W_k x, W_v x                        (B, O, H, W) each, in N heads of E channels
    l_{ij}(a, b) = q_ij · k_ab + q_ij · r_{a−i,b−j}      a, b in the window around i, j                     eq. 2, 3
    r_{a−i,b−j} = [row_{a−i}; column_{b−j}]              E/2 channels each, shared by the heads
    y_ij = Σ_{a,b} softmax_{a,b}(l_ij) v_ab              (B, O, H, W)
    stride s: average pooling of y over s×s              (B, O, ⌈H/s⌉, ⌈W/s⌉)

Other values of ``position``: "none", without r; "absolute", without r, with sinusoids of row and column added to x;
"relative_only", without q · k and W_k.

The logits are not scaled. Padding pixels take part with k = v = 0: see ``saccade.ops.local_attention``. Parameters and
FLOPs are those of the paper. Our choices: the standard deviation E^−½ of the initial embeddings; the sinusoids. The
authors published no code.

Source: Ramachandran et al., "Stand-Alone Self-Attention in Vision Models", NeurIPS 2019, arXiv:1906.05909.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.ops.local_attention import local_attention
from saccade.ops.memory_format import match_memory_format

__all__ = ["StandAloneSelfAttention"]

SPEC = {
    "name": "sasa",
    "title": "Stand-alone self-attention",
    "paper": {"authors": "Ramachandran, Parmar, Vaswani, Bello, Levskaya, Shlens",
              "title": "Stand-Alone Self-Attention in Vision Models", "venue": "NeurIPS", "year": 2019,
              "arxiv": "1906.05909"},
    "kind": "conv",
    "evidence": "paper",
    "position": {"default": "conv3x3"},
    "limits": [
        "channels, out_channels, stride and num_heads must be at least 1",
        "out_channels must be a multiple of 2 * num_heads",
        "window must be odd and at least 3",
        "kernel_size must be odd, and padding must be (kernel_size - 1) / 2",
        "dilation and groups must be 1",
    ],
    "published": [
        {"net": "resnet50", "params": 18.0, "macs": 3.5, "top1": 77.4, "source": "SASA paper, table 1",
         "note": "the paper prints 7.0 10^9 FLOPs, two per multiply-add"},
    ],
    "timm": "halo",
}  # fmt: skip


_POSITIONS = ("relative", "relative_only", "absolute", "none")


def parameters(channels: int, out_channels: int | None, bias: bool, window: int, num_heads: int, position: str) -> int:
    n_outputs = channels if out_channels is None else out_channels
    n_matrices = 2 if position == "relative_only" else 3
    embeddings = window * (n_outputs // num_heads) if position in ("relative", "relative_only") else 0
    return n_outputs * (n_matrices * channels + bias) + embeddings


class StandAloneSelfAttention(nn.Module):
    """Attention over the window around each pixel, in place of a convolution.

    Args:
        channels: C.
        out_channels: O; None means C.
        kernel_size: that of the replaced convolution, odd.
        stride: s, side of the average pooling.
        padding: must be (kernel_size − 1)/2, the default.
        dilation: must be 1.
        groups: must be 1.
        bias: True adds a bias.
        window: side of the window, odd and at least 3.
        num_heads: N; E = O/N must be even.
        position: "relative", "relative_only", "absolute" or "none".

    Raises:
        ValueError: a limit of SPEC is violated, or ``position`` is unknown.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        window: int = 7,
        num_heads: int = 8,
        position: str = "relative",
    ) -> None:
        super().__init__()
        n_outputs = channels if out_channels is None else out_channels
        if min(channels, n_outputs, stride, num_heads) < 1:
            raise ValueError(
                f"channels, out_channels, stride and num_heads must be at least 1, got {channels}, {n_outputs}, "
                f"{stride} and {num_heads}"
            )
        if n_outputs % (2 * num_heads):
            raise ValueError(
                f"out_channels must be a multiple of 2 * num_heads, each head having half its channels for rows and "
                f"half for columns, got {n_outputs} and {num_heads} heads"
            )
        if window < 3 or window % 2 == 0:
            raise ValueError(f"window must be odd and at least 3, got {window}")
        if kernel_size < 1 or kernel_size % 2 == 0 or (padding is not None and 2 * padding != kernel_size - 1):
            raise ValueError(
                f"kernel_size must be odd, and padding must be (kernel_size - 1) / 2, to keep the size, got "
                f"{kernel_size} and {padding}"
            )
        if dilation != 1 or groups != 1:
            raise ValueError(f"dilation and groups must be 1, got {dilation} and {groups}")
        if position not in _POSITIONS:
            raise ValueError(f"position must be one of {', '.join(_POSITIONS)}, got {position!r}")
        head_channels = n_outputs // num_heads
        self.stride, self.window, self.num_heads, self.position = stride, window, num_heads, position
        self.n_matrices = 2 if position == "relative_only" else 3
        self.qkv = nn.Conv2d(channels, self.n_matrices * n_outputs, 1, bias=False)
        self.row: nn.Parameter | None = None  # embeddings of row offsets
        self.column: nn.Parameter | None = None
        if position in ("relative", "relative_only"):
            self.row = nn.Parameter(torch.randn(window, head_channels // 2) * head_channels**-0.5)
            self.column = nn.Parameter(torch.randn(window, head_channels // 2) * head_channels**-0.5)
        self.bias = nn.Parameter(torch.zeros(n_outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        if self.position == "absolute":
            x = x + _sinusoids(x)
        projected = self.qkv(x).unflatten(1, (self.n_matrices, self.num_heads, -1))
        query, *keys, value = projected.unbind(1)  # (B, N, E, H, W) each
        row_logits, column_logits = self._position_logits(query)
        if not keys:
            query = torch.zeros_like(query[:, :, :1])
        key = keys[0] if keys else query
        y = local_attention(query, key, value, row_logits, column_logits).flatten(1, 2).to(x.dtype)
        if self.stride > 1:
            y = F.avg_pool2d(y, self.stride, ceil_mode=True)
        if self.bias is not None:
            y = y + self.bias[:, None, None].to(y.dtype)
        return match_memory_format(y, x)

    def _position_logits(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return q · r of the rows and of the columns of the window, (B, N, window, H, W) each; zero without r."""
        if self.row is None or self.column is None:
            zeros = torch.zeros_like(query[:, :, :1]).expand(-1, -1, self.window, -1, -1)
            return zeros, zeros
        row_query, column_query = query.flatten(3).chunk(2, 2)  # (B, N, E/2, H·W)
        embeddings_and_queries = (self.row, row_query), (self.column, column_query)
        row_logits, column_logits = ((r @ q).unflatten(3, query.shape[3:]) for r, q in embeddings_and_queries)
        return row_logits, column_logits


def _sinusoids(x: Tensor) -> Tensor:
    """Return sines and cosines of row and column, C/2 channels each: (C, H, W) for x (B, C, H, W)."""
    n_row_channels = (x.shape[1] + 1) // 2
    rows = _sinusoids_along(x.shape[2], n_row_channels, x)[:, :, None].expand(-1, -1, x.shape[3])
    columns = _sinusoids_along(x.shape[3], x.shape[1] - n_row_channels, x)[:, None].expand(-1, x.shape[2], -1)
    return torch.cat([rows, columns])


def _sinusoids_along(length: int, channels: int, x: Tensor) -> Tensor:
    """Return (channels, length): sines, then cosines, of wavelengths from 2π to 10⁴·2π."""
    n_frequencies = (channels + 1) // 2
    index = torch.arange(n_frequencies, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    frequency = 10_000 ** (-index / max(1, n_frequencies))
    angle = frequency[:, None] * torch.arange(length, device=x.device)
    return torch.cat([angle.sin(), angle.cos()])[:channels].to(x.dtype)
