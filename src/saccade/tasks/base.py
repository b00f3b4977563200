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

__all__ = ["Drawing", "Phase", "Task", "unfit"]


@dataclass(frozen=True)
class Phase:
    """A part of a training: which parameters learn, for how long, and which epoch is kept.

    Attributes:
        name: for the record.
        epochs: how many.
        trainable: globs of parameter names; a module all of whose parameters are frozen stays in eval mode, and so
            does what lies in it. A module without parameters beside trained ones, such as a dropout, is in train mode.
        choose: go on from the epoch with the best score on ``val``, not from the last.
    """

    name: str
    epochs: int
    trainable: tuple[str, ...] = ("*",)
    choose: bool = False


@dataclass(frozen=True)
class Drawing:
    """An answer as a picture or in words.

    Attributes:
        caption: in a few words.
        right: whether it is right; None where that is no yes or no.
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
        auto: whether a recipe that names no task may get it; of the tasks for one ``target`` one alone has it.
        metrics: the first gives the verdicts unless the recipe names another.
        truth: the keys of the rows that must be the same in all runs of a study.
    """

    target: ClassVar[str]
    auto: ClassVar[bool] = True
    metrics: ClassVar[tuple[Metric, ...]]
    truth: ClassVar[tuple[str, ...]] = ()

    def __init__(self, recipe: Recipe, data: Split) -> None:
        self.recipe, self.data = recipe, data

    @abstractmethod
    def build(self, model: Model) -> nn.Module:
        """Build the host for this data, without plugs; draws from torch's global generator.

        Raises:
            UserError: there is no such network, or it cannot be made for this data.
        """

    @abstractmethod
    def host(self, model: Model) -> Mapping[str, Any]:
        """Return how :meth:`build` makes the host, as ``saccade.save`` takes it."""

    @abstractmethod
    def misfit(self, output: Any, images: Tensor) -> str | None:
        """Say what ``output`` for ``images`` (B, C, H, W) is and what is needed; None if it fits."""

    @abstractmethod
    def loss(self, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        """Return the named parts of the training loss, scalars; their sum is minimised."""

    @abstractmethod
    def rows(self, network: nn.Module, images: Tensor, targets: Any) -> Rows:
        """Return what every metric needs of the network's answers to a batch, in eval mode.

        Floating-point entries must be finite: a NaN or an infinity is taken for divergence and ends the training.
        """

    @abstractmethod
    def trivial(self) -> tuple[str, Rows]:
        """Return an answer that ignores the image, in words, and its rows on the test part."""

    def phases(self, network: nn.Module) -> tuple[Phase, ...]:
        """Return the phases of the training: ``network.training_phases()`` if there is such a method, else one.

        Raises:
            UserError: the network gives none.
        """
        own = getattr(network, "training_phases", None)
        found = tuple(own()) if callable(own) else (Phase("all", self.recipe.training.epochs),)
        if not found:
            raise UserError(f"training_phases() of {type(network).__name__} gives no phase; at least one is needed")
        return found

    def scores(self, rows: Rows) -> dict[str, float | None]:
        """Return the scores of ``rows`` by the name of the metric."""
        return {metric.name: metric.of(rows) for metric in self.reported()}

    def reported(self) -> tuple[Metric, ...]:
        """Return the metrics that mean something on this data."""
        return self.metrics

    def verdict(self) -> Metric:
        """Return the metric of the verdicts: the one that the recipe names, else the first.

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
                f"task.metric = {name!r}: there is no such metric.{did_you_mean(name, names)} There are "
                f"{', '.join(names)}."
            )
        return known[name.lower()]

    @abstractmethod
    def draw(self, indices: Sequence[int], network: nn.Module | None) -> list[Drawing]:
        """Draw what ``network``, in eval mode, answers for test images; None draws the truth."""

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return test images (B, C, H, W) as a network sees them."""
        return torch.stack([self.data.test[i][0] for i in indices])


def unfit(output: Any, needed: tuple[int, ...]) -> str | None:
    """Say what ``output`` is where it is no tensor of logits of the shape ``needed``; None if it is one.

    Classes are its second dimension.
    """
    if not isinstance(output, Tensor):
        keys = f" with {', '.join(map(repr, output))}" if isinstance(output, Mapping) else ""
        many = f" of {len(output)}" if isinstance(output, Sequence) and not isinstance(output, str) else ""
        return f"gives a {type(output).__name__}{many}{keys}; one tensor of logits of shape {needed} is needed"
    if tuple(output.shape) != needed:
        return f"gives {tuple(output.shape)} for two of them; logits of shape {needed} are needed"
    if needed[1] > 1 and bool((output >= 0).all()) and torch.allclose(output.sum(1), torch.ones(()), atol=1e-4):
        return "gives probabilities, which add up to 1 over the classes; logits are needed: leave the softmax out"
    return None
