r"""DAS, Deformable Attention to capture Salient information: a gate computed by deformable convolution.

    z    = GELU(IN(PW_{C→c}(DW_{3×3}(x))) + b)          (B, c, H, W), c = ⌊αC⌋                    eq. 1
    Δ, m = Conv_{3×3, c→27}(z), m through a sigmoid     18 offsets, 9 modulations per pixel
    d    = DeformConv_{3×3, c→C}(z, Δ, m)               (B, C, H, W)                              eq. 2
    A    = σ(LN_C(d))                                   LN over the channels of each pixel        eq. 3
    y    = x ⊙ A                                        (B, C, H, W)                              eq. 4

The authors published no code. Counted by ``thop``, which omits the deformable kernel (9·c·C weights), this
reimplementation has the published sizes; those of ResNet-101 are quoted from memory, and the paper gives no positions
in MobileNetV2. The positions of biases are ours. The offset convolution starts at zero: a regular grid with m = 1/2.

Designs of Table 4; x(p + Δ) is x sampled bilinearly, with zero padding:

    a    y = Conv_{1×1, 2C→C}[x; x(p + Δ)], Δ = Conv_{3×3, C→2}(x); no gate
    b    d = Conv_{1×1, 2c→C}[z; z(p + Δ)], Δ = Conv_{3×3, c→2}(z)
    c    the equations above
    d    z = x: no compression
    e    d = z with c = C: no deformable convolution
    f    d = PW_{c→C}(DW_{3×3}(z)): depthwise-separable instead of deformable convolution
    g    y = d, as in design "d"; no gate
    h    y = LN_C(d), d as in design "c"; no gate

The paper only sketches them. Our choices: the kernel sizes in a and b, a final norm in h, no norm in g. ``norm`` and
``gate_norm`` select the norms (Table 5).

Source: Salajegheh et al., "DAS: A Deformable Attention to Capture Salient Information in CNNs", 2023, arXiv:2311.12091.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Gate, reduced_channels, zero_parameters
from saccade.ops.deform import deform_conv2d
from saccade.ops.eager import is_plain_layer
from saccade.ops.macs import with_macs
from saccade.ops.memory_format import match_memory_format
from saccade.specs import GateRange

# The catalogue takes the first name.
__all__ = ["das", "DeformableSalience", "FusedSample", "UngatedSalience"]  # noqa: RUF022

SPEC = {
    "name": "das",
    "title": "Deformable Attention to capture Salient information",
    "paper": {"authors": "Salajegheh, Asadi, Saryazdi, Mudur",
              "title": "DAS: A Deformable Attention to Capture Salient Information in CNNs", "venue": "arXiv",
              "year": 2023, "arxiv": "2311.12091"},
    "kind": "gate",
    "evidence": "reading",
    "position": {"default": "stage"},
    "limits": [
        "channels * alpha must be at least 1",
        "gate_norm='layer' needs at least 2 channels",
        "norm='layer' needs at least 2 compressed channels",
    ],
    "gate": "(0, 1); designs a, g and h have no gate",
    "published": [
        {"net": "resnet50", "params": 26.90, "macs": 4.39, "top1": 78.04,
         "note": "without the deformable kernels; thop gives 26.897 and 4.390",
         "source": "DAS paper; sizes computed from the printed differences to GSoP"},
        {"net": "resnet18", "params": 11.82, "macs": 1.86, "top1": 72.03,
         "note": "without the deformable kernels; thop gives 11.816 and 1.857",
         "source": "DAS paper; sizes computed from the printed differences to ResNet-50"},
        {"net": "resnet101", "params": 45.89, "macs": 8.12, "top1": 78.62,
         "note": "without the deformable kernels; thop gives 45.889 and 8.123",
         "source": "DAS paper; sizes quoted from memory, not confirmed in its table"},
        {"net": "mobilenet_v2", "macs": 0.35, "top1": 72.79,
         "note": "without the deformable kernels; thop gives 3.556 and 0.349", "source": "DAS paper"},
    ],
}  # fmt: skip


def parameters(channels: int, alpha: float, design: str, gate_norm: str) -> int:
    compressed = channels if design in ("d", "e", "g") else int(channels * alpha)
    deform_count = 27 * (9 * compressed + 1) + 9 * channels * compressed
    match design:
        case "a":
            return 18 * channels + 2 + 2 * channels**2 + channels
        case "g":
            return deform_count + channels
        case "b":
            d_count = 2 * (9 * compressed + 1) + 2 * compressed * channels
        case "c" | "d" | "h":
            d_count = deform_count
        case "e":
            d_count = 0
        case _:
            d_count = 9 * compressed + compressed * channels
    z_count = 0 if design == "d" else 9 * channels + channels * compressed + compressed
    bias_count = channels if design != "e" and gate_norm in ("layer", "none") else 0
    return z_count + d_count + bias_count + (0 if gate_norm == "none" else 2 * channels)


def gate(design: str) -> GateRange | None:
    return None if design in ("a", "g", "h") else GateRange(0, 1)


_DESIGNS = ("a", "b", "c", "d", "e", "f", "g", "h")
_NORMS = ("instance", "batch", "layer", "none")


def das(
    channels: int,
    alpha: float = 0.2,
    design: Literal["a", "b", "c", "d", "e", "f", "g", "h"] = "c",
    norm: Literal["instance", "batch", "layer", "none"] = "instance",
    gate_norm: Literal["layer", "batch", "instance", "none"] = "layer",
) -> nn.Module:
    """Build the module of a design.

    Args:
        channels: C.
        alpha: α; unused in designs a, d, e and g.
        design: letter in Table 4.
        norm: before the GELU; unused in a, d and g.
        gate_norm: before the sigmoid, in h the last layer; unused in a and g.

    Raises:
        ValueError: a limit of SPEC is violated, or a choice is unknown.
    """
    if design not in _DESIGNS:
        raise ValueError(f"design must be one of {', '.join(_DESIGNS)}, got {design!r}")
    if norm not in _NORMS or gate_norm not in _NORMS:
        raise ValueError(f"norm and gate_norm must be among {', '.join(_NORMS)}, got {norm!r} and {gate_norm!r}")
    if design == "a":
        return FusedSample(channels)
    module_class = UngatedSalience if design in ("g", "h") else DeformableSalience
    return module_class(channels, alpha, design, norm, gate_norm)


class _SalienceLayers(nn.Module):
    """Layers of designs b to h, up to the last norm; arguments as for :func:`das`."""

    def __init__(
        self,
        channels: int,
        alpha: float = 0.2,
        design: Literal["b", "c", "d", "e", "f", "g", "h"] = "c",
        norm: Literal["instance", "batch", "layer", "none"] = "instance",
        gate_norm: Literal["layer", "batch", "instance", "none"] = "layer",
    ) -> None:
        super().__init__()
        if design == "g":
            gate_norm = "none"
        compressed = channels if design in ("d", "e", "g") else reduced_channels(channels, alpha, "alpha")
        if gate_norm == "layer" and channels < 2:
            raise ValueError(f"gate_norm='layer' needs at least 2 channels, got {channels}")
        self.compresses = design not in ("d", "g")
        if norm == "layer" and self.compresses and compressed < 2:
            raise ValueError(f"norm='layer' needs at least 2 compressed channels, got {compressed}")
        self.design = design
        self.before = norm  # norm of z, before the GELU
        self.after = gate_norm  # norm of d, before the sigmoid
        if self.compresses:
            self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
            self.pointwise = nn.Conv2d(channels, compressed, 1, bias=False)
            self.shift = nn.Parameter(torch.zeros(compressed))  # bias b of eq. 1
            if norm == "batch":
                self.batch_norm = BatchNorm2d(compressed, affine=False)
        bias = gate_norm in ("layer", "none")  # the other norms cancel a bias
        if design in ("c", "d", "g", "h"):
            self.offset = zero_parameters(nn.Conv2d(compressed, 27, 3, padding=1))
            # Called only if hooked, on each pixel's nine samples as a 3×3 block; else only its weights are used.
            self.deform = _Kernel(compressed, channels, 3, stride=3, bias=bias)
        elif design == "b":
            self.offset = zero_parameters(nn.Conv2d(compressed, 2, 3, padding=1))
            self.fuse = nn.Conv2d(2 * compressed, channels, 1, bias=bias)
        elif design == "f":
            self.spread = nn.Conv2d(compressed, compressed, 3, padding=1, groups=compressed, bias=False)  # DW of f
            self.widen = nn.Conv2d(compressed, channels, 1, bias=bias)  # PW of f
        if gate_norm == "layer":
            self.norm: nn.Module = nn.LayerNorm(channels)  # of d
        elif gate_norm == "batch":
            self.norm = BatchNorm2d(channels)
        elif gate_norm == "instance":
            self.norm = _InstanceNorm(channels, channels)

    def _normalized_d(self, x: Tensor) -> Tensor:
        """Return d (B, C, H, W) after the last norm, before any sigmoid."""
        d = self._deform(self._compress(x) if self.compresses else x)
        match self.after:
            case "layer":
                d = self.norm(d.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            case "batch" | "instance":
                d = self.norm(d)
        return d

    def _compress(self, x: Tensor) -> Tensor:
        """Return z (B, c, H, W) of eq. 1."""
        z = self.pointwise(self.depthwise(x))
        if self.before == "batch":
            z = self.batch_norm(z)
        elif self.before != "none":
            axes = (2, 3) if self.before == "instance" else (1,)
            z_float32 = z.to(torch.promote_types(z.dtype, torch.float32))  # squares overflow float16
            var, mean = torch.var_mean(z_float32, axes, correction=0, keepdim=True)
            z = ((z_float32 - mean) * (var + 1e-5).rsqrt()).to(z.dtype)
        return F.gelu(z + self.shift[:, None, None])

    def _deform(self, z: Tensor) -> Tensor:
        """Return d (B, C, H, W) as the design defines it."""
        match self.design:
            case "b":
                return self.fuse(torch.cat([z, _sample(z, self.offset(z))], 1))
            case "e":
                return z
            case "f":
                return self.widen(self.spread(z))
        offset, mask = self.offset(z).split([18, 9], 1)
        if is_plain_layer(self.deform):
            return deform_conv2d(z, offset, self.deform.weight, self.deform.bias, padding=1, mask=mask.sigmoid())
        return self.deform(F.pixel_shuffle(_sample_grid(z, offset, mask.sigmoid()), 3))


class DeformableSalience(_SalienceLayers, Gate):
    """Gate of designs b to f; arguments as for :func:`das`."""

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate (B, C, H, W)."""
        return self._normalized_d(x).sigmoid()


