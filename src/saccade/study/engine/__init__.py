"""Execution of a study's runs: one scheduler, and executors for local processes and for Ray.

Neither imports torch in the parent process, which stays small and reacts to Ctrl-C at once.
"""

from saccade.study.engine.local import cores, slots_for
from saccade.study.engine.schedule import ATTEMPTS, ENGINES, Outcome, execute

__all__ = ["ATTEMPTS", "ENGINES", "Outcome", "cores", "execute", "slots_for"]
