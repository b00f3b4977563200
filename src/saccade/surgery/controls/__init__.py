"""Controls: modules plugged instead of a mechanism, to show which part of it helped."""

from saccade.surgery.controls.choice import plug_control as plug_control
from saccade.surgery.controls.extra import ExtraBottleneck as ExtraBottleneck
from saccade.surgery.controls.noise import NoiseGate as NoiseGate
from saccade.surgery.controls.shuffled import Shuffled as Shuffled
from saccade.surgery.controls.shuffled import unshuffled as unshuffled

__all__ = ["ExtraBottleneck", "NoiseGate", "Shuffled", "plug_control", "unshuffled"]
