r"""Global Context block: one summary of the whole map is added to every pixel.

    m = softmax_{h,w}(w · x)                                         (B, H·W)         where to look
    z = Σ_{h,w} m x                                                  (B, C)           what is there
    t = W₂ ReLU(LN(W₁ z + b₁)) + b₂                                  (B, C)           C -> C·rd_ratio -> C
    y = x + t                                                        (B, C, H, W)

``fuse_scale=True`` multiplies by σ(t') first, t' from layers of its own: y = x ⊙ σ(t') + t, or with ``fuse_add=False``
y = x ⊙ σ(t'). W₂ and b₂ start at zero: it starts as the identity where it only adds, as x/2 where it scales.

The authors' w has a bias, which a softmax ignores. The layer norm of a single unit is constant: below C = 2/rd_ratio
the bottleneck keeps two units, where the authors' code builds one or none.

Source: Cao, Xu, Lin, Wei, Hu, "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", ICCVW 2019,
arXiv:1904.11492.
"""

from __future__ import annotations

from torch import Tensor, nn

from saccade.bases import Context

__all__ = ["GlobalContext"]

SPEC = {
    "name": "gc",
    "aliases": ["gca"],
    "title": "Global Context block",
    "paper": {"authors": "Cao, Xu, Lin, Wei, Hu",
              "title": "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", "venue": "ICCVW",
              "year": 2019, "arxiv": "1904.11492"},
    "kind": "context",
    "evidence": "oracle",
    "code": ["xvjiarui/GCNet"],
    "position": {"default": "residual"},
    "limits": ["rd_ratio must be positive", "one of fuse_add and fuse_scale must be true"],
    "neutral": "only with fuse_scale=False",
    "equivariant": ["permutation", "flip", "transpose"],
    "published": [
        {"net": "resnet50", "params": 28.11, "macs": 4.13, "source": "DCANet README"},
        {"net": "resnet50", "params": 28.08, "macs": 3.87, "top1": 77.70, "unit": "10^6, 2^30",
         "note": "size without the three blocks of layer1", "source": "ECA-Net paper, table 3"},
    ],
    "timm": "gca",
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, fuse_add: bool, fuse_scale: bool) -> int:
    hidden = max(2, int(channels * rd_ratio))
    return channels + (fuse_add + fuse_scale) * (2 * channels * hidden + channels + 3 * hidden)


def neutral(fuse_scale: bool) -> bool:
    return not fuse_scale


class GlobalContext(Context):
    """Attention pooling, one bottleneck, added to (or scaling) every place.

    Args:
        channels: C of the map (B, C, H, W).
        rd_ratio: width of the bottleneck as a part of C, rounded down, but at least two units.
        fuse_add: whether the transformed context is added.
        fuse_scale: whether a second one scales the map, through σ, before that.

    Raises:
        ValueError: ``rd_ratio`` is not positive, or it neither adds nor scales.
    """

    def __init__(
        self, channels: int, rd_ratio: float = 1 / 16, fuse_add: bool = True, fuse_scale: bool = False
    ) -> None:
        super().__init__()
        if rd_ratio <= 0:
            raise ValueError(f"rd_ratio must be positive, got {rd_ratio}")
        if not (fuse_add or fuse_scale):
            raise ValueError("one of fuse_add and fuse_scale must be true, got False for both")
        hidden = max(2, int(channels * rd_ratio))
        self.mask = nn.Conv2d(channels, 1, 1, bias=False)
        self.add = _bottleneck(channels, hidden) if fuse_add else None
        self.scale = _bottleneck(channels, hidden) if fuse_scale else None
        nn.init.kaiming_normal_(self.mask.weight)

    def context(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to what is added: (B, C, 1, 1), or (B, C, H, W) where it scales."""
        mask = self.mask(x).flatten(2).softmax(2)  # (B, 1, H·W)
        z = (x.flatten(2) @ mask.to(x.dtype).transpose(1, 2))[:, :, 0]  # (B, C)
        if self.scale is None:
            assert self.add is not None
            return self.add(z)[:, :, None, None]
        scaled: Tensor = x * (self.scale(z).sigmoid() - 1)[:, :, None, None]  # x·σ = x + x·(σ − 1)
        return scaled if self.add is None else scaled + self.add(z)[:, :, None, None]


def _bottleneck(channels: int, hidden: int) -> nn.Sequential:
    """C -> hidden -> C with a layer norm and a ReLU between; zero at the start."""
    last = nn.Linear(hidden, channels)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU(), last)
