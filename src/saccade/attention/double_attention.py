r"""Double attention: the map is gathered into a few descriptors, and each pixel takes a mixture of them.

    A = W_A x + b_A                (B, C, H, W) -> (B, m, N), m = ⌊C·rd_ratio⌋, N = H·W    features
    B = softmax_N(W_B x)           (B, C, H, W) -> (B, n, N), n = ⌊C·rd_ratio⌋             where each descriptor looks
    G = A Bᵀ                       (B, m, n), n descriptors of m channels                  gather        eq. 4
    V = softmax_n(W_V x + b_V)     (B, C, H, W) -> (B, n, N), each pixel sums to one       which each pixel wants
    Z = W_Z G V + b_Z              (B, C, N)                                               distribute    eq. 6
    y = x + Z                      (B, C, H, W)

Memory does not grow with N². On a map of more pixels than channels, and in every compiled or exported network, G = W_A
(x Bᵀ) + b_A and Z = (W_Z G + b_Z) V, which saves up to a fifth of the work. A softmax over pixels ignores a bias of
W_B. The authors published no code; Z and its gradients equal the best-known copy. ``norm=True`` puts a batch norm
behind W_Z, its scale zero at the start, as in non-local blocks.

The paper has five blocks in a ResNet-50: ``where=["layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"]``; the
default is one at the end of either stage. The five make 32.905 million parameters, where 33.00 is printed; m = n = C/4
makes 29.233, ``norm=True`` 32.913.

Source: Chen, Kalantidis, Li, Yan, Feng, "A²-Nets: Double Attention Networks", NeurIPS 2018, arXiv:1810.11579.
"""

from __future__ import annotations

from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Context, reduced
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
         "note": "five blocks; not reproduced: 29.23 with C/4 for C/2, 32.96 with the host's running statistics"},
    ],
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, descriptors: int | None, norm: bool) -> int:
    hidden = int(channels * rd_ratio)
    summaries = descriptors or hidden
    return channels * (2 * hidden + 2 * summaries + 1 + 2 * norm) + hidden + summaries


def neutral(norm: bool) -> bool:
    return norm


class DoubleAttention(Context):
    """Gather the map into descriptors, distribute them over the pixels, add.

    Args:
        channels: C of the map (B, C, H, W).
        rd_ratio: m as a part of C, rounded down; n too, unless ``descriptors`` says.
        descriptors: n, how many summaries of the map there are.
        norm: whether a batch norm of scale zero ends the branch.

    Raises:
        ValueError: m would be less than 1, or n less than 2: of one descriptor each pixel wants all.
    """

    def __init__(
        self, channels: int, rd_ratio: float = 1 / 2, descriptors: int | None = None, norm: bool = False
    ) -> None:
        super().__init__()
        hidden = reduced(channels, rd_ratio)
        summaries = hidden if descriptors is None else descriptors
        if summaries < 2:
            raise ValueError(f"there must be at least 2 descriptors, got {summaries}")
        self.hidden, self.summaries = hidden, summaries
        self.feature = nn.Conv2d(channels, hidden, 1)
        self.gather = nn.Conv2d(channels, summaries, 1, bias=False)
        self.distribute = nn.Conv2d(channels, summaries, 1)
        self.out = nn.Conv2d(hidden, channels, 1)
        self.bn = BatchNorm2d(channels) if norm else None
        if self.bn is not None:
            nn.init.zeros_(self.bn.weight)

    def context(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        where = self.gather(x).flatten(2).softmax(2).to(x.dtype)  # (B, n, N)
        which = self.distribute(x).flatten(2).softmax(1).to(x.dtype)  # (B, n, N)
        # Both softmaxes sum to one, so that the biases of W_A and W_Z pass through them.
        if self._layers_on_descriptors(x):
            descriptors = self.feature((x.flatten(2) @ where.mT)[..., None])  # (B, m, n, 1)
            z = (self.out(descriptors)[..., 0].to(x.dtype) @ which).unflatten(2, x.shape[2:])
        else:
            gathered = self.feature(x).flatten(2).to(x.dtype) @ where.mT  # (B, m, n)
            z = self.out((gathered @ which).unflatten(2, x.shape[2:]))
        return z if self.bn is None else self.bn(z)

    def _layers_on_descriptors(self, x: Tensor) -> bool:
        """Return whether both layers act on n descriptors, not on N pixels: in a graph, or with fewer multiply-adds."""
        if not isinstance(x, Tensor) or is_captured():  # a graph of one size serves all
            return True
        channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
        return channels * self.summaries * (pixels + self.hidden) <= self.hidden * pixels * (channels + self.summaries)
