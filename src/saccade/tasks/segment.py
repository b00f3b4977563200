"""Semantic segmentation: trained with cross-entropy and soft Dice; reports mean IoU, Dice and pixel accuracy.

True and false positive and negative pixels (tp, fp, fn, tn) are counted by image and class, and summed over the test
images. Means are over the classes in the ground truth of the whole test part. Void pixels are not counted.

Soft Dice of class k, with probabilities p and one-hot truth y, over the labelled pixels i of the batch:

    D_k  = 2 Σ_i p_ik y_ik / (Σ_i p_ik + Σ_i y_ik)
    loss = 1 − mean of D_k over the classes with Σ_i y_ik > 0; 0 without labelled pixels

Source: Drozdzal et al., 2016, arXiv:1608.04117, equation 1, for two classes; Milletari et al., 2016, arXiv:1606.04797,
square the terms of the denominator. The mean over the classes of the batch is that of segmentation_models_pytorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from colorsys import hsv_to_rgb
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from saccade.data.samples import VOID
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.metrics.metric import Metric
from saccade.models import create_host, dense_model, host_as_saved
from saccade.recipe import Model
from saccade.tasks.base import Drawing, Subject, Task, logits_problem

if TYPE_CHECKING:
    from saccade.metrics.rows import Rows

__all__ = ["Segment"]

_BACKGROUND = "background"
"""Name of a class that drawings neither name nor colour."""
_COUNTS = ("tp", "fp", "fn", "tn")
_HUE_STEP = (5**0.5 - 1) / 2
"""Step between the hues of successive classes; the golden ratio keeps many hues far apart."""


def _overlap(rows: Rows, tp_weight: int) -> Tensor:
    """Return w·tp / (w·tp + fp + fn) in per cent (K,), with w = ``tp_weight``; NaN for classes that do not count.

    The classes ``scored`` count, else those in the truth of ``rows``. In a jackknife, a class only in the left-out
    image gets 0.
    """
    tp, fp, fn = (rows[key].double().sum(0) for key in ("tp", "fp", "fn"))
    scored = rows["scored"].any(0) if "scored" in rows else tp + fn > 0
    return torch.where(scored, 100.0 * tp_weight * tp / (tp_weight * tp + fp + fn).clamp(min=1), torch.nan)


def _iou(rows: Rows) -> Tensor:
    return _overlap(rows, 1)


def _dice(rows: Rows) -> Tensor:
    return _overlap(rows, 2)


def _accuracy(rows: Rows) -> float:
    tp, fn = rows["tp"].sum(), rows["fn"].sum()
    return float(100.0 * tp.double() / (tp + fn))


_PERCENT: dict[str, Any] = {"unit": "%", "margin": 1.0, "low": 0.0, "high": 100.0}


@final
class Segment(Task):
    """Segmentation: the network maps images (B, C, H, W) to one tensor of logits (B, K, H, W).

    Rows, each (N, K): ``tp``, ``fp``, ``fn`` and ``tn``, pixel counts by image and class; ``scored``, the same in every
    row, True for the classes in the truth of any test image.
    """

    target = "mask"
    metrics = (
        Metric(name="mIoU", score=lambda rows: float(_iou(rows).nanmean()), by_class=_iou, **_PERCENT),
        Metric(name="Dice", score=lambda rows: float(_dice(rows).nanmean()), by_class=_dice, **_PERCENT),
        Metric(name="pixel accuracy", score=_accuracy, **_PERCENT),
    )
    has_class_weights = True
    has_positions = True

    @cached_property
    def _class_weights(self) -> Tensor | None:
        """Weight of each class (K,), N / (K · Nₖ) for N labelled training pixels, 1 without; None if unset."""
        if self.recipe.task.class_weights is None:
            return None
        counts = self._train_counts
        # Label smoothing also weights classes without pixels.
        return torch.where(counts > 0, counts.sum() / (len(counts) * counts.clamp(min=1)), 1.0)

    @cached_property
    def _train_counts(self) -> Tensor:
        """Labelled pixels (K,) of each class in all training masks."""
        masks = (self.data.train.target(i) for i in range(len(self.data.train)))
        counts = sum((_histogram(mask) for mask in masks), torch.zeros(VOID + 1, dtype=torch.int64))
        return counts[: len(self.data.classes)]

    def build(self, model: Model) -> nn.Module:
        if len(classes := self.data.classes) < 2:
            found = brief(", ".join(classes) or "none")
            raise UserError(f"the masks have {len(classes)} classes besides void ({found}); 2 or more are needed")
        return create_host(dense_model(model), len(self.data.classes), self.data.channels)

    def host(self, model: Model) -> Mapping[str, Any]:
        return host_as_saved(dense_model(model), len(self.data.classes), self.data.channels)

    def output_problem(self, output: Any, images: Tensor) -> str | None:
        return logits_problem(output, (len(images), len(self.data.classes), *images.shape[2:]))

    def loss(self, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        logits = network(images).float()
        smoothing = self.recipe.training.label_smoothing
        return {
            "cross-entropy": _cross_entropy(logits, targets, smoothing, self._class_weights),
            "Dice": _dice_loss(logits, targets),
        }

    def rows(self, network: nn.Module, images: Tensor, targets: Any) -> Rows:
        logits = network(images)
        if not bool(torch.isfinite(logits).all()):
            counts = {key: torch.full((len(images), logits.shape[1]), torch.nan) for key in _COUNTS}
        else:
            counts = _count_pixels(logits.argmax(1), targets, logits.shape[1])
        return self._with_scored(counts)

    @cached_property
    def _test_counts(self) -> Tensor:
        """Labelled pixels (N, K) of each class in each test mask."""
        test, n_classes = self.data.test, len(self.data.classes)
        counts = [_histogram(test.target(i))[:n_classes] for i in range(len(test))]
        return torch.stack(counts) if counts else torch.zeros(0, n_classes, dtype=torch.int64)

    def _with_scored(self, counts: Rows) -> Rows:
        scored = (self._test_counts > 0).any(0).to(counts["tp"].device)
        return {**counts, "scored": scored.repeat(len(counts["tp"]), 1)}

    def trivial_baseline(self) -> tuple[str, Rows]:
        most_frequent = int(self._train_counts.argmax())
        rows = _constant_rows(self._test_counts, most_frequent)
        return f"{self.data.classes[most_frequent]} everywhere", self._with_scored(rows)

    def subjects(self, i: int) -> list[Subject]:
        mask, classes = torch.as_tensor(self.data.test.target(i)).as_subclass(Tensor), self.data.classes
        present = _histogram(mask)[: len(classes)].argsort(descending=True, stable=True).tolist()
        regions = {k: mask == k for k in present if classes[k] != _BACKGROUND}
        return [Subject(k, classes[k], region) for k, region in regions.items() if region.any()]

    def draw(self, indices: Sequence[int], network: nn.Module | None) -> list[Drawing]:
        truth = torch.stack([torch.as_tensor(self.data.test.target(i)).long() for i in indices])
        if network is None:
            return [Drawing(self._class_names(mask), None, self._paint(mask)) for mask in truth]
        predictions = network(self.images(indices)).argmax(1)
        rows = _count_pixels(predictions, truth, len(self.data.classes))
        drawings = []
        for n, prediction in enumerate(predictions):
            score = self.metrics[0].compute({key: counts[n : n + 1] for key, counts in rows.items()})
            caption = "void everywhere" if score is None else f"mIoU {score:.0f}\u202f%"
            drawings.append(Drawing(caption, None, self._paint(prediction)))
        return drawings

    def _class_names(self, mask: Tensor) -> str:
        names = [self.data.classes[c] for c in mask.unique().tolist() if c != VOID]
        return ", ".join(name for name in names if name != _BACKGROUND)

    def _paint(self, mask: Tensor) -> Image.Image:
        """Return an RGB image of a mask (H, W): background black, void grey."""
        palette = np.zeros((VOID + 1, 3), dtype=np.uint8)
        for c, name in enumerate(self.data.classes):
            if name != _BACKGROUND:
                brightness = 1.0 if c % 2 else 0.7
                palette[c] = [round(255 * channel) for channel in hsv_to_rgb(c * _HUE_STEP % 1, 0.65, brightness)]
        palette[VOID] = 128
        return Image.fromarray(palette[mask.numpy()])


def _cross_entropy(logits: Tensor, targets: Tensor, smoothing: float, class_weights: Tensor | None) -> Tensor:
    """Return the mean over the labelled pixels of logits (B, K, H, W) and targets (B, H, W); 0 without any.

    ``class_weights`` (K,) weigh each pixel, as in PyTorch's mean.
    """
    weights = None if class_weights is None else class_weights.to(logits.device)
    total = F.cross_entropy(logits, targets, weights, ignore_index=VOID, label_smoothing=smoothing, reduction="sum")
    is_labelled = targets != VOID
    # PyTorch's mean reduction is NaN if every pixel of the batch is void.
    if weights is None:
        return total / is_labelled.sum().clamp(min=1)
    return total / weights[targets[is_labelled]].sum().clamp(min=weights.min())


def _dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the soft Dice loss of logits (B, K, H, W) and targets (B, H, W); see the module."""
    n_classes, is_labelled = logits.shape[1], targets != VOID
    probabilities = logits.softmax(1)
    # nll_loss takes the probability of the true class, 0 at void, without one-hot targets (B, K, H, W).
    of_truth = -F.nll_loss(probabilities, targets, ignore_index=VOID, reduction="none").flatten().double()
    classes = targets.masked_fill(~is_labelled, 0).flatten()
    overlap = of_truth.new_zeros(n_classes).index_add(0, classes, of_truth)
    predicted = (probabilities * is_labelled[:, None]).sum((0, 2, 3))
    in_truth = targets.flatten().bincount(minlength=VOID + 1)[:n_classes]
    dice = 2 * overlap / (predicted + in_truth).clamp(min=1)
    is_present = in_truth > 0
    loss: Tensor = ((1 - dice) * is_present).sum() / is_present.sum().clamp(min=1)
    return loss.float()


