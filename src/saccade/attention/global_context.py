r"""Global Context block: a context vector, pooled by attention, is added to every pixel.

    m = softmax_{h,w}(w · x)                                         (B, H·W)         attention map
    z = Σ_{h,w} m x                                                  (B, C)           context vector
    t = W₂ ReLU(LN(W₁ z + b₁)) + b₂                                  (B, C)           C -> C·rd_ratio -> C
    y = x + t                                                        (B, C, H, W)

``fuse_scale=True`` also multiplies by σ(t'), t' from a second bottleneck: y = x ⊙ σ(t') + t, or with ``fuse_add=False``
y = x ⊙ σ(t'). Initially t = 0 and y = x, or x/2 with ``fuse_scale``. The authors' w has a bias, which a
softmax ignores.

Source: Cao et al., "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", ICCVW 2019,
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
    "limits": ["rd_ratio must be positive", "at least one of fuse_add and fuse_scale must be true"],
    "neutral": "only with fuse_scale=False",
    "equivariant": ["permutation", "flip", "transpose"],
    "published": [
        {"net": "resnet50", "params": 28.11, "macs": 4.13, "source": "DCANet README"},
        {"net": "resnet50", "params": 28.08, "macs": 3.87, "top1": 77.70, "unit": "10^6, 2^30",
         "note": "size without the three modules in layer1", "source": "ECA-Net paper, table 3"},
    ],
    "timm": "gca",
}  # fmt: skip


def parameters(channels: int, rd_ratio: float, fuse_add: bool, fuse_scale: bool) -> int:
    hidden = max(2, int(channels * rd_ratio))
    return channels + (fuse_add + fuse_scale) * (2 * channels * hidden + channels + 3 * hidden)


def neutral(fuse_scale: bool) -> bool:
    return not fuse_scale


class GlobalContext(Context):
    """Context vector, pooled by attention and transformed by a bottleneck, that is added to x, gates x, or both.

    Args:
        channels: C.
        rd_ratio: bottleneck width / C, with a width of at least 2.
        fuse_add: True adds t.
        fuse_scale: True multiplies x by σ(t').

    Raises:
        ValueError: ``rd_ratio`` is not positive, or ``fuse_add`` and ``fuse_scale`` are False.
    """

    def __init__(
        self, channels: int, rd_ratio: float = 1 / 16, fuse_add: bool = True, fuse_scale: bool = False
    ) -> None:
        super().__init__()
        if rd_ratio <= 0:
            raise ValueError(f"rd_ratio must be positive, got {rd_ratio}")
        if not (fuse_add or fuse_scale):
            raise ValueError("at least one of fuse_add and fuse_scale must be true, got False for both")
        hidden = max(2, int(channels * rd_ratio))
        self.mask = nn.Conv2d(channels, 1, 1, bias=False)  # w of m
        self.add = _bottleneck(channels, hidden) if fuse_add else None
        self.scale = _bottleneck(channels, hidden) if fuse_scale else None
        nn.init.kaiming_normal_(self.mask.weight)

    def context(self, x: Tensor) -> Tensor:
        """Return the tensor to add to x, (B, C, 1, 1) or (B, C, H, W)."""
        attention = self.mask(x).flatten(2).softmax(2)
        z = (x.flatten(2) @ attention.to(x.dtype).transpose(1, 2))[:, :, 0]
        if self.scale is None:
            assert self.add is not None
            return self.add(z)[:, :, None, None]
        scaled: Tensor = x * (self.scale(z).sigmoid() - 1)[:, :, None, None]  # x·σ = x + x·(σ − 1)
        return scaled if self.add is None else scaled + self.add(z)[:, :, None, None]


def _bottleneck(channels: int, hidden: int) -> nn.Sequential:
    """Return a bottleneck whose output is initially zero."""
    output_layer = nn.Linear(hidden, channels)
    nn.init.zeros_(output_layer.weight)
    nn.init.zeros_(output_layer.bias)
    return nn.Sequential(nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU(), output_layer)