class UngatedSalience(_SalienceLayers):
    """Layers of designs g and h, without a gate; arguments as for :func:`das`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        return match_memory_format(self._normalized_d(x).to(x.dtype), x)


class _Kernel(nn.Conv2d):
    """Conv2d subclass, so that tools that count layers by exact type, such as ``thop``, skip it."""


@with_macs(lambda z, offset, mask: 4 * 9 * z.numel())  # 4 MACs per sample
def _sample_grid(z: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    """Return the nine samples of each pixel of z (B, c, H, W), weighted by ``mask``: (B, 9c, H, W)."""
    kernel = torch.eye(9, dtype=z.dtype, device=z.device).view(9, 1, 3, 3).repeat(z.shape[1], 1, 1, 1)
    return deform_conv2d(z, offset, kernel, padding=1, mask=mask)


class _InstanceNorm(nn.GroupNorm):
    """Instance norm that maps a single pixel to zero in training, where PyTorch raises."""

    def forward(self, d: Tensor) -> Tensor:
        return torch.group_norm(d, self.num_groups, self.weight, self.bias, self.eps)


class FusedSample(nn.Module):
    """Design a: 1×1 convolution of x and one sample per pixel.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = zero_parameters(nn.Conv2d(channels, 2, 3, padding=1))
        self.fuse = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return y, in the dtype of x."""
        y: Tensor = self.fuse(torch.cat([x, _sample(x, self.offset(x))], 1))
        return y.to(x.dtype)


def _sample(x: Tensor, offset: Tensor) -> Tensor:
    """Return x(p + Δ) (B, C, H, W) for offsets Δ (B, 2, H, W) in pixels, dy then dx."""
    return deform_conv2d(x, offset, x.new_ones(x.shape[1], 1, 1, 1))
