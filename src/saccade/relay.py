"""The names under which networks pickled by earlier versions know :mod:`saccade.stage_outputs`."""

from saccade.stage_outputs import PreviousStage as Previous
from saccade.stage_outputs import StageOutputs as Relay

__all__ = ["Previous", "Relay"]
