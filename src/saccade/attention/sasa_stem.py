r"""The attention stem of SASA: attention within blocks of 4×4 pixels, in place of the first convolution.

    q, k = W_q x, W_k x                                  (B, C, H, W) -> (B, O, H, W) each, in N heads of E channels
    p(a, b, m) = softmax_m((row_a + column_b) · ν_m)     (4, 4, M), a, b: row and column in the block    appendix
    ṽ_ab = (Σ_m p(a, b, m) W_V^m) x_ab                   (B, O, H, W)                                     section 3.2
    l_{ij}(a, b) = q_ij · k_ab + q_ij · r_{a−i,b−j}      i, j and a, b of one block, 16 pixels by 16      eq. 3
    y_ij = Σ_{a,b} softmax_{a,b}(l_ij) ṽ_ab              (B, O, H, W)
    stride t: the largest of t×t pixels                  (B, O, ⌈H/t⌉, ⌈W/t⌉)

The value depends on the place in the block, as the weights of a kernel do. All heads share the mixture p and, as in
``sasa``, the embeddings r, half of the E channels for rows and half for columns, with offsets from −3 to 3. Logits are
not scaled. Pixels outside the map take no part.

The paper's network pools once, by 4×4, behind its batch norm. In a ResNet the stride of the convolution, 2, becomes a
pooling of 2×2 in front of the host's norm, and the host's own pooling stays; where the norm's weights are positive this
commutes with the norm but for its statistics. The paper's network, but for a ReLU::

    net = torchvision.models.resnet50()
    net.conv1.stride, net.maxpool = (1, 1), torch.nn.MaxPool2d(4)
    saccade.replace(saccade.replace(net, "sasa_stem"), "sasa")

Kernel size and padding are those of the convolution it replaces and only fix the size of the map: ⌈H/t⌉ or, as with an
unpadded patch of t×t, ⌊H/t⌋.

Readings where the paper is silent: M = 4, as in widespread copies; row, column and ν of width E; r in the stem too,
which the printed FLOPs support: 7.18, 5.94 and 4.70·10⁹ with it for ResNet-50, 38 and 26, where 7.2, 6.0 and 4.7 are
printed, 0.1 less without; 7.10 with ``mixtures=1``, for the ablation's 7.1. Those count M maps of values; here p
multiplies the input of W_V. Embeddings start so that the logits of p are of order 1. No code was released; the
best-known copies differ in the softmax, the window or the place.

Source: Ramachandran, Parmar, Vaswani, Bello, Levskaya, Shlens, "Stand-Alone Self-Attention in Vision Models", NeurIPS
2019, arXiv:1906.05909, section 3.2 and appendix.
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
         "note": "the printed 7.2 10^9 FLOPs are two to a multiply-add"},
    ],
}  # fmt: skip


def parameters(channels: int, out_channels: int | None, bias: bool, window: int, num_heads: int, mixtures: int) -> int:
    outputs = channels if out_channels is None else out_channels
    each = outputs // num_heads
    places = (2 * window + mixtures) * each if mixtures > 1 else 0
    return outputs * ((mixtures + 2) * channels + bias) + (2 * window - 1) * each + places


class AttentionStem(nn.Module):
    """Attention within blocks of pixels and a max pooling, in the place of a convolution.

    Args:
        channels: C of the map (B, C, H, W).
        out_channels: O; None is C.
        kernel_size: of the convolution it stands in for.
        stride: t; the largest of t×t pixels is kept.
        padding: of the convolution, (kernel_size − 1)/2, which None is, or (kernel_size − t)/2.
        dilation: 1.
        groups: 1.
        bias: whether one is added to y.
        window: height and width of a block.
        num_heads: N, which divide O into heads of an even number of channels.
        mixtures: M, the matrices of values; with 1 the place in the block has no part in them.

    Raises:
        ValueError: outside the limits of SPEC.
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
        outputs = channels if out_channels is None else out_channels
        if min(channels, outputs, kernel_size, stride, window, num_heads, mixtures) < 1:
            raise ValueError(
                "channels, out_channels, kernel_size, stride, window, num_heads and mixtures must be at least 1, got "
                f"{channels}, {outputs}, {kernel_size}, {stride}, {window}, {num_heads} and {mixtures}"
            )
        if outputs % (2 * num_heads):
            raise ValueError(
                f"out_channels must be a multiple of 2 * num_heads, each head having half its channels for rows and "
                f"half for columns, got {outputs} and {num_heads} heads"
            )
        twice = kernel_size - 1 if padding is None else 2 * padding
        if twice < 0 or twice % 2 or twice not in (kernel_size - 1, kernel_size - stride):
            raise ValueError(
                "padding must be (kernel_size - 1) / 2 or (kernel_size - stride) / 2, a whole number, got "
                f"{kernel_size=}, {stride=} and {padding=}"
            )
        if dilation != 1 or groups != 1:
            raise ValueError(f"dilation and groups must be 1, got {dilation} and {groups}")
        width = outputs // num_heads
        self.stride, self.window, self.num_heads, self.mixtures = stride, window, num_heads, mixtures
        self.ceil = twice == kernel_size - 1
        self.query, self.key = (nn.Parameter(torch.empty(outputs, channels)) for _ in range(2))
        self.value = nn.Parameter(torch.empty(mixtures, outputs, channels))
        for weight in (self.query, self.key, self.value):
            nn.init.uniform_(weight, -(channels**-0.5), channels**-0.5)
        if mixtures > 1:
            self.row, self.column = (nn.Parameter(torch.randn(window, width)) for _ in range(2))
            self.mixture = nn.Parameter(torch.randn(mixtures, width) * width**-0.5)
        self.relative_row = nn.Parameter(torch.randn(2 * window - 1, width // 2) * width**-0.5)
        self.relative_column = nn.Parameter(torch.randn(2 * window - 1, width // 2) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, O, ⌈H/t⌉, ⌈W/t⌉), or ⌊·⌋, in the dtype of x."""
        height, width, w = x.shape[2], x.shape[3], self.window
        if is_captured():
            # One block and more too many: whether there is but one, or they are as large as the map, is not asked then,
            # which a graph for any size could not answer.
            blocks, full = (height // w + 2, width // w + 2), False
        else:
            blocks, full = (-(-height // w), -(-width // w)), height % w == 0 and width % w == 0
        pixels = self._cut(x, *blocks)
        query, key = self._heads(pixels, self.query), self._heads(pixels, self.key)
        value = self._heads(self._placed(pixels), self.value.transpose(0, 1).flatten(1))
        with without_autocast(x):
            y = self._attended(query, key, value, None if full else (height, width))
        y = y.unflatten(4, (w, w)).permute(1, 0, 6, 2, 4, 3, 5)  # (B, N, E, R, 4, S, 4)
        y = y.flatten(5).flatten(3, 4).flatten(1, 2)[..., :height, :width].to(x.dtype)
        if self.stride > 1:
            y = F.max_pool2d(y, self.stride, ceil_mode=self.ceil)
        if self.bias is not None:
            y = y + self.bias[:, None, None].to(y.dtype)
        return match_memory_format(y, x)

    def _cut(self, x: Tensor, down: int, across: int) -> Tensor:
        """The map in R·S blocks, (B, R, S, 16, C); it has few channels, and what is made of it need not be cut."""
        w = self.window
        x = F.pad(x, (0, across * w - x.shape[3], 0, down * w - x.shape[2]))
        return x.unflatten(3, (across, w)).unflatten(2, (down, w)).permute(0, 2, 4, 3, 5, 1).flatten(3, 4)

    def _placed(self, pixels: Tensor) -> Tensor:
        """The pixels M times, each time by p: (B, R, S, 16, M·C)."""
        if self.mixtures == 1:
            return pixels
        p = ((self.row[:, None] + self.column) @ self.mixture.mT).softmax(2).flatten(0, 1).to(pixels.dtype)
        return (pixels[..., None, :] * p[..., None]).flatten(4)

    def _heads(self, pixels: Tensor, weight: Tensor) -> Tensor:
        """The products of pixels (B, R, S, 16, c) with (O, c), head by head: (N, B, R, S, 16, E), float32 at least."""
        by_head = weight.unflatten(0, (self.num_heads, -1)).mT
        made = torch.bmm(pixels.reshape(1, -1, weight.shape[1]).expand(self.num_heads, -1, -1), by_head)
        return made.unflatten(1, pixels.shape[:-1]).to(torch.promote_types(made.dtype, torch.float32))

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, size: tuple[int, int] | None) -> Tensor:
        """What all blocks make, (N, B, R, S, 16, E); ``size`` is that of the map where some are not full."""
        w, shape = self.window, query.shape
        place = torch.arange(w, device=query.device)
        offset = place - place[:, None] + w - 1
        row, column = (table.to(query.dtype)[offset] for table in (self.relative_row, self.relative_column))
        r = torch.cat([row[:, None, :, None].expand(w, w, w, w, -1), column[:, None].expand(w, w, w, w, -1)], 4)
        query, key, value = (t.flatten(0, 3) for t in (query, key, value))  # (N·B·R·S, 16, E)
        position = torch.bmm(query.transpose(0, 1), r.flatten(2, 3).flatten(0, 1).mT).transpose(0, 1)  # (·, 16, 16)
        if size is not None:
            below, right = (_outside(side, blocks, w, place) for side, blocks in zip(size, shape[2:4], strict=True))
            outside = (below[:, None, :, None] | right[:, None]).flatten(2)[:, :, None]  # (R, S, 1, 16)
            position = position.unflatten(0, shape[:4]).masked_fill(outside, -torch.inf).flatten(0, 3)
        weights = torch.baddbmm(position, query, key.mT).softmax(2)
        return torch.bmm(weights, value).unflatten(0, shape[:4])


def _outside(length: int, blocks: int, w: int, place: Tensor) -> Tensor:
    """Which pixels of a side of each block lie outside the map: (blocks, 4). All of a block's do, and then none is."""
    first = torch.arange(blocks, device=place.device)[:, None] * w
    return (first < length) & (length <= first + place)
