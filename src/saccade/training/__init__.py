"""Training of the network that a recipe describes, recorded in a run folder."""

from saccade.training.folder import RunFolder
from saccade.training.network import build, derive_seed
from saccade.training.run import train

__all__ = ["RunFolder", "build", "derive_seed", "train"]
