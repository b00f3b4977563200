"""Controls: modules that replace a mechanism at its sites, and the conclusions drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CONTROLS", "Control", "ControlName"]

ControlName = Literal["extra", "noise", "shuffled"]


@dataclass(frozen=True)
class Control:
    """Module put at the mechanism's sites to isolate one possible cause of its effect."""

    path: str
    """Class path ``package.module:Class``, stored in saved networks."""
    description: str
    """Description of the module, and the conclusion if the mechanism scores no better."""


CONTROLS: dict[ControlName, Control] = {
    "extra": Control(
        "saccade.surgery.controls.extra:ExtraBottleneck",
        "a plain bottleneck without attention whose width brings its number of parameters closest to the mechanism's; "
        "a mechanism that does no better was helped by its parameters",
    ),
    "noise": Control(
        "saccade.surgery.controls.noise:NoiseGate",
        "a random constant gate; a mechanism that does no better was helped by rescaling channels",
    ),
    "shuffled": Control(
        "saccade.surgery.controls.shuffled:Shuffled",
        "the mechanism with the gate of another image; a mechanism that does no better does not need each image's own "
        "gate",
    ),
}
