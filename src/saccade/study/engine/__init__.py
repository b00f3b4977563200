"""Where the runs of a study are done and in which order: one schedule, two places to work.

``local`` is a process for each slot on this machine, ``ray`` an actor for each slot on a Ray cluster. Both answer the
same calls with the same messages, so a run cannot tell where it is done. Nothing here imports torch: the parent stays
light and answers Ctrl-C at once.
"""

from saccade.study.engine.local import cores, slots_for
from saccade.study.engine.schedule import ATTEMPTS, ENGINES, Outcome, execute

__all__ = ["ATTEMPTS", "ENGINES", "Outcome", "cores", "execute", "slots_for"]
