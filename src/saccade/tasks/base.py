"""The interface of a task: all that training, study, statistics and report know of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from saccade.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image

    from saccade.data.samples import Split
    from saccade.metrics.metric import Metric
    from saccade.metrics.rows import Rows
    from saccade.recipe import Model, Recipe

__all__ = ["Drawing", "Phase", "Task"]


@dataclass(frozen=True)
class Phase:
    """A part of a training: which parameters learn, for how long, and which epoch is kept.

    Attributes:
        name: for the record.
        epochs: how many.
        trainable: globs of parameter names; modules without a trainable parameter stay in eval mode.
        choose: go on from the epoch with the best score on ``val``, not from the last.
    """

    name: str
    epochs: int
    trainable: tuple[str, ...] = ("*",)
    choose: bool = False


@dataclass(frozen=True)
class Drawing:
    """An answer for the eye.

    Attributes:
        caption: in a few words.
        right: whether it is; None where that is not a yes or no.
        picture: the answer as a picture; None where the words say all.
    """

    caption: str
    right: bool | None = None
    picture: Image | None = None


class Task(ABC):
    """What is learnt and how it is scored. One file of ``tasks/`` holds one final subclass.

    Args:
        recipe: of the run.
        data: its images, with targets of the kind ``target``.

    Attributes:
        target: the kind of target it learns from; see ``saccade.data.samples``.
        metrics: the first gives the verdicts unless the recipe names another.
        truth: the keys of the rows that must be the same in all runs of a study.
    """

    target: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    truth: ClassVar[tuple[str, ...]] = ()

    def __init__(self, recipe: Recipe, data: Split) -> None:
        self.recipe, self.data = recipe, data

    @abstractmethod
    def build(self, model: Model) -> nn.Module:
        """The host for this data, before anything is plugged; draws from torch's global generator.

        Raises:
            UserError: there is no such network, or it cannot be made for this data.
        """

    @abstractmethod
    def host(self, model: Model) -> Mapping[str, Any]:
        """How :meth:`build` makes the host, as ``saccade.save`` takes it."""

    @abstractmethod
    def misfit(self, output: Any, images: Tensor) -> str | None:
        """What the host gives for ``images`` (B, C, H, W) in eval mode and what is needed; None where it fits."""

    @abstractmethod
    def loss(self, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        """The named parts of the training loss, scalars; their sum is minimised."""

    @abstractmethod
    def rows(self, network: nn.Module, images: Tensor, targets: Any) -> Rows:
        """What the network in eval mode makes of a batch, sufficient for every metric."""

    @abstractmethod
    def trivial(self) -> tuple[str, Rows]:
        """The answer that needs no image, in words, and its rows on the test part."""

    def phases(self, network: nn.Module) -> tuple[Phase, ...]:
        """The phases of the training: those of ``network.training_phases()`` where it has them, else one."""
        own = getattr(network, "training_phases", None)
        return tuple(own()) if callable(own) else (Phase("all", self.recipe.training.epochs),)

    def scores(self, rows: Rows) -> dict[str, float | None]:
        """Every metric of this data, by name."""
        return {metric.name: metric.of(rows) for metric in self.reported()}

    def reported(self) -> tuple[Metric, ...]:
        """The metrics that mean something on this data."""
        return self.metrics

    def verdict(self) -> Metric:
        """The metric of the verdicts: the one that the recipe names, else the first.

        Raises:
            UserError: this task has no such metric on this data.
        """
        known = {metric.name.lower(): metric for metric in self.reported()}
        name = self.recipe.task.metric
        if name is None:
            return next(iter(known.values()))
        if name.lower() not in known:
            names = [metric.name for metric in known.values()]
            raise UserError(
                f"task.metric = {name!r}: there is no such metric here.{did_you_mean(name, names)} There are "
                f"{', '.join(names)}."
            )
        return known[name.lower()]

    @abstractmethod
    def draw(self, indices: Sequence[int], network: nn.Module | None) -> list[Drawing]:
        """What ``network``, in eval mode, answers for test images, for the eye; None draws the truth."""

    def images(self, indices: Sequence[int]) -> Tensor:
        """Test images (B, C, H, W) as a network sees them."""
        return torch.stack([self.data.test[i][0] for i in indices])
