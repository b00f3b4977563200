"""Single-label classification: trained with cross-entropy; reports top-1, top-5 and negative log-likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.metrics.metric import Metric
from saccade.models import create_host, host_as_saved
from saccade.tasks.base import Drawing, Subject, Task, logits_problem

if TYPE_CHECKING:
    from saccade.metrics.rows import Rows
    from saccade.recipe import Model

__all__ = ["Classify"]


def _per_class(values: Tensor, rows: Rows) -> Tensor:
    """Return the mean (K,) of ``values`` (N,) over the images of each label; NaN for a label without images."""
    labels = rows["label"].long()
    sums = torch.zeros(int(labels.max()) + 1, dtype=torch.float64).index_add_(0, labels, values)
    return sums / labels.bincount()


def _top1(rows: Rows) -> Tensor:
    return 100.0 * (rows["predicted"] == rows["label"]).double()


def _top5(rows: Rows) -> Tensor:
    return 100.0 * (rows["rank"] < 5).double()


@final
class Classify(Task):
    """Classification: the network maps images (B, C, H, W) to one tensor of logits (B, K).

    Rows, each (N,): ``predicted`` and ``label``, class indices; ``rank``, the number of classes that rank ahead of the
    label; ``nll``, the negative log-likelihood of the label in nats.
    """

    target = "label"
    metrics = (
        Metric(
            name="top-1", unit="%", margin=1.0, low=0.0, high=100.0, values=_top1,
            by_class=lambda rows: _per_class(_top1(rows), rows),
        ),
        Metric(name="top-5", unit="%", margin=1.0, low=0.0, high=100.0, values=_top5),
        Metric(
            name="NLL", unit="nats", margin=0.05, low=0.0, higher_is_better=False, digits=3,
            values=lambda rows: rows["nll"].double(),
        ),
    )  # fmt: skip
    truth_keys = ("label",)
    has_class_weights = True

    @cached_property
    def _class_weights(self) -> Tensor | None:
        """Weight of each class (K,), N / (K · Nₖ) for N training images, 1 without images; None without weights."""
        if self.recipe.task.class_weights is None:
            return None
        train, n_classes = self.data.train, len(self.data.classes)
        counts = torch.tensor([train.target(i) for i in range(len(train))]).bincount(minlength=n_classes)
        # Label smoothing also weights classes without images.
        return torch.where(counts > 0, len(train) / (n_classes * counts.clamp(min=1)), 1.0)

    def build(self, model: Model) -> nn.Module:
        return create_host(model, len(self.data.classes), self.data.channels)

    def host(self, model: Model) -> Mapping[str, Any]:
        return host_as_saved(model, len(self.data.classes), self.data.channels)

    def output_problem(self, output: Any, images: Tensor) -> str | None:
        return logits_problem(output, (len(images), len(self.data.classes)))

    def loss(self, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        smoothing, weights = self.recipe.training.label_smoothing, self._class_weights
        logits = network(images).float()
        if weights is not None:
            weights = weights.to(logits.device)
        return {"cross-entropy": F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)}

    def rows(self, network: nn.Module, images: Tensor, targets: Any) -> Rows:
        return _rows(network(images).float(), targets)

    def trivial_baseline(self) -> tuple[str, Rows]:
        train, test = (
            torch.tensor([images.target(i) for i in range(len(images))]) for images in (self.data.train, self.data.test)
        )
        logits = train.bincount(minlength=len(self.data.classes)).float().log()
        return "the most frequent class", _rows(logits.expand(len(test), -1), test)

    def applicable_metrics(self) -> tuple[Metric, ...]:
        return tuple(metric for metric in self.metrics if metric.name != "top-5" or len(self.data.classes) > 5)

    def subjects(self, i: int) -> list[Subject]:
        return self.labelled_subjects(i, [self.data.test.target(i)])

    def draw(self, indices: Sequence[int], network: nn.Module | None) -> list[Drawing]:
        classes, labels = self.data.classes, [self.data.test.target(i) for i in indices]
        if network is None:
            return [Drawing(classes[label]) for label in labels]
        confidences, predictions = network(self.images(indices)).float().softmax(1).max(1)
        return [
            Drawing(f"{classes[prediction]} · {100 * confidence:.0f}\u202f%", prediction == label)
            for prediction, confidence, label in zip(predictions.tolist(), confidences.tolist(), labels, strict=True)
        ]


def _rows(logits: Tensor, labels: Tensor) -> Rows:
    """Return the rows for ``logits`` (N, K) and ``labels`` (N,)."""
    label_logits = logits.gather(1, labels[:, None])
    # Among equal logits the lowest index wins, as in argmax; NaN logits rank ahead of the label.
    has_lower_index = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    is_ahead = ~(logits <= label_logits) | ((logits == label_logits) & has_lower_index)
    return {
        "predicted": logits.argmax(1).int(),
        "label": labels.int(),
        "rank": is_ahead.sum(1).int(),
        "nll": F.cross_entropy(logits, labels, reduction="none"),
    }
