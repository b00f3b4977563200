r"""The control ``extra``: as many parameters as the mechanism, without attention.

    y = x + W₂ ReLU(W₁ x)            W₁: C -> w, W₂: w -> C, both 1×1, W₂ = 0 at initialisation

If a mechanism helps no more than this control, its parameters helped, not its attention.
"""

from __future__ import annotations

from torch import Tensor, nn

from saccade.bases import Context

__all__ = ["ExtraBottleneck"]

SPEC = {
    "title": "Extra bottleneck",
    "kind": "context",
    "evidence": "reading",  # no reference implementation
    "limits": ["width must be at least 1"],
    "neutral": True,
    "equivariant": ["permutation", "flip", "transpose"],
}


def parameters(channels: int, width: int) -> int:
    return 2 * channels * width


class ExtraBottleneck(Context):
    """A residual bottleneck of 1×1 convolutions, the identity until trained.

    Args:
        channels: C of the map (B, C, H, W).
        width: w, number of units of the bottleneck.

    Raises:
        ValueError: ``width`` is not positive.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.down = nn.Conv2d(channels, width, 1, bias=False)
        self.up = nn.Conv2d(width, channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def context(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        context: Tensor = self.up(self.down(x).relu())
        return context
