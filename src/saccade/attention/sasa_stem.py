r"""Attention stem of SASA: attention within blocks of 4×4 pixels, in place of the first convolution.

    q, k = W_q x, W_k x                                  (B, O, H, W) each, in N heads of E channels
    p(a, b, m) = softmax_m((row_a + column_b) · ν_m)     (4, 4, M), a, b: row and column in the block    appendix
    ṽ_ab = (Σ_m p(a, b, m) W_V^m) x_ab                   (B, O, H, W)                                     section 3.2
    l_{ij}(a, b) = q_ij · k_ab + q_ij · r_{a−i,b−j}      i, j and a, b in one block                       eq. 3
    y_ij = Σ_{a,b} softmax_{a,b}(l_ij) ṽ_ab              (B, O, H, W)
    stride t: max pooling over t×t                       (B, O, ⌈H/t⌉, ⌈W/t⌉)

The heads share p and the embeddings r. Logits are not scaled. Padding pixels take no part. In place of a patch
embedding (t×t, stride t, no padding) the output size is ⌊H/t⌋.

In a ResNet, ``saccade.replace`` pools 2×2 for the convolution's stride and keeps the host's own max pooling. The paper
pools once, 4×4, after the batch norm::

    net = torchvision.models.resnet50()
    net.conv1.stride, net.maxpool = (1, 1), torch.nn.MaxPool2d(4)
    saccade.replace(saccade.replace(net, "sasa_stem"), "sasa")

The authors published no code. Our choices: M = 4; row, column and ν of width E, initialised so that the logits of p are
of order 1; embeddings r in the stem. With r the FLOPs nearly match the paper's (7.18, 5.94 and 4.70·10⁹ for
ResNet-50, 38 and 26; printed 7.2, 6.0 and 4.7).

Source: Ramachandran et al., "Stand-Alone Self-Attention in Vision Models", NeurIPS 2019, arXiv:1906.05909, section 3.2
and appendix.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.ops.autocast import without_autocast
from saccade.ops.eager import is_captured
from saccade.ops.memory_format import match_memory_format

__all__ = ["AttentionStem"]

SPEC = {
    "name": "sasa_stem",
    "title": "Attention stem of SASA",
    "paper": {"authors": "Ramachandran, Parmar, Vaswani, Bello, Levskaya, Shlens",
              "title": "Stand-Alone Self-Attention in Vision Models", "venue": "NeurIPS", "year": 2019,
              "arxiv": "1906.05909"},
    "kind": "conv",
    "evidence": "reading",
    "position": {"default": "conv_stem"},
    "limits": [
        "channels, out_channels, kernel_size, stride, window, num_heads and mixtures must be at least 1",
        "out_channels must be a multiple of 2 * num_heads",
        "padding must be (kernel_size - 1) / 2 or (kernel_size - stride) / 2, a whole number",
        "dilation and groups must be 1",
    ],
    "published": [
        {"net": "resnet50 with sasa", "params": 18.0, "macs": 3.6, "top1": 77.6, "source": "SASA paper, table 1",
         "note": "the paper prints 7.2 10^9 FLOPs, two per multiply-add"},
    ],
}  # fmt: skip


def parameters(channels: int, out_channels: int | None, bias: bool, window: int, num_heads: int, mixtures: int) -> int:
    n_outputs = channels if out_channels is None else out_channels
    head_channels = n_outputs // num_heads
    mixture_count = (2 * window + mixtures) * head_channels if mixtures > 1 else 0
    return n_outputs * ((mixtures + 2) * channels + bias) + (2 * window - 1) * head_channels + mixture_count


class AttentionStem(nn.Module):
    """Attention within blocks of pixels and max pooling, in place of a convolution.

    Args:
        channels: C.
        out_channels: O; None means C.
        kernel_size: that of the replaced convolution.
        stride: t, side of the max pooling.
        padding: (kernel_size − 1)/2, the default, or (kernel_size − t)/2.
        dilation: must be 1.
        groups: must be 1.
        bias: True adds a bias.
        window: w, side of a block.
        num_heads: N; E = O/N must be even.
        mixtures: M, number of value matrices; with 1, values ignore the position.

    Raises:
        ValueError: a limit of SPEC is violated.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        kernel_size: int = 7,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        window: int = 4,
        num_heads: int = 4,
        mixtures: int = 4,
    ) -> None:
        super().__init__()
        n_outputs = channels if out_channels is None else out_channels
        if min(channels, n_outputs, kernel_size, stride, window, num_heads, mixtures) < 1:
            raise ValueError(
                "channels, out_channels, kernel_size, stride, window, num_heads and mixtures must be at least 1, got "
                f"{channels}, {n_outputs}, {kernel_size}, {stride}, {window}, {num_heads} and {mixtures}"
            )
        if n_outputs % (2 * num_heads):
            raise ValueError(
                f"out_channels must be a multiple of 2 * num_heads, each head having half its channels for rows and "
                f"half for columns, got {n_outputs} and {num_heads} heads"
            )
        twice_padding = kernel_size - 1 if padding is None else 2 * padding
        if twice_padding < 0 or twice_padding % 2 or twice_padding not in (kernel_size - 1, kernel_size - stride):
            raise ValueError(
                "padding must be (kernel_size - 1) / 2 or (kernel_size - stride) / 2, a whole number, got "
                f"{kernel_size=}, {stride=} and {padding=}"
            )
        if dilation != 1 or groups != 1:
            raise ValueError(f"dilation and groups must be 1, got {dilation} and {groups}")
        head_channels = n_outputs // num_heads
        self.stride, self.window, self.num_heads, self.mixtures = stride, window, num_heads, mixtures
        self.ceil = twice_padding == kernel_size - 1  # ceil_mode of the pooling
        self.query, self.key = (nn.Parameter(torch.empty(n_outputs, channels)) for _ in range(2))
        self.value = nn.Parameter(torch.empty(mixtures, n_outputs, channels))
        for weight in (self.query, self.key, self.value):
            nn.init.uniform_(weight, -(channels**-0.5), channels**-0.5)
        if mixtures > 1:
            self.row, self.column = (nn.Parameter(torch.randn(window, head_channels)) for _ in range(2))
            self.mixture = nn.Parameter(torch.randn(mixtures, head_channels) * head_channels**-0.5)  # embeddings ν
        self.relative_row = nn.Parameter(torch.randn(2 * window - 1, head_channels // 2) * head_channels**-0.5)
        self.relative_column = nn.Parameter(torch.randn(2 * window - 1, head_channels // 2) * head_channels**-0.5)
        self.bias = nn.Parameter(torch.zeros(n_outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        height, width, side = x.shape[2], x.shape[3], self.window
        if is_captured():
            # A graph for any size always pads.
            n_blocks, needs_padding = (height // side + 2, width // side + 2), True
        else:
            n_blocks = -(-height // side), -(-width // side)
            needs_padding = height % side != 0 or width % side != 0
        pixels = self._split_blocks(x, *n_blocks)
        query, key = self._project_heads(pixels, self.query), self._project_heads(pixels, self.key)
        value = self._project_heads(self._weight_by_position(pixels), self.value.transpose(0, 1).flatten(1))
        with without_autocast(x):
            y = self._attend(query, key, value, (height, width) if needs_padding else None)
        y = y.unflatten(4, (side, side)).permute(1, 0, 6, 2, 4, 3, 5)  # (B, N, E, R, w, S, w)
        y = y.flatten(5).flatten(3, 4).flatten(1, 2)[..., :height, :width].to(x.dtype)
        if self.stride > 1:
            y = F.max_pool2d(y, self.stride, ceil_mode=self.ceil)
        if self.bias is not None:
            y = y + self.bias[:, None, None].to(y.dtype)
        return match_memory_format(y, x)

    def _split_blocks(self, x: Tensor, n_down: int, n_across: int) -> Tensor:
        """Split x (B, C, H, W) into blocks (B, R, S, w², C), R = ``n_down``, S = ``n_across``."""
        side = self.window
        x = F.pad(x, (0, n_across * side - x.shape[3], 0, n_down * side - x.shape[2]))
        return x.unflatten(3, (n_across, side)).unflatten(2, (n_down, side)).permute(0, 2, 4, 3, 5, 1).flatten(3, 4)

    def _weight_by_position(self, pixels: Tensor) -> Tensor:
        """Return M copies of the pixels times p: (B, R, S, w², M·C)."""
        if self.mixtures == 1:
            return pixels
        p = ((self.row[:, None] + self.column) @ self.mixture.mT).softmax(2).flatten(0, 1).to(pixels.dtype)
        return (pixels[..., None, :] * p[..., None]).flatten(4)

    def _project_heads(self, pixels: Tensor, weight: Tensor) -> Tensor:
        """Multiply pixels (B, R, S, w², c) by weight (O, c): (N, B, R, S, w², E), in float32 or wider."""
        head_weights = weight.unflatten(0, (self.num_heads, -1)).mT
        products = torch.bmm(pixels.reshape(1, -1, weight.shape[1]).expand(self.num_heads, -1, -1), head_weights)
        return products.unflatten(1, pixels.shape[:-1]).to(torch.promote_types(products.dtype, torch.float32))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int] | None) -> Tensor:
        """Return the attention output (N, B, R, S, w², E); ``size`` is (H, W) before any padding."""
        side, shape = self.window, query.shape
        index = torch.arange(side, device=query.device)
        offset = index - index[:, None] + side - 1
        row, column = (table.to(query.dtype)[offset] for table in (self.relative_row, self.relative_column))
        r = torch.cat([t.expand(side, side, side, side, -1) for t in (row[:, None, :, None], column[:, None])], 4)
        query, key, value = (t.flatten(0, 3) for t in (query, key, value))  # (N·B·R·S, w², E)
        position_logits = torch.bmm(query.transpose(0, 1), r.flatten(2, 3).flatten(0, 1).mT).transpose(0, 1)
        if size is not None:
            (height, width), (n_down, n_across) = size, shape[2:4]
            is_below = _is_outside(height, n_down, side, index)
            is_right = _is_outside(width, n_across, side, index)
            outside = (is_below[:, None, :, None] | is_right[:, None]).flatten(2)[:, :, None]  # (R, S, 1, w²)
            position_logits = position_logits.unflatten(0, shape[:4]).masked_fill(outside, -torch.inf).flatten(0, 3)
        weights = torch.baddbmm(position_logits, query, key.mT).softmax(2)
        return torch.bmm(weights, value).unflatten(0, shape[:4])


def _is_outside(length: int, n_blocks: int, side: int, index: Tensor) -> Tensor:
    """Return a mask (n_blocks, w) of padding along one axis, without blocks of only padding, to avoid NaN."""
    first = torch.arange(n_blocks, device=index.device)[:, None] * side
    return (first < length) & (length <= first + index)
