"""Interface between tasks and the code of training, studies and reports.

To add a task, write only ``tasks/<name>.py`` with one final subclass of :class:`Task`; a recipe's ``task.name`` selects
it. For example, a regression of the class index::

    from typing import final

    import torch

    from saccade.metrics.metric import Metric
    from saccade.models import create_host, host_as_saved
    from saccade.tasks.base import Drawing, Task, logits_problem


    def _errors(rows):
        return (rows["predicted"] - rows["label"]).abs().double()


    @final
    class Regress(Task):
        target = "label"
        is_default = False
        metrics = (Metric(name="MAE", unit="", margin=0.1, low=0.0, higher_is_better=False, values=_errors),)
        truth_keys = ("label",)

        def build(self, model):
            return create_host(model, 1, self.data.channels)

        def host(self, model):
            return host_as_saved(model, 1, self.data.channels)

        def output_problem(self, output, images):
            return logits_problem(output, (len(images), 1))

        def loss(self, network, images, targets):
            return {"L1": (network(images)[:, 0].float() - targets).abs().mean()}

        def rows(self, network, images, targets):
            return {"predicted": network(images)[:, 0].float(), "label": targets.float()}

        def trivial_baseline(self):
            train, test = (
                torch.tensor([float(split.target(i)) for i in range(len(split))])
                for split in (self.data.train, self.data.test)
            )
            return "the mean label", {"predicted": train.mean().repeat(len(test)), "label": test}

        def draw(self, indices, network):
            if network is None:
                return [Drawing(f"{self.data.test.target(i)}") for i in indices]
            return [Drawing(f"{value:.1f}") for value in network(self.images(indices))[:, 0].tolist()]
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from saccade.errors import UserError, did_you_mean
from saccade.escaping import printable
from saccade.metrics.by_value import restrict
from saccade.metrics.enough import MIN_GROUPS, MIN_IMAGES, count_groups, is_enough
from saccade.recipe import Phase

if TYPE_CHECKING:
    from PIL.Image import Image

    from saccade.data.samples import Splits
    from saccade.metrics.metric import Metric
    from saccade.metrics.rows import Rows
    from saccade.recipe import Model, Recipe

__all__ = ["Box", "Drawing", "Phase", "Subject", "Task", "logits_problem"]


@dataclass(frozen=True)
class Box:
    """Rectangle of a drawing; corners are fractions of the image's width and height.

    Attributes:
        label: index of the class, which decides the colour.
        text: such as "dog 0.93".
    """

    left: float
    top: float
    right: float
    bottom: float
    label: int
    text: str = ""


@dataclass(frozen=True)
class Drawing:
    """Prediction or ground truth that a report shows beside the image.

    Attributes:
        caption: short text, such as a class name.
        right: True for a correct prediction; None for the ground truth, or if correctness is not binary.
        picture: such as a coloured mask.
        boxes: rectangles over the picture, else over the image.
        smooth: True if the picture may be interpolated, as a heat map.
    """

    caption: str
    right: bool | None = None
    picture: Image | None = None
    boxes: tuple[Box, ...] = ()
    smooth: bool = False


@dataclass(frozen=True, eq=False)
class Subject:
    """Class in the ground truth of an image.

    Attributes:
        index: of the class in the network's output.
        name: of the class.
        region: its pixels (H, W), bool, if known.
    """

    index: int
    name: str
    region: Tensor | None


class Task(ABC):
    """Training loss, metrics and drawings of one kind of prediction, for one run.

    Args:
        recipe: recipe of the run.
        data: training and test images; ``data.train[i]`` is a pair of image (C, H, W) and target.

    Attributes:
        target: kind of target that the data must have, see ``saccade.data.samples.Target``.
        is_default: True for the one task that such data gets without ``task.name``.
        metrics: scores; the first decides the verdicts, unless the recipe names another.
        truth_keys: keys of the rows that hold ground truth, which must be equal in all runs of a study.
        has_class_weights: True if the loss supports ``task.class_weights``.
        has_label_smoothing: True if it supports ``training.label_smoothing``.
        has_positions: True if targets are positions in the image.
        has_sigma: True if the task blurs fixations by ``task.sigma``.

    Raises:
        UserError: the recipe sets one of these three keys, and the task does not support it.
    """

    target: ClassVar[str]
    is_default: ClassVar[bool] = True
    metrics: ClassVar[tuple[Metric, ...]]
    truth_keys: ClassVar[tuple[str, ...]] = ()
    has_class_weights: ClassVar[bool] = False
    has_label_smoothing: ClassVar[bool] = True
    has_positions: ClassVar[bool] = False
    has_sigma: ClassVar[bool] = False

    def __init__(self, recipe: Recipe, data: Splits) -> None:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()
        if recipe.task.class_weights is not None and not self.has_class_weights:
            raise UserError(
                f"task.class_weights = {recipe.task.class_weights!r}: the loss of {name} has no "
                "class weights; leave the key out"
            )
        if recipe.task.sigma is not None and not self.has_sigma:
            raise UserError(f"task.sigma = {recipe.task.sigma:g}: {name} blurs no fixations; leave the key out")
        if (smoothing := recipe.training.label_smoothing) and not self.has_label_smoothing:
            raise UserError(
                f"training.label_smoothing = {smoothing:g}: the loss of {name} has no smoothing; set it to 0"
            )
        self.recipe, self.data = recipe, data

    @abstractmethod
    def build(self, model: Model) -> nn.Module:
        """Return the host that the ``model`` section of a recipe names, usually from ``create_host``.

        Random weights must come from torch's global generator, which is seeded.

        Raises:
            UserError: there is no such network, or it does not suit the data.
        """

    @abstractmethod
    def host(self, model: Model) -> Mapping[str, Any]:
        """Return the description of the host for ``saccade.save(host=…)``, usually from ``host_as_saved``."""

    @abstractmethod
    def output_problem(self, output: Any, images: Tensor) -> str | None:
        """Return None if the network's ``output`` for ``images`` (B, C, H, W) can be trained on, else a message.

        The message is a predicate of the network: "gives …; … is needed". The check runs before training, with two
        images, in eval mode.
        """

    def training_problem(self, network: nn.Module, images: Tensor) -> str | None:
        """Return ``output_problem`` of a user's ``network`` in train mode without ``training_loss``.

        ``images`` are (B, C, H, W).
        """
        problem = self.output_problem(network(images), images)
        return problem and (
            f"{problem}. Build it without its auxiliary outputs, or give it a method training_loss(images, targets)"
        )

    @abstractmethod
    def loss(self, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        """Return the named terms of the training loss, scalars; their sum is minimised.

        Args:
            network: host with its plugs, in training mode.
            images: normalised images (B, C, H, W).
            targets: as ``saccade.data.samples.collate`` returns them, on the network's device like the images.
        """

    def network_targets(self, targets: Any) -> Any:
        """Return ``targets`` in the form that a network's own ``training_loss(images, targets)`` receives."""
        return targets

    @abstractmethod
    def rows(self, network: nn.Module, images: Tensor, targets: Any) -> Rows:
        """Return per-image results (B, …) from which every metric can be computed; see ``saccade.metrics.rows``.

        The arguments are those of :meth:`loss`, but ``network`` is in eval mode and gradients are disabled. NaN and
        infinity count as divergence and end the training.
        """

    @abstractmethod
    def trivial_baseline(self) -> tuple[str, Rows]:
        """Return the name of a prediction that ignores the image, and its rows on all test images."""

    def references(self) -> dict[str, Rows]:
        """Return the rows of further predictions on all test images by name, such as "one viewer"."""
        return {}

    def phases(self, network: nn.Module) -> tuple[Phase, ...]:
        """Return the phases of ``network.training_phases()`` or the recipe, else one phase of all epochs.

        Raises:
            UserError: ``training_phases()`` returns none, or network and recipe both define phases.
        """
        training = self.recipe.training
        training_phases = getattr(network, "training_phases", None)
        if not callable(training_phases):
            return training.phases or (Phase("all", training.epochs),)
        phases = tuple(training_phases())
        if not phases:
            raise UserError(f"training_phases() of {type(network).__name__} gives no phase; at least one is needed")
        if training.phases:
            names = ", ".join(phase.name for phase in phases)
            raise UserError(
                f"{type(network).__name__} defines its own training phases ({names}); remove training.phases"
            )
        return phases

    def scores(self, rows: Rows) -> dict[str, float | None]:
        """Return the scores of ``rows`` by the names of applicable metrics."""
        return {metric.name: metric.compute(rows) for metric in self.applicable_metrics()}

    def applicable_metrics(self) -> tuple[Metric, ...]:
        """Return the metrics that are meaningful for this data."""
        return self.metrics

    @classmethod
    def metrics_by(
        cls, metrics: Sequence[Metric], column: str, values: Sequence[str], rows: Rows
    ) -> tuple[Metric, ...]:
        """Return ``metrics`` of the images with each of ``values`` that has enough images, for intervals only.

        Args:
            metrics: metrics of the task.
            column: name of the column.
            values: its values.
            rows: ground truth of all test images, with their indices ``by`` into ``values``.
        """
        return tuple(
            restrict(metric, f"{metric.name} ({printable(f'{column} = {value}')})", code)
            for code, value in enumerate(values)
            if bool(is_enough((rows["by"] == code)[:, None], rows.get("group")))
            for metric in metrics
        )

    def unscored(self) -> list[str]:
        """Return a sentence on each class or value that has too few test images for a score."""
        rows, by = self.data.test.codes(), self.data.test.by
        sentences: list[str] = []
        if by is None:
            return sentences
        for code, value in enumerate(by.levels):
            selected = (rows["by"] == code)[:, None]
            if not bool(is_enough(selected, rows.get("group"))):
                n_images, n_groups = int(selected.sum()), int(count_groups(selected, rows.get("group")))
                sentences.append(
                    f"{by.name} = {value} is not scored: it has {n_images} test images in {n_groups} groups; "
                    f"{MIN_IMAGES} in {MIN_GROUPS} are needed."
                )
        return sentences

    def primary_metric(self) -> Metric:
        """Return the metric that decides the verdicts.

        Raises:
            UserError: the recipe names a metric that is not applicable.
        """
        metrics = {metric.name.lower(): metric for metric in self.applicable_metrics()}
        name = self.recipe.task.metric
        if name is None:
            return next(iter(metrics.values()))
        if name.lower() not in metrics:
            names = [metric.name for metric in metrics.values()]
            raise UserError(
                f"task.metric = {name!r}: there is no such metric.{did_you_mean(name, names)} There are "
                f"{', '.join(names)}."
            )
        return metrics[name.lower()]

    def subjects(self, i: int) -> list[Subject]:
        """Return the classes in the truth of test image ``i``, the largest region first."""
        return []

    def labelled_subjects(self, i: int, classes: Iterable[int]) -> list[Subject]:
        """Return the subjects of ``classes`` with the regions of the data."""
        regions = self.data.test.regions_of(i)
        ranked = sorted(classes, key=lambda k: -int(regions[k].sum()) if k in regions else 0)
        return [Subject(k, self.data.classes[k], regions.get(k)) for k in ranked]

    @abstractmethod
    def draw(self, indices: Sequence[int], network: nn.Module | None) -> list[Drawing]:
        """Draw the predictions for test images by ``network``, in eval mode on the CPU; None draws the ground truth."""

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return the normalised test images at ``indices`` as a batch (B, C, H, W)."""
        return torch.stack([self.data.test[i][0] for i in indices])


def logits_problem(output: Any, shape: tuple[int, ...]) -> str | None:
    """Return None for a tensor of logits of ``shape`` (B, K, …), else a message for ``output_problem``."""
    if not isinstance(output, Tensor):
        keys = f" with {', '.join(map(repr, output))}" if isinstance(output, Mapping) else ""
        length = f" of {len(output)}" if isinstance(output, Sequence) and not isinstance(output, str) else ""
        return f"gives a {type(output).__name__}{length}{keys}; one tensor of logits of shape {shape} is needed"
    if tuple(output.shape) != shape:
        return f"gives shape {tuple(output.shape)} for {shape[0]} images; logits of shape {shape} are needed"
    if shape[1] > 1 and bool((output >= 0).all()) and torch.allclose(output.sum(1), torch.ones(()), atol=1e-4):
        return "gives probabilities, which add up to 1 over the classes; logits are needed: remove the softmax"
    return None
