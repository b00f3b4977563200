"""Semantic segmentation: trained with cross-entropy; reports mean intersection over union, Dice and pixel accuracy.

True positive, false positive and false negative pixels (tp, fp, fn) are counted by image and class, and summed over the
test images. The means are over the classes in the ground truth. Void pixels are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from colorsys import hsv_to_rgb
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from saccade.data.samples import VOID
from saccade.metrics.metric import Metric
from saccade.models import create_host, host_as_saved, is_dense
from saccade.recipe import Model
from saccade.tasks.base import Drawing, Task, logits_problem

if TYPE_CHECKING:
    from saccade.metrics.rows import Rows

__all__ = ["Segment"]

_BACKGROUND = "background"
"""Name of a class that drawings neither name nor colour."""
_HUE_STEP = (5**0.5 - 1) / 2
"""Step between the hues of successive classes; the golden ratio keeps many hues far apart."""


def _overlap(rows: Rows, tp_weight: int) -> Tensor:
    """Return w·tp / (w·tp + fp + fn) in per cent (K,), with w = ``tp_weight``; NaN for classes not in the truth."""
    tp, fp, fn = (rows[key].double().sum(0) for key in ("tp", "fp", "fn"))
    return torch.where(tp + fn > 0, 100.0 * tp_weight * tp / (tp_weight * tp + fp + fn), torch.nan)


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

    Rows: ``tp``, ``fp`` and ``fn``, pixel counts (N, K) by image and class.
    """

    target = "mask"
    metrics = (
        Metric(name="mIoU", score=lambda rows: float(_iou(rows).nanmean()), by_class=_iou, **_PERCENT),
        Metric(name="Dice", score=lambda rows: float(_dice(rows).nanmean()), by_class=_dice, **_PERCENT),
        Metric(name="pixel accuracy", score=_accuracy, **_PERCENT),
    )

    def _dense_model(self, model: Model) -> Model:
        """Return ``model`` if it outputs logits per pixel, else an FCN with ``model`` as its encoder."""
        if is_dense(model.name):
            return model
        options = {"encoder": model.name, "encoder_options": model.options}
        return model.model_copy(update={"name": "fcn", "options": options})

    def build(self, model: Model) -> nn.Module:
        return create_host(self._dense_model(model), len(self.data.classes), self.data.channels)

    def host(self, model: Model) -> Mapping[str, Any]:
        return host_as_saved(self._dense_model(model), len(self.data.classes), self.data.channels)

    def output_problem(self, output: Any, images: Tensor) -> str | None:
        return logits_problem(output, (len(images), len(self.data.classes), *images.shape[2:]))

    def loss(self, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        smoothing = self.recipe.training.label_smoothing
        total = F.cross_entropy(
            network(images).float(), targets, ignore_index=VOID, label_smoothing=smoothing, reduction="sum"
        )
        # PyTorch's mean reduction is NaN if every pixel of the batch is void.
        return {"cross-entropy": total / (targets != VOID).sum().clamp(min=1)}

    def rows(self, network: nn.Module, images: Tensor, targets: Any) -> Rows:
        logits = network(images)
        if not bool(torch.isfinite(logits).all()):
            return {key: torch.full((len(images), logits.shape[1]), torch.nan) for key in ("tp", "fp", "fn")}
        return _count_pixels(logits.argmax(1), targets, logits.shape[1])

    def trivial_baseline(self) -> tuple[str, Rows]:
        masks = (self.data.train.target(i) for i in range(len(self.data.train)))
        counts = sum((_histogram(mask) for mask in masks), torch.zeros(VOID + 1, dtype=torch.int64))
        most_frequent = int(counts[:VOID].argmax())
        test, n_classes = self.data.test, len(self.data.classes)
        rows = [_constant_rows(_histogram(test.target(i)), most_frequent, n_classes) for i in range(len(test))]
        return f"{self.data.classes[most_frequent]} everywhere", {
            key: torch.stack([row[key] for row in rows]) for key in ("tp", "fp", "fn")
        }

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


def _count_pixels(predictions: Tensor, truth: Tensor, n_classes: int) -> Rows:
    """Return the rows for ``predictions`` and ``truth``, both (N, H, W): tp, fp and fn, each (N, K)."""
    offsets = n_classes * torch.arange(len(truth), device=truth.device)[:, None, None]

    def count(classes: Tensor, selected: Tensor) -> Tensor:
        return (offsets + classes)[selected].bincount(minlength=n_classes * len(truth)).view(-1, n_classes)

    is_labelled = truth != VOID
    tp = count(truth, is_labelled & (predictions == truth))
    return {"tp": tp, "fp": count(predictions, is_labelled) - tp, "fn": count(truth, is_labelled) - tp}


def _histogram(mask: Any) -> Tensor:
    return torch.as_tensor(mask).flatten().long().bincount(minlength=VOID + 1)


def _constant_rows(truth_histogram: Tensor, prediction: int, n_classes: int) -> Rows:
    """Return tp, fp and fn, each (K,), of one image if every pixel is predicted as ``prediction``.

    ``truth_histogram`` (256,) counts the pixels of each class.
    """
    truth_counts = truth_histogram[:n_classes]
    tp = torch.zeros_like(truth_counts)
    tp[prediction] = truth_counts[prediction]
    fp = torch.zeros_like(truth_counts)
    fp[prediction] = truth_counts.sum() - truth_counts[prediction]
    return {"tp": tp, "fp": fp, "fn": truth_counts - tp}
