"""Execution of a study's runs by a scheduler and an executor, of local processes or of Ray actors.

The parent process does not import torch, so it stays small and reacts to Ctrl-C at once.
"""

from saccade.study.engine.local import cores, cpu_slots
from saccade.study.engine.schedule import ATTEMPTS, ENGINES, Outcome, execute

__all__ = ["ATTEMPTS", "ENGINES", "Outcome", "cores", "cpu_slots", "execute"]