def _count_pixels(predictions: Tensor, truth: Tensor, n_classes: int) -> Rows:
    """Return tp, fp, fn and tn, each (N, K), of ``predictions`` and ``truth``, both (N, H, W)."""
    offsets = n_classes * torch.arange(len(truth), device=truth.device)[:, None, None]

    def count(classes: Tensor, selected: Tensor) -> Tensor:
        return (offsets + classes)[selected].bincount(minlength=n_classes * len(truth)).view(-1, n_classes)

    is_labelled = truth != VOID
    tp = count(truth, is_labelled & (predictions == truth))
    fp, fn = count(predictions, is_labelled) - tp, count(truth, is_labelled) - tp
    return {"tp": tp, "fp": fp, "fn": fn, "tn": is_labelled.sum((1, 2))[:, None] - tp - fp - fn}


def _histogram(mask: Any) -> Tensor:
    return torch.as_tensor(mask).flatten().long().bincount(minlength=VOID + 1)


def _constant_rows(truth_counts: Tensor, prediction: int) -> Rows:
    """Return tp, fp, fn and tn, each (N, K), if every pixel is predicted as ``prediction``.

    ``truth_counts`` (N, K) counts labelled pixels.
    """
    tp, fp = torch.zeros_like(truth_counts), torch.zeros_like(truth_counts)
    tp[:, prediction] = truth_counts[:, prediction]
    fp[:, prediction] = truth_counts.sum(1) - truth_counts[:, prediction]
    fn = truth_counts - tp
    return {"tp": tp, "fp": fp, "fn": fn, "tn": truth_counts.sum(1)[:, None] - tp - fp - fn}
