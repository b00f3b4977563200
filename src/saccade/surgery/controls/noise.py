r"""The control ``noise``: a random gate that does not depend on the image.

    y = u ⊙ x                        u ~ U(0, 1), (C, 1, 1), one number per channel, drawn once

u is a buffer, never trained. If a mechanism helps no more than this control, rescaling the channels helped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.bases import Gate

__all__ = ["NoiseGate"]

SPEC = {
    "title": "Noise gate",
    "kind": "gate",
    "evidence": "reading",  # no reference implementation
    "gate": (0.0, 1.0),
    "equivariant": ["permutation", "flip", "transpose"],
}


def parameters() -> int:
    return 0


class NoiseGate(Gate):
    """A gate with a random constant per channel.

    Args:
        channels: C of the map (B, C, H, W).
    """

    noise: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("noise", torch.rand(channels, 1, 1))

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, 1, 1)."""
        return self.noise.expand(x.shape[0], -1, -1, -1)
