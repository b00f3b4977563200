"""What is learnt: a task is a ``LightningModule`` around a network, with its loss, its score and its optimiser."""

from saccade.tasks.classify import Classify
from saccade.tasks.divergence import DivergenceError

__all__ = ["Classify", "DivergenceError"]
