"""Gate of the Squeeze-and-Excitation networks: the mechanism ``se`` with the layers and names of the released weights.

    z = mean_{h,w} x  or  max_{h,w} x      (B, C, 1, 1)
    y = σ(fc2 ReLU(fc1 z)) ⊙ x             (B, C, H, W), fc1 and fc2 are 1×1 convolutions with bias

Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507.
"""

from __future__ import annotations

from torch import Tensor, nn

from saccade.bases import Gate
from saccade.errors import UserError
from saccade.ops.gating import max_and_mean, pooled_mean

__all__ = ["ChannelGate", "check_squeeze"]


class ChannelGate(Gate):
    """Channel gate with a bottleneck of C // ``reduction`` channels, at least 1; ``squeeze`` is ``avg`` or ``max``."""

    def __init__(self, channels: int, reduction: int = 16, squeeze: str = "avg") -> None:
        super().__init__()
        check_squeeze(reduction, squeeze)
        hidden = max(1, channels // reduction)
        self.squeeze = squeeze
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, 1, 1) of x (B, C, H, W)."""
        z = max_and_mean(x, (2, 3))[0] if self.squeeze == "max" else pooled_mean(x, keepdim=True)
        s: Tensor = self.fc2(self.fc1(z).relu())
        return s.sigmoid()


def check_squeeze(reduction: int, squeeze: str) -> None:
    """Raise UserError unless ``reduction`` is at least 1 and ``squeeze`` is ``avg`` or ``max``."""
    if reduction < 1:
        raise UserError(f"reduction must be at least 1, got {reduction}")
    if squeeze not in ("avg", "max"):
        raise UserError(f"squeeze must be 'avg' or 'max', got {squeeze!r}")
