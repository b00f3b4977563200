"""Match tables: which detections match a ground-truth box, decided once per image by pycocotools' ``COCOeval``.

Rows of N images with M detections and G truths; columns are ``AREAS``. The detections of an image are ordered by class
and falling score, at most 100 of a class.

* ``found/offsets`` (N + 1,); ``found/label`` (M,), int16; ``found/score`` (M,), float32.
* ``found/hit`` (M, 4), int16: bit t is set for a match with a truth at IoU 0.50 + 0.05·t.
* ``found/ignored`` (M, 4), int16: bit t is set for a detection that is neither right nor wrong.
* ``truth/offsets`` (N + 1,); ``truth/label`` (G,), int16; ``truth/counted`` (G, 4), bool: inside the area range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saccade.errors import UserError
from saccade.metrics.rows import Rows

__all__ = ["AREAS", "N_THRESHOLDS", "match"]

AREAS = ("all", "small", "medium", "large")
"""Area ranges, ends included: all, up to 32², 32² to 96², and from 96² pixels."""
N_THRESHOLDS = 10
_MAX_DETECTIONS = 100
_BITS = 1 << np.arange(N_THRESHOLDS, dtype=np.int16)

Bits = NDArray[np.int16]


class _Boxes(NamedTuple):
    """Boxes (n, 4), XYXY; labels (n,); scores (n,) of detections."""

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32] | None = None


class _Found(NamedTuple):
    """Labels (n,), scores (n,) and bits (n, 4) of detections."""

    label: Bits
    score: NDArray[np.float32]
    hit: Bits
    ignored: Bits


_NONE = _Found(np.empty(0, np.int16), np.empty(0, np.float32), *[np.empty((0, len(AREAS)), np.int16)] * 2)


def match(predictions: Sequence[Mapping[str, Tensor]], truths: Sequence[Mapping[str, Tensor]]) -> Rows:
    """Return the match tables of N images; the score of a detection that is not finite is NaN.

    Args:
        predictions: per image ``boxes`` (n, 4), XYXY in pixels, ``labels`` (n,), from 0, and ``scores`` (n,).
        truths: per image ``boxes`` (n, 4) and ``labels`` (n,); a box's area decides its range.

    Raises:
        UserError: an entry is missing or of a wrong shape, type or range, or pycocotools is not installed.
    """
    if len(predictions) != len(truths):
        raise UserError(f"there are {len(predictions)} predictions for {len(truths)} images; one for each is needed")
    evaluator = _evaluator()
    found_by_image, counted_by_image, labels_by_image = [], [np.empty((0, len(AREAS)), np.bool_)], []
    for image, (prediction, truth) in enumerate(zip(predictions, truths, strict=True)):
        detected = _read(prediction, f"predictions[{image}]", with_scores=True)
        true = _read(truth, f"truths[{image}]", with_scores=False)
        found, counted = _match_image(evaluator, image, detected, true)
        found_by_image.append(found)
        counted_by_image.append(counted)
        labels_by_image.append(true.labels)
    all_found = _join(found_by_image)
    return {
        "found/offsets": _offsets([len(found.label) for found in found_by_image]),
        **{f"found/{key}": torch.from_numpy(value) for key, value in all_found._asdict().items()},
        "truth/offsets": _offsets([len(labels) for labels in labels_by_image]),
        "truth/label": torch.from_numpy(np.concatenate([_NONE.label, *labels_by_image]).astype(np.int16)),
        "truth/counted": torch.from_numpy(np.concatenate(counted_by_image)),
    }


def _evaluator() -> Any:
    """Return a COCOeval without annotations, or raise UserError without pycocotools."""
    try:
        from pycocotools.cocoeval import COCOeval
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pycocotools":
            raise
        raise UserError("pycocotools is not installed: pip install 'saccade-attention[detect]'") from error
    return COCOeval(iouType="bbox")


def _match_image(evaluator: Any, image: int, detected: _Boxes, truth: _Boxes) -> tuple[_Found, NDArray[np.bool_]]:
    """Return the detections of one image, and True (n, 4) for each truth in each area range."""
    assert detected.scores is not None
    is_finite = np.isfinite(detected.boxes).all(1) & np.isfinite(detected.scores)
    counted = np.zeros((len(truth.labels), len(AREAS)), np.bool_)
    parts = []
    for label in np.union1d(detected.labels[is_finite], truth.labels).tolist():
        key, is_truth = (image, label), truth.labels == label
        evaluator._gts[key] = [entry | {"ignore": 0, "iscrowd": 0} for entry in _entries(truth.boxes, is_truth)]
        chosen = is_finite & (detected.labels == label)
        evaluator._dts[key] = [
            entry | {"score": score}
            for entry, score in zip(_entries(detected.boxes, chosen), detected.scores[chosen].tolist(), strict=True)
        ]
        evaluator.ious[key] = evaluator.computeIoU(*key)
        results = [evaluator.evaluateImg(*key, area, _MAX_DETECTIONS) for area in evaluator.params.areaRng]
        for column, result in enumerate(results):
            counted[np.array(result["gtIds"], np.int64) - 1, column] = result["gtIgnore"] == 0
        order = np.array(results[0]["dtIds"], np.int64) - 1
        hit, ignored = (
            np.stack([_bits(result[name] != 0) for result in results], axis=1) for name in ("dtMatches", "dtIgnore")
        )
        parts.append(_Found(np.full(len(order), label, np.int16), detected.scores[order], hit, ignored))
    bad_labels = detected.labels[~is_finite].astype(np.int16)
    no_bits = np.zeros((len(bad_labels), len(AREAS)), np.int16)
    parts.append(_Found(bad_labels, np.full(len(bad_labels), np.nan, np.float32), no_bits, no_bits))
    return _join(parts), counted


def _entries(boxes: NDArray[np.float64], chosen: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return the ``chosen`` boxes as annotations; ids start at 1, because COCOeval takes 0 for no match."""
    entries = []
    for index in np.flatnonzero(chosen).tolist():
        left, top, right, bottom = boxes[index].tolist()
        width, height = right - left, bottom - top
        entries.append({"id": index + 1, "bbox": [left, top, width, height], "area": width * height})
    return entries


