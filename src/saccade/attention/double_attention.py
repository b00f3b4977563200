r"""Double attention: every pixel receives a weighted sum of a few descriptors of x.

    A   = W_A x + b_A                (B, m, N), m = ⌊C·rd_ratio⌋, N = H·W    features
    M_B = softmax_N(W_B x)           (B, n, N), n = m by default             attention maps
    G   = A M_Bᵀ                     (B, m, n), descriptors                  gather        eq. 4
    V   = softmax_n(W_V x + b_V)     (B, n, N)                               attention vectors
    Z   = W_Z G V + b_Z              (B, C, N)                               distribute    eq. 6
    y   = x + Z                      (B, C, H, W)

The authors published no code. Z and its gradients equal those of nguyenvo09/Double-Attention-Network, whose W_B has a
bias that the softmax ignores. ``norm=True`` adds a batch norm with zero-initialised scale.

Source: Chen et al., "A²-Nets: Double Attention Networks", NeurIPS 2018, arXiv:1810.11579.
"""

from __future__ import annotations

from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Context, reduced_channels
from saccade.ops.eager import is_captured

__all__ = ["DoubleAttention"]

SPEC = {
    "name": "a2",
    "title": "Double attention",
    "paper": {"authors": "Chen, Kalantidis, Li, Yan, Feng", "title": "A²-Nets: Double Attention Networks",
              "venue": "NeurIPS", "year": 2018, "arxiv": "1810.11579"},
    "kind": "context",
    "evidence": "paper",
    "code": ["nguyenvo09/Double-Attention-Network (norm=False)"],
    "position": {"default": "stage[1:-1]"},
    "limits": ["channels * rd_ratio must be at least 1", "there must be at least 2 descriptors"],
    "neutral": "only with norm=True",
    "equivariant": ["permutation", "flip", "transpose"],
    "published": [
        {"net": "resnet50", "params": 33.00, "macs": 6.50, "top1": 77.0, "source": "ECA-Net paper, table 3",
         "where": ("layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"),
         "note": "five blocks; not reproduced: 29.23 M parameters with rd_ratio=1/4, 32.96 M with 1/2 and BN buffers"},
    ],
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, descriptors: int | None, norm: bool) -> int:
    hidden = int(channels * rd_ratio)
    descriptors = descriptors or hidden
    return channels * (2 * hidden + 2 * descriptors + 1 + 2 * norm) + hidden + descriptors


def neutral(norm: bool) -> bool:
    return norm


class DoubleAttention(Context):
    """Attention of pixels to gathered descriptors.

    Args:
        channels: C.
        rd_ratio: m/C.
        descriptors: n, number of descriptors; None means m.
        norm: True adds a batch norm.

    Raises:
        ValueError: m would be less than 1, or n less than 2: a softmax over one descriptor is constant.
    """

    def __init__(
        self, channels: int, rd_ratio: float = 1 / 2, descriptors: int | None = None, norm: bool = False
    ) -> None:
        super().__init__()
        hidden = reduced_channels(channels, rd_ratio)
        n_descriptors = hidden if descriptors is None else descriptors
        if n_descriptors < 2:
            raise ValueError(f"there must be at least 2 descriptors, got {n_descriptors}")
        self.hidden, self.summaries = hidden, n_descriptors  # m; n, number of descriptors
        self.feature = nn.Conv2d(channels, hidden, 1)
        self.gather = nn.Conv2d(channels, n_descriptors, 1, bias=False)
        self.distribute = nn.Conv2d(channels, n_descriptors, 1)
        self.out = nn.Conv2d(hidden, channels, 1)
        self.bn = BatchNorm2d(channels) if norm else None
        if self.bn is not None:
            nn.init.zeros_(self.bn.weight)

    def context(self, x: Tensor) -> Tensor:
        """Return the tensor (B, C, H, W) to add to x."""
        maps = self.gather(x).flatten(2).softmax(2).to(x.dtype)
        vectors = self.distribute(x).flatten(2).softmax(1).to(x.dtype)
        # Attention weights sum to one, so the 1×1 convolutions commute with the weighted sums.
        if self._convolves_descriptors(x):
            descriptors = self.feature((x.flatten(2) @ maps.mT)[..., None])
            z = (self.out(descriptors)[..., 0].to(x.dtype) @ vectors).unflatten(2, x.shape[2:])
        else:
            gathered = self.feature(x).flatten(2).to(x.dtype) @ maps.mT
            z = self.out((gathered @ vectors).unflatten(2, x.shape[2:]))
        return z if self.bn is None else self.bn(z)

    def _convolves_descriptors(self, x: Tensor) -> bool:
        """Return True if the 1×1 convolutions are cheaper on the n descriptors than on the N pixels."""
        if not isinstance(x, Tensor) or is_captured():  # a captured graph cannot branch on the size
            return True
        channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
        return channels * self.summaries * (pixels + self.hidden) <= self.hidden * pixels * (channels + self.summaries)
