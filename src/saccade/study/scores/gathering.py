"""Reader of another trainer's scores, from files or from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.study.scores import logs
from saccade.study.scores.run_files import RunFile, parse_run_file, run_of_path
from saccade.study.scores.sheet import Sheet, from_python, read_sheet

__all__ = ["RunScores", "read_scores"]

RunKey = tuple[str, int]
"""Arm and seed of a run."""
_KEY_COLUMNS = ("arm", "seed", "image", "group")
"""Columns that identify a row; all others may be scores."""
_MAX_NAMED_RUNS = 6
"""Largest number of runs named in a note."""


@dataclass(frozen=True)
class RunScores:
    """Scores of another trainer, by run.

    Attributes:
        name: name of the file, or of the folder of all files.
        column: name of the column of the scores.
        scores: maps (arm, seed) to the score of a run, the mean of any per-image scores.
        images: maps (arm, seed) to per-image scores (n,), in the same order of images for all runs, if any.
        groups: group of each image, if any.
        files: maps (arm, seed) to the file of the run.
        scored_epoch: phrase for the epoch whose weights were scored; "" if unknown.
        origin: maps a heading in the report to text about the files.
        notes: caveats of the verdicts.
    """

    name: str
    column: str
    scores: Mapping[RunKey, float]
    images: Mapping[RunKey, NDArray[np.float64]] | None
    groups: tuple[str, ...] | None
    files: Mapping[RunKey, str]
    scored_epoch: str
    origin: Mapping[str, str]
    notes: tuple[str, ...]


def read_scores(scores: Any, metric: str | None) -> RunScores:
    """Read the argument ``scores`` of :func:`saccade.judge`.

    Raises:
        UserError: a file cannot be read, a column is missing, a cell is not a number, a run is repeated, or runs have
            different images.
    """
    if isinstance(scores, str | Path):
        scores = [scores]
    if isinstance(scores, list | tuple) and scores and all(isinstance(path, str | Path) for path in scores):
        return _read_files([parse_run_file(path) for path in scores], metric)
    return _read_tables([(RunFile(Path("scores")), from_python(scores))], metric)


def _read_files(run_files: Sequence[RunFile], metric: str | None) -> RunScores:
    """Read files that are either all logs or all score tables."""
    sheets = [(run_file, read_sheet(run_file.path)) for run_file in run_files]
    log_flags = {logs.is_log(sheet) for _, sheet in sheets}
    if len(log_flags) > 1:
        log_name = next(sheet.name for _, sheet in sheets if logs.is_log(sheet))
        raise UserError(f"{log_name} is the log of one run, others are tables of scores; judge files of one kind")
    return _read_logs(sheets, metric) if log_flags.pop() else _read_tables(sheets, metric)


def _read_logs(sheets: Sequence[tuple[RunFile, Sheet]], metric: str | None) -> RunScores:
    """Read one log per run; the score is that of the last epoch."""
    first = sheets[0][1]
    candidates = [name for name in first.columns if name.lower() not in ("epoch", "step")]
    column = logs.choose_column(first) if metric is None else logs.match_column(first, metric, candidates)
    log_scores: dict[RunKey, logs.LogScore] = {}
    files: dict[RunKey, str] = {}
    keys_from_version = []
    for run_file, sheet in sheets:
        if run_file.arm is not None and run_file.seed is not None:
            key, is_from_version = (run_file.arm, run_file.seed), False
        else:
            arm, seed, is_from_version = run_of_path(run_file.path)
            key = (arm, seed)
        if key in log_scores:
            raise UserError(
                f"{files[key]} and {sheet.name} are both of {key[0]}, seed {key[1]}; one file per run is needed. "
                "ARM:SEED=FILE names a run"
            )
        log_scores[key], files[key] = logs.last_score(sheet, column), sheet.name
        keys_from_version += [key] if is_from_version else []
    notes = [
        "The last epoch of every run is scored. The best epoch would be chosen on the images it is scored on, which "
        "flatters every arm."
    ]
    epochs = {key: score.epoch for key, score in log_scores.items() if score.epoch is not None}
    longest = max(epochs.values(), default=0)
    if ended_early := [f"{arm} seed {seed} at {epoch}" for (arm, seed), epoch in epochs.items() if epoch < longest]:
        more = f" and {len(ended_early) - _MAX_NAMED_RUNS} more" if len(ended_early) > _MAX_NAMED_RUNS else ""
        notes.append(
            f"Some runs ended before the others, which ended at epoch {longest}: "
            f"{', '.join(ended_early[:_MAX_NAMED_RUNS])}{more}."
        )
    if keys_from_version:
        notes.append(
            "The seed is the number of the logger's version folder, because nothing else names it; write ARM:SEED=FILE "
            "if the seed differs."
        )
    others = [name for name in candidates if name != column and not name.startswith(("train", "lr", "time"))]
    return RunScores(
        name=_common_name(files.values()),
        column=column,
        scores={key: score.score for key, score in log_scores.items()},
        images=None,
        groups=None,
        files=files,
        scored_epoch="the last epoch",
        origin=_origin_entries(column, metric, others, files, first.delimiter) | _file_entries(files),
        notes=tuple(notes),
    )


def _read_tables(sheets: Sequence[tuple[RunFile, Sheet]], metric: str | None) -> RunScores:
    """Read tables with columns arm and seed (unless ``ARM:SEED=FILE`` gives them), score and maybe image and group."""
    collector = _ScoreCollector()
    column = ""
    others: list[str] = []
    for run_file, sheet in sheets:
        column, others = _score_column(run_file, sheet, metric if not column else metric or column)
        collector.add(run_file, sheet, column)
    images, groups = collector.images()
    files = collector.files
    delimiter = sheets[0][1].delimiter
    entries = _file_entries(files) if len(set(files.values())) > 1 else {}
    if images is not None:
        count = str(len(next(iter(images.values()))))
        entries = {"Images": count if groups is None else f"{count}, in {len(set(groups))} groups"} | entries
    return RunScores(
        name=_common_name(files.values()),
        column=column,
        scores=collector.scores if images is None else {key: float(values.mean()) for key, values in images.items()},
        images=images,
        groups=groups,
        files=files,
        scored_epoch="",
        origin=_origin_entries(column, metric, others, files, delimiter) | entries,
        notes=(),
    )


def _score_column(run_file: RunFile, sheet: Sheet, metric: str | None) -> tuple[str, list[str]]:
    """Return the score column and the other columns that may hold scores."""
    for key in ("arm", "seed") if run_file.arm is None else ():
        if sheet.index_of(key) is None:
            raise UserError(
                f"{sheet.name} has no column {key!r}.{did_you_mean(key, sheet.columns)} Needed are arm, seed and "
                f"score, and image for per-image scores; it has {', '.join(map(brief, sheet.columns))}."
            )
    if run_file.arm is not None and sheet.index_of("arm") is not None:
        raise UserError(
            f"{sheet.name} names the arms itself, in a column; give the file without {run_file.arm}:{run_file.seed}="
        )
    columns = [name for name in sheet.columns if name.lower() not in _KEY_COLUMNS]
    if metric is not None:
        column = logs.match_column(sheet, metric, columns)
    elif (score_column := sheet.index_of("score")) is not None:
        column = sheet.columns[score_column]
    elif len(columns) == 1:
        column = columns[0]
    elif not columns:
        raise UserError(f"{sheet.name} has no column of scores; it has {', '.join(map(brief, sheet.columns))}")
    else:
        raise UserError(f"{sheet.name}: which column is the score? Name it with --metric: {', '.join(columns)}")
    return column, [name for name in columns if name != column]


@dataclass
class _ScoreCollector:
    """Scores collected from the tables read so far."""

    scores: dict[RunKey, float] = field(default_factory=dict)
    files: dict[RunKey, str] = field(default_factory=dict)
    by_image: dict[RunKey, dict[str, float]] = field(default_factory=dict)
    group_of: dict[str, str] = field(default_factory=dict)

    def add(self, run_file: RunFile, sheet: Sheet, column: str) -> None:
        """Add the rows of ``sheet``, with the scores in ``column``."""
        arm_column, seed_column, image_column, group_column = (sheet.index_of(key) for key in _KEY_COLUMNS)
        score_column = sheet.index_of(column)
        assert score_column is not None
        if group_column is not None and image_column is None:
            raise UserError(
                f"{sheet.name} has a column 'group' but no column 'image'; groups are groups of images, so add a "
                "column 'image'"
            )
        if self.files and bool(self.by_image) != (image_column is not None):
            raise UserError(f"{sheet.name}: some files have a column 'image' and others have none")
        for row in range(len(sheet.rows)):
            arm = sheet.text(row, arm_column) if run_file.arm is None and arm_column is not None else str(run_file.arm)
            seed = (
                sheet.whole_number(row, seed_column)
                if run_file.seed is None and seed_column is not None
                else int(run_file.seed or 0)
            )
            image = "" if image_column is None else sheet.text(row, image_column)
            value, key = sheet.number(row, score_column), (arm, seed)
            self.files.setdefault(key, sheet.name)
            image_scores = self.by_image.setdefault(key, {}) if image else {}
            if image in image_scores or key in self.scores:
                problem = f", image {brief(image, 60)}, is repeated" if image else (
                    " is repeated; per-image scores need a column 'image'"
                )  # fmt: skip
                raise UserError(f"{sheet.location(row)}: {arm}, seed {seed}{problem}")
            if not image:
                self.scores[key] = value
                continue
            image_scores[image] = value
            if group_column is not None:
                group = sheet.text(row, group_column)
                if (first_group := self.group_of.setdefault(image, group)) != group:
                    raise UserError(
                        f"{sheet.location(row)}: image {brief(image, 60)} has the group {brief(group, 60)}, and "
                        f"{brief(first_group, 60)} in an earlier row; each image needs one group"
                    )

    def images(self) -> tuple[dict[RunKey, NDArray[np.float64]] | None, tuple[str, ...] | None]:
        """Return per-image scores (n,) by (arm, seed), images as in the first run, and the group of each image.

        Both are None without a column ``image``; groups are None without a column ``group``.
        """
        if not self.by_image:
            return None, None
        first, first_scores = next(iter(self.by_image.items()))
        for key, image_scores in self.by_image.items():
            for lacking, having, missing in (
                (key, first, first_scores.keys() - image_scores.keys()),
                (first, key, image_scores.keys() - first_scores.keys()),
            ):
                if missing:
                    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                    raise UserError(
                        f"{lacking[0]}, seed {lacking[1]} has no score of image {brief(min(missing), 60)}{more}, which "
                        f"{having[0]}, seed {having[1]} has; runs are compared on the same images"
                    )
        groups = tuple(self.group_of[image] for image in first_scores) if self.group_of else None
        for units, noun in ((first_scores, "image"), (set(groups or ()) or first_scores, "group")):
            if len(units) < 2:
                raise UserError(
                    f"all scores are of one {noun}, {brief(next(iter(units)), 60)}; at least two are needed"
                )
        return {
            key: np.array([image_scores[image] for image in first_scores])
            for key, image_scores in self.by_image.items()
        }, groups


def _origin_entries(
    column: str, metric: str | None, others: Sequence[str], files: Mapping[RunKey, str], delimiter: str
) -> dict[str, str]:
    """Return the report's entries on the files and the score column."""
    names = list(dict.fromkeys(files.values()))
    separator = f", columns separated by {delimiter}" if delimiter else ""
    entries = {"Files": f"{names[0] if len(names) == 1 else f'{len(names)} files'}{separator}"} if delimiter else {}
    unread = f"; not read: {', '.join(others)}" if others else ""
    how_chosen = ", chosen by its name" if metric is None and others else ""
    return entries | {"Column": f"{column}{how_chosen}{unread}"}


def _file_entries(files: Mapping[RunKey, str]) -> dict[str, str]:
    """Return the report's entries on the file of each run."""
    return {f"{arm}, seed {seed}": file for (arm, seed), file in files.items()}


def _common_name(files: Any) -> str:
    """Return the name of the only file, or of the common parent folder."""
    names = list(dict.fromkeys(files))
    if len(names) == 1:
        return Path(names[0]).name
    common_folder = Path(os.path.commonpath([Path(name).resolve() for name in names])).name
    return common_folder or f"{len(names)} files"
