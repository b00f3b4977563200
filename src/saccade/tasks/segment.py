"""One class a pixel: cross-entropy is learnt; mean intersection over union, Dice and pixel accuracy are reported.

Tables of one image, tp, fp and fn by class, are summed over the images; a class counts where the test part has it.
Pixels of the void index count nowhere.
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
from saccade.tasks.base import Drawing, Task, unfit

if TYPE_CHECKING:
    from saccade.metrics.rows import Rows

__all__ = ["Segment"]

_BACKGROUND = "background"
"""A class of this name is neither named nor coloured."""
_GOLDEN = (5**0.5 - 1) / 2
"""Steps of the hue circle that come near no earlier step for long."""


def _overlap(rows: Rows, weight: int) -> Tensor:
    """Return weight·tp / (weight·tp + fp + fn) of each class in per cent; NaN for a class that no truth has."""
    tp, fp, fn = (rows[key].double().sum(0) for key in ("tp", "fp", "fn"))
    return torch.where(tp + fn > 0, 100.0 * weight * tp / (weight * tp + fp + fn), torch.nan)


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
    """Images (B, C, H, W) -> logits (B, K, H, W), one tensor of the images' size, in eval and in training mode.

    Rows: ``tp``, ``fp`` and ``fn``, pixels of each class (N, K).
    """

    target = "mask"
    metrics = (
        Metric(name="mIoU", score=lambda rows: float(_iou(rows).nanmean()), by_class=_iou, **_PERCENT),
        Metric(name="Dice", score=lambda rows: float(_dice(rows).nanmean()), by_class=_dice, **_PERCENT),
        Metric(name="pixel accuracy", score=_accuracy, **_PERCENT),
    )

    def _dense(self, model: Model) -> Model:
        """Return ``model`` if it gives logits for each pixel, else an FCN with ``model`` as its encoder."""
        if is_dense(model.name):
            return model
        options = {"encoder": model.name, "encoder_options": model.options}
        return model.model_copy(update={"name": "fcn", "options": options})

    def build(self, model: Model) -> nn.Module:
        return create_host(self._dense(model), len(self.data.classes), self.data.channels)

    def host(self, model: Model) -> Mapping[str, Any]:
        return host_as_saved(self._dense(model), len(self.data.classes), self.data.channels)

    def misfit(self, output: Any, images: Tensor) -> str | None:
        return unfit(output, (len(images), len(self.data.classes), *images.shape[2:]))

    def loss(self, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        smoothing = self.recipe.training.label_smoothing
        total = F.cross_entropy(
            network(images).float(), targets, ignore_index=VOID, label_smoothing=smoothing, reduction="sum"
        )
        # The mean that PyTorch takes is no number where a batch is void everywhere.
        return {"cross-entropy": total / (targets != VOID).sum().clamp(min=1)}

    def rows(self, network: nn.Module, images: Tensor, targets: Any) -> Rows:
        logits = network(images)
        if not bool(torch.isfinite(logits).all()):
            return {key: torch.full((len(images), logits.shape[1]), torch.nan) for key in ("tp", "fp", "fn")}
        return _tables(logits.argmax(1), targets, logits.shape[1])

    def trivial(self) -> tuple[str, Rows]:
        masks = (self.data.train.target(i) for i in range(len(self.data.train)))
        counts = sum((_histogram(mask) for mask in masks), torch.zeros(VOID + 1, dtype=torch.int64))
        most = int(counts[:VOID].argmax())
        test = self.data.test
        rows = [_of_constant(_histogram(test.target(i)), most, len(self.data.classes)) for i in range(len(test))]
        return f"{self.data.classes[most]} everywhere", {
            key: torch.stack([row[key] for row in rows]) for key in ("tp", "fp", "fn")
        }

    def draw(self, indices: Sequence[int], network: nn.Module | None) -> list[Drawing]:
        truth = torch.stack([torch.as_tensor(self.data.test.target(i)).long() for i in indices])
        if network is None:
            return [Drawing(self._named(mask), None, self._painted(mask)) for mask in truth]
        answers = network(self.images(indices)).argmax(1)
        tables = _tables(answers, truth, len(self.data.classes))
        found = []
        for k, answer in enumerate(answers):
            score = self.metrics[0].of({key: table[k : k + 1] for key, table in tables.items()})
            words = "void everywhere" if score is None else f"mIoU {score:.0f}\u202f%"
            found.append(Drawing(words, None, self._painted(answer)))
        return found

    def _named(self, mask: Tensor) -> str:
        names = [self.data.classes[c] for c in mask.unique().tolist() if c != VOID]
        return ", ".join(name for name in names if name != _BACKGROUND)

    def _painted(self, mask: Tensor) -> Image.Image:
        """Paint a map (H, W): background black, void grey."""
        palette = np.zeros((VOID + 1, 3), dtype=np.uint8)
        for c, name in enumerate(self.data.classes):
            if name != _BACKGROUND:
                bright = 1.0 if c % 2 else 0.7
                palette[c] = [round(255 * part) for part in hsv_to_rgb(c * _GOLDEN % 1, 0.65, bright)]
        palette[VOID] = 128
        return Image.fromarray(palette[mask.numpy()])


def _tables(answers: Tensor, truth: Tensor, classes: int) -> Rows:
    """Count by class (N, K) the pixels of maps (N, H, W) that both have, only the answer has, only the truth has."""
    first = classes * torch.arange(len(truth), device=truth.device)[:, None, None]

    def pixels(values: Tensor, where: Tensor) -> Tensor:
        return (first + values)[where].bincount(minlength=classes * len(truth)).view(-1, classes)

    counted = truth != VOID
    tp = pixels(truth, counted & (answers == truth))
    return {"tp": tp, "fp": pixels(answers, counted) - tp, "fn": pixels(truth, counted) - tp}


def _histogram(mask: Any) -> Tensor:
    return torch.as_tensor(mask).flatten().long().bincount(minlength=VOID + 1)


def _of_constant(counts: Tensor, answer: int, classes: int) -> Rows:
    """Return the tables of one image whose pixels all get ``answer``; ``counts`` (256,) are those of its truth."""
    there = counts[:classes]
    tp = torch.zeros_like(there)
    tp[answer] = there[answer]
    fp = torch.zeros_like(there)
    fp[answer] = there.sum() - there[answer]
    return {"tp": tp, "fp": fp, "fn": there - tp}
