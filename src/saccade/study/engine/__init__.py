"""Execution of a study's runs: one scheduler, and two executors, for local processes and for Ray.

``local`` uses one process per slot on this machine, ``ray`` one actor per slot on a Ray cluster. Both execute the same
calls and send the same messages, so a run gives the same results with either. This package does not import torch: the
parent process stays small and reacts to Ctrl-C at once.
"""

from saccade.study.engine.local import cores, slots_for
from saccade.study.engine.schedule import ATTEMPTS, ENGINES, Outcome, execute

__all__ = ["ATTEMPTS", "ENGINES", "Outcome", "cores", "execute", "slots_for"]
