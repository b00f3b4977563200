r"""SASA, stand-alone self-attention: a convolution whose kernel attends to each pixel's neighbours.

    q, k, v = W_q x, W_k x, W_v x                        (B, C, H, W) -> (B, O, H, W) each, in N heads of E channels
    l_{ij}(a, b) = q_ij · k_ab + q_ij · r_{a−i,b−j}      a, b in the 7×7 window around i, j                 eq. 2, 3
    r_{a−i,b−j} = [row_{a−i}; column_{b−j}]              half of the E channels each, the same in all heads
    y_ij = Σ_{a,b} softmax_{a,b}(l_ij) v_ab              (B, O, H, W)
    stride s: y is averaged over s×s pixels              (B, O, ⌈H/s⌉, ⌈W/s⌉)

The logits are not scaled. Pixels outside the map count with k = v = 0: see ``saccade.ops.local_attention``.
``kernel_size`` is that of the convolution it replaces and only fixes the size of the map; the attention has its own
``window``.

The paper replaces the 3×3 convolution of every bottleneck. The sizes it prints (18.0, 14.1 and 10.3 million for 16, 12
and 8 bottlenecks) are those of dense matrices and embeddings shared by the heads: ResNet-50 is 18.016. Averaging after
attention at full resolution gives the printed FLOPs. Embeddings start with deviation E^−½, of which the
paper says nothing. No code was released, and widespread copies differ in the logits. The stem is ``sasa_stem``.

Source: Ramachandran, Parmar, Vaswani, Bello, Levskaya, Shlens, "Stand-Alone Self-Attention in Vision Models", NeurIPS
2019, arXiv:1906.05909.
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
        "kernel_size must be odd and padding (kernel_size - 1) / 2",
        "dilation and groups must be 1",
    ],
    "published": [
        {"net": "resnet50", "params": 18.0, "macs": 3.5, "top1": 77.4, "source": "SASA paper, table 1",
         "note": "the printed 7.0 10^9 FLOPs are two to a multiply-add"},
    ],
    "timm": "halo",
}  # fmt: skip


def parameters(channels: int, out_channels: int | None, bias: bool, window: int, num_heads: int) -> int:
    outputs = channels if out_channels is None else out_channels
    return outputs * (3 * channels + bias) + window * (outputs // num_heads)


class StandAloneSelfAttention(nn.Module):
    """Attention over the window around each pixel, in the place of a convolution.

    Args:
        channels: C of the map (B, C, H, W).
        out_channels: O; None is C.
        kernel_size: of the convolution it stands in for, odd.
        stride: y is averaged over so many pixels each way.
        padding: of the convolution; None is (kernel_size − 1)/2, and so must any other be.
        dilation: 1.
        groups: 1.
        bias: whether one is added to y.
        window: height and width of the window, odd and at least 3.
        num_heads: N, which divide O into heads of an even number of channels.

    Raises:
        ValueError: outside the limits of SPEC.
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
        outputs = channels if out_channels is None else out_channels
        if min(channels, outputs, stride, num_heads) < 1:
            raise ValueError(
                f"channels, out_channels, stride and num_heads must be at least 1, got {channels}, {outputs}, {stride} "
                f"and {num_heads}"
            )
        if outputs % (2 * num_heads):
            raise ValueError(
                f"out_channels must be a multiple of 2 * num_heads, each head having half its channels for rows and "
                f"half for columns, got {outputs} and {num_heads} heads"
            )
        if window < 3 or window % 2 == 0:
            raise ValueError(f"window must be odd and at least 3, got {window}")
        if kernel_size < 1 or kernel_size % 2 == 0 or (padding is not None and 2 * padding != kernel_size - 1):
            raise ValueError(
                f"kernel_size must be odd and padding (kernel_size - 1) / 2, as the size is kept, got {kernel_size} "
                f"and {padding}"
            )
        if dilation != 1 or groups != 1:
            raise ValueError(f"dilation and groups must be 1, got {dilation} and {groups}")
        width = outputs // num_heads
        self.stride, self.num_heads = stride, num_heads
        self.qkv = nn.Conv2d(channels, 3 * outputs, 1, bias=False)
        self.row = nn.Parameter(torch.randn(window, width // 2) * width**-0.5)
        self.column = nn.Parameter(torch.randn(window, width // 2) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, O, ⌈H/s⌉, ⌈W/s⌉), in the dtype of x."""
        query, key, value = self.qkv(x).unflatten(1, (3, self.num_heads, -1)).unbind(1)  # (B, N, E, H, W)
        by_row, by_column = query.flatten(3).chunk(2, 2)  # (B, N, E/2, H·W)
        rows, columns = ((r @ q).unflatten(3, x.shape[2:]) for r, q in ((self.row, by_row), (self.column, by_column)))
        y = local_attention(query, key, value, rows, columns).flatten(1, 2).to(x.dtype)
        if self.stride > 1:
            y = F.avg_pool2d(y, self.stride, ceil_mode=True)
        if self.bias is not None:
            y = y + self.bias[:, None, None].to(y.dtype)
        return match_memory_format(y, x)
