"""Random detections, and their evaluation by pycocotools as its documentation shows it: from annotations."""

import contextlib
import io

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def boxes(*corners, labels=None, scores=None):
    """A truth, or a prediction if there are scores."""
    labels = [0] * len(corners) if labels is None else labels
    entry = {"boxes": torch.tensor(corners).float().reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}
    return entry if scores is None else entry | {"scores": torch.tensor(scores, dtype=torch.float32)}


def random_scenes(seed, n=20, classes=5, *, truths=5, false=10, levels=None):
    """Predictions and truths of n images; ``levels`` rounds the scores, so that there are ties.

    Truths of 32 and 96 pixels squared lie on the boundaries of the area ranges. About a tenth of the images are empty.
    """
    random = np.random.default_rng(seed)
    predictions, all_truths = [], []
    for _ in range(n):
        n_truths, n_false = random.integers(0, [truths + 1, false + 1]) * (random.random(2) > 0.1)
        corner = random.integers(0, 200, (n_truths, 2))
        size = random.choice([5, 20, 32, 61.3, 96, 150], (n_truths, 1)) * random.choice([1.0, 1.0, 1.2], (n_truths, 2))
        truth, labels = np.hstack([corner, corner + size]), random.integers(0, classes, n_truths)
        seen = random.random(n_truths) < 0.8
        near = truth[seen] + random.normal(size=(seen.sum(), 4)) * size[seen].mean(1, keepdims=True) * 0.07
        corner = random.random((n_false, 2)) * 200
        found = np.vstack([near, np.hstack([corner, corner + random.random((n_false, 2)) * 120])])
        found = np.hstack([np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])])
        scores = np.append(random.random(seen.sum()) ** 0.5, random.random(n_false))
        if levels:
            scores = np.round(scores * levels) / levels
        all_truths.append(boxes(*truth.tolist(), labels=labels))
        found_labels = np.append(labels[seen], random.integers(0, classes, n_false))
        predictions.append(boxes(*found.tolist(), labels=found_labels, scores=scores))
    return predictions, all_truths


def evaluate(predictions, truths):
    """COCOeval of all images, evaluated, accumulated and summarised."""
    annotations, results = (
        [
            {"id": 0, "image_id": image, "category_id": int(label), "iscrowd": 0, "score": score}
            | {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            for image, entry in enumerate(entries)
            for (left, top, right, bottom), label, score in zip(
                entry["boxes"].double().tolist(), entry["labels"], entry.get("scores", entry["labels"]).tolist(),
                strict=True,
            )
        ]
        for entries in (truths, predictions)
    )  # fmt: skip
    for n, annotation in enumerate(annotations):
        annotation["id"] = n + 1
    labels = sorted({annotation["category_id"] for annotation in annotations + results})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        images, categories = ([{"id": n} for n in ids] for ids in (range(len(truths)), labels))
        truth.dataset = {"images": images, "categories": categories, "annotations": annotations}
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(results) if results else COCO(), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator
