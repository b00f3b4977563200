r"""MHSA of BoTNet: attention between all pixels, with embeddings of relative positions.

    q, k, v = W_q x, W_k x, W_v x                (B, O, H, W) each, in heads of d channels
    l_{p,u} = s · q_p · (k_u + r_{u−p})          p, u pixels, s = d^−½
    r_{u−p} = height_{u_y − p_y} + width_{u_x − p_x}      2H − 1 and 2W − 1 embeddings of length d, shared by the heads
    y_p = Σ_u softmax_u(l_p) v_u                 (B, O, H, W)
    stride t: average pooling of y over t×t      (B, O, ⌈H/t⌉, ⌈W/t⌉)

q_p·r_{u−p} splits into a row term and a column term, so the H·W×H·W matrix of q·r is never materialised. The authors'
code scales both terms by s, the paper prints no factor; ``scale_pos_embed=False``, timm's default, scales only q·k.

Source: Srinivas et al., "Bottleneck Transformers for Visual Recognition", CVPR 2021, arXiv:2101.11605, figure 4 and the
code of its appendix.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.ops.attention import attention
from saccade.ops.memory_format import clone_in_format

__all__ = ["MultiHeadSelfAttention"]

SPEC = {
    "name": "mhsa",
    "title": "Multi-head self-attention of BoTNet",
    "paper": {"authors": "Srinivas, Lin, Parmar, Shlens, Abbeel, Vaswani",
              "title": "Bottleneck Transformers for Visual Recognition", "venue": "CVPR", "year": 2021,
              "arxiv": "2101.11605"},
    "kind": "conv",
    "evidence": "paper",
    "position": {"default": "conv3x3 in stage[-1:]"},
    "limits": [
        "channels, out_channels, kernel_size, stride, dilation and num_heads must be at least 1",
        "out_channels must be a multiple of num_heads",
        "padding must be dilation * (kernel_size - 1) / 2 and whole",
        "groups must be 1",
    ],
    "needs": ["size"],
    "timm": "bottleneck",
}  # fmt: skip


def parameters(channels: int, out_channels: int | None, bias: bool, num_heads: int, size: tuple[int, int]) -> int:
    n_outputs = channels if out_channels is None else out_channels
    return n_outputs * (3 * channels + bias) + 2 * (sum(size) - 1) * (n_outputs // num_heads)


class MultiHeadSelfAttention(nn.Module):
    """Attention between all pixels, in place of a convolution.

    Args:
        channels: C.
        out_channels: O; None means C.
        kernel_size: kernel size of the replaced convolution.
        stride: t, side length of the average pooling.
        padding: must be dilation·(kernel_size − 1)/2, the default.
        dilation: dilation of the replaced convolution.
        groups: must be 1.
        bias: True adds a bias.
        num_heads: number of heads, a divisor of O.
        scale_pos_embed: True scales q·r by d^−½ too.
        size: (H, W) of the feature map, needed for the embeddings.

    Raises:
        ValueError: a limit of SPEC is violated, ``size`` is missing, or x has another size.
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
        num_heads: int = 4,
        scale_pos_embed: bool = True,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        n_outputs = channels if out_channels is None else out_channels
        if min(channels, n_outputs, kernel_size, stride, dilation, num_heads) < 1:
            raise ValueError(
                "channels, out_channels, kernel_size, stride, dilation and num_heads must be at least 1, got "
                f"{channels}, {n_outputs}, {kernel_size}, {stride}, {dilation} and {num_heads}"
            )
        if n_outputs % num_heads:
            raise ValueError(f"out_channels must be a multiple of num_heads, got {n_outputs} and {num_heads}")
        twice_padding = dilation * (kernel_size - 1)
        if twice_padding % 2 or (padding is not None and 2 * padding != twice_padding):
            raise ValueError(
                "padding must be dilation * (kernel_size - 1) / 2 and whole, so that the convolution keeps the size; "
                f"that is {twice_padding / 2:g}, got {padding}"
            )
        if groups != 1:
            raise ValueError(f"groups must be 1, got {groups}")
        if size is None:
            raise ValueError("the embeddings of relative positions need size=(height, width) of the map, got None")
        height, width = size
        if min(height, width) < 1:
            raise ValueError(f"size must be at least (1, 1), got {(height, width)}")
        d = n_outputs // num_heads
        self.stride, self.num_heads, self.scale_pos_embed, self.size = (
            stride,
            num_heads,
            scale_pos_embed,
            (height, width),
        )
        self.qkv = nn.Conv2d(channels, 3 * n_outputs, 1, bias=False)
        self.height = nn.Parameter(torch.randn(2 * height - 1, d) * d**-0.5)  # row embeddings
        self.width = nn.Parameter(torch.randn(2 * width - 1, d) * d**-0.5)  # column embeddings
        self.bias = nn.Parameter(torch.zeros(n_outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        height, width = self.size
        if x.shape[2] != height or x.shape[3] != width:
            raise ValueError(
                f"the embeddings are for maps of {height}×{width}, got {x.shape[2]}×{x.shape[3]}; build the mechanism "
                "again with size=(height, width) of these maps"
            )
        qkv = self.qkv(x).flatten(2).unflatten(1, (3, self.num_heads, -1))
        q, k, v = (t.mT for t in qkv.unbind(1))  # (B, heads, H·W, d)
        scale = q.shape[3] ** -0.5
        query_map = (q * scale if self.scale_pos_embed else q).unflatten(2, self.size)
        row_embeddings = _relative_embeddings(self.height, height)
        column_embeddings = _relative_embeddings(self.width, width)
        row_logits = torch.einsum("nhyxd,yud->nhyxu", query_map, row_embeddings).flatten(2, 3)
        column_logits = torch.einsum("nhyxd,xud->nhyxu", query_map, column_embeddings).flatten(2, 3)
        y = (
            attention(q, k, v, scale, row_logits, column_logits)
            .transpose(2, 3)
            .flatten(1, 2)
            .unflatten(2, self.size)
            .to(x.dtype)
        )
        if self.stride > 1:
            y = F.avg_pool2d(y, self.stride, ceil_mode=True)
        if self.bias is not None:
            y = y + self.bias[:, None, None].to(y.dtype)
        # A view of a custom Function's output must not be modified in place.
        return clone_in_format(y, x)


def _relative_embeddings(table: Tensor, length: int) -> Tensor:
    """Return ``table[u − p + length − 1]`` for all p (axis 0) and u (axis 1): (length, length, d)."""
    position = torch.arange(length, device=table.device)
    return table[position - position[:, None] + length - 1]
