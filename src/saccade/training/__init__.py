"""One run: a recipe becomes a trained network and a run folder that is the only truth about it."""

from saccade.training.folder import RunFolder
from saccade.training.network import build, derived
from saccade.training.run import train

__all__ = ["RunFolder", "build", "derived", "train"]
