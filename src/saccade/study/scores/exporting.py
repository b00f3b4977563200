"""Export of a study's scores as CSV, for ``saccade judge`` and for Claims Reloaded."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saccade.errors import UserError
from saccade.files import make_folders, write_atomically
from saccade.metrics.metric import Metric
from saccade.metrics.rows import Rows, count_images, select_images
from saccade.runfiles import read_rows

if TYPE_CHECKING:
    from saccade.study.plan import Study
    from saccade.study.results import StudyResults
    from saccade.study.run_notes import RunResult

__all__ = ["has_image_scores", "image_metric", "write_cases", "write_scores"]


def write_scores(results: StudyResults, path: Path) -> Path:
    """Write the CSV that ``saccade judge`` reads: arm, seed and score; image (and group) if each image has a score.

    The score column has the metric's name and unit, as in ``top-1 [%]``. ``image`` is the index of the test image.

    Raises:
        UserError: there are no scores or no study folder, or ``path`` cannot be written.
    """
    study = _study_of(results)
    unit = f" [{results.metric.unit}]" if results.metric.unit else ""
    score = f"{results.metric.name}{unit}"
    scored_runs = [run for run in results.runs if run.scores.get(results.metric.name) is not None]
    if not scored_runs:
        raise UserError(f"{results.name}: no run of this study has a score; there is nothing to write")
    if not has_image_scores(results):
        rows: Iterable[Sequence[Any]] = ((run.arm, run.seed, run.scores[results.metric.name]) for run in scored_runs)
        return _write_csv(path, ["arm", "seed", score], rows)
    first_rows = read_rows(study.folder / scored_runs[0].folder) or {}
    groups = first_rows["group"].tolist() if "group" in first_rows else None
    columns = ["arm", "seed", "image", score, *(["group"] if groups else [])]
    return _write_csv(path, columns, _image_rows(results, study, scored_runs, groups))


def _image_rows(
    results: StudyResults, study: Study, scored_runs: Sequence[RunResult], groups: Sequence[int] | None
) -> Iterable[Sequence[Any]]:
    """Yield one row per run and test image."""
    values = results.metric.values
    assert values is not None
    for run in scored_runs:
        for image, value in enumerate(values(read_rows(study.folder / run.folder) or {}).tolist()):
            yield run.arm, run.seed, image, value, *([] if groups is None else [groups[image]])


def has_image_scores(results: StudyResults) -> bool:
    """Return True if every finished run stores per-image values whose mean is its score."""
    study = _study_of(results)
    finished_runs = [run for run in results.runs if run.status == "done"]
    return results.metric.values is not None and all(read_rows(study.folder / run.folder) for run in finished_runs)


def write_cases(results: StudyResults, folder: Path) -> list[Path]:
    """Write one CSV per seed in the form of Claims Reloaded (arXiv:2505.04720); return the paths.

    Each row is a test image, with the columns ``case_id`` and ``alg_ARM`` per arm. If the runs recorded labels and
    predictions, these are written, the labels as ``ground_truth``; otherwise the score of each image under
    ``image_metric``, scaled to [0, 1].

    Raises:
        UserError: there is no study folder, no seed is finished for all arms, the metric has no bounds, or a
            file cannot be written.
    """
    study, metric = _study_of(results), image_metric(results)
    paths = []
    for seed in results.seeds:
        runs = [run for run in results.runs if run.seed == seed and run.status == "done"]
        rows_by_arm = {run.arm: rows for run in runs if (rows := read_rows(study.folder / run.folder))}
        if len(rows_by_arm) < len(results.arms):
            continue
        names = [f"alg_{arm_result.arm.slug}" for arm_result in results.arms]
        tables = [rows_by_arm[arm_result.arm.name] for arm_result in results.arms]
        labels: list[list[Any]] = []
        if all({"label", "predicted"} <= rows.keys() and rows["label"].ndim == 1 for rows in tables):
            names = ["ground_truth", *names]
            labels, columns = [tables[0]["label"].tolist()], [rows["predicted"].tolist() for rows in tables]
        elif metric.span is None:
            raise UserError(f"Claims Reloaded reads scores between 0 and 1; {metric.name} has no bounds")
        else:
            columns = [_normalised_scores(metric, rows) for rows in tables]
        cases = zip(range(len(columns[0])), *labels, *columns, strict=True)
        paths.append(_write_csv(folder / f"seed{seed}.csv", ["case_id", *names], cases))
    if not paths:
        raise UserError(f"{results.name}: no seed has a finished run of every arm with the rows of its test images")
    return paths


def image_metric(results: StudyResults) -> Metric:
    """Return the metric for single images: Dice if the study reports Dice, else the metric of the verdicts."""
    return next((other.metric for other in results.others if other.metric.name == "Dice"), results.metric)


def _normalised_scores(metric: Metric, rows: Rows) -> list[float]:
    """Return the score of each image, scaled from the metric's bounds to [0, 1]."""
    assert metric.low is not None
    assert metric.span is not None
    if metric.values is not None:
        image_scores = [float(value) for value in metric.values(rows)]
    else:
        image_scores = [
            float("nan") if score is None else score
            for score in (metric.compute(select_images(rows, [i])) for i in range(count_images(rows)))
        ]
    return [(value - metric.low) / metric.span for value in image_scores]


def _study_of(results: StudyResults) -> Study:
    if results.study is None:
        raise UserError("these scores were read from a file; only those of a study can be written")
    return results.study


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    try:
        make_folders(path.parent)
        write_atomically(path, text.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    return path