def _bits(flags: NDArray[np.bool_]) -> Bits:
    """Return the bits (D,) of ``flags`` (thresholds, D)."""
    return (flags.T * _BITS).sum(1, dtype=np.int16)


def _offsets(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(lengths, dtype=np.int64).tolist()])


def _join(parts: Sequence[_Found]) -> _Found:
    return _Found(*map(np.concatenate, zip(_NONE, *parts, strict=True)))


def _read(entry: Mapping[str, Tensor], name: str, with_scores: bool) -> _Boxes:
    """Return the checked entries of one image, or raise UserError; ``name`` is for messages."""
    keys = ("boxes", "labels", "scores") if with_scores else ("boxes", "labels")
    for key in keys:
        if key not in entry:
            raise UserError(f"{name} has no {key!r}; it has {', '.join(map(repr, entry)) or 'nothing'}")
    boxes = entry["boxes"].detach().cpu().double().numpy()
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError(f"{name}['boxes'] has the shape {boxes.shape}; (n, 4) is needed: left, top, right, bottom")
    for key in keys[1:]:
        if entry[key].shape != (len(boxes),):
            raise UserError(f"{name}[{key!r}] has the shape {tuple(entry[key].shape)} beside {len(boxes)} boxes")
    labels = entry["labels"].detach().cpu()
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise UserError(f"{name}['labels'] is {labels.dtype}; whole numbers (int64) are needed")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < 2**15:
        raise UserError(f"{name}['labels'] holds {int(labels.min())} to {int(labels.max())}; 0 to 32767 are possible")
    is_finite = np.isfinite(boxes).all(1)
    inverted = is_finite & (boxes[:, 2:] < boxes[:, :2]).any(1)
    if inverted.any():
        values = ", ".join(f"{value:g}" for value in boxes[inverted.argmax()])
        raise UserError(
            f"{name}['boxes'] holds ({values}); left, top, right, bottom are needed, with right ≥ left and bottom ≥ top"
        )
    if not with_scores:
        if not is_finite.all():
            raise UserError(f"{name}['boxes'] holds numbers that are not finite")
        return _Boxes(boxes, labels.long().numpy())
    return _Boxes(boxes, labels.long().numpy(), entry["scores"].detach().float().cpu().numpy())
