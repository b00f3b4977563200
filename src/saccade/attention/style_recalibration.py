r"""Style-based Recalibration Module: a channel gate from the channel's own mean and standard deviation.

    t = [mean_{h,w} x; std_{h,w} x]                  style pooling       (B, C, 2)     eq. 1-3
    z = Σ_d w_d ⊙ t_d                                style integration   (B, C)        eq. 4
    g = σ(BN(z))                                                         (B, C)        eq. 5-7
    y = g ⊙ x                                                            (B, C, H, W)  eq. 8

w (C, 2) starts at zero, so every gate starts at 1/2. As in the authors' code std is √(variance + 1e-5), the variance
with H·W − 1 degrees of freedom. In training, a batch of one image is normalised with the running statistics; the
authors' code raises an error.

Source: Lee et al., "SRM: A Style-based Recalibration Module for Convolutional Neural Networks", ICCV 2019,
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
    """Channel gate from means and standard deviations.

    Args:
        channels: C.
        eps: positive constant added to the variance.

    Raises:
        ValueError: ``eps`` is not positive: the gradient of √0 is infinite.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        if eps <= 0:
            raise ValueError(f"eps must be positive, got {eps}")
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(channels, 2))
        self.bn = BatchNorm2d(channels)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, 1, 1)."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # float16 squares overflow
        mean, variance = mean_and_variance(x)
        t = torch.stack([mean, (variance + self.eps).sqrt()], -1)
        z = (t * self.weight).sum(-1)[:, :, None, None].to(self.weight.dtype)
        gate: Tensor = self.bn(z).sigmoid()
        return gate
