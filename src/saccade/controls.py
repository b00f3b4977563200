"""The controls: what stands at a mechanism's sites in its place, and what that shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CONTROLS", "Control", "ControlName"]

ControlName = Literal["extra", "noise", "shuffled"]


@dataclass(frozen=True)
class Control:
    """One control."""

    path: str
    """``package.module:Class``, by which saved networks name it."""
    shows: str
    """What it is, and what a mechanism that does no better shows."""


CONTROLS: dict[ControlName, Control] = {
    "extra": Control(
        "saccade.surgery.controls.extra:ExtraBottleneck",
        "a plain bottleneck without attention, of the number of parameters nearest to the mechanism's that one of at "
        "least one unit can have; a mechanism that does no better was helped by its parameters",
    ),
    "noise": Control(
        "saccade.surgery.controls.noise:NoiseGate",
        "a random gate that sees nothing; a mechanism that does no better was helped by rescaling channels",
    ),
    "shuffled": Control(
        "saccade.surgery.controls.shuffled:Shuffled",
        "the mechanism with the gate of another image; if it does as well, it does not matter what is seen",
    ),
}
