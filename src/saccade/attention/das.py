r"""DAS, Deformable Attention to capture Salient information: a gate computed by deformable convolution.

    z    = GELU(IN(PW_{C→c}(DW_{3×3}(x))) + b)          (B, c, H, W), c = ⌊αC⌋                    eq. 1
    Δ, m = Conv_{3×3, c→27}(z), m through σ             18 offsets, 9 modulations a pixel
    d    = DeformConv_{3×3, c→C}(z, Δ, m)               (B, C, H, W)                              eq. 2
    A    = σ(LN_C(d))                                   LN over the channels of each pixel        eq. 3
    y    = x ⊙ A                                        (B, C, H, W)                              eq. 4

The authors published no code; this reading reproduces the sizes they print. Their counts leave out the deformable
kernel (9·c·C weights), which ``saccade measure`` counts. The article does not say which layers have a bias: the shift b
stands behind IN (no scale), where it can act, and the deformable convolution has its own. The offset convolution starts
at zero: a regular grid, m = 1/2.

The eight designs of the article's Table 4, with its accuracies on Stanford Dogs in %; x(p + Δ) is the map sampled at an
offset from each pixel p, bilinear, zero outside:

    a    y = Conv_{1×1, 2C→C}[x; x(p + Δ)], Δ = Conv_{3×3, C→2}(x); no gate                        65.00
    b    d = Conv_{1×1, 2c→C}[z; z(p + Δ)], Δ = Conv_{3×3, c→2}(z)                                 65.21
    c    the equations above                                                                       66.410
    d    z = x: no compression                                                                     65.338
    e    d = z with c = C: no deformable convolution                                               65.291
    f    d = PW_{c→C}(DW_{3×3}(z)): a depthwise-separable convolution in place of the deformable   66.107
    g    y = d of design d, the deformable convolution as a layer; no gate                         "much lower"
    h    y = LN_C(d), the layers of c; no gate                                                     "low"

Only the idea of each is described: the kernel sizes of a and b are ours, as is that h keeps its last norm and g has
none. For g and h only the words of the text are known. ``norm`` and ``gate_norm`` exchange the two norms, as in Table
5; a bias is left out where a norm would remove it. Gates after each block: ``where="block"``.

The counter ``thop`` gives the published sizes to the last digit; those of ResNet-101 are quoted from memory. For
MobileNetV2 the places are open: the five stages of the default give 0.349 G, the ends of all seven groups 0.351,
where 0.35 is printed.

Source: Salajegheh, Asadi, Saryazdi, Mudur, "DAS: A Deformable Attention to Capture Salient Information in CNNs",
2023, arXiv:2311.12091.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import BatchNorm2d, Gate, reduced, zeroed
from saccade.ops.deform import deform_conv2d
from saccade.ops.eager import is_plain_layer
from saccade.ops.macs import with_macs
from saccade.ops.memory_format import match_memory_format
from saccade.specs import Interval

__all__ = ["das", "DeformableSalience", "FusedSample", "UngatedSalience"]  # noqa: RUF022  # the first is the one the catalogue makes

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
         "source": "DAS paper; sizes derived from its differences to GSoP"},
        {"net": "resnet18", "params": 11.82, "macs": 1.86, "top1": 72.03,
         "note": "without the deformable kernels; thop gives 11.816 and 1.857",
         "source": "DAS paper; sizes derived from its differences to ResNet-50"},
        {"net": "resnet101", "params": 45.89, "macs": 8.12, "top1": 78.62,
         "note": "without the deformable kernels; thop gives 45.889 and 8.123",
         "source": "DAS paper; sizes quoted from memory, not confirmed in its table"},
        {"net": "mobilenet_v2", "macs": 0.35, "top1": 72.79,
         "note": "without the deformable kernels; thop gives 3.556 and 0.349", "source": "DAS paper"},
    ],
}  # fmt: skip


def parameters(channels: int, alpha: float, design: str, gate_norm: str) -> int:
    c, width = channels, channels if design in ("d", "e", "g") else int(channels * alpha)
    deformable = 27 * (9 * width + 1) + 9 * c * width
    match design:
        case "a":
            return 18 * c + 2 + 2 * c**2 + c
        case "g":
            return deformable + c
        case "b":
            middle = 2 * (9 * width + 1) + 2 * width * c
        case "c" | "d" | "h":
            middle = deformable
        case "e":
            middle = 0
        case _:
            middle = 9 * width + width * c
    compressed = 0 if design == "d" else 9 * c + c * width + width
    bias = c if design != "e" and gate_norm in ("layer", "none") else 0
    return compressed + middle + bias + (0 if gate_norm == "none" else 2 * c)


def gate(design: str) -> Interval | None:
    return None if design in ("a", "g", "h") else Interval(0, 1)


_DESIGNS, _NORMS = "abcdefgh", ("instance", "batch", "layer", "none")


def das(
    channels: int,
    alpha: float = 0.2,
    design: Literal["a", "b", "c", "d", "e", "f", "g", "h"] = "c",
    norm: Literal["instance", "batch", "layer", "none"] = "instance",
    gate_norm: Literal["layer", "batch", "instance", "none"] = "layer",
) -> nn.Module:
    """Build the gate, or, for the designs a, g and h, which have none, the layers.

    Args:
        channels: C of the map (B, C, H, W).
        alpha: α, compressed channels as a part of C, rounded down; designs a, d, e, g compress nothing.
        design: a letter of the article's Table 4.
        norm: in front of the GELU; designs a, d and g have none.
        gate_norm: in front of the sigmoid, in design h the last layer; designs a and g have none.

    Raises:
        ValueError: outside the limits of SPEC, or no such design or norm.
    """
    if design not in tuple(_DESIGNS):
        raise ValueError(f"design must be one of {', '.join(_DESIGNS)}, got {design!r}")
    if norm not in _NORMS or gate_norm not in _NORMS:
        raise ValueError(f"norm and gate_norm must be among {', '.join(_NORMS)}, got {norm!r} and {gate_norm!r}")
    if design == "a":
        return FusedSample(channels)
    made = UngatedSalience if design in ("g", "h") else DeformableSalience
    return made(channels, alpha, design, norm, gate_norm)


class _Salience(nn.Module):
    """The layers of every design but a, up to the last norm.

    Args and errors are those of :func:`das`, which checks the words.
    """

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
        compressed = channels if design in ("d", "e", "g") else reduced(channels, alpha, "alpha")
        if gate_norm == "layer" and channels < 2:
            raise ValueError(f"gate_norm='layer' needs at least 2 channels, got {channels}")
        self.compresses = design not in ("d", "g")
        if norm == "layer" and self.compresses and compressed < 2:
            raise ValueError(f"norm='layer' needs at least 2 compressed channels, got {compressed}")
        self.design, self.before, self.after = design, norm, gate_norm
        if self.compresses:
            self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
            self.pointwise = nn.Conv2d(channels, compressed, 1, bias=False)
            self.shift = nn.Parameter(torch.zeros(compressed))
            if norm == "batch":
                self.batch_norm = BatchNorm2d(compressed, affine=False)
        bias = gate_norm in ("layer", "none")  # the other norms take a channel's mean away
        if design in ("c", "d", "g", "h"):
            self.offset = zeroed(nn.Conv2d(compressed, 27, 3, padding=1))
            # Samples of the nine taps, laid out as 3×3 blocks, make the deformable convolution one of stride 3.
            self.deform = _Kernel(compressed, channels, 3, stride=3, bias=bias)
        elif design == "b":
            self.offset = zeroed(nn.Conv2d(compressed, 2, 3, padding=1))
            self.fuse = nn.Conv2d(2 * compressed, channels, 1, bias=bias)
        elif design == "f":
            self.spread = nn.Conv2d(compressed, compressed, 3, padding=1, groups=compressed, bias=False)
            self.widen = nn.Conv2d(compressed, channels, 1, bias=bias)
        if gate_norm == "layer":
            self.norm: nn.Module = nn.LayerNorm(channels)
        elif gate_norm == "batch":
            self.norm = BatchNorm2d(channels)
        elif gate_norm == "instance":
            self.norm = _InstanceNorm(channels, channels)

    def layers(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the normalised d (B, C, H, W), the argument of the sigmoid in eq. 3."""
        d = self._deformed(self._compressed(x) if self.compresses else x)
        match self.after:
            case "layer":
                d = self.norm(d.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            case "batch" | "instance":
                d = self.norm(d)
        return d

    def _compressed(self, x: Tensor) -> Tensor:
        """The map z (B, c, H, W) of eq. 1."""
        z = self.pointwise(self.depthwise(x))
        if self.before == "batch":
            z = self.batch_norm(z)
        elif self.before != "none":
            over = (2, 3) if self.before == "instance" else (1,)
            wide = z.to(torch.promote_types(z.dtype, torch.float32))  # squares overflow float16
            var, mean = torch.var_mean(wide, over, correction=0, keepdim=True)
            z = ((wide - mean) * (var + 1e-5).rsqrt()).to(z.dtype)
        return F.gelu(z + self.shift[:, None, None])

    def _deformed(self, z: Tensor) -> Tensor:
        """The map d (B, C, H, W) of eq. 2, or what the design has in its place."""
        match self.design:
            case "b":
                return self.fuse(torch.cat([z, _sampled(z, self.offset(z))], 1))
            case "e":
                return z
            case "f":
                return self.widen(self.spread(z))
        offset, mask = self.offset(z).split([18, 9], 1)
        if is_plain_layer(self.deform):
            return deform_conv2d(z, offset, self.deform.weight, self.deform.bias, padding=1, mask=mask.sigmoid())
        return self.deform(F.pixel_shuffle(_taps(z, offset, mask.sigmoid()), 3))


class DeformableSalience(_Salience, Gate):
    """Gate of a deformable convolution over compressed channels, and its ablations b, d, e, f.

    Args and errors are those of :func:`das`, which checks the words.
    """

    def gate(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        return self.layers(x).sigmoid()


class UngatedSalience(_Salience):
    """Designs g and h: the layers in the place of the map.

    Args and errors are those of :func:`das`, which checks the words.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        return match_memory_format(self.layers(x).to(x.dtype), x)


class _Kernel(nn.Conv2d):
    """The kernel of a deformable convolution.

    Counters that know layers by their exact class leave it out, as the one did that the article's figures come from.
    """


@with_macs(lambda z, offset, mask: 4 * 9 * z.numel())
def _taps(z: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    """The nine samples of each pixel of z (B, c, H, W), weighed by ``mask``: (B, 9c, H, W)."""
    kernel = torch.eye(9, dtype=z.dtype, device=z.device).view(9, 1, 3, 3).repeat(z.shape[1], 1, 1, 1)
    return deform_conv2d(z, offset, kernel, padding=1, mask=mask)


class _InstanceNorm(nn.GroupNorm):
    """PyTorch's, which refuses a single pixel in training: here it is normalised to zero."""

    def forward(self, d: Tensor) -> Tensor:
        return torch.group_norm(d, self.num_groups, self.weight, self.bias, self.eps)


class FusedSample(nn.Module):
    """Design a: a convolution over the map and the map sampled elsewhere.

    Args:
        channels: C of the map (B, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = zeroed(nn.Conv2d(channels, 2, 3, padding=1))
        self.fuse = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        y: Tensor = self.fuse(torch.cat([x, _sampled(x, self.offset(x))], 1))
        return y.to(x.dtype)


def _sampled(x: Tensor, offset: Tensor) -> Tensor:
    """x(p + Δ) in the shape of x (B, C, H, W), for offsets (B, 2, H, W) down and to the right in pixels.

    It is the depthwise deformable convolution whose kernels are a single 1.
    """
    return deform_conv2d(x, offset, x.new_ones(x.shape[1], 1, 1, 1))
