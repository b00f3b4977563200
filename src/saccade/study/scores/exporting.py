"""Write the scores of a study as CSV: for ``saccade judge``, and for Claims Reloaded."""

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

__all__ = ["case_metric", "has_images", "write_cases", "write_scores"]


def write_scores(results: StudyResults, path: Path) -> Path:
    """Write the long form that ``saccade judge`` reads: arm, seed, image, the metric, and group where there are any.

    The metric's column carries its unit, as ``top-1 [%]``. ``image`` counts the test images from 0.

    Raises:
        UserError: as ``StudyResults.scores``.
    """
    study = _study(results)
    unit = f" [{results.metric.unit}]" if results.metric.unit else ""
    score = f"{results.metric.name}{unit}"
    done = [run for run in results.runs if run.scores.get(results.metric.name) is not None]
    if not done:
        raise UserError(f"{results.name}: no run of this study has a score; there is nothing to write")
    if not has_images(results):
        rows: Iterable[Sequence[Any]] = ((run.arm, run.seed, run.scores[results.metric.name]) for run in done)
        return _write(path, ["arm", "seed", score], rows)
    first = read_rows(study.folder / done[0].folder) or {}
    groups = first["group"].tolist() if "group" in first else None
    columns = ["arm", "seed", "image", score, *(["group"] if groups else [])]
    return _write(path, columns, _by_image(results, study, done, groups))


def _by_image(
    results: StudyResults, study: Study, done: Sequence[RunResult], groups: Sequence[int] | None
) -> Iterable[Sequence[Any]]:
    values = results.metric.values
    assert values is not None
    for run in done:
        for n, value in enumerate(values(read_rows(study.folder / run.folder) or {}).tolist()):
            yield run.arm, run.seed, n, value, *([] if groups is None else [groups[n]])


def has_images(results: StudyResults) -> bool:
    """Whether the score of every run is the mean of per-image values that are kept."""
    study = _study(results)
    done = [run for run in results.runs if run.status == "done"]
    return results.metric.values is not None and all(read_rows(study.folder / run.folder) for run in done)


def write_cases(results: StudyResults, folder: Path) -> list[Path]:
    """Write the form that Claims Reloaded reads (arXiv:2505.04720; claims-reloaded.dkfz.de), one file a seed.

    A row a test image: ``case_id``, then ``alg_ARM`` for each arm. Where the runs keep labels and answers, these are
    written, behind ``ground_truth``; else the score of each image by itself, 0 to 1, by ``case_metric``.

    Raises:
        UserError: these are judged scores, no seed is finished for all arms, the metric has no bounds, or a file cannot
            be written.
    """
    study, metric = _study(results), case_metric(results)
    made = []
    for seed in results.seeds:
        runs = [run for run in results.runs if run.seed == seed and run.status == "done"]
        kept = {run.arm: rows for run in runs if (rows := read_rows(study.folder / run.folder))}
        if len(kept) < len(results.arms):
            continue
        slugs = [f"alg_{row.arm.slug}" for row in results.arms]
        tables = [kept[row.arm.name] for row in results.arms]
        truth: list[list[Any]] = []
        if all({"label", "predicted"} <= rows.keys() and rows["label"].ndim == 1 for rows in tables):
            slugs = ["ground_truth", *slugs]
            truth, columns = [tables[0]["label"].tolist()], [rows["predicted"].tolist() for rows in tables]
        elif metric.span is None:
            raise UserError(f"Claims Reloaded reads scores between 0 and 1; {metric.name} has no bounds")
        else:
            columns = [_shares(metric, rows) for rows in tables]
        cases = zip(range(len(columns[0])), *truth, *columns, strict=True)
        made.append(_write(folder / f"seed{seed}.csv", ["case_id", *slugs], cases))
    if not made:
        raise UserError(f"{results.name}: no seed has a finished run of every arm with the rows of its test images")
    return made


def case_metric(results: StudyResults) -> Metric:
    """The metric of single images: Dice, which Claims Reloaded asks for, where the study has it; else the verdicts'."""
    return next((other.metric for other in results.others if other.metric.name == "Dice"), results.metric)


def _shares(metric: Metric, rows: Rows) -> list[float]:
    """The score of each image by itself, as a share of the metric's span."""
    assert metric.low is not None
    assert metric.span is not None
    if metric.values is not None:
        alone = [float(value) for value in metric.values(rows)]
    else:
        alone = [
            float("nan") if s is None else s
            for s in (metric.compute(select_images(rows, [i])) for i in range(count_images(rows)))
        ]
    return [(value - metric.low) / metric.span for value in alone]


def _study(results: StudyResults) -> Study:
    if results.study is None:
        raise UserError("these scores were read from a file; only those of a study can be written")
    return results.study


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
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
