r"""MHSA of BoTNet: attention between all pixels, with embeddings of relative positions.

    q, k, v = W_q x, W_k x, W_v x                (B, C, H, W) -> (B, O, H, W) each, in heads of d channels
    l_{p,u} = s · q_p · (k_u + r_{u−p})          p, u pixels, s = d^−½
    r_{u−p} = height_{u_y − p_y} + width_{u_x − p_x}      2H − 1 and 2W − 1 embeddings of d numbers, for all heads
    y_p = Σ_u softmax_u(l_p) v_u                 (B, O, H, W)
    stride t: y is averaged over t×t pixels      (B, O, ⌈H/t⌉, ⌈W/t⌉)

q_p·r_{u−p} is a number for the row of u plus one for its column: both are added to the logits block by block in
``ops.attention``, and no H·W×H·W matrix is ever whole.

The authors' code scales both terms by s, where the paper prints no factor; ``scale_pos_embed=False`` scales q·k alone,
timm's default. The paper replaces the 3×3 convolutions of the last three bottlenecks of a ResNet; with a stride,
attention runs at full resolution and is averaged after.

Source: Srinivas, Lin, Parmar, Shlens, Abbeel, Vaswani, "Bottleneck Transformers for Visual Recognition", CVPR 2021,
arXiv:2101.11605, figure 4 and the code of its appendix.
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
        "padding must be dilation * (kernel_size - 1) / 2, a whole number",
        "groups must be 1",
    ],
    "needs": ["size"],
    "timm": "bottleneck",
}  # fmt: skip


def parameters(channels: int, out_channels: int | None, bias: bool, num_heads: int, size: tuple[int, int]) -> int:
    outputs = channels if out_channels is None else out_channels
    return outputs * (3 * channels + bias) + 2 * (sum(size) - 1) * (outputs // num_heads)


class MultiHeadSelfAttention(nn.Module):
    """Attention between all pixels of a map of one size, in the place of a convolution.

    Args:
        channels: C of the map (B, C, H, W).
        out_channels: O; None is C.
        kernel_size: of the convolution it stands in for.
        stride: y is averaged over so many pixels each way.
        padding: of the convolution; None is dilation·(kernel_size − 1)/2, and so must any other be.
        dilation: of the convolution; it sees all pixels in any case.
        groups: 1.
        bias: whether one is added to y.
        num_heads: heads, which divide O.
        scale_pos_embed: whether the factor d^−½ is on q·r too.
        size: (H, W) of the map, needed for the embeddings.

    Raises:
        ValueError: outside the limits of SPEC, or no size; in the forward, a map of another size.
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
        outputs = channels if out_channels is None else out_channels
        if min(channels, outputs, kernel_size, stride, dilation, num_heads) < 1:
            raise ValueError(
                "channels, out_channels, kernel_size, stride, dilation and num_heads must be at least 1, got "
                f"{channels}, {outputs}, {kernel_size}, {stride}, {dilation} and {num_heads}"
            )
        if outputs % num_heads:
            raise ValueError(f"out_channels must be a multiple of num_heads, got {outputs} and {num_heads}")
        total = dilation * (kernel_size - 1)
        if total % 2 or (padding is not None and 2 * padding != total):
            raise ValueError(
                f"padding must be dilation * (kernel_size - 1) / 2, a whole number, as the size is kept, got {padding} "
                f"for {total / 2:g}"
            )
        if groups != 1:
            raise ValueError(f"groups must be 1, got {groups}")
        if size is None:
            raise ValueError("the embeddings of relative positions need size=(height, width) of the map, got None")
        height, width = size
        if min(height, width) < 1:
            raise ValueError(f"size must be at least (1, 1), got {(height, width)}")
        d = outputs // num_heads
        self.stride, self.num_heads, self.scale_pos_embed, self.size = (
            stride,
            num_heads,
            scale_pos_embed,
            (height, width),
        )
        self.qkv = nn.Conv2d(channels, 3 * outputs, 1, bias=False)
        self.height = nn.Parameter(torch.randn(2 * height - 1, d) * d**-0.5)
        self.width = nn.Parameter(torch.randn(2 * width - 1, d) * d**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, O, ⌈H/t⌉, ⌈W/t⌉), in the dtype of x."""
        height, width = self.size
        if x.shape[2] != height or x.shape[3] != width:
            raise ValueError(
                f"its embeddings are for maps of {height}×{width}, got {x.shape[2]}×{x.shape[3]}; another size is "
                "another mechanism"
            )
        qkv = self.qkv(x).flatten(2).unflatten(1, (3, self.num_heads, -1))
        q, k, v = (t.mT for t in qkv.unbind(1))  # (B, heads, H·W, d)
        scale = q.shape[3] ** -0.5
        at = (q * scale if self.scale_pos_embed else q).unflatten(2, self.size)
        down = torch.einsum("nhyxd,yud->nhyxu", at, _offsets(self.height, height)).flatten(2, 3)
        across = torch.einsum("nhyxd,xud->nhyxu", at, _offsets(self.width, width)).flatten(2, 3)
        y = attention(q, k, v, scale, down, across).transpose(2, 3).flatten(1, 2).unflatten(2, self.size).to(x.dtype)
        if self.stride > 1:
            y = F.avg_pool2d(y, self.stride, ceil_mode=True)
        if self.bias is not None:
            y = y + self.bias[:, None, None].to(y.dtype)
        # A copy: y may be a view of what a Function returned, which is not to be changed in place.
        return clone_in_format(y, x)


def _offsets(embedding: Tensor, length: int) -> Tensor:
    """Of (2·length − 1, d), first the one of −(length − 1), those from each place p to each u: (length, length, d)."""
    place = torch.arange(length, device=embedding.device)
    return embedding[place - place[:, None] + length - 1]
