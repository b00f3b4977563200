"""Measure constant gates in the folder of a study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from saccade.study.collecting import collect
from saccade.study.gate_costs import ArmGates, gates_of_results
from saccade.study.opening import open_task
from saccade.trust import Trust

__all__ = ["constant_gates"]


def constant_gates(
    folder: str | Path,
    trust: Trust = False,
    limit: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ArmGates, ...]:
    """Return the cost of constant gates for each arm of a study whose networks have gates.

    Results are stored in the run folders, and the next report shows them.

    Args:
        folder: folder of the study.
        trust: True, or names that saved networks may import; see ``saccade.load``.
        limit: longest estimated time per run in seconds, or None; see ``gates_of_results``.
        progress: called with the number of runs done, and of all.

    Raises:
        UserError: ``folder`` holds no study, or its images or networks cannot be opened.
    """
    results = collect(folder)
    assert results.study is not None
    task = open_task(results.study, str(results.task))
    return gates_of_results(results, task, trust, limit, progress)
