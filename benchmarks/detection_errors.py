"""Standard error of a difference in average precision: the study's jackknife beside a bootstrap of the test images.

    python benchmarks/detection_errors.py STUDY/none/seed0 STUDY/das/seed0    # every pair of the runs
    python benchmarks/detection_errors.py --draw FOLDER                       # detectors drawn around its boxes

Both are of the same images in both runs. The jackknife is the one of ``saccade compare``: the standard deviation of the
differences of the pseudo-values, by the square root of their number. The bootstrap draws as many images as there are,
with replacement (groups, where the rows have them); the classes stay those of the whole test part. Its own standard
error is 1.6 % with 2,000 resamples. The exit status is 1 if a pair differs by more than 10 %.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from saccade.data import open_data
from saccade.errors import UserError
from saccade.metrics.average_precision import METRICS, scored_classes
from saccade.metrics.matching import match
from saccade.metrics.metric import Metric
from saccade.metrics.rows import Rows, count_images, select_images
from saccade.recipe import Data
from saccade.runfiles import read_rows
from saccade.study.pseudovalues import pseudo_values

Floats = NDArray[np.float64]

LIMIT = 0.1
"""Largest part by which the two errors may differ."""
DRAWN = {"exact": (0.05, 0.9, 2.0), "coarse": (0.08, 0.85, 3.0), "coarse, other seed": (0.08, 0.85, 3.0)}
"""Noise of the corners by the size of the box, part of the truths that is seen, false detections of an image."""


def jackknife_error(metric: Metric, rows: Rows, others: Rows) -> float:
    """Return the standard error of the difference that the images leave."""
    differences = pseudo_values(metric, rows) - pseudo_values(metric, others)
    return float(differences.std(ddof=1) / np.sqrt(len(differences)))


def bootstrap_scores(metric: Metric, runs: Mapping[str, Rows], resamples: int, seed: int) -> dict[str, Floats]:
    """Return the scores (resamples,) of each run, of the same drawn images in all."""
    assert metric.score is not None
    n = count_images(next(iter(runs.values())))
    group = next(iter(runs.values())).get("group", torch.arange(n))
    images = [torch.nonzero(group == code)[:, 0] for code in group.unique()]
    random = np.random.default_rng(seed)
    scores: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(resamples):
        drawn = torch.cat([images[unit] for unit in random.integers(0, len(images), len(images))])
        for name, rows in runs.items():
            scores[name].append(metric.score(select_images(rows, drawn)))
    return {name: np.array(values) for name, values in scores.items()}


def check_truths(runs: Mapping[str, Rows]) -> None:
    """Raise UserError unless all runs have the same images, and their classes are fixed."""
    first = next(iter(runs.values()))
    for name, rows in runs.items():
        for key in ("truth/offsets", "truth/label", "truth/counted", "scored"):
            if key not in rows:
                raise UserError(f"{name}: its rows have no {key!r}; the rows of a detector are needed")
            if not torch.equal(rows[key], first[key]):
                raise UserError(f"{name}: {key!r} differs from the first run's; runs of one study are needed")


def draw_detections(
    truths: Sequence[Mapping[str, torch.Tensor]], n_classes: int, quality: tuple[float, float, float], seed: int
) -> Rows:
    """Return rows of detections drawn around ``truths``; the first number is the noise, see ``DRAWN``.

    An image has a difficulty of its own, the same at every quality, by which the noise is multiplied.
    """
    noise, seen, false = quality
    random, difficulties = np.random.default_rng(seed), np.random.default_rng(0)
    predictions = []
    for truth in truths:
        boxes, labels = truth["boxes"].double().numpy(), truth["labels"].numpy()
        difficulty = np.exp(0.5 * difficulties.standard_normal())
        found = random.random(len(labels)) < seen
        size = (boxes[found, 2:] - boxes[found, :2]).repeat(2, 0).reshape(-1, 4)
        near = boxes[found] + noise * difficulty * size * random.standard_normal(size.shape)
        n_false = random.poisson(false * difficulty)
        corner, extent = random.random((n_false, 2)) * 200, 20 + random.random((n_false, 2)) * 60
        corners = np.vstack([near, np.hstack([corner, corner + extent])])
        logits = np.append(1.5 + random.standard_normal(len(near)), random.standard_normal(n_false) - 0.5)
        predictions.append(
            {
                "boxes": torch.from_numpy(
                    np.hstack([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])])
                ).float(),
                "labels": torch.from_numpy(np.append(labels[found], random.integers(0, n_classes, n_false))),
                "scores": torch.from_numpy(logits).sigmoid().float(),
            }
        )
    rows = match(predictions, truths)
    return rows | {"scored": scored_classes(rows, n_classes).repeat(len(truths), 1, 1)}


def drawn_runs(folder: Path) -> dict[str, Rows]:
    """Return rows of the detectors ``DRAWN`` on the test images of ``folder``."""
    splits = open_data(Data(source=str(folder), size=(240, 320)), "objects")
    truths = [splits.test.target(n) for n in range(len(splits.test))]
    return {
        name: draw_detections(truths, len(splits.classes), quality, seed)
        for seed, (name, quality) in enumerate(DRAWN.items(), 1)
    }


def read_runs(folders: Sequence[Path]) -> dict[str, Rows]:
    """Return the rows of each run folder, or raise UserError for one without."""
    runs = {}
    for folder in folders:
        rows = read_rows(folder)
        if rows is None:
            raise UserError(f"{folder} has no rows.safetensors; the folder of a finished run is needed")
        name = "/".join(folder.resolve().parts[-2:])
        if name in runs:
            raise UserError(f"two of the runs are called {name}; runs of one study are needed")
        runs[name] = rows
    return runs


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished runs of one study")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="draw detectors around the boxes of this data")
    parser.add_argument("--metric", default=METRICS[0].name, choices=[metric.name for metric in METRICS])
    parser.add_argument("--resamples", type=int, default=2000, help="resamples of the bootstrap")
    parser.add_argument("--rng", type=int, default=0, help="seed of the bootstrap")
    args = parser.parse_args(arguments)
    runs = read_runs(args.runs) if args.draw is None else drawn_runs(args.draw)
    if len(runs) < 2:
        parser.error("two runs, or --draw, are needed")
    check_truths(runs)
    metric = next(metric for metric in METRICS if metric.name == args.metric)
    scores = bootstrap_scores(metric, runs, args.resamples, args.rng)
    print("| pair | images | difference | jackknife | bootstrap | ratio |\n|---|---|---|---|---|---|")
    n_missed = 0
    for first, second in combinations(runs, 2):
        assert metric.score is not None
        difference = metric.score(runs[first]) - metric.score(runs[second])
        jackknife = jackknife_error(metric, runs[first], runs[second])
        bootstrap = float((scores[first] - scores[second]).std(ddof=1))
        ratio = jackknife / bootstrap
        n_missed += abs(ratio - 1) > LIMIT
        n = count_images(runs[first])
        print(f"| {first} − {second} | {n} | {difference:+.2f} | {jackknife:.3f} | {bootstrap:.3f} | {ratio:.3f} |")
    return 1 if n_missed else 0


if __name__ == "__main__":
    sys.exit(main())
