"""Network, teacher and mixing of a run, checked before any file is written."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from saccade.errors import UserError
from saccade.tasks.base import Phase, Task
from saccade.training.distilling import Teacher
from saccade.training.freezing import FrozenPart, freeze
from saccade.training.loggers import check_installed
from saccade.training.mixing import Mixing
from saccade.training.module import check_own_loss, train_only
from saccade.training.network import build
from saccade.trust import Trust

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """Network, phases, mixing and teacher of a run.

    Attributes:
        network: host with its plugs, on the CPU.
        frozen: frozen part of the host.
        phases: phases of the training.
        mixing: mixing of images, if any.
        teacher: teacher for distillation, if any.
    """

    network: nn.Module
    frozen: FrozenPart
    phases: tuple[Phase, ...]
    mixing: Mixing | None
    teacher: Teacher | None


def prepare(task: Task, trust: Trust = False) -> Prepared:
    """Build and check the parts of the run of ``task``; ``trust`` is as in ``saccade.load``.

    Raises:
        UserError: a host, mechanism, teacher, phase or recipe setting is invalid, or a package is not installed.
    """
    training = task.recipe.training
    check_installed(training.loggers)
    mixing, teacher = Mixing.from_task(task), Teacher.from_task(task, trust)
    network = build(task)
    check_own_loss(network, training)
    frozen = freeze(network, task.recipe)
    phases = task.phases(network)
    for phase in phases:
        with train_only(network, phase):  # raises if the phase trains nothing
            pass
    if task.data.val is None and (choosing_phases := [phase.name for phase in phases if phase.choose]):
        raise UserError(
            f"the phase {choosing_phases[0]!r} chooses its best epoch on validation images; the data have none"
        )
    return Prepared(network, frozen, phases, mixing, teacher)
