"""The network of a run and what trains with it, checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from saccade.errors import UserError
from saccade.tasks.base import Phase, Task
from saccade.training.distilling import Teacher
from saccade.training.freezing import Frozen, freeze
from saccade.training.loggers import check_installed
from saccade.training.mixing import Mixing
from saccade.training.module import check_own_loss, only_trainable
from saccade.training.network import build
from saccade.trust import Trust

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """What a run trains, and with what.

    Attributes:
        network: the host with whatever is plugged into it, on the CPU.
        frozen: what of the host does not learn.
        phases: of the training.
        mixing: of the images of a batch; None without.
        teacher: a trained network to learn from; None without.
    """

    network: nn.Module
    frozen: Frozen
    phases: tuple[Phase, ...]
    mixing: Mixing | None
    teacher: Teacher | None


def prepare(task: Task, trust: Trust = False) -> Prepared:
    """Build the network of ``task`` and everything that its recipe names.

    Args:
        task: with its images.
        trust: what the folder of a teacher may name; see ``saccade.load``.

    Raises:
        UserError: the host, a mechanism, the teacher, a phase, a key or a package that the recipe asks for is wrong.
    """
    part = task.recipe.training
    check_installed(part.loggers)
    mixing, teacher = Mixing.of(task), Teacher.of(task, trust)
    network = build(task)
    check_own_loss(network, part)
    frozen = freeze(network, task.recipe)
    phases = task.phases(network)
    for phase in phases:
        with only_trainable(network, phase):  # raises where it trains nothing
            pass
    if task.data.val is None and (chooses := [phase.name for phase in phases if phase.choose]):
        raise UserError(f"the phase {chooses[0]!r} chooses its best epoch on the part 'val'; the images have none")
    return Prepared(network, frozen, phases, mixing, teacher)
