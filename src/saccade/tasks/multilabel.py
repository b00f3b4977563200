"""Multi-label classification: trained with binary cross-entropy; reports mean AUROC and mean average precision.

A class is scored if at least 15 test images in 10 groups (images, without groups) have its label, and as many lack it.
The classes are chosen on the whole test part, so that leaving images out does not change them. The others are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.escaping import brief, printable
from saccade.metrics.by_value import restrict
from saccade.metrics.enough import MIN_GROUPS, MIN_IMAGES, count_groups, is_enough
from saccade.metrics.metric import Metric
from saccade.metrics.ranking import auroc, auroc_without, average_precision, average_precision_without
from saccade.models import create_host, host_as_saved
from saccade.tasks.base import Drawing, Subject, Task, logits_problem

if TYPE_CHECKING:
    from saccade.metrics.rows import Rows
    from saccade.recipe import Model

__all__ = ["Multilabel"]

Floats = NDArray[np.float64]
_MAX_LISTED = 40
"""Number of classes that a sentence lists."""
_PROBABILITY_FROM = 0.5
"""Probability from which a drawing names a label."""


def _columns(rows: Rows) -> list[tuple[Floats, NDArray[np.bool_]] | None]:
    """Return logits (N,) and labels (N,) of each class; None for a class that is not scored."""
    logits, labels = rows["logits"].double().numpy(), rows["label"].bool().numpy()
    return [(logits[:, k], labels[:, k]) if scored else None for k, scored in enumerate(rows["scored"][0].tolist())]


def _metric(name: str, of_class: Callable[..., float], of_class_without: Callable[..., Floats]) -> Metric:
    """Return the mean of ``of_class`` over the scored classes, as a metric."""

    def by_class(rows: Rows) -> Tensor:
        scores = [float("nan") if column is None else of_class(*column) for column in _columns(rows)]
        return torch.tensor(scores, dtype=torch.float64)

    def score(rows: Rows) -> float:
        return float(by_class(rows)[rows["scored"][0].bool()].mean())

    def score_without(rows: Rows, units: Tensor) -> Tensor:
        scores = [of_class_without(*column, units.numpy()) for column in _columns(rows) if column is not None]
        return torch.from_numpy(np.mean(scores, axis=0))

    return Metric(
        name=name, unit="", margin=0.01, low=0.0, high=1.0, digits=4,
        score=score, by_class=by_class, score_without=score_without,
    )  # fmt: skip


def _scored_classes(labels: Tensor, groups: Tensor | None) -> Tensor:
    """Return True (K,) for the classes to score, from ``labels`` (N, K) and ``groups`` (N,)."""
    return is_enough(labels.bool(), groups) & is_enough(~labels.bool(), groups)


@final
class Multilabel(Task):
    """Several labels per image: the network maps images (B, C, H, W) to one tensor of logits (B, K).

    Label smoothing s moves each target from 0 or 1 to s/2 or 1 − s/2.

    Rows, each (N, K): ``logits``, float32; ``label``, bool; ``scored``, bool, the same for all images: the classes
    whose scores are averaged.
    """

    target = "vector"
    metrics = (
        _metric("AUROC", auroc, auroc_without),
        _metric("mAP", average_precision, average_precision_without),
    )
    truth_keys = ("label",)
    has_class_weights = True

    @cached_property
    def _test_labels(self) -> Tensor:
        return _stack_labels(self.data.test)

    @cached_property
    def _scored(self) -> Tensor:
        """True (K,) for the classes that are scored."""
        return _scored_classes(self._test_labels, self.data.test.codes().get("group"))

    @cached_property
    def _positive_weights(self) -> Tensor | None:
        """Weight of the positives of each class (K,): negatives / positives, 1 without positives; None if unset."""
        if self.recipe.task.class_weights is None:
            return None
        labels = _stack_labels(self.data.train)
        positives = labels.sum(0)
        return torch.where(positives > 0, (len(labels) - positives) / positives.clamp(min=1), 1.0)

    def build(self, model: Model) -> nn.Module:
        return create_host(model, len(self.data.classes), self.data.channels)

    def host(self, model: Model) -> Mapping[str, Any]:
        return host_as_saved(model, len(self.data.classes), self.data.channels)

    def output_problem(self, output: Any, images: Tensor) -> str | None:
        problem = logits_problem(output, (len(images), len(self.data.classes)))
        # Without a gradient, probabilities look like logits between 0 and 1.
        if problem is None and type(output.grad_fn).__name__ == "SigmoidBackward0":
            return "gives probabilities, the output of a sigmoid; logits are needed: remove the sigmoid"
        return problem

    def loss(self, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        smoothing, weights = self.recipe.training.label_smoothing, self._positive_weights
        logits = network(images).float()
        targets = targets * (1 - smoothing) + smoothing / 2 if smoothing else targets
        if weights is not None:
            weights = weights.to(logits.device)
        return {"cross-entropy": F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)}

    def rows(self, network: nn.Module, images: Tensor, targets: Any) -> Rows:
        return self._rows(network(images).float(), targets)

    def _rows(self, logits: Tensor, labels: Tensor) -> Rows:
        return {"logits": logits, "label": labels > 0, "scored": self._scored.repeat(len(logits), 1)}

    def trivial_baseline(self) -> tuple[str, Rows]:
        labels = self._test_labels
        return "the same answer for every image", self._rows(torch.zeros_like(labels), labels)

    def applicable_metrics(self) -> tuple[Metric, ...]:
        """Return the metrics.

        Raises:
            UserError: no class has enough test images.
        """
        if not self._scored.any():
            raise UserError(
                f"no class can be scored: at least one needs {self._needed}; there are "
                f"{self._count(range(len(self._scored)))}"
            )
        return self.metrics

    @classmethod
    def metrics_by(
        cls, metrics: Sequence[Metric], column: str, values: Sequence[str], rows: Rows
    ) -> tuple[Metric, ...]:
        """Return ``metrics`` of each of ``values``, with the classes scored that have enough images of that value."""
        restricted: list[Metric] = []
        for code, value in enumerate(values):
            scored = _scored_by(rows, code)
            if scored.any():
                restricted += [
                    restrict(metric, f"{metric.name} ({printable(f'{column} = {value}')})", code, {"scored": scored})
                    for metric in metrics
                ]
        return tuple(restricted)

    def unscored(self) -> list[str]:
        sentences, by = [], self.data.test.by
        if not self._scored.all():
            lacking = torch.nonzero(~self._scored)[:, 0].tolist()
            sentences.append(f"Not scored, for lack of {self._needed}: {self._count(lacking)}.")
        rows = self.data.test.codes() | {"label": self._test_labels}
        for code, value in enumerate(by.levels if by else ()):
            assert by is not None
            scored, n_images = _scored_by(rows, code), int((rows["by"] == code).sum())
            names = [brief(self.data.classes[k]) for k in torch.nonzero(scored)[:, 0].tolist()]
            subject = brief(f"{by.name} = {value}")
            sentences.append(
                f"{subject} ({n_images} test images): the mean is over {', '.join(names)}."
                if names
                else f"{subject} ({n_images} test images) is not scored: no class has {self._needed}."
            )
        return sentences

    @property
    def _needed(self) -> str:
        groups = "" if self.data.test.groups is None else f", each from {MIN_GROUPS} groups"
        return f"{MIN_IMAGES} test images with the label and {MIN_IMAGES} without{groups}"

    def _count(self, classes: Sequence[int]) -> str:
        """Return the number of test images and groups with each label, as text."""
        labels, groups = self._test_labels > 0, self.data.test.codes().get("group")
        images, in_groups = labels.sum(0).tolist(), count_groups(labels, groups).tolist()
        counts = [
            f"{brief(self.data.classes[k])} {images[k]}" + ("" if groups is None else f" (groups: {in_groups[k]})")
            for k in classes[:_MAX_LISTED]
        ]
        more = f" and {len(classes) - _MAX_LISTED} more" if len(classes) > _MAX_LISTED else ""
        return f"{', '.join(counts)}{more}, of {len(labels)} test images"

    def subjects(self, i: int) -> list[Subject]:
        return self.labelled_subjects(i, torch.nonzero(self.data.test.target(i) > 0)[:, 0].tolist())

    def draw(self, indices: Sequence[int], network: nn.Module | None) -> list[Drawing]:
        classes, labels = self.data.classes, self._test_labels[torch.tensor(indices)] > 0
        if network is None:
            return [Drawing(", ".join(classes[k] for k in torch.nonzero(row)[:, 0]) or "none") for row in labels]
        drawings = []
        for row, truth in zip(network(self.images(indices)).float().sigmoid(), labels, strict=True):
            found = [k for k in row.argsort(descending=True).tolist() if row[k] > _PROBABILITY_FROM]
            caption = ", ".join(f"{classes[k]} {100 * row[k]:.0f}\u202f%" for k in found)
            drawings.append(Drawing(caption or "none", torch.equal(row > _PROBABILITY_FROM, truth)))
        return drawings


def _stack_labels(images: Any) -> Tensor:
    """Return the target vectors (N, K), float32, of all ``images``."""
    return torch.stack([images.target(i) for i in range(len(images))])


def _scored_by(rows: Rows, code: int) -> Tensor:
    """Return True (K,) for the classes to score on the images whose ``by`` is ``code``."""
    chosen, groups = rows["by"] == code, rows.get("group")
    return _scored_classes(rows["label"][chosen], None if groups is None else groups[chosen])
