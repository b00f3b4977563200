r"""SASA, stand-alone self-attention: attention within each pixel's neighbourhood, in place of a convolution.

    q, k, v = W_q x, W_k x, W_v x                        (B, O, H, W) each, in N heads of E channels
    l_{ij}(a, b) = q_ij · k_ab + q_ij · r_{a−i,b−j}      a, b in the window around i, j                     eq. 2, 3
    r_{a−i,b−j} = [row_{a−i}; column_{b−j}]              E/2 channels each, shared by the heads
    y_ij = Σ_{a,b} softmax_{a,b}(l_ij) v_ab              (B, O, H, W)
    stride s: average pooling of y over s×s              (B, O, ⌈H/s⌉, ⌈W/s⌉)

The logits are not scaled. Padding pixels take part with k = v = 0: see ``saccade.ops.local_attention``. Parameters and
FLOPs are those of the paper. The standard deviation E^−½ of the initial embeddings is our choice. The authors published
no code.

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


def parameters(channels: int, out_channels: int | None, bias: bool, window: int, num_heads: int) -> int:
    n_outputs = channels if out_channels is None else out_channels
    return n_outputs * (3 * channels + bias) + window * (n_outputs // num_heads)


class StandAloneSelfAttention(nn.Module):
    """Attention over the window around each pixel, in place of a convolution.

    Args:
        channels: C.
        out_channels: O; None means C.
        kernel_size: odd kernel size of the replaced convolution.
        stride: s, side length of the average pooling.
        padding: must be (kernel_size − 1)/2, the default.
        dilation: must be 1.
        groups: must be 1.
        bias: True adds a bias.
        window: side length of the window, odd and at least 3.
        num_heads: N; E = O/N must be even.

    Raises:
        ValueError: a limit of SPEC is violated.
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
        head_channels = n_outputs // num_heads
        self.stride, self.num_heads = stride, num_heads
        self.qkv = nn.Conv2d(channels, 3 * n_outputs, 1, bias=False)
        # Embeddings of row and column offsets.
        self.row = nn.Parameter(torch.randn(window, head_channels // 2) * head_channels**-0.5)
        self.column = nn.Parameter(torch.randn(window, head_channels // 2) * head_channels**-0.5)
        self.bias = nn.Parameter(torch.zeros(n_outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        query, key, value = self.qkv(x).unflatten(1, (3, self.num_heads, -1)).unbind(1)  # (B, N, E, H, W)
        row_query, column_query = query.flatten(3).chunk(2, 2)  # (B, N, E/2, H·W)
        embeddings_and_queries = (self.row, row_query), (self.column, column_query)
        row_logits, column_logits = ((r @ q).unflatten(3, x.shape[2:]) for r, q in embeddings_and_queries)
        y = local_attention(query, key, value, row_logits, column_logits).flatten(1, 2).to(x.dtype)
        if self.stride > 1:
            y = F.avg_pool2d(y, self.stride, ceil_mode=True)
        if self.bias is not None:
            y = y + self.bias[:, None, None].to(y.dtype)
        return match_memory_format(y, x)
