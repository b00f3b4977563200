"""Write a mechanism, test it against the contract, and plug it into a network.

    python examples/own_mechanism.py

About 10 seconds. The class needs no registration: in the folder of this file,
``saccade compare --attention own_mechanism:RepairedContrastGate`` compares it.
"""

from __future__ import annotations

from textwrap import shorten

import timm
import torch
from torch import Tensor, nn

import saccade


class ContrastGate(nn.Module):
    """Channel gate computed from the standard deviation of each channel: y = x · σ(w · std(x) + b)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        contrast = x.std((2, 3))
        return x * (self.weight * contrast + self.bias).sigmoid()[:, :, None, None]


class RepairedContrastGate(ContrastGate):
    """The same gate, defined for one pixel too and computed in float32 at least."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        contrast = (wide.var((2, 3), correction=0) + 1e-6).sqrt()
        gate = (self.weight * contrast + self.bias).sigmoid()
        return x * gate[:, :, None, None].to(x.dtype)


def main() -> None:
    """Run the example."""
    for mechanism in (ContrastGate, RepairedContrastGate):
        records = saccade.check(mechanism, channels=16)
        failed = [record for record in records if record.status == "failed"]
        print(f"{mechanism.__name__}: {len(failed)} of {len(records)} promises are broken")
        for record in failed:
            print(f"    {record.promise.replace('_', ' ')}: {shorten(record.reason, 90)}")

    model = timm.create_model("resnet18").eval()
    images = torch.randn(2, 3, 64, 64)
    before = model(images)
    saccade.plug(model, RepairedContrastGate, where="stage", input=images)
    sites = [row.site for row in saccade.plugs(model)]
    print(f"\nplugged at {', '.join(sites)}; same logits: {torch.equal(model(images), before)}")


if __name__ == "__main__":
    main()
