r"""Mixed pooling module: pyramid pooling for near context, strip pooling of rows and columns for far context.

    u = ReLU(BN(W_u x)),  v = ReLU(BN(W_v x))                       (B, c, H, W), c = ⌊C·rd_ratio⌋
    near = f₀(u) + up(f₁(pool_{20×20} u)) + up(f₂(pool_{12×12} u))  (B, c, H, W)     fᵢ = BN(Conv_{3×3})
    far  = BN(Conv_{1×3}(mean_h v)) + BN(Conv_{3×1}(mean_w v))      (B, c, H, W)     broadcast
    z = [ReLU(BN(Conv_{3×3}(ReLU(near)))); ReLU(BN(Conv_{3×3}(ReLU(far))))]          (B, 2c, H, W)
    y = ReLU(x + BN(W_z z))                                         (B, C, H, W)

Convolutions have no bias. pool is adaptive average pooling, up is bilinear with align_corners=True. The final ReLU
removes negative values of x: place the module after a ReLU.

Source: Hou et al., "Strip Pooling: Rethinking Spatial Pooling for Scene Parsing", CVPR 2020, arXiv:2003.13328.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, reduced_channels
from saccade.ops.resample import bilinear, window_means
from saccade.ops.strip import strip_means

__all__ = ["MixedPooling"]

SPEC = {
    "name": "mpm",
    "title": "Mixed pooling module",
    "paper": {"authors": "Hou, Zhang, Cheng, Feng",
              "title": "Strip Pooling: Rethinking Spatial Pooling for Scene Parsing", "venue": "CVPR", "year": 2020,
              "arxiv": "2003.13328"},
    "kind": "transform",
    "evidence": "oracle",
    "code": ["houqb/SPNet"],
    "position": {"default": "stage[-1]"},
    "limits": ["channels * rd_ratio must be at least 1", "fine and coarse must be at least 1"],
}  # fmt: skip


def parameters(channels: int, rd_ratio: float) -> int:
    hidden = int(channels * rd_ratio)
    return 4 * channels * hidden + 51 * hidden**2 + 18 * hidden + 2 * channels


class MixedPooling(nn.Module):
    """Pyramid pooling and strip pooling in parallel, added to x.

    Args:
        channels: C.
        rd_ratio: width of both branches / C.
        fine: grid size of the finer pooling.
        coarse: grid size of the coarser pooling.

    Raises:
        ValueError: the branches would have no channel, or ``fine`` or ``coarse`` is below 1.
    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 4, fine: int = 20, coarse: int = 12) -> None:
        super().__init__()
        hidden = reduced_channels(channels, rd_ratio)
        if min(fine, coarse) < 1:
            raise ValueError(f"fine and coarse must be at least 1, got {fine} and {coarse}")
        self.sizes = fine, coarse
        self.near_in = _conv_bn(channels, hidden, 1)
        self.far_in = _conv_bn(channels, hidden, 1)
        self.near = _conv_bn(hidden, hidden, 3)  # f₀
        self.fine = _conv_bn(hidden, hidden, 3)  # f₁
        self.coarse = _conv_bn(hidden, hidden, 3)  # f₂
        self.columns = _conv_bn(hidden, hidden, (1, 3))
        self.rows = _conv_bn(hidden, hidden, (3, 1))
        self.near_out = _conv_bn(hidden, hidden, 3)
        self.far_out = _conv_bn(hidden, hidden, 3)
        self.join = _conv_bn(2 * hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        height, width = x.shape[2:]
        u, v = F.relu(self.near_in(x)), F.relu(self.far_in(x))
        near = self.near(u)
        for conv, grid_size in zip((self.fine, self.coarse), self.sizes, strict=True):
            near = near + bilinear(conv(window_means(u, (grid_size, grid_size))), (height, width)).to(near.dtype)
        rows, columns = strip_means(v)
        far = self.rows(rows) + self.columns(columns)
        z = torch.cat([self.near_out(F.relu(near)), self.far_out(F.relu(far))], 1)
        joined: Tensor = self.join(F.relu(z))
        return F.threshold(x + joined.to(x.dtype), 0, 0)  # a ReLU that saves no output for the backward pass


def _conv_bn(inputs: int, outputs: int, kernel: int | tuple[int, int]) -> nn.Sequential:
    """Return a convolution that keeps the size, and a batch norm."""
    kernel_size = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (kernel_size[0] // 2, kernel_size[1] // 2)
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel_size, padding=padding, bias=False), BatchNorm2d(outputs))
