r"""Attention gate of Attention U-Net: the decoder selects what a skip connection passes, pixel by pixel.

    [u; s] = x                                            (B, C, H, W): upsampled decoder map and skip, concatenated
    g = mean_{2×2} u                                      (B, C_u, ⌈H/2⌉, ⌈W/2⌉), gating signal
    q = ψ · ReLU(W_s s + W_g g + b_g) + b_ψ               (B, 1, ⌈H/2⌉, ⌈W/2⌉)                          eq. 1
    α = σ(q), doubled bilinearly                          (B, 1, H, W)                                  eq. 2
    y = [u; α ⊙ s]                                        (B, C, H, W)

W_s: C_s -> c = ⌊C_s·rd_ratio⌋, 2×2 with stride 2, zeros behind an odd last row or column. W_g: C_u -> c and ψ: c -> 1,
1×1. α is cropped to odd sides. ``saccade.plug`` sets ``skip``, the channels of s. The recorded gate is 1 on u.

g is the coarser map that the paper reads if u is that map doubled by nearest upsampling, else its smoothed form. The
paper writes W_s as 1×1 and leaves open how s is brought to the grid of g; the strided W_s and the default widths are
those of the authors' code, which also applies a 1×1 convolution and a batch norm to α ⊙ s.

Source: Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018, arXiv:1804.03999.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import Gate, reduced_channels
from saccade.specs import GateRange

__all__ = ["SkipGate"]

_PADDING = (0, 3, 0, 3)

SPEC = {
    "name": "skip_gate",
    "title": "Attention gate of Attention U-Net",
    "aliases": ["attention_gate"],
    "paper": {"authors": "Oktay, Schlemper, Le Folgoc, Lee, Heinrich, Misawa, Mori, McDonagh, Hammerla, Kainz, "
                         "Glocker, Rueckert",
              "title": "Attention U-Net: Learning Where to Look for the Pancreas", "venue": "MIDL", "year": 2018,
              "arxiv": "1804.03999"},
    "kind": "gate",
    "evidence": "paper",
    "position": {"default": "skip"},
    "limits": [
        "skip must be the first channel of the skip and the one behind its last",
        "channels * rd_ratio must be at least 1",
    ],
    "gate": "between 0 and 1 on the skip, 1 on the other channels",
    "needs": ["skip"],
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, skip: Sequence[int] | None) -> int:
    start, stop = skip or (channels // 2, channels)
    hidden = int((stop - start) * rd_ratio)
    return hidden * (4 * (stop - start) + (channels - stop + start) + 2) + 1


def gate(**_options: object) -> GateRange:
    return GateRange(0.0, 1.0, includes_high=True)


class SkipGate(Gate):
    """Gate on the skip's channels of a concatenation, computed from all channels.

    Args:
        channels: C of the concatenation.
        rd_ratio: c / C_s.
        skip: first channel of s, and the one behind its last; None means the second half.

    Raises:
        ValueError: a limit of SPEC is violated, or ``skip`` is all channels.
    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 2, skip: Sequence[int] | None = None) -> None:
        super().__init__()
        bounds = (channels // 2, channels) if skip is None else skip
        if not _is_proper_range(bounds, channels):
            raise ValueError(
                "skip must be the first channel of the skip and the one behind its last, with other channels left, "
                f"got {bounds} for {channels} channels"
            )
        self.start, self.stop = bounds
        skip_channels = self.stop - self.start
        hidden = reduced_channels(skip_channels, rd_ratio)
        self.skip = nn.Conv2d(skip_channels, hidden, 2, stride=2, bias=False)  # W_s
        self.signal = nn.Conv2d(channels - skip_channels, hidden, 1)  # W_g, b_g
        self.psi = nn.Conv2d(hidden, 1, 1)

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W): α on the channels of s, 1 on the others."""
        before, s, after = x[:, : self.start], x[:, self.start : self.stop], x[:, self.stop :]
        # The extra row and column exist because torch.export specialises on sides of 1.
        g = F.avg_pool2d(F.pad(torch.cat([before, after], 1), _PADDING, mode="replicate"), 2)
        q = self.psi((self.skip(F.pad(s, _PADDING)) + self.signal(g)).relu())
        alpha = _upsample(_upsample(q.sigmoid(), 2, x.shape[2]), 3, x.shape[3])
        ones = torch.ones_like(alpha)
        expanded = [m.expand(-1, p.shape[1], -1, -1) for m, p in ((ones, before), (alpha, s), (ones, after))]
        return torch.cat(expanded, 1)


def _upsample(x: Tensor, axis: int, length: int) -> Tensor:
    """Double the first ⌈length/2⌉ entries of x along ``axis`` by linear interpolation, and crop."""
    index = torch.arange(length, device=x.device)
    nearest = index // 2
    other = (nearest + 2 * (index % 2) - 1).clamp(0, (length - 1) // 2)
    return 0.75 * x.index_select(axis, nearest) + 0.25 * x.index_select(axis, other)


def _is_proper_range(bounds: object, channels: int) -> bool:
    """Return True for two whole numbers that delimit some of the channels."""
    if not isinstance(bounds, Sequence) or len(bounds) != 2 or not all(type(n) is int for n in bounds):
        return False
    start, stop = bounds
    return 0 <= start < stop <= channels and stop - start < channels
