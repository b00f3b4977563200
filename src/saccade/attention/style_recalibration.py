r"""Style-based Recalibration Module: a channel gate from the channel's own mean and standard deviation.

    t = [mean_{h,w} x; std_{h,w} x]                  style pooling       (B, C, H, W) -> (B, C, 2)     eq. 1-3
    z = Σ_d w_d ⊙ t_d                                style integration   (B, C, 2) -> (B, C)           eq. 4
    g = σ(BN(z))                                     each channel by itself, over the images           eq. 5-7
    y = g ⊙ x                                        (B, C, H, W)                                      eq. 8

w (C, 2) starts at zero: every gate starts at 1/2. The authors' code takes the variance over H·W − 1 and the root of it
plus 1e-5. On a map of one pixel the variance is 0 here; one image alone, which the authors' code refuses in training,
is normalised by the running statistics.

Source: Lee, Kim, Nam, "SRM: A Style-based Recalibration Module for Convolutional Neural Networks", ICCV 2019,
arXiv:1903.10829.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Gate
from saccade.ops.gating import mean_and_variance

__all__ = ["StyleRecalibration"]

SPEC = {
    "name": "srm",
    "title": "Style-based Recalibration Module",
    "paper": {"authors": "Lee, Kim, Nam",
              "title": "SRM: A Style-based Recalibration Module for Convolutional Neural Networks", "venue": "ICCV",
              "year": 2019, "arxiv": "1903.10829"},
    "kind": "gate",
    "evidence": "oracle",
    "code": ["hyunjaelee410/style-based-recalibration-module"],
    "position": {"default": "residual"},
    "limits": ["eps must be positive"],
    "gate": (0.0, 1.0),
    "equivariant": ["permutation", "flip", "transpose"],
    "published": [
        {"net": "resnet50", "macs": 3.829, "top1": 77.13, "unit": "2^20, 2^30", "source": "EMCA README"},
        {"net": "resnet18", "top1": 70.96, "source": "EMCA README"},
    ],
}  # fmt: skip


def parameters(channels: int) -> int:
    return 4 * channels


class StyleRecalibration(Gate):
    """Channel gate by the mean and the standard deviation of each channel.

    Args:
        channels: C of the map (B, C, H, W).
        eps: what is added to the variance before its root, positive.

    Raises:
        ValueError: ``eps`` is not positive: the root of no variance would have no gradient.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        if eps <= 0:
            raise ValueError(f"eps must be positive, got {eps}")
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(channels, 2))
        self.bn = BatchNorm2d(channels)

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, 1, 1)."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # squares of float16 overflow
        mean, variance = mean_and_variance(x)
        t = torch.stack([mean, (variance + self.eps).sqrt()], -1)  # (B, C, 2)
        z = (t * self.weight).sum(-1)[:, :, None, None].to(self.weight.dtype)  # (B, C, 1, 1)
        gate: Tensor = self.bn(z).sigmoid()
        return gate
